//! `mayfly healthcheck`: ask the service on this machine whether it is ready.

use std::time::Duration;

use super::{
    client::{agent, describe},
    outcome::Failure,
    serve::reachable_address,
};
use crate::config::{ConfigErrors, ListenSettings};

/// Longest time for the answer of the service, connecting included.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(settings: ListenSettings, errors: ConfigErrors) -> Result<(), Failure> {
    let ListenSettings { listen, tls_cert } = errors.into_result(Some(settings))?;
    let address = reachable_address(listen);
    // Unverified: the request stays on this machine and holds no secret, and the certificate may name another address.
    let agent = agent(None, TIMEOUT, true);
    let scheme = if tls_cert.is_some() { "https" } else { "http" };
    // Exit code 1 in every case: Docker reserves all others.
    match agent.get(format!("{scheme}://{address}/readyz")).call() {
        Ok(answer) if answer.status() == 200 => Ok(()),
        Ok(answer) => Err(Failure::Runtime(format!("not ready: {}", answer.status()))),
        Err(error) => Err(Failure::Runtime(describe(&error, &address.to_string(), TIMEOUT))),
    }
}

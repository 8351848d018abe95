//! `mayfly healthcheck`: ask the service on this machine whether it is ready.

use std::{sync::Arc, time::Duration};

use rustls::crypto::aws_lc_rs;
use ureq::{Agent, Error, tls::TlsConfig};

use super::{outcome::Failure, serve::reachable_address};
use crate::config::{ConfigErrors, ListenSettings};

/// Longest time for the answer of the service, connecting included.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(settings: ListenSettings, errors: ConfigErrors) -> Result<(), Failure> {
    let ListenSettings { listen, tls_cert } = errors.into_result(Some(settings))?;
    let address = reachable_address(listen);
    // Unverified: the request stays on this machine and holds no secret, and the certificate may name another address.
    let tls = TlsConfig::builder()
        .disable_verification(true)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
    let agent: Agent = Agent::config_builder()
        .tls_config(tls.build())
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let scheme = if tls_cert.is_some() { "https" } else { "http" };
    let failure = match agent.get(format!("{scheme}://{address}/readyz")).call() {
        Ok(answer) if answer.status() == 200 => return Ok(()),
        Ok(answer) => format!("not ready: {}", answer.status()),
        Err(Error::Timeout(_)) => format!("no answer within {TIMEOUT:?}"),
        Err(Error::Protocol(_)) => format!("the service on {address} is not Mayfly"),
        Err(Error::Io(error)) => format!("cannot connect to {address}: {error}"),
        Err(error) => format!("cannot connect to {address}: {error}"),
    };
    Err(Failure::Runtime(failure))
}

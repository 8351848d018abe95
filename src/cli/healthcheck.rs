//! `mayfly healthcheck`: ask the service on this machine whether it is ready.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;

use super::{Failure, serve::reachable};

/// How long the service may take for each step of its answer.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Healthcheck {
    /// Where it listens
    #[arg(long, env = "MAYFLY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:25441")]
    listen: SocketAddr,
}

impl Healthcheck {
    pub(super) fn run(self) -> Result<(), Failure> {
        let address = reachable(self.listen);
        let mut connection = TcpStream::connect_timeout(&address, TIMEOUT)
            .map_err(|error| Failure::Runtime(format!("cannot connect to {address}: {error}")))?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        write!(connection, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = String::new();
        BufReader::new(connection).read_line(&mut status)?;
        match status.strip_prefix("HTTP/1.1 ").map(str::trim_end) {
            Some(status) if status.starts_with("200") => Ok(()),
            Some(status) => Err(Failure::Runtime(format!("not ready: {status}"))),
            None => Err(Failure::Runtime(format!("what listens on {address} is no Mayfly"))),
        }
    }
}

//! Accepts connections and serves HTTP/1.1 on them, with limits and deadlines.
//!
//! The [`Application`] answers the requests. `connection` serves one connection, `progress` records where its request
//! is, `deadlines` says when its client is too slow, `connection_limit` which connection is closed for a new one, and
//! [`tls`] keeps the certificate.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::TcpListener,
    select,
    sync::watch,
    time::{Instant, interval, sleep, timeout},
};

use self::{
    connection::{Connection, ServerState},
    connection_limit::EvictingLimit,
    tls::Certificate,
};

mod application;
mod connection;
mod connection_limit;
mod deadlines;
mod progress;
pub mod tls;

pub use application::{Application, Request, RequestError, Response};

/// Pause after a failed `accept`, for example without a free file descriptor, where the next one fails at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A condition that was not observed for this long has ended.
const CONDITION_TIMEOUT: Duration = Duration::from_mins(1);

/// The most bytes of a response that the kernel buffers for a client that does not read (it doubles the number for its
/// own overhead). By default it buffers up to 4 MiB: a gigabyte for 300 such clients.
const KERNEL_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Longest time for which sent bytes stay unacknowledged, or the client's window closed, before the kernel ends the
/// connection. Holds for connections that this process has closed, too.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// The limits of a listener, and its certificate.
pub struct Options {
    /// Serves TLS with this certificate; `None`: plain TCP.
    pub certificate: Option<Arc<Certificate>>,
    /// The most connections at once. Beyond it, the connection that has waited longest for its client is closed for a
    /// new one; if none waits, the new one does.
    pub max_connections: usize,
    /// Time from the start of a shutdown until no more connections are accepted. Each response announces the end of its
    /// connection meanwhile, so that no client sends a request on a connection that is about to close.
    pub shutdown_delay: Duration,
    /// Longest time after that for the requests in flight.
    pub shutdown_grace: Duration,
}

/// A condition that is logged when it begins and when it has ended.
#[derive(Default)]
struct Condition {
    last_observed: Option<Instant>,
}

impl Condition {
    /// Records an observation. Returns true if the condition was not under way: at first, or after `ends`.
    fn begins(&mut self) -> bool {
        self.last_observed.replace(Instant::now()).is_none()
    }

    /// Returns true if the condition was under way and has not been observed for [`CONDITION_TIMEOUT`]: it has ended.
    fn ends(&mut self) -> bool {
        self.last_observed.take_if(|last| last.elapsed() > CONDITION_TIMEOUT).is_some()
    }
}

/// Serves `application` on `listener` until `shutdown` completes, and then as long as `options` say: connections are
/// accepted until the delay is over, and requests in flight have the grace to finish.
pub async fn serve(
    listener: TcpListener,
    application: impl Application,
    shutdown: impl Future<Output = ()>,
    options: Options,
) -> io::Result<()> {
    let Options { certificate, max_connections, shutdown_delay, shutdown_grace } = options;
    // Accepted connections inherit both options.
    sockopt::set_socket_send_buffer_size(&listener, KERNEL_SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(&listener, u32::try_from(UNACKNOWLEDGED_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    let state = Arc::new(ServerState { application, certificate, is_draining: AtomicBool::new(false) });
    let limit = EvictingLimit::new(max_connections);
    let (stop, stopping) = watch::channel(false);
    let (mut failing, mut full, mut greedy) = (Condition::default(), Condition::default(), Condition::default());
    let mut checks = interval(CONDITION_TIMEOUT / 6);
    let accept = async {
        loop {
            let accepted = select! {
                accepted = listener.accept() => accepted,
                _ = checks.tick() => {
                    if failing.ends() {
                        tracing::info!("connections are accepted again");
                    }
                    if !limit.is_full() && full.ends() {
                        tracing::info!("there is room for connections again");
                    }
                    if greedy.ends() {
                        tracing::info!("no client asks for more than half of all connections any more");
                    }
                    continue;
                }
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if failing.begins() {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            if limit.is_full() && full.begins() {
                tracing::warn!(
                    max_connections,
                    "all connections are taken: those that wait for their clients are closed for new ones"
                );
            }
            let Some(slot) = limit.acquire(state.application.network(client.ip())).await else {
                connection::reset_on_close(&stream);
                if greedy.begins() {
                    tracing::warn!(
                        client = %client.ip(),
                        "a client holds half of all connections and gets no more: if it is your load balancer, name \
                         it in MAYFLY_TRUSTED_PROXIES"
                    );
                }
                continue;
            };
            let connection = Connection { server: Arc::clone(&state), client, slot, stop: stopping.clone() };
            tokio::spawn(connection.serve(stream));
        }
    };
    let draining = async {
        shutdown.await;
        state.is_draining.store(true, Relaxed);
        sleep(shutdown_delay).await;
    };
    select! {
        biased;
        () = draining => {}
        () = accept => {}
    }
    drop((listener, stopping));
    stop.send_replace(true);
    if timeout(shutdown_grace, stop.closed()).await.is_err() {
        tracing::warn!("some connections did not finish in time");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_begins_and_ends_once() {
        let mut condition = Condition::default();
        assert!(!condition.ends());
        for _ in 0..2 {
            assert!(condition.begins());
            advance(CONDITION_TIMEOUT).await;
            assert!(!condition.ends() && !condition.begins());
            advance(CONDITION_TIMEOUT + Duration::from_secs(1)).await;
            assert!(condition.ends() && !condition.ends());
        }
    }
}

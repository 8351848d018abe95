//! The accept loop.
//!
//! `poem::Server` waits for ever for a client that sends nothing, so poem's endpoint is served by hyper-util, with
//! timeouts and limits: `connection` says what a connection is, `places` who makes room for whom, `progress` when its
//! client is late, `body` what becomes of a body that nobody reads, and [`tls`] what certificate a client is shown.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use poem::{Endpoint, Response};
use rustix::net::sockopt;
use tokio::{
    net::TcpListener,
    select,
    sync::watch,
    time::{Instant, interval, sleep, timeout},
};

use self::{connection::Common, places::Places, tls::Certificate};
use crate::domain::throttle::ClientNetwork;

mod body;
mod connection;
mod places;
mod progress;
pub mod tls;

/// What an accept loop does when the process has no file descriptors left, instead of spinning.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How long a trouble must not be met to have ended.
const QUIET: Duration = Duration::from_mins(1);

/// The most bytes of an answer that the kernel keeps for a client that does not read. (It doubles the number, for what
/// it needs itself.) Without a limit it keeps up to 4 MiB, and a whole page for each of 300 such clients is a gigabyte.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long sent bytes may stay unacknowledged, or a closed window unopened, before the kernel ends a connection. It
/// also bounds what is left of a connection that this process has closed.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// How a listener is served.
pub struct Serving {
    /// What to show to clients, who speak TLS then.
    pub certificate: Option<Arc<Certificate>>,
    /// Connections at once. Where all places are taken, the connection that has waited for its client for longest is
    /// closed for a new one, and if none waits, the new one does.
    pub max_connections: usize,
    /// Whose connection one from this address is: a network holds at most half of the places. `None`: without such a
    /// limit.
    pub network: NetworkOf,
    /// Answers what is no request.
    pub refuse: Refuse,
    /// How long requests in flight may take in the end.
    pub grace: Duration,
}

/// Whose connection one from an address is.
pub type NetworkOf = Arc<dyn Fn(IpAddr) -> Option<ClientNetwork> + Send + Sync>;

/// The answer to a client that sent no request.
pub type Refuse = Arc<dyn Fn(Refusal, SocketAddr) -> Response + Send + Sync>;

/// Why a client is answered that sent no request, or not the whole of one. The connection ends with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are no HTTP/1.
    Malformed,
    /// The headers are too long, or too many.
    LargeHeaders,
    /// The request's target is too long.
    LongTarget,
    /// The head did not arrive in time, or its place was needed.
    SlowHead,
    /// The place was needed before the body arrived.
    SlowBody,
}

impl Refusal {
    /// What hyper means by the status of its own answer to these bytes.
    fn of(status: u16, bytes: &[u8]) -> Self {
        // A target that fills hyper's buffer is to hyper a head that is too large.
        let has_target = bytes.trim_ascii_start().contains(&b'\n');
        match status {
            414 => Self::LongTarget,
            431 if !has_target => Self::LongTarget,
            431 => Self::LargeHeaders,
            _ => Self::Malformed,
        }
    }

    fn is_for_slowness(self) -> bool {
        matches!(self, Self::SlowHead | Self::SlowBody)
    }
}

/// A trouble that is logged when it begins and when it has ended, however often it is met in between.
#[derive(Default)]
struct Trouble {
    last_met: Option<Instant>,
}

impl Trouble {
    /// Notes that it is met, and returns whether it begins.
    fn meet(&mut self) -> bool {
        self.last_met.replace(Instant::now()).is_none()
    }

    /// Returns, once, whether it has ended.
    fn ends(&mut self) -> bool {
        self.last_met.take_if(|met| met.elapsed() > QUIET).is_some()
    }
}

/// Serves `endpoint` on `listener` until `shutdown` completes, then finishes what is in flight. While `is_stopping`, each
/// answer says that its connection ends with it, so that no client of a connection that is kept alive finds it closed
/// under its next request.
pub async fn serve(
    listener: TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    shutdown: impl Future<Output = ()>,
    is_stopping: impl Fn() -> bool + Send + Sync + 'static,
    Serving { certificate, max_connections, network, refuse, grace }: Serving,
) -> io::Result<()> {
    // Accepted connections inherit both.
    sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(&listener, u32::try_from(UNACKNOWLEDGED_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    let local = listener.local_addr()?;
    let common = Arc::new(Common { endpoint, is_stopping, local, certificate, refuse });
    let places = Places::new(max_connections);
    let (stop, stopping) = watch::channel(false);
    let (mut failing, mut full, mut greedy) = (Trouble::default(), Trouble::default(), Trouble::default());
    let mut looks = interval(QUIET / 6);
    let accept = async {
        loop {
            let accepted = select! {
                accepted = listener.accept() => accepted,
                _ = looks.tick() => {
                    if failing.ends() {
                        tracing::info!("connections are accepted again");
                    }
                    if !places.is_full() && full.ends() {
                        tracing::info!("there is room for connections again");
                    }
                    if greedy.ends() {
                        tracing::info!("no client asks for more than half of all connections any more");
                    }
                    continue;
                }
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if failing.meet() {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            if places.is_full() && full.meet() {
                tracing::warn!(
                    max_connections,
                    "all connections are taken: those that wait for their clients are closed for new ones"
                );
            }
            let Some(place) = places.enter(network(remote.ip())).await else {
                connection::reset(&stream);
                if greedy.meet() {
                    tracing::warn!(
                        client = %remote.ip(),
                        "a client holds half of all connections and gets no more: if it is your load balancer, name it in \
                         MAYFLY_TRUSTED_PROXIES"
                    );
                }
                continue;
            };
            let connection = connection::serve(stream, remote, Arc::clone(&common), stopping.clone(), place);
            tokio::spawn(connection);
        }
    };
    select! {
        biased;
        () = shutdown => {}
        () = accept => {}
    }
    drop((listener, stopping));
    stop.send_replace(true);
    if timeout(grace, stop.closed()).await.is_err() {
        tracing::warn!("some connections did not finish in time");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trouble_begins_and_ends_once() {
        let mut trouble = Trouble::default();
        assert!(!trouble.ends());
        for _ in 0..2 {
            assert!(trouble.meet());
            advance(QUIET).await;
            assert!(!trouble.ends() && !trouble.meet());
            advance(QUIET + Duration::from_secs(1)).await;
            assert!(trouble.ends() && !trouble.ends());
        }
    }
}

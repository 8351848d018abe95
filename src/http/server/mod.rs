//! The accept loop.
//!
//! `poem::Server` waits for ever for a client that sends nothing, so poem's endpoint is served by hyper-util, with
//! timeouts and limits: `connection` says what a connection is, `places` who makes room for whom, `progress` when its client is
//! late, and [`tls`] what certificate it is shown.

use std::{io, sync::Arc, time::Duration};

use poem::{Endpoint, Response};
use tokio::{
    net::TcpListener,
    select,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use self::{connection::Common, places::Places, tls::Certificate};

mod connection;
mod places;
mod progress;
pub mod tls;

/// What an accept loop does when the process has no file descriptors left, instead of spinning.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How often it is said that all places are taken.
const CROWDED_AGAIN: Duration = Duration::from_mins(1);

/// How a listener is served.
pub struct Serving {
    /// What to show to clients, who speak TLS then.
    pub certificate: Option<Arc<Certificate>>,
    /// Connections at once. Where all places are taken, whoever has been quiet for longest makes room, and if nobody is
    /// quiet, new ones wait.
    pub max_connections: usize,
    /// How long requests in flight may take in the end.
    pub grace: Duration,
}

/// Serves `endpoint` on `listener` until `shutdown` completes, then finishes what is in flight. While `is_stopping`, each
/// answer says that its connection ends with it, so that no client of a connection that is kept alive finds it closed
/// under its next request.
pub async fn serve(
    listener: TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    shutdown: impl Future<Output = ()>,
    is_stopping: impl Fn() -> bool + Send + Sync + 'static,
    Serving { certificate, max_connections, grace }: Serving,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let common = Arc::new(Common { endpoint, is_stopping, local, certificate, places: Places::new(max_connections) });
    let (stop, stopping) = watch::channel(false);
    let mut said_crowded: Option<Instant> = None;
    let accept = async {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let place = if let Some(place) = common.places.free() {
                place
            } else {
                if said_crowded.is_none_or(|said| said.elapsed() > CROWDED_AGAIN) {
                    said_crowded = Some(Instant::now());
                    tracing::warn!(max_connections, "all connections are taken: idle ones are closed for new ones");
                }
                common.places.wait().await
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

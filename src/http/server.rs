//! The accept loop.
//!
//! `poem::Server` waits for ever for a client that sends nothing, so poem's endpoint is served by hyper-util, with
//! timeouts and limits.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use poem::{
    Endpoint, Response,
    http::{HeaderValue, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

/// How long a connection may take to send the head of its next request, idling included. Longer than the 60 s for which
/// nginx keeps an idle connection to an upstream, so that it is never the server who closes it under a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may take none of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// hyper's buffer for the head of a request: four times what `envelope` accepts, so that it can answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Connections at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 10_000;

/// What an accept loop does when the process has no file descriptors left, instead of spinning.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Serves `endpoint` on `listener` until `shutdown` completes, then finishes what is in flight for up to `grace`. While
/// `is_stopping`, each answer says that its connection ends with it, so that no client of a connection that is kept
/// alive finds it closed under its next request.
#[expect(clippy::missing_panics_doc, reason = "nobody closes the semaphore")]
pub async fn serve(
    listener: TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    shutdown: impl Future<Output = ()>,
    is_stopping: impl Fn() -> bool + Clone + Send + 'static,
    grace: Duration,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let endpoint = Arc::new(endpoint);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let connection =
                    graceful.watch(connection(stream, local, remote, Arc::clone(&endpoint), is_stopping.clone()));
                tokio::spawn(async move {
                    // An error is the client's: it hung up, or spoke no HTTP.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    if timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections did not finish in time");
    }
    Ok(())
}

/// The future of one connection: any number of requests, one after the other.
fn connection(
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    endpoint: Arc<impl Endpoint<Output = Response> + 'static>,
    is_stopping: impl Fn() -> bool + Clone + Send + 'static,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let endpoint = Arc::clone(&endpoint);
        let is_stopping = is_stopping.clone();
        async move {
            let request = (request, LocalAddr(local.into()), RemoteAddr(remote.into()), Scheme::HTTP).into();
            let mut response = endpoint.get_response(request).await;
            if is_stopping() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<hyper::Response<_>, Infallible>(response.into())
        }
    });
    // Small answers, written at once: waiting for more to send with them only costs time.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}

//! One connection: any number of requests, one after the other.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use poem::http::{HeaderValue, StatusCode, header, uri::Scheme};
use poem::{
    Body, Endpoint, Request, Response,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    select,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    Refusal, Refuse,
    body::{LentBody, Rest},
    places::Place,
    progress::{Late, Patience, Progress, Watched},
    tls::Certificate,
};

/// How long a client may take for its part of TLS's handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may idle between requests. Longer than the 60 s for which nginx keeps an idle connection to an
/// upstream, so that it is never the server who closes it under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may take for the end of a connection.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may go on sending behind its last answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of what a client still sends is read in the end.
const MAX_UNHEARD_BYTES: u64 = 8 * 1024 * 1024;

/// hyper's buffer for the head of a request: four times what `envelope` accepts, so that it can answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What all connections of a listener have in common.
pub(super) struct Common<E, F> {
    pub(super) endpoint: E,
    /// Whether each answer is to be the last of its connection.
    pub(super) is_stopping: F,
    pub(super) local: SocketAddr,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) refuse: Refuse,
}

/// Where bytes come from, which can be waited for without a buffer.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    const SCHEME: Scheme;

    /// Ready once there is something to read, be it the end.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    const SCHEME: Scheme = Scheme::HTTP;

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The readiness of the socket alone may be a guess.
        self.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(|_| ())
    }

    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    const SCHEME: Scheme = Scheme::HTTPS;

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_fill_buf(cx).map_ok(|_| ())
    }

    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// How a client's turn ended.
enum End<S> {
    /// It says nothing; these bytes were read, but not answered.
    Quiet(S, Bytes),
    /// It sent no request, or takes too long for it.
    Refused(S, Refusal),
    /// It or hyper ended it.
    Closed(S),
    /// hyper ended it, and the client may still be sending what nobody reads.
    Unheard(S),
    /// It takes nothing of what it is sent, or next to nothing.
    Deaf(S),
}

/// Serves a connection to its end. `stop` turns true when no further request is to be read.
pub(super) async fn serve<E, F>(
    stream: TcpStream,
    remote: SocketAddr,
    common: Arc<Common<E, F>>,
    mut stop: watch::Receiver<bool>,
    place: Place,
) where
    E: Endpoint<Output = Response> + 'static,
    F: Fn() -> bool + Send + Sync + 'static,
{
    // Small answers, written at once: waiting for more to send with them only costs time.
    let _ = stream.set_nodelay(true);
    let Some(certificate) = &common.certificate else { return converse(stream, remote, &common, &place, stop).await };
    let accepted = select! {
        biased;
        accepted = Box::pin(timeout(HANDSHAKE_TIMEOUT, certificate.accept(stream))) => accepted,
        _ = stop.wait_for(|stop| *stop) => return,
        () = place.wanted() => return,
    };
    // What fails here is the client's: it is too slow, speaks no TLS, or does not trust the certificate.
    if let Ok(Ok(stream)) = accepted {
        Box::pin(converse(stream, remote, &common, &place, stop)).await;
    }
}

async fn converse<S, E, F>(
    mut stream: S,
    remote: SocketAddr,
    common: &Arc<Common<E, F>>,
    place: &Place,
    mut stop: watch::Receiver<bool>,
) where
    S: Stream,
    E: Endpoint<Output = Response> + 'static,
    F: Fn() -> bool + Send + Sync + 'static,
{
    let mut begun = Bytes::new();
    loop {
        if begun.is_empty() && !is_spoken_to(&mut stream, place, &mut stop).await {
            break;
        }
        match Box::pin(requests(stream, begun, remote, common, place, &mut stop)).await {
            End::Quiet(quiet, rest) => (stream, begun) = (quiet, rest),
            End::Refused(mut refused, refusal) => {
                let response = (common.refuse)(refusal, remote);
                let is_written = timeout(CLOSING_TIMEOUT, Box::pin(write(&mut refused, response))).await.is_ok();
                if is_written && !refusal.is_for_slowness() {
                    return Box::pin(linger(&mut refused, place)).await;
                }
                stream = refused;
                break;
            }
            End::Closed(closed) => {
                stream = closed;
                break;
            }
            End::Unheard(mut unheard) => return Box::pin(linger(&mut unheard, place)).await,
            End::Deaf(deaf) => return reset(deaf.socket()),
        }
    }
    let _ = timeout(CLOSING_TIMEOUT, stream.shutdown()).await;
}

/// Has a connection forgotten at once that is dropped next, with all that its client did not take.
pub(super) fn reset(socket: &TcpStream) {
    // Else the kernel keeps what is left for as long as it pleases the client.
    let _ = socket.set_zero_linger();
}

/// Waits until the client begins a request, and says whether it did. An idle connection is no more than its socket
/// here: 10,000 of them are to fit anywhere.
async fn is_spoken_to(stream: &mut impl Stream, place: &Place, stop: &mut watch::Receiver<bool>) -> bool {
    select! {
        biased;
        readable = poll_fn(|cx| stream.poll_readable(cx)) => readable.is_ok(),
        _ = stop.wait_for(|stop| *stop) => false,
        () = place.wanted() => false,
        () = sleep(IDLE_TIMEOUT) => false,
    }
}

/// Answers requests until the client is quiet.
async fn requests<S, E, F>(
    stream: S,
    begun: Bytes,
    remote: SocketAddr,
    common: &Arc<Common<E, F>>,
    place: &Place,
    stop: &mut watch::Receiver<bool>,
) -> End<S>
where
    S: Stream,
    E: Endpoint<Output = Response> + 'static,
    F: Fn() -> bool + Send + Sync + 'static,
{
    let progress = Arc::new(Progress::default());
    let mut patience = Patience::with(Arc::clone(&progress), place);
    let stream = TokioIo::new(Watched::new(stream, begun, Arc::clone(&progress)));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        progress.begin();
        let has_body = !request.body().is_end_stream();
        let expects = has_body && request.headers().contains_key(header::EXPECT);
        let addresses = (LocalAddr(common.local.into()), RemoteAddr(remote.into()));
        let request = if has_body {
            let (parts, body) = request.into_parts();
            let body = LentBody::new(body, Arc::clone(&progress)).map_err(io::Error::other).boxed();
            Request::from_parts((parts, addresses.0, addresses.1, S::SCHEME).into(), Body::from(body))
        } else {
            (request, addresses.0, addresses.1, S::SCHEME).into()
        };
        let progress = &progress;
        async move {
            let mut response = common.endpoint.get_response(request).await;
            let rest = if has_body { progress.take_rest() } else { None };
            // Whoever took too long for a body is not waited for again.
            let is_read = |rest: &Rest| rest.is_small(expects) && response.status() != StatusCode::REQUEST_TIMEOUT;
            let is_last = rest.as_ref().is_some_and(|rest| !is_read(rest));
            if is_last {
                progress.stop_listening();
            }
            if is_last || (common.is_stopping)() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            match rest {
                Some(rest) if !is_last => progress.end_before(rest),
                _ => progress.end(),
            }
            Ok::<hyper::Response<_>, Infallible>(response.into())
        }
    });
    let mut connection = http1::Builder::new()
        // hyper's clock begins with the idling before the head.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(stream, service);
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut is_stopped = false;
    let mut is_malformed = false;
    let late = poll_fn(|cx| {
        if !is_stopped && stopped.as_mut().poll(cx).is_ready() {
            is_stopped = true;
            patience.hurry();
            Pin::new(&mut connection).graceful_shutdown();
        }
        // An error is the client's: it hung up, or spoke no HTTP.
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            is_malformed = result.is_err_and(|error| error.is_parse());
            return Poll::Ready(None);
        }
        progress.poll_rest(cx);
        patience.poll_end(cx).map(Some)
    })
    .await;
    drop(patience);
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    match late {
        None if is_malformed => match progress.refused() {
            Some(status) => End::Refused(stream, Refusal::of(status, &parts.read_buf)),
            // hyper has no answer to the preface of HTTP/2; and to a request that went wrong in its middle it gave its
            // own.
            None if !progress.is_answering() => End::Refused(stream, Refusal::Malformed),
            None => End::Unheard(stream),
        },
        None if progress.is_unheard() => End::Unheard(stream),
        None | Some(Late::Rest) => End::Closed(stream),
        // Even an empty one keeps its buffer; and an empty line behind a body is no head (RFC 9112, section 2.2).
        Some(Late::Quiet | Late::Head) if parts.read_buf.iter().all(|byte| b"\r\n".contains(byte)) => {
            End::Quiet(stream, Bytes::new())
        }
        Some(Late::Quiet) => End::Quiet(stream, parts.read_buf),
        Some(Late::Head) => End::Refused(stream, Refusal::SlowHead),
        Some(Late::Body) => End::Refused(stream, Refusal::SlowBody),
        Some(Late::Answer) => End::Deaf(stream),
    }
}

/// Ends a connection whose client may still be sending. Bytes that arrive once nobody reads have the kernel reset the
/// connection, and what the client did not read of its answer by then is lost (RFC 9112, section 9.6).
async fn linger(stream: &mut impl Stream, place: &Place) {
    let listen = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut *stream).take(MAX_UNHEARD_BYTES), &mut tokio::io::sink()).await
    };
    select! {
        _ = timeout(LINGER_TIMEOUT, Box::pin(listen)) => {}
        () = place.wanted() => reset(stream.socket()),
    }
}

/// Writes the last answer of a connection.
async fn write(stream: &mut (impl AsyncWrite + Unpin), mut response: Response) -> io::Result<()> {
    let body = response.take_body().into_vec().await.map_err(io::Error::other)?;
    let length = body.len();
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    bytes.extend(format!("connection: close\r\ncontent-length: {length}\r\n").bytes());
    for (name, value) in response.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use poem::endpoint::make_sync;
    use tokio::{
        net::{TcpListener, TcpSocket},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::server::places::Places;

    /// A connection that is served, as its client has it, what stops it, and its end.
    async fn serving() -> (TcpStream, watch::Sender<bool>, JoinHandle<()>) {
        let socket = TcpSocket::new_v4().unwrap();
        // So that the server can write some more whenever the client has read some.
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        let endpoint = make_sync(|_| Response::builder().body(vec![0; 64 << 20]));
        let refuse: Refuse = Arc::new(|_, _| StatusCode::REQUEST_TIMEOUT.into());
        let common = Common { endpoint, is_stopping: || false, local, certificate: None, refuse };
        let place = Places::new(1).enter(None).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        (client, stop, tokio::spawn(serve(stream, remote, Arc::new(common), stopping, place)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_bit_by_bit_has_an_end() {
        let (mut client, _stop, serving) = serving().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let begun = Instant::now();
        while !serving.is_finished() {
            let _ = client.read(&mut vec![0; 64 << 10]).await;
            sleep(Duration::from_secs(1)).await;
        }
        assert!((295..=305).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_may_take_its_time_but_not_at_the_end() {
        for (is_stopped, expected) in [(false, 10), (true, 2)] {
            let (mut client, stop, serving) = serving().await;
            let begun = Instant::now();
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            sleep(Duration::from_secs(2)).await;
            stop.send_replace(is_stopped);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert_eq!(begun.elapsed().as_secs(), expected);
            drop(client);
            serving.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_idles_for_longer_than_nginx_keeps_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let (_stop, mut stopping) = watch::channel(false);
        let begun = Instant::now();
        let place = Places::new(1).enter(None).await.unwrap();
        assert!(!is_spoken_to(&mut stream, &place, &mut stopping).await);
        assert_eq!(begun.elapsed().as_secs(), 75);
    }
}

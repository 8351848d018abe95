//! One connection: any number of requests, one after the other.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    select,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    application::{Application, Request, RequestError, Response},
    connection_limit::ConnectionSlot,
    deadlines::{Deadlines, End},
    progress::{Progress, RequestBody, TrackedStream},
    tls::Certificate,
};

/// Longest time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for a request on an idle connection: a new one, or one without input for a second ([`End::Idle`]).
/// Longer than the 60 s for which nginx keeps an idle connection to an upstream, so that the server does not close a
/// connection on which nginx is sending a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest time to write the response to a rejected request, and longest time to shut the stream down.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for which a closing connection still reads and drops input, after the last response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that a closing connection still reads and drops, after the last response.
const MAX_LINGER_BYTES: u64 = 8 * 1024 * 1024;

/// hyper's buffer for the head of a request: four times the 16 KiB that the API accepts, so that the API itself answers
/// most of the larger heads.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The state shared by all connections of a listener.
pub(super) struct ServerState<A> {
    pub(super) application: A,
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Set at the beginning of a shutdown: each response is then the last of its connection.
    pub(super) is_draining: AtomicBool,
}

/// A connection without its stream, which [`Connection::serve`] takes.
pub(super) struct Connection<A> {
    pub(super) server: Arc<ServerState<A>>,
    pub(super) client: SocketAddr,
    pub(super) slot: ConnectionSlot,
    /// Turns true when no further request is to be read.
    pub(super) stop: watch::Receiver<bool>,
}

/// A TCP or TLS stream whose input can be awaited without a buffer.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    const IS_TLS: bool;

    /// Completes at the first byte of input, or at its end.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Returns the TCP socket, also of a TLS stream.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    const IS_TLS: bool = false;

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peek, because `poll_read_ready` may report readiness without input.
        self.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(|_| ())
    }

    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    const IS_TLS: bool = true;

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_fill_buf(cx).map_ok(|_| ())
    }

    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<A: Application> Connection<A> {
    /// Serves the connection until it is closed.
    pub(super) async fn serve(self, stream: TcpStream) {
        // Responses are small and written at once: Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        let Some(certificate) = &self.server.certificate else { return self.serve_stream(stream).await };
        let handshake = select! {
            biased;
            handshake = Box::pin(timeout(HANDSHAKE_TIMEOUT, certificate.accept(stream))) => handshake,
            () = self.close_requested() => return,
        };
        // A failed handshake is not logged: its client was too slow, spoke no TLS or rejected the certificate.
        if let Ok(Ok(stream)) = handshake {
            Box::pin(self.serve_stream(stream)).await;
        }
    }

    /// Waits for a request, serves requests until the client pauses, and waits again, until the connection ends.
    async fn serve_stream<S: Stream>(&self, mut stream: S) {
        let mut unread = Bytes::new();
        loop {
            if unread.is_empty() && !self.wait_for_request(&mut stream).await {
                break;
            }
            let end;
            (stream, unread, end) = Box::pin(self.serve_requests(stream, unread)).await;
            match end {
                End::Idle => {}
                End::Closed => break,
                End::Rejected(error) => {
                    let response = self.server.application.reject(error, self.client);
                    let written = timeout(CLOSING_TIMEOUT, Box::pin(write_response(&mut stream, response))).await;
                    if written.is_err() || matches!(error, RequestError::HeadTimeout | RequestError::BodyTimeout) {
                        break;
                    }
                    return Box::pin(self.linger(&mut stream)).await;
                }
                End::UnreadInput => return Box::pin(self.linger(&mut stream)).await,
                End::WriteTimeout => return reset_on_close(stream.socket()),
            }
        }
        let _ = timeout(CLOSING_TIMEOUT, stream.shutdown()).await;
    }

    /// Completes when the connection has to close although its client did nothing wrong: for a shutdown or a new
    /// connection. While awaited, the connection is in the queue for eviction.
    async fn close_requested(&self) {
        let mut stop = self.stop.clone();
        select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.slot.evicted() => {}
        }
    }

    /// Waits until the client begins a request. Returns false if the connection is to be closed; true at input or at
    /// its end. An idle connection holds little more than its socket, so that 10,000 of them need little memory.
    async fn wait_for_request(&self, stream: &mut impl Stream) -> bool {
        select! {
            biased;
            readable = poll_fn(|cx| stream.poll_readable(cx)) => readable.is_ok(),
            () = self.close_requested() => false,
            () = sleep(IDLE_TIMEOUT) => false,
        }
    }

    /// Answers requests until the client pauses or the connection has to end. Returns the stream, the bytes that were
    /// read from it but not used, and the reason.
    async fn serve_requests<S: Stream>(&self, stream: S, unread: Bytes) -> (S, Bytes, End) {
        let progress = Progress::default();
        let mut deadlines = Deadlines::new(&progress, &self.slot);
        let stream = TokioIo::new(TrackedStream::new(stream, unread, progress.clone()));
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let expects_continue = parts.headers.contains_key(header::EXPECT);
            let has_body = !body.is_end_stream();
            progress.begin_request(has_body.then_some(body));
            let body = if has_body {
                RequestBody(progress.clone()).boxed()
            } else {
                Empty::new().map_err(|never| match never {}).boxed()
            };
            let request = Request::from_parts(parts, body);
            let progress = &progress;
            async move {
                // `answer` is called in this block: a future made outside would be moved into it, which copies it and
                // takes its memory twice.
                let mut response = self.server.application.answer(request, self.client, S::IS_TLS).await;
                // A client that was too slow with its body gets no more time for the rest of it.
                let drops_rest = response.status() != StatusCode::REQUEST_TIMEOUT;
                let is_reusable = progress.end_request(expects_continue, drops_rest);
                if !is_reusable || self.server.is_draining.load(Relaxed) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = http1::Builder::new()
            // hyper's timeout would count the idle time before the head, too.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(stream, service);
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let mut is_stopping = false;
        let ended = poll_fn(|cx| {
            if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                deadlines.stop();
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Err(result));
            }
            progress.poll_rest(cx);
            deadlines.poll(cx).map(Ok)
        })
        .await;
        drop(deadlines);
        let parts = connection.into_parts();
        let stream = parts.io.into_inner().stream;
        // An empty line after a body is not the start of a head (RFC 9112, section 2.2). Without bytes, a new `Bytes`:
        // hyper's empty one would keep hyper's buffer in memory.
        let is_blank = parts.read_buf.iter().all(|byte| b"\r\n".contains(byte));
        let unread = if is_blank { Bytes::new() } else { parts.read_buf };
        let state = progress.lock();
        let end = match ended {
            Ok(End::Rejected(RequestError::HeadTimeout)) if is_blank => End::Idle,
            Ok(end) => end,
            Err(Err(error)) if error.is_parse() => match state.rejected_status {
                Some(status) => End::Rejected(request_error(status, &unread)),
                // hyper reports HTTP/2's preface as an error without a response: the API answers 400.
                None if !state.is_answering => End::Rejected(RequestError::Malformed),
                None => End::UnreadInput,
            },
            // hyper ended the connection, or the client did.
            Err(_) if state.has_unread_input => End::UnreadInput,
            Err(_) => End::Closed,
        };
        (stream, unread, end)
    }

    /// Closes a connection whose client may still be sending: reads and drops its input for a while. Unread input
    /// would make the kernel reset the connection, and the client would lose the rest of its response (RFC 9112,
    /// section 9.6).
    async fn linger(&self, stream: &mut impl Stream) {
        let drop_input = async {
            stream.shutdown().await?;
            tokio::io::copy(&mut (&mut *stream).take(MAX_LINGER_BYTES), &mut tokio::io::sink()).await
        };
        select! {
            _ = timeout(LINGER_TIMEOUT, Box::pin(drop_input)) => {}
            () = self.slot.evicted() => reset_on_close(stream.socket()),
        }
    }
}

/// Makes the kernel reset the connection when its socket is closed, and drop unsent bytes.
pub(super) fn reset_on_close(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

/// Returns the reason why hyper answered these bytes with this status by itself.
fn request_error(status: u16, bytes: &[u8]) -> RequestError {
    // hyper answers a target that fills its buffer with 431, too.
    let has_whole_request_line = bytes.trim_ascii_start().contains(&b'\n');
    match status {
        414 => RequestError::UriTooLong,
        431 if !has_whole_request_line => RequestError::UriTooLong,
        431 => RequestError::HeadersTooLarge,
        _ => RequestError::Malformed,
    }
}

/// Writes the last response of a connection, without hyper.
async fn write_response(stream: &mut (impl AsyncWrite + Unpin), response: Response) -> io::Result<()> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let (status, length) = (head.status, body.len());
    // A server that has a clock sends a date with every response (RFC 9110, section 6.6.1).
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut bytes =
        format!("HTTP/1.1 {status}\r\ndate: {date}\r\nconnection: close\r\ncontent-length: {length}\r\n").into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend(body);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http_body_util::Full;
    use tokio::{
        net::{TcpListener, TcpSocket},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::{domain::throttle::ClientNetwork, server::connection_limit::EvictingLimit};

    /// Answers every request with 64 MiB.
    struct LargeResponses;

    impl Application for LargeResponses {
        async fn answer(&self, _: Request, _: SocketAddr, _: bool) -> Response {
            Response::new(Full::from(vec![0; 64 << 20]).map_err(|never| match never {}).boxed())
        }

        fn reject(&self, _: RequestError, _: SocketAddr) -> Response {
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
            response
        }

        fn network(&self, _: IpAddr) -> Option<ClientNetwork> {
            None
        }
    }

    /// The client's end of a connection, its server's stream, and what stops its server.
    async fn connected() -> (TcpStream, TcpStream, Connection<LargeResponses>, watch::Sender<bool>) {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that the server writes again whenever the client has read something.
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = socket.listen(1).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let state = ServerState { application: LargeResponses, certificate: None, is_draining: AtomicBool::new(false) };
        let slot = EvictingLimit::new(1).acquire(None).await.unwrap();
        let (sender, stop) = watch::channel(false);
        (client, stream, Connection { server: Arc::new(state), client: address, slot, stop }, sender)
    }

    async fn serving() -> (TcpStream, watch::Sender<bool>, JoinHandle<()>) {
        let (client, stream, connection, stop) = connected().await;
        (client, stop, tokio::spawn(connection.serve(stream)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_taken_bit_by_bit_times_out_after_five_minutes() {
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
    async fn a_head_times_out_after_ten_seconds_and_sooner_during_a_shutdown() {
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
    async fn a_connection_may_idle_for_longer_than_nginx_keeps_it() {
        let (_client, mut stream, connection, _stop) = connected().await;
        let begun = Instant::now();
        assert!(!connection.wait_for_request(&mut stream).await);
        assert_eq!(begun.elapsed().as_secs(), 75);
    }
}

//! The state of a connection's current request, recorded from its bytes, its body and its response.
//!
//! hyper closes a connection after a body that was not read, without notice to a client that may be sending its next
//! request. So a small rest of a body is read and dropped, and the response to a larger one announces the close.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest rest of a body that is read and dropped, so that the connection can be used again.
const MAX_REST_BYTES: u64 = 64 * 1024;

/// Where a connection is in its cycle of request and response.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between requests.
    #[default]
    Idle,
    /// The head of a request has begun to arrive.
    Head,
    /// The application works on the request.
    Busy,
    /// The application reads the body, with a timeout of its own.
    Body,
    /// The response is known, and the rest of the body is being dropped.
    Rest,
    /// The response is known. Bytes that arrive may still belong to an unread body; once none do, `Idle` follows.
    Answered,
}

/// The progress of one connection, shared by its stream, its request's body and its deadlines.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Whether bytes wait for the client to take them.
    pub(super) is_write_blocked: bool,
    /// Counts responses and completed writes: a change shows that the client or the application went on.
    pub(super) steps: u32,
    /// Whether the client may still be sending a body that is not read any more.
    pub(super) has_unread_input: bool,
    /// Whether a part of a response to a request may still be unwritten.
    pub(super) is_answering: bool,
    /// The status of hyper's own response to a head that hyper cannot parse. The client does not get that response.
    pub(super) rejected_status: Option<u16>,
    /// The body of the current request, until all of it was read.
    body: Option<Incoming>,
}

impl Progress {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Records that the head of a request is complete.
    pub(super) fn begin_request(&self, body: Option<Incoming>) {
        let mut state = self.lock();
        (state.phase, state.is_answering, state.body) = (Phase::Busy, true, body);
    }

    /// Records that the response is known, and returns whether the connection can be used for another request.
    /// `expects_continue`: whether the client waits to be asked for the body (RFC 9110, section 10.1.1), and may not
    /// send it after a response. `drops_rest`: whether a small rest of the body is read and dropped, so that the
    /// connection can be used again.
    pub(super) fn end_request(&self, expects_continue: bool, drops_rest: bool) -> bool {
        let mut state = self.lock();
        state.steps = state.steps.wrapping_add(1);
        let is_sent = state.phase == Phase::Body || !expects_continue;
        let rest = state.body.take().filter(|body| !body.is_end_stream());
        state.has_unread_input = rest.is_some();
        state.phase = Phase::Answered;
        if let Some(body) = rest
            && is_sent
            && drops_rest
            && body.size_hint().exact().is_some_and(|bytes| bytes <= MAX_REST_BYTES)
        {
            state.has_unread_input = false;
            state.phase = Phase::Rest;
            state.body = Some(body);
        }
        !state.has_unread_input
    }

    /// Reads and drops the rest of a body.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) {
        let mut state = self.lock();
        while state.phase == Phase::Rest {
            let frame = state.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx));
            match frame {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(_))) => {}
                // hyper ends the connection after an error.
                Poll::Ready(_) => (state.phase, state.body) = (Phase::Answered, None),
            }
        }
    }
}

impl State {
    /// Records that bytes arrived. Between requests, they begin a head.
    fn record_input(&mut self) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Head;
        }
    }

    /// Records whether the client has to take bytes before more can be written.
    fn record_write(&mut self, result: &Poll<io::Result<usize>>) {
        self.is_write_blocked = result.is_pending();
        self.steps = self.steps.wrapping_add(u32::from(result.is_ready()));
    }

    /// Returns whether these bytes are hyper's own response to a head that hyper cannot parse, and records its status.
    /// hyper writes nothing else while no request is being answered. The caller drops such bytes: the client gets the
    /// application's response instead.
    fn record_rejection(&mut self, bytes: &[u8]) -> bool {
        if self.is_answering {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
        let rejected = status.filter(|status| (400..500).contains(status));
        self.rejected_status = rejected.or(self.rejected_status);
        rejected.is_some()
    }
}

/// The body of the current request, as the application reads it.
pub(super) struct RequestBody(pub(super) Progress);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut state = self.0.lock();
        let Some(body) = &mut state.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        state.phase = Phase::Body;
        let frame = ready!(frame);
        if frame.is_none() {
            (state.phase, state.body) = (Phase::Busy, None);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }
}

/// A stream of bytes that records its progress. hyper cannot shut it down, so that it can be used after hyper.
pub(super) struct TrackedStream<S> {
    pub(super) stream: S,
    /// Input that hyper had read and not used when it was dropped: read again first.
    leftover: Bytes,
    progress: Progress,
}

impl<S> TrackedStream<S> {
    pub(super) fn new(stream: S, leftover: Bytes, progress: Progress) -> Self {
        Self { stream, leftover, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.leftover.is_empty() {
            let length = self.leftover.len().min(buffer.remaining());
            buffer.put_slice(&self.leftover.split_to(length));
            self.progress.lock().record_input();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let mut state = self.progress.lock();
        if buffer.filled().len() > before {
            state.record_input();
        } else if read.is_pending() && state.phase == Phase::Answered {
            state.phase = Phase::Idle;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut state = this.progress.lock();
        if state.record_rejection(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        state.record_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut state = this.progress.lock();
        if slices.first().is_some_and(|first| state.record_rejection(first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        state.record_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        let mut state = self.progress.lock();
        state.is_write_blocked = result.is_pending();
        // hyper flushes once all is written; before the response is known, that may be "100 Continue".
        if result.is_ready() && !matches!(state.phase, Phase::Busy | Phase::Body) {
            state.is_answering = false;
        }
        drop(state);
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

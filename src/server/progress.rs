//! What a connection waits for, and for how long.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{body::Rest, places::Place};

/// How long a client may take from the first to the last byte of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take none of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long something of an answer may wait for a client that takes it bit by bit: 5 KiB/s are enough for the largest
/// page.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// How long a client may take for the rest of a body that nobody reads.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may say nothing before hyper's share of the connection is put away: its buffers, and the place for
/// a request.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// How long a connection may wait for its client (for a head, a body, or the taking of an answer) before it is closed
/// for a newcomer where all places are taken.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The same for a client that takes an answer bit by bit.
const DRIPPING_AFTER: Duration = Duration::from_secs(10);

/// What a connection does. One task at a time changes it, so that no order between the fields is needed.
#[derive(Default)]
pub(super) struct Progress {
    /// One of the constants below.
    phase: AtomicU8,
    /// Whether an answer waits for the client.
    is_stuck: AtomicBool,
    /// Counts answers, and parts of them that the client took.
    steps: AtomicU32,
    /// Whether the client may still be sending what nobody reads any more.
    is_unheard: AtomicBool,
    /// Whether something of an answer to a request may still be unwritten.
    is_answering: AtomicBool,
    /// The status of hyper's answer to a head that it cannot read.
    refused: AtomicU16,
    /// The part of the last request's body that the endpoint left.
    rest: Mutex<Option<Rest>>,
}

/// The client may begin a request.
const IDLE: u8 = 0;
/// It has begun, and the head is not complete.
const HEAD: u8 = 1;
/// The request is being answered.
const BUSY: u8 = 2;
/// The endpoint reads the body, for which it has a timeout of its own.
const BODY: u8 = 3;
/// The answer is known, and the client sends a rest of the body, which is dropped.
const REST: u8 = 4;
/// The answer is known. What is there to be read may be the rest of a body that nobody wanted.
const ANSWERED: u8 = 5;

/// What the client took too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// To begin another request: there is no harm in it.
    Quiet,
    /// The head of a request.
    Head,
    /// Its body.
    Body,
    /// The rest of the body of a request that is answered.
    Rest,
    /// To take an answer.
    Answer,
}

impl Progress {
    /// The head of a request is complete.
    pub(super) fn begin(&self) {
        self.phase.store(BUSY, Relaxed);
        self.is_answering.store(true, Relaxed);
    }

    /// The endpoint begins to read its body.
    pub(super) fn begin_body(&self) {
        self.phase.store(BODY, Relaxed);
    }

    /// The endpoint has read the body, or wants no more of it.
    pub(super) fn end_body(&self) {
        if self.phase.load(Relaxed) == BODY {
            self.phase.store(BUSY, Relaxed);
        }
    }

    /// The endpoint left a part of the body.
    pub(super) fn leave(&self, rest: Rest) {
        *self.rest() = Some(rest);
    }

    /// The answer is known.
    pub(super) fn end(&self) {
        self.phase.store(ANSWERED, Relaxed);
        self.step();
    }

    /// The part of the body that the endpoint left.
    pub(super) fn take_rest(&self) -> Option<Rest> {
        self.rest().take()
    }

    /// The answer is known, and this rest of the body is dropped behind it.
    pub(super) fn end_before(&self, rest: Rest) {
        self.leave(rest);
        self.phase.store(REST, Relaxed);
        self.step();
    }

    /// Reads and drops such a rest.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) {
        if self.phase.load(Relaxed) != REST {
            return;
        }
        let mut rest = self.rest();
        if rest.as_mut().is_none_or(|rest| rest.poll_drop(cx).is_ready()) {
            *rest = None;
            self.phase.store(ANSWERED, Relaxed);
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<Rest>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something of an answer to a request may still be unwritten.
    pub(super) fn is_answering(&self) -> bool {
        self.is_answering.load(Relaxed)
    }

    /// The status with which hyper refused what it cannot read. The client did not get that answer.
    pub(super) fn refused(&self) -> Option<u16> {
        Some(self.refused.load(Relaxed)).filter(|status| *status > 0)
    }

    /// Whether these bytes are hyper's own answer to a head that it cannot read: unless it answers a request it writes
    /// nothing else. They are kept from the client, whom the server answers in its own words.
    fn is_refusal(&self, bytes: &[u8]) -> bool {
        if self.is_answering() {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
        let refused = status.filter(|status| (400..500).contains(status));
        refused.inspect(|status| self.refused.store(*status, Relaxed)).is_some()
    }

    /// The connection ends with an answer that did not wait for all that the client sends.
    pub(super) fn stop_listening(&self) {
        self.is_unheard.store(true, Relaxed);
    }

    pub(super) fn is_unheard(&self) -> bool {
        self.is_unheard.load(Relaxed)
    }

    fn step(&self) {
        self.steps.store(self.steps.load(Relaxed).wrapping_add(1), Relaxed);
    }

    fn state(&self) -> (u8, bool, u32) {
        (self.phase.load(Relaxed), self.is_stuck.load(Relaxed), self.steps.load(Relaxed))
    }
}

/// Tells when a client is late. Asked after each step of a connection, it wakes the task for the next time.
pub(super) struct Patience<'a> {
    progress: Arc<Progress>,
    place: &'a Place,
    seen: (u8, bool, u32),
    since: Instant,
    /// Since when there was always something left of an answer that waits for the client.
    stuck_since: Option<Instant>,
    /// Set forward when it goes off, and not with each request: a connection in use costs no timer.
    alarm: Pin<Box<Sleep>>,
    /// Ready when the place is to be given up for a newcomer. Only while the client is slow.
    wanted: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    is_hurried: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn with(progress: Arc<Progress>, place: &'a Place) -> Self {
        let seen = progress.state();
        let alarm = Box::pin(sleep(QUIET_AFTER));
        let since = Instant::now();
        Self { progress, place, seen, since, stuck_since: None, alarm, wanted: None, is_hurried: false }
    }

    /// Waits for no head or rest any more that takes its time.
    pub(super) fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// Ready once the client is late.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let state = self.progress.state();
        if state != self.seen {
            (self.seen, self.since, self.wanted) = (state, Instant::now(), None);
        }
        let (_, is_stuck, _) = state;
        if !is_stuck {
            self.stuck_since = None;
        }
        let since = self.since;
        let is_hurried = self.is_hurried;
        let limit = |timeout| if is_hurried { QUIET_AFTER } else { timeout };
        // When the place may go to a newcomer, and when the client is late in any case.
        let (late, slow_from, late_from) = match state {
            (_, true, _) => {
                let stuck_since = *self.stuck_since.get_or_insert(since);
                let slow_from = (since + SLOW_AFTER).min(stuck_since + DRIPPING_AFTER);
                (Late::Answer, slow_from, Some((since + WRITE_TIMEOUT).min(stuck_since + ANSWER_TIMEOUT)))
            }
            (IDLE | ANSWERED, ..) => (Late::Quiet, since + QUIET_AFTER, Some(since + QUIET_AFTER)),
            (HEAD, ..) => (Late::Head, since + SLOW_AFTER, Some(since + limit(HEAD_TIMEOUT))),
            (BODY, ..) => (Late::Body, since + SLOW_AFTER, None),
            (REST, ..) => (Late::Rest, since + SLOW_AFTER, Some(since + limit(REST_TIMEOUT))),
            _ => return Poll::Pending,
        };
        loop {
            let wanted = self.wanted.as_mut().map(|wanted| wanted.as_mut().poll(cx));
            if wanted.is_some_and(|wanted| wanted.is_ready()) {
                return Poll::Ready(late);
            }
            let is_slow = wanted.is_some();
            let Some(deadline) = (if is_slow { late_from } else { Some(slow_from) }) else { return Poll::Pending };
            if self.alarm.deadline() > deadline {
                self.alarm.as_mut().reset(deadline);
            }
            ready!(self.alarm.as_mut().poll(cx));
            if self.alarm.deadline() < deadline {
                self.alarm.as_mut().reset(deadline);
            } else if Some(deadline) == late_from {
                return Poll::Ready(late);
            } else {
                self.wanted = Some(Box::pin(self.place.wanted()));
            }
        }
    }
}

/// A stream of bytes whose progress is known. hyper cannot shut it down: it is still to be used.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    /// What was read of it before.
    begun: Bytes,
    progress: Arc<Progress>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, begun: Bytes, progress: Arc<Progress>) -> Self {
        Self { stream, begun, progress }
    }

    fn heard(&self) {
        if self.progress.phase.load(Relaxed) == IDLE {
            self.progress.phase.store(HEAD, Relaxed);
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.progress.is_stuck.store(result.is_pending(), Relaxed);
        if result.is_ready() {
            self.progress.step();
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let length = self.begun.len().min(buffer.remaining());
            buffer.put_slice(&self.begun.split_to(length));
            self.heard();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() && self.progress.phase.load(Relaxed) == ANSWERED {
            self.progress.phase.store(IDLE, Relaxed);
        }
        ready!(read)?;
        if buffer.filled().len() > before {
            self.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.progress.is_refusal(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bytes.first().is_some_and(|first| self.progress.is_refusal(first)) {
            return Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress.is_stuck.store(result.is_pending(), Relaxed);
        // hyper flushes once it has written all that it has; before the answer is known, that may be "100 Continue".
        if result.is_ready() && !matches!(self.progress.phase.load(Relaxed), BUSY | BODY) {
            self.progress.is_answering.store(false, Relaxed);
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

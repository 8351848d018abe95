//! What a connection waits for, and for how long.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long a client may take from the first to the last byte of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take none of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long something of an answer may wait for a client that takes it bit by bit: 5 KiB/s are enough for the largest page.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// How long a client may say nothing before hyper's share of the connection is put away: its buffers, and the place for a
/// request.
const QUIET_AFTER: Duration = Duration::from_secs(1);

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
}

/// The client may begin a request.
const IDLE: u8 = 0;
/// It has begun, and the head is not complete.
const HEAD: u8 = 1;
/// The request is being answered. Bodies have a timeout of their own.
const BUSY: u8 = 2;
/// The answer is known. What is there to be read may be the rest of a body that nobody wanted.
const ANSWERED: u8 = 3;

/// What the client took too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// To begin another request: there is no harm in it.
    Quiet,
    /// The head of a request.
    Head,
    /// To take an answer.
    Answer,
}

impl Progress {
    /// The head of a request is complete.
    pub(super) fn begin(&self) {
        self.phase.store(BUSY, Relaxed);
    }

    /// Its answer is known.
    pub(super) fn end(&self) {
        self.phase.store(ANSWERED, Relaxed);
        self.step();
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
pub(super) struct Patience {
    progress: Arc<Progress>,
    seen: (u8, bool, u32),
    since: Instant,
    /// Since when there was always something left of an answer that waits for the client.
    stuck_since: Option<Instant>,
    /// Set forward when it goes off, and not with each request: a connection in use costs no timer.
    alarm: Pin<Box<Sleep>>,
    head_timeout: Duration,
}

impl Patience {
    pub(super) fn with(progress: Arc<Progress>) -> Self {
        let seen = progress.state();
        let alarm = Box::pin(sleep(QUIET_AFTER));
        Self { progress, seen, since: Instant::now(), stuck_since: None, alarm, head_timeout: HEAD_TIMEOUT }
    }

    /// Waits for no head any more that takes its time.
    pub(super) fn hurry(&mut self) {
        self.head_timeout = QUIET_AFTER;
    }

    /// Ready once the client is late.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let state = self.progress.state();
        if state != self.seen {
            (self.seen, self.since) = (state, Instant::now());
        }
        let (_, is_stuck, _) = state;
        if !is_stuck {
            self.stuck_since = None;
        }
        let (late, deadline) = match state {
            (_, true, _) => {
                let stuck_since = *self.stuck_since.get_or_insert(self.since);
                (Late::Answer, (self.since + WRITE_TIMEOUT).min(stuck_since + ANSWER_TIMEOUT))
            }
            (IDLE | ANSWERED, ..) => (Late::Quiet, self.since + QUIET_AFTER),
            (HEAD, ..) => (Late::Head, self.since + self.head_timeout),
            _ => return Poll::Pending,
        };
        if self.alarm.deadline() > deadline {
            self.alarm.as_mut().reset(deadline);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            if self.alarm.deadline() >= deadline {
                return Poll::Ready(late);
            }
            self.alarm.as_mut().reset(deadline);
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
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress.is_stuck.store(result.is_pending(), Relaxed);
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

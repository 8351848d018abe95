//! How long a connection waits for its client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    application::RequestError,
    connection_limit::ConnectionSlot,
    progress::{Phase, Progress},
};

/// Longest time from the first to the last byte of a request's head. The same holds for the rest of a body that is read
/// and dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for which a client takes nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time for which a client takes a response bit by bit: 5 KiB/s are enough for the largest page.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(5);

/// The same as [`HEAD_TIMEOUT`], during a shutdown.
const HEAD_TIMEOUT_WHILE_STOPPING: Duration = Duration::from_secs(1);

/// Time without input after which hyper's part of the connection is dropped: its buffers and its state.
const RELEASE_HYPER_AFTER: Duration = Duration::from_secs(1);

/// Time of waiting for its client (for a head, for a body, or to take a response) after which a connection can be
/// evicted.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Time after which a connection can be evicted whose client takes a response bit by bit.
const SLOW_RESPONSE_AFTER: Duration = Duration::from_secs(10);

/// Why a connection's requests are not served for now, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client sends nothing at the moment.
    Idle,
    /// The client sent no complete request, or not in time.
    Rejected(RequestError),
    /// The client or hyper closed the connection, or the rest of a body did not arrive in time.
    Closed,
    /// hyper closed the connection, and the client may still be sending.
    UnreadInput,
    /// The client did not take a response in time.
    WriteTimeout,
}

/// The deadlines of one connection's requests. Polled after each step of the connection.
pub(super) struct Deadlines<'a> {
    progress: &'a Progress,
    slot: &'a ConnectionSlot,
    /// The progress at the last poll: `phase`, `is_write_blocked` and `steps`.
    seen: (Phase, bool, u32),
    /// When the progress last changed.
    since: Instant,
    /// When bytes began to wait for the client, which may have taken some of them since, but never all.
    blocked_since: Option<Instant>,
    /// Reset when it fires, not with each request: a busy connection costs no timer.
    timer: Pin<Box<Sleep>>,
    /// The connection's place in the queue for eviction, while its client is slow.
    evicted: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    is_stopping: bool,
}

impl<'a> Deadlines<'a> {
    pub(super) fn new(progress: &'a Progress, slot: &'a ConnectionSlot) -> Self {
        Self {
            progress,
            slot,
            seen: (Phase::Idle, false, 0),
            since: Instant::now(),
            blocked_since: None,
            timer: Box::pin(sleep(RELEASE_HYPER_AFTER)),
            evicted: None,
            is_stopping: false,
        }
    }

    /// Shortens the deadlines of requests for a shutdown.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Completes once the client is idle or too slow, or is slow and its connection is evicted.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let seen = {
            let state = self.progress.lock();
            (state.phase, state.is_write_blocked, state.steps)
        };
        if seen != self.seen {
            (self.seen, self.since, self.evicted) = (seen, Instant::now(), None);
        }
        let (phase, is_write_blocked, _) = seen;
        let since = self.since;
        let blocked_since = is_write_blocked.then(|| *self.blocked_since.get_or_insert(since));
        self.blocked_since = blocked_since;
        let request_deadline = since + if self.is_stopping { HEAD_TIMEOUT_WHILE_STOPPING } else { HEAD_TIMEOUT };
        let slow = since + SLOW_AFTER;
        // The end at the deadline or at an eviction, the time from which eviction is possible, and the deadline.
        let (end, evictable, deadline) = match (blocked_since, phase) {
            (Some(blocked_since), _) => {
                let deadline = (since + WRITE_TIMEOUT).min(blocked_since + RESPONSE_TIMEOUT);
                (End::WriteTimeout, slow.min(blocked_since + SLOW_RESPONSE_AFTER), Some(deadline))
            }
            (_, Phase::Busy) => return Poll::Pending,
            (_, Phase::Idle | Phase::Answered) => {
                (End::Idle, since + RELEASE_HYPER_AFTER, Some(since + RELEASE_HYPER_AFTER))
            }
            (_, Phase::Head) => (End::Rejected(RequestError::HeadTimeout), slow, Some(request_deadline)),
            (_, Phase::Body) => (End::Rejected(RequestError::BodyTimeout), slow, None),
            (_, Phase::Rest) => (End::Closed, slow, Some(request_deadline)),
        };
        loop {
            if self.evicted.as_mut().is_some_and(|evicted| evicted.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(end);
            }
            let next = if self.evicted.is_some() { deadline } else { Some(evictable) };
            let Some(next) = next else { return Poll::Pending };
            if self.timer.deadline() > next {
                self.timer.as_mut().reset(next);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() < next {
                self.timer.as_mut().reset(next);
            } else if Some(next) == deadline {
                return Poll::Ready(end);
            } else {
                self.evicted = Some(Box::pin(self.slot.evicted()));
            }
        }
    }
}

//! Events that repeat: the first is written, the others are counted, and their number is written once a minute.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::Span;

/// How long an event is remembered, and how often the number of its repetitions is written.
const INTERVAL: Duration = Duration::from_mins(1);

/// So many events are remembered at most. Others are written each time.
const CAPACITY: usize = 10_000;

/// How often the forgotten ones make room where there is none.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The events of the last minute, and what writes the number of repetitions of one.
pub(super) struct Repetitions<E> {
    recent: Mutex<Recent<E>>,
    write: fn(&E, u64),
}

struct Recent<E> {
    events: HashMap<E, Seen>,
    swept_at: Instant,
}

struct Seen {
    until: Instant,
    /// Since the last line.
    repeated: u64,
    /// The span of the first repetition, from which on a task writes.
    span: Option<Span>,
}

impl<E: Clone + Eq + Hash + Send + 'static> Repetitions<E> {
    pub(super) fn new(write: fn(&E, u64)) -> Self {
        let recent = Recent { events: HashMap::new(), swept_at: Instant::now() };
        Self { recent: Mutex::new(recent), write }
    }

    fn recent(&self) -> MutexGuard<'_, Recent<E>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this event is none that was written within the last minute. If it is, it is counted. To be called within a
    /// runtime of tokio.
    pub(super) fn is_first(&'static self, event: &E) -> bool {
        let now = Instant::now();
        let mut recent = self.recent();
        if let Some(seen) = recent.events.get_mut(event).filter(|seen| seen.span.is_some() || now < seen.until) {
            seen.repeated += 1;
            if seen.span.is_none() {
                seen.span = Some(Span::current());
                tokio::spawn(self.write_at_intervals(event.clone(), seen.until));
            }
            return false;
        }
        if recent.events.len() >= CAPACITY && recent.swept_at + SWEEP_INTERVAL <= now {
            recent.events.retain(|_, seen| seen.span.is_some() || now < seen.until);
            recent.swept_at = now;
        }
        if recent.events.len() < CAPACITY {
            recent.events.insert(event.clone(), Seen { until: now + INTERVAL, repeated: 0, span: None });
        }
        true
    }

    /// Until there are none in a whole interval; then the event is forgotten.
    async fn write_at_intervals(&'static self, event: E, mut next: Instant) {
        loop {
            sleep_until(next).await;
            next += INTERVAL;
            let mut recent = self.recent();
            let Some(seen) = recent.events.get_mut(&event).filter(|seen| seen.repeated > 0) else {
                recent.events.remove(&event);
                return;
            };
            let (repeated, span) = (mem::take(&mut seen.repeated), seen.span.clone());
            drop(recent);
            span.unwrap_or_else(Span::none).in_scope(|| (self.write)(&event, repeated));
        }
    }

    /// Writes at once how often each event was repeated since its last line.
    pub(super) fn write_all(&self) {
        for (event, seen) in &mut self.recent().events {
            let repeated = mem::take(&mut seen.repeated);
            if let Some(span) = seen.span.as_ref().filter(|_| repeated > 0) {
                span.in_scope(|| (self.write)(event, repeated));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    static WRITTEN: Mutex<Vec<(&str, u64)>> = Mutex::new(Vec::new());

    fn written() -> Vec<(&'static str, u64)> {
        mem::take(&mut WRITTEN.lock().unwrap())
    }

    #[tokio::test]
    async fn repetitions_are_one_line_a_minute_until_there_are_none() {
        pause();
        let write = |event: &&'static str, repeated| WRITTEN.lock().unwrap().push((event, repeated));
        let events: &'static _ = Box::leak(Box::new(Repetitions::new(write)));
        let half = INTERVAL / 2 + Duration::from_millis(1);
        let pass = async || {
            advance(half).await;
            tokio::task::yield_now().await;
        };

        assert!(events.is_first(&"a") && events.is_first(&"b"));
        pass().await;
        assert!(!events.is_first(&"a") && !events.is_first(&"a"));
        pass().await;
        assert_eq!(written(), [("a", 2)]);
        assert!(events.is_first(&"b"), "it was not repeated for a minute");

        assert!(!events.is_first(&"a"), "it goes on without another first line");
        pass().await;
        pass().await;
        assert_eq!(written(), [("a", 1)]);
        assert!(!events.is_first(&"a"));
        events.write_all();
        assert_eq!(written(), [("a", 1)]);
        for _ in 0..4 {
            pass().await;
        }
        assert_eq!(written(), []);
        assert!(events.is_first(&"a"), "it is forgotten");
    }

    #[tokio::test]
    async fn many_different_events_are_all_written_and_take_no_more_room() {
        pause();
        let events: &'static _ = Box::leak(Box::new(Repetitions::new(|_, _| {})));
        assert!((0..2 * CAPACITY).all(|event| events.is_first(&event)));
        assert_eq!(events.recent().events.len(), CAPACITY);
        assert!(!events.is_first(&0) && events.is_first(&(2 * CAPACITY - 1)));
        advance(INTERVAL).await;
        assert!(events.is_first(&(2 * CAPACITY - 1)) && !events.is_first(&(2 * CAPACITY - 1)), "there is room again");
    }
}

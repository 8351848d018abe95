//! Events that repeat: the first is written, further ones are counted, and their number is written once a minute.

use std::{collections::HashMap, hash::Hash, mem, time::Duration};

use tokio::time::Instant;
use tracing::Span;

/// Time between two lines about the same event.
pub(super) const INTERVAL: Duration = Duration::from_mins(1);

/// The most events that are counted at the same time. Further ones are written each time.
const CAPACITY: usize = 10_000;

/// The events that were written or counted within the last minute.
pub(super) struct Repetitions<E>(HashMap<E, RepeatedEvent>);

/// The state of an event that may be repeated.
struct RepeatedEvent {
    next_line_at: Instant,
    /// Repetitions since the last line.
    repetitions: u64,
    /// The span of the first of these repetitions, in which the line is written.
    span: Span,
}

impl<E> Default for Repetitions<E> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<E: Clone + Eq + Hash> Repetitions<E> {
    /// Returns whether this event is the first of its kind and is to be written; otherwise counts it as a repetition.
    pub(super) fn is_first(&mut self, event: &E) -> bool {
        if let Some(repeated) = self.0.get_mut(event) {
            if repeated.repetitions == 0 {
                repeated.span = Span::current();
            }
            repeated.repetitions += 1;
            return false;
        }
        if self.0.len() < CAPACITY {
            let next_line_at = Instant::now() + INTERVAL;
            self.0.insert(event.clone(), RepeatedEvent { next_line_at, repetitions: 0, span: Span::none() });
        }
        true
    }

    /// Takes the repeated events whose line is due at `now`, each with its number of repetitions and the span of its
    /// line. An event without repetitions is removed.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(E, u64, Span)> {
        let mut lines = Vec::new();
        self.0.retain(|event, repeated| {
            if now < repeated.next_line_at {
                return true;
            }
            repeated.next_line_at = now + INTERVAL;
            let repetitions = mem::take(&mut repeated.repetitions);
            if repetitions > 0 {
                lines.push((event.clone(), repetitions, repeated.span.clone()));
            }
            repetitions > 0
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    /// The lines that are due at the moment.
    fn due<E: Clone + Eq + Hash>(events: &mut Repetitions<E>) -> Vec<(E, u64)> {
        events.take_due(Instant::now()).into_iter().map(|(event, repetitions, _)| (event, repetitions)).collect()
    }

    #[tokio::test]
    async fn repetitions_are_one_line_a_minute_until_they_stop() {
        pause();
        let mut events = Repetitions::default();
        assert!(events.is_first(&"a") && events.is_first(&"b"));
        assert!(!events.is_first(&"a") && !events.is_first(&"a"));
        assert_eq!(due(&mut events), []);
        advance(INTERVAL).await;
        assert_eq!(due(&mut events), [("a", 2)]);
        assert!(events.is_first(&"b"), "b was not repeated for a minute");

        assert!(!events.is_first(&"a"), "a is still counted");
        assert_eq!(due(&mut events), []);
        advance(INTERVAL).await;
        assert_eq!(due(&mut events), [("a", 1)]);
        advance(INTERVAL).await;
        assert_eq!(due(&mut events), []);
        assert!(events.is_first(&"a"), "a was not repeated for a minute");
    }

    #[tokio::test]
    async fn at_capacity_further_events_are_written_and_take_no_memory() {
        pause();
        let mut events = Repetitions::default();
        assert!((0..2 * CAPACITY).all(|event| events.is_first(&event)));
        assert_eq!(events.0.len(), CAPACITY);
        assert!(!events.is_first(&0) && events.is_first(&(2 * CAPACITY - 1)));
        advance(INTERVAL).await;
        due(&mut events);
        assert!(events.is_first(&(2 * CAPACITY - 1)) && !events.is_first(&(2 * CAPACITY - 1)), "there is room again");
    }
}

//! Events that repeat: the first is written, further ones are counted, and their number is written once a minute.

use std::{collections::HashMap, hash::Hash, mem, time::Duration};

use tokio::time::Instant;
use tracing::Span;

/// Time between two lines about the same event.
pub(super) const INTERVAL: Duration = Duration::from_mins(1);

/// Events that are counted at the same time, at most. Further events are written each time.
const CAPACITY: usize = 10_000;

/// The events written or counted within the last minute.
pub(super) struct Repetitions<E>(HashMap<E, Counted>);

struct Counted {
    /// When the next line is due.
    due: Instant,
    /// Repetitions since the last line.
    repetitions: u64,
    /// The span of the first of them.
    span: Span,
}

impl<E> Default for Repetitions<E> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<E: Clone + Eq + Hash> Repetitions<E> {
    /// Returns whether to write this event, and counts it otherwise.
    pub(super) fn is_first(&mut self, event: &E) -> bool {
        if let Some(counted) = self.0.get_mut(event) {
            if counted.repetitions == 0 {
                counted.span = Span::current();
            }
            counted.repetitions += 1;
            return false;
        }
        if self.0.len() < CAPACITY {
            let counted = Counted { due: Instant::now() + INTERVAL, repetitions: 0, span: Span::none() };
            self.0.insert(event.clone(), counted);
        }
        true
    }

    /// Takes the repeated events whose line is due at `now`, each with the number of repetitions and the span to write
    /// it in. Events that were not repeated are forgotten.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(E, u64, Span)> {
        let mut lines = Vec::new();
        self.0.retain(|event, counted| {
            if now < counted.due {
                return true;
            }
            counted.due = now + INTERVAL;
            let repetitions = mem::take(&mut counted.repetitions);
            if repetitions > 0 {
                lines.push((event.clone(), repetitions, counted.span.clone()));
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

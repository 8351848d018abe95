//! The clock of the server that runs a script.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// How long a reading is good for: until then the two clocks, which NTP slews by 0.05 % each at the most, drift apart by no
/// more than the millisecond that [`crate::store::leased`] waits beyond a lease.
const FRESH: Duration = Duration::from_secs(1);

/// What a server's clock showed at some moment between two moments of this process' clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClockReading {
    /// Since the Unix epoch.
    shown: Duration,
    asked_at: Instant,
    answered_at: Instant,
}

impl ClockReading {
    /// Reads the answer to `TIME`: seconds and microseconds.
    pub(super) fn new((seconds, micros): (u64, u32), asked_at: Instant) -> Self {
        let shown = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
        Self { shown, asked_at, answered_at: Instant::now() }
    }

    /// Whether it is recent enough to date a write by.
    pub(super) fn is_fresh(&self) -> bool {
        self.answered_at.elapsed() < FRESH
    }

    /// When a write may run that must not run later than `until`, in µs of the server's clock. The server's clock had shown
    /// this reading when the answer arrived, so that it shows the end of the window at `until` or before.
    pub(super) fn window(&self, until: Instant) -> [u128; 2] {
        let left = until.saturating_duration_since(self.answered_at);
        let late = self.answered_at.saturating_duration_since(until);
        [self.shown, (self.shown + left).saturating_sub(late)].map(|moment| moment.as_micros())
    }

    /// What the server's clock shows now, give or take half of the round trip.
    pub(super) fn now(&self) -> Duration {
        self.shown + self.asked_at.elapsed().saturating_sub((self.answered_at - self.asked_at) / 2)
    }

    /// How far this machine's clock and the server's are surely apart.
    pub(super) fn difference(&self) -> Duration {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        here.abs_diff(self.now()).saturating_sub(self.answered_at - self.asked_at)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    #[tokio::test]
    async fn a_window_ends_no_later_than_it_should() {
        pause();
        let asked_at = Instant::now();
        advance(Duration::from_millis(30)).await;
        let reading = ClockReading::new((100, 0), asked_at);
        // The server may have shown it 30 ms ago: its clock is between 100 s and 100.03 s now.
        let second = 1_000_000;
        assert_eq!(reading.window(Instant::now() + Duration::from_secs(1)), [100 * second, 101 * second]);
        assert_eq!(reading.window(asked_at), [100 * second, 100 * second - 30_000], "it lapsed before");
        assert_eq!(reading.now(), Duration::from_millis(100_015));
        advance(FRESH).await;
        assert!(!reading.is_fresh());
    }
}

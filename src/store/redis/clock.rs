//! The clock of the server that runs a script.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The age up to which a reading limits writes.
const FRESH: Duration = Duration::from_secs(1);

/// The time that a server's clock showed at some moment between two moments of this process' clock.
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

    /// Whether the reading is recent enough to limit a write.
    pub(super) fn is_fresh(&self) -> bool {
        self.answered_at.elapsed() < FRESH
    }

    /// The window in which a write that is sent now may run, so that it runs no later than `until`: in µs of the
    /// server's clock. That clock had reached this reading when the answer arrived, and advances by at least
    /// [`slowest`] of the time here. So it shows each end of the window when that is reached, or earlier.
    pub(super) fn window(&self, until: Instant) -> [u128; 2] {
        let from = self.shown + slowest(self.answered_at.elapsed());
        let left = slowest(until.saturating_duration_since(self.answered_at));
        let late = self.answered_at.saturating_duration_since(until);
        [from, (self.shown + left).saturating_sub(late)].map(|moment| moment.as_micros())
    }

    /// The time that the server's clock shows now, to within half of the round trip.
    pub(super) fn now(&self) -> Duration {
        self.shown + self.asked_at.elapsed().saturating_sub((self.answered_at - self.asked_at) / 2)
    }

    /// The least difference between this machine's clock and the server's.
    pub(super) fn difference(&self) -> Duration {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        here.abs_diff(self.now()).saturating_sub(self.answered_at - self.asked_at)
    }
}

/// The least time by which another clock advances while this time passes here. chrony slews a clock by up to 83,333 ppm
/// (`maxslewrate`), one up and the other down.
fn slowest(time: Duration) -> Duration {
    time * 5 / 6
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
        assert_eq!(reading.window(Instant::now() + Duration::from_secs(6)), [100 * second, 105 * second]);
        assert_eq!(reading.window(asked_at), [100 * second, 100 * second - 30_000], "it lapsed before");
        assert_eq!(reading.now(), Duration::from_millis(100_015));
        advance(Duration::from_millis(600)).await;
        assert_eq!(reading.window(asked_at)[0], 100 * second + 500_000, "a clock set back by more is noticed");
        advance(FRESH).await;
        assert!(!reading.is_fresh());
    }
}

//! The clock of the Redis server that runs a script: tokens expire by it, and delayed writes are rejected by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The age up to which a reading may be used to limit when a write runs.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The least time by which the server's clock was set that changes all that was read: each key expires at another
/// moment. Slewed clocks move by less, or more slowly than leases allow for.
pub(super) const STEP: Duration = Duration::from_millis(500);

/// The time that a server's clock showed at some moment between two moments of this process' clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClockReading {
    /// The time shown, since 1970.
    shown: Duration,
    /// When `TIME` was sent and answered, by this process' clock.
    asked_at: Instant,
    answered_at: Instant,
}

impl ClockReading {
    /// A reading from the answer to `TIME`, seconds and microseconds, which has just arrived.
    pub(super) fn new((seconds, micros): (u64, u32), asked_at: Instant) -> Self {
        let shown = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
        Self { shown, asked_at, answered_at: Instant::now() }
    }

    /// Whether the reading is recent enough to limit a write.
    pub(super) fn is_fresh(&self) -> bool {
        self.answered_at.elapsed() < FRESH_FOR
    }

    /// The window in which a write that is sent now may run, so that it runs no later than `until`: its start and end,
    /// in µs since 1970 by the server's clock. That clock had reached this reading when the answer arrived, and has
    /// advanced by at least [`least_advance`] since. So it is past the start of the window now, and past the end by
    /// `until`.
    pub(super) fn window(&self, until: Instant) -> [u128; 2] {
        let from = self.shown + least_advance(self.answered_at.elapsed());
        let left = least_advance(until.saturating_duration_since(self.answered_at));
        let late = self.answered_at.saturating_duration_since(until);
        [from, (self.shown + left).saturating_sub(late)].map(|moment| moment.as_micros())
    }

    /// The time that the server's clock shows now, to within half of the round trip.
    pub(super) fn now(&self) -> Duration {
        self.shown + self.asked_at.elapsed().saturating_sub((self.answered_at - self.asked_at) / 2)
    }

    /// The least time by which the server's clock was set, or has drifted from this one, since an earlier reading.
    pub(super) fn moved_since(&self, earlier: &Self) -> Duration {
        let least = self.asked_at - earlier.answered_at;
        let most = self.answered_at - earlier.asked_at;
        let set_back = (earlier.shown + least).saturating_sub(self.shown);
        set_back.max(self.shown.saturating_sub(earlier.shown + most))
    }

    /// The least difference between the clocks of this machine and of the server that the reading proves.
    pub(super) fn difference(&self) -> Duration {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        here.abs_diff(self.now()).saturating_sub(self.answered_at - self.asked_at)
    }
}

/// The least time by which another clock advances while this time passes here: five sixths, since chrony slews a clock
/// by up to 83,333 ppm (`maxslewrate`), this one up and the other one down.
fn least_advance(time: Duration) -> Duration {
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
        advance(FRESH_FOR).await;
        assert!(!reading.is_fresh());

        let asked_at = Instant::now();
        advance(Duration::from_millis(10)).await;
        let moved = |seconds| ClockReading::new((seconds, 0), asked_at).moved_since(&reading);
        // Between 1.6 s and 1.64 s have passed here.
        assert_eq!(moved(100), Duration::from_millis(1_600));
        assert_eq!(moved(103), Duration::from_millis(1_360));
        assert!(moved(101) < moved(100) && moved(102) < moved(103));
    }
}

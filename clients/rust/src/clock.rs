//! The verifier's clock. It also counts the time for which the machine was suspended.

use std::time::Duration;

/// A moment on a [`Clock`], in nanoseconds since its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Before any moment that a clock shows.
    pub(crate) const DISTANT_PAST: Self = Self(0);
    /// After any moment that a clock shows.
    pub(crate) const DISTANT_FUTURE: Self = Self(u64::MAX);

    /// The moment this many nanoseconds after the origin.
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The nanoseconds since the origin.
    pub(crate) fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment this much earlier, or the origin.
    pub(crate) fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }

    /// The moment this much later.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The time since an earlier moment; zero if that one is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `CLOCK_BOOTTIME`: monotonic, and it goes on while the machine is suspended, unlike `std::time::Instant`. A lease
/// that was held before has lapsed after.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug, Default)]
pub(crate) struct Clock {}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Clock {
    #[expect(clippy::unused_self, reason = "the clock of other systems has a state")]
    pub(crate) fn now(&self) -> Moment {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
        // Neither is negative. If one were, all leases would have lapsed.
        let (Ok(seconds), Ok(nanos)) = (seconds, nanos) else { return Moment::DISTANT_FUTURE };
        Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

/// Elsewhere: `std::time::Instant`, which may stand still while the machine is suspended, and the wall clock, which
/// does not. Between two readings, the longer of the two times counts. So a wall clock that is set forward ends leases
/// early, and one that is set back changes nothing.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
pub(crate) struct Clock(parking_lot::Mutex<LongerTime<std::time::Instant>>);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Default for Clock {
    fn default() -> Self {
        let (instant, wall) = (std::time::Instant::now(), std::time::SystemTime::now());
        Self(parking_lot::Mutex::new(LongerTime::new(instant, wall)))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Clock {
    pub(crate) fn now(&self) -> Moment {
        let mut time = self.0.lock();
        let instant = std::time::Instant::now();
        let elapsed = instant.saturating_duration_since(time.monotonic);
        time.advance(instant, elapsed, std::time::SystemTime::now())
    }
}

/// Adds up the longer of two times: of a monotonic clock, and of the wall clock.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
#[derive(Debug)]
struct LongerTime<T> {
    monotonic: T,
    wall: std::time::SystemTime,
    now: Moment,
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
impl<T> LongerTime<T> {
    /// Begins an hour after the origin, so that no age reaches before it.
    fn new(monotonic: T, wall: std::time::SystemTime) -> Self {
        Self { monotonic, wall, now: Moment(3_600_000_000_000) }
    }

    /// The moment at these readings of both clocks. `elapsed`: the monotonic clock's time since the last reading.
    fn advance(&mut self, monotonic: T, elapsed: Duration, wall: std::time::SystemTime) -> Moment {
        let by_wall = wall.duration_since(self.wall).unwrap_or_default();
        self.now = self.now.plus(elapsed.max(by_wall));
        (self.monotonic, self.wall) = (monotonic, wall);
        self.now
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let clock = Clock::default();
        let begun = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now().since(begun) >= Duration::from_millis(2));
        assert!(begun > Moment::DISTANT_PAST && begun < Moment::DISTANT_FUTURE);
    }

    #[test]
    fn a_suspension_that_only_the_wall_clock_counts_is_counted_and_steps_back_are_not() {
        let (hour, ms) = (Duration::from_secs(3600), Duration::from_millis(1));
        let mut wall = SystemTime::UNIX_EPOCH + 1000 * hour;
        let mut time = LongerTime::new((), wall);
        let begun = time.now;
        let mut step = |monotonic: Duration, wall: SystemTime| time.advance((), monotonic, wall).since(begun);
        wall += ms;
        assert_eq!(step(ms, wall), ms);
        // Suspended for an hour: the monotonic clock stood still.
        wall += hour;
        assert_eq!(step(ms, wall), ms + hour);
        // Set back by an hour, and time goes on.
        wall -= hour;
        assert_eq!(step(ms, wall), 2 * ms + hour);
        wall += ms;
        assert_eq!(step(ms, wall), 3 * ms + hour);
    }
}

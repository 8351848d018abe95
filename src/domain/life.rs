//! The life of a token: the time from its creation to its expiry.

use std::{fmt, time::Duration};

use super::duration::{self, DurationError};

/// A life in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(u64);

/// Why a text is not a [`Life`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifeError {
    /// It is not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// It is zero, or not a whole number of seconds.
    #[error("must be whole seconds, and at least one")]
    WholeSeconds,
    /// It is longer than this maximum.
    #[error("must be at most {0} here")]
    TooLong(Life),
}

impl Life {
    /// A life of this many seconds, at least one.
    pub fn from_seconds(seconds: u64) -> Result<Self, LifeError> {
        if seconds == 0 { Err(LifeError::WholeSeconds) } else { Ok(Self(seconds)) }
    }

    /// Parses a human duration ([`duration::parse`]) of any length.
    pub fn parse(text: &str) -> Result<Self, LifeError> {
        let duration = duration::parse(text)?;
        if duration.subsec_nanos() == 0 { Self::from_seconds(duration.as_secs()) } else { Err(LifeError::WholeSeconds) }
    }

    /// Parses a life of at most `max`.
    pub fn parse_up_to(text: &str, max: Self) -> Result<Self, LifeError> {
        let life = Self::parse(text)?;
        if life > max { Err(LifeError::TooLong(max)) } else { Ok(life) }
    }

    /// The life in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// The life as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// Writes the life in the largest unit that gives a whole number: years (of 365.25 days, as in humantime), days, hours,
/// minutes or seconds. [`Life::parse`] reads the text back, up to the longest life that can be configured, a century.
impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(31_557_600, "years"), (86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")];
        let (seconds, unit) =
            units.into_iter().find(|(seconds, _)| self.0.is_multiple_of(*seconds)).unwrap_or((1, "seconds"));
        let count = self.0 / seconds;
        write!(f, "{count} {}", if count == 1 { unit.trim_end_matches('s') } else { unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_whole_seconds_and_at_least_one() {
        assert_eq!(Life::parse("1000ms").map(Life::seconds), Ok(1));
        for text in ["0s", "1ns", "1500ms"] {
            assert_eq!(Life::parse(text), Err(LifeError::WholeSeconds), "{text:?}");
        }
        assert_eq!(Life::parse("6"), Err(LifeError::Duration(DurationError::Grammar)));
    }

    #[test]
    fn the_maximum_is_allowed_and_no_more() {
        let max = Life::parse("365 days").unwrap();
        assert_eq!(Life::parse_up_to("365 days", max), Ok(max));
        assert_eq!(Life::parse_up_to("366 days", max), Err(LifeError::TooLong(max)));
    }

    #[test]
    fn a_life_is_written_in_the_largest_whole_unit() {
        for text in [
            "1 year",
            "99 years",
            "365 days",
            "366 days",
            "1 day",
            "6 hours",
            "90 minutes",
            "61 seconds",
            "1 second",
            "3155759999 seconds",
        ] {
            assert_eq!(Life::parse(text).unwrap().to_string(), text);
        }
    }
}

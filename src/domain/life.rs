//! How long a token lives.

use std::{fmt, time::Duration};

/// The most characters a life may be written in.
pub const MAX_TEXT: usize = 64;

/// The most digits of one number in it. Five such numbers fit into [`MAX_TEXT`], and the longest unit is a year, so
/// that no sum reaches `u64::MAX` seconds: humantime 2.4.0 panics where one does
/// (`"18446744073709551615s 1000000000ns"`).
const MAX_DIGITS: usize = 9;

/// The life of a token: whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(u64);

/// Why a text is no [`Life`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifeError {
    /// Empty, too long, or not ASCII.
    #[error("a life is 1 to {MAX_TEXT} ASCII characters, such as \"6 hours\" or \"1h 30m\"")]
    Text,
    /// Not a sequence of a number and its unit.
    #[error(
        "a life is numbers of up to {MAX_DIGITS} digits, each followed by its unit, such as \"6 hours\" or \"1h 30m\""
    )]
    Grammar,
    /// A bare `M`, which humantime reads as a month and most people as minutes.
    #[error("the unit \"M\" is ambiguous: write \"min\" or \"month\"")]
    AmbiguousMonth,
    /// A unit that humantime does not have.
    #[error("a life has an unknown unit: use seconds, minutes, hours, days, weeks, months or years")]
    Unit,
    /// Not a whole number of seconds, or none at all.
    #[error("a life is whole seconds, and at least one")]
    WholeSeconds,
    /// Longer than the service allows.
    #[error("a life is at most {0} here")]
    TooLong(Life),
}

impl Life {
    /// Takes whole seconds, at least one.
    pub fn from_seconds(seconds: u64) -> Result<Self, LifeError> {
        if seconds == 0 { Err(LifeError::WholeSeconds) } else { Ok(Self(seconds)) }
    }

    /// Reads a human duration in humantime's units (`"6 hours"`, `"1h 30m"`, `"1week 2days"`), of any length.
    pub fn parse(text: &str) -> Result<Self, LifeError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(LifeError::Text);
        }
        check_grammar(text)?;
        let duration = humantime::parse_duration(text).map_err(|_| LifeError::Unit)?;
        if duration.subsec_nanos() != 0 {
            return Err(LifeError::WholeSeconds);
        }
        Self::from_seconds(duration.as_secs())
    }

    /// [`Life::parse`], and no longer than `max`.
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

/// The life as humantime writes it, which [`Life::parse`] reads back.
impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.duration()).fmt(f)
    }
}

/// Accepts `number unit` pairs only. humantime alone would join the digits of `"1 6 hours"` to 16 hours.
fn check_grammar(text: &str) -> Result<(), LifeError> {
    let mut rest = text;
    while !rest.is_empty() {
        let (digits, after) = split_while(rest, |c| c.is_ascii_digit());
        let (unit, after) = split_while(after.trim_start(), |c| c.is_ascii_alphabetic());
        if digits.is_empty() || digits.len() > MAX_DIGITS || unit.is_empty() {
            return Err(LifeError::Grammar);
        }
        if unit == "M" {
            return Err(LifeError::AmbiguousMonth);
        }
        rest = after.trim_start();
    }
    Ok(())
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("6 hours", 21_600),
            ("90m", 5_400),
            ("1h 30m", 5_400),
            ("1h30m", 5_400),
            ("30 days", 2_592_000),
            ("1week 2days", 777_600),
            ("1s", 1),
            (" 1 s ", 1),
            ("1000ms", 1),
            ("1 month", 2_630_016),
            ("365 days", 31_536_000),
        ] {
            assert_eq!(Life::parse(text).map(Life::seconds), Ok(seconds), "{text:?}");
        }
    }

    #[test]
    fn refuses_the_known_traps() {
        let long = "1s ".repeat(30);
        for (text, error) in [
            ("", LifeError::Text),
            ("   ", LifeError::Text),
            (&*long, LifeError::Text),
            ("６ hours", LifeError::Text),
            ("1 6 hours", LifeError::Grammar),
            ("18446744073709551615s 1000000000ns", LifeError::Grammar),
            ("-1h", LifeError::Grammar),
            ("6", LifeError::Grammar),
            ("hours", LifeError::Grammar),
            ("1.5 hours", LifeError::Grammar),
            ("1h,30m", LifeError::Grammar),
            ("1M", LifeError::AmbiguousMonth),
            ("1h 2M", LifeError::AmbiguousMonth),
            ("6 parsecs", LifeError::Unit),
            ("0s", LifeError::WholeSeconds),
            ("1ns", LifeError::WholeSeconds),
            ("1500ms", LifeError::WholeSeconds),
        ] {
            assert_eq!(Life::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_text_is_no_panic() {
        let years = "999999999years ".repeat(4);
        assert!(years.len() <= MAX_TEXT);
        assert!(Life::parse(&years).is_ok());
    }

    #[test]
    fn the_maximum_is_allowed_and_no_more() {
        let max = Life::parse("365 days").unwrap();
        assert_eq!(Life::parse_up_to("365 days", max), Ok(max));
        assert_eq!(Life::parse_up_to("366 days", max), Err(LifeError::TooLong(max)));
    }

    #[test]
    fn displays_what_it_reads() {
        for text in ["365 days", "6 hours", "1s"] {
            let life = Life::parse(text).unwrap();
            assert_eq!(Life::parse(&life.to_string()), Ok(life));
        }
    }
}

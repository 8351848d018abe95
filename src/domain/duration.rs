//! Human durations, such as "6 hours", for token lives and settings.

use std::time::Duration;

/// The maximum length of a duration, in characters.
pub const MAX_TEXT_CHARS: usize = 64;

/// The maximum number of digits of one number: enough for a century in seconds. humantime 2.4.0 panics if a sum exceeds
/// `u64::MAX` seconds (`"18446744073709551615s 1000000000ns"`); with this limit, no text of [`MAX_TEXT_CHARS`]
/// characters has such a sum.
const MAX_DIGITS: usize = 10;

/// A regular expression (ECMA-262) for durations, for the OpenAPI document. It accepts any word as a unit.
pub const PATTERN: &str = "^ *([0-9]{1,10} *[A-Za-z]+ *)+$";

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Empty, too long, or not ASCII.
    #[error("must be 1 to {MAX_TEXT_CHARS} ASCII characters, such as \"6 hours\" or \"1h 30m\"")]
    Text,
    /// Not a sequence of numbers with units.
    #[error(
        "must be numbers of up to {MAX_DIGITS} digits, each followed by its unit, such as \"6 hours\" or \"1h 30m\""
    )]
    Grammar,
    /// A bare `M`, which humantime reads as a month and most people as minutes.
    #[error("the unit \"M\" is ambiguous: write \"min\" or \"month\"")]
    AmbiguousMonth,
    /// A unit unknown to humantime.
    #[error("has an unknown unit: use seconds, minutes, hours, days, weeks, months or years")]
    Unit,
}

/// Parses a duration in humantime's units (`"6 hours"`, `"1h 30m"`, `"1week 2days"`), in upper or lower case. Twelve
/// months are a year of 365.25 days: as twelve of humantime's months of 30.44 days, they would be 43 minutes longer.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.len() > MAX_TEXT_CHARS || !text.is_ascii() {
        return Err(DurationError::Text);
    }
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Err(DurationError::Text);
    }
    humantime::parse_duration(&normalize(text)?).map_err(|_| DurationError::Unit)
}

/// Returns the text in humantime's spelling, if it is a sequence of numbers with units: humantime would read
/// `"1 6 hours"` as 16 hours.
fn normalize(text: &str) -> Result<String, DurationError> {
    let (mut rest, mut normal) = (text, String::new());
    while !rest.is_empty() {
        let (digits, after) = split_while(rest, |c| c.is_ascii_digit());
        let (unit, after) = split_while(after.trim_start_matches(' '), |c| c.is_ascii_alphabetic());
        if digits.is_empty() || digits.len() > MAX_DIGITS || unit.is_empty() {
            return Err(DurationError::Grammar);
        }
        if unit == "M" {
            return Err(DurationError::AmbiguousMonth);
        }
        let count: u64 = digits.parse().map_err(|_| DurationError::Grammar)?;
        let (count, unit) = match &*unit.to_ascii_lowercase() {
            "month" | "months" if count.is_multiple_of(12) => (count / 12, "years".to_owned()),
            unit => (count, unit.to_owned()),
        };
        normal.extend([&*count.to_string(), &*unit, " "]);
        rest = after.trim_start_matches(' ');
    }
    Ok(normal)
}

/// Splits a text behind its longest beginning whose characters all belong.
fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("6 hours", 21600),
            ("90m", 5400),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("30 days", 2_592_000),
            ("1week 2days", 777_600),
            (" 1s ", 1),
            ("6 Hours", 21600),
            ("1 HOUR 30 Min", 5400),
            ("1month", 2_630_016),
            ("1Month", 2_630_016),
            ("11 months", 28_930_176),
            ("12 months", 31_557_600),
            ("013 months", 34_190_208),
            ("24months 1s", 63_115_201),
            ("1 year", 31_557_600),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text:?}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn rejects_the_known_traps() {
        for (text, error) in [
            ("", DurationError::Text),
            ("  ", DurationError::Text),
            (&" ".repeat(65), DurationError::Text),
            (&"1h".repeat(33), DurationError::Text),
            ("6 ч", DurationError::Text),
            ("1 6 hours", DurationError::Grammar),
            ("18446744073709551615s 1000000000ns", DurationError::Grammar),
            ("-1h", DurationError::Grammar),
            ("6", DurationError::Grammar),
            ("hours", DurationError::Grammar),
            ("1.5 hours", DurationError::Grammar),
            ("1h,30m", DurationError::Grammar),
            ("1h\n", DurationError::Grammar),
            ("1M", DurationError::AmbiguousMonth),
            ("1h 2M", DurationError::AmbiguousMonth),
            ("6 parsecs", DurationError::Unit),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_sum_does_not_panic() {
        let years = "9999999999y".repeat(5) + "99999999y";
        assert_eq!(years.len(), MAX_TEXT_CHARS);
        assert_eq!(parse(&years).unwrap().as_secs(), 50_099_999_994 * 31_557_600);
    }
}

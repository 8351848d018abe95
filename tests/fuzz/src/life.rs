//! The life of a token as text: each accepted text has the value that a second parser gives it.

use std::time::Duration;

use mayfly::domain::{
    duration,
    life::{Life, LifeError},
};

/// The longest life that an operator can allow.
const CENTURY: u64 = 36_525 * 86_400;

/// The names of the units, and their nanoseconds.
const UNITS: [(&[&str], u128); 10] = [
    (&["nanos", "nsec", "ns"], 1),
    (&["usec", "us"], 1_000),
    (&["millis", "msec", "ms"], 1_000_000),
    (&["seconds", "second", "secs", "sec", "s"], SECOND),
    (&["minutes", "minute", "mins", "min", "m"], 60 * SECOND),
    (&["hours", "hour", "hrs", "hr", "h"], 3_600 * SECOND),
    (&["days", "day", "d"], 86_400 * SECOND),
    (&["weeks", "week", "wks", "wk", "w"], 604_800 * SECOND),
    (&["months", "month"], 2_630_016 * SECOND),
    (&["years", "year", "yrs", "yr", "y"], YEAR),
];

const SECOND: u128 = 1_000_000_000;

const YEAR: u128 = 31_557_600 * SECOND;

/// Compares the parser of the service with the one below.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let meant = nanoseconds(text);
    assert_eq!(duration::parse(text).ok().map(|duration| duration.as_nanos()), meant, "{text:?}");

    let seconds = meant.filter(|meant| *meant > 0 && meant % SECOND == 0).map(|meant| meant / SECOND);
    let life = Life::parse(text);
    assert_eq!(life.as_ref().ok().map(|life| u128::from(life.seconds())), seconds, "{text:?}");

    let max = Life::from_seconds(CENTURY).unwrap();
    match (life, Life::parse_up_to(text, max)) {
        (Ok(life), Ok(bounded)) => {
            assert!(life == bounded && life <= max);
            assert_eq!(life.duration(), Duration::from_secs(life.seconds()));
            assert_eq!(Life::parse(&life.to_string()), Ok(life), "{text:?} is shown as {life}");
        }
        (Ok(life), Err(error)) => assert!(life > max && error == LifeError::TooLong(max)),
        (Err(error), bounded) => assert_eq!(bounded, Err(error)),
    }
}

/// Parses numbers of up to ten digits, each with a unit, with spaces between them.
fn nanoseconds(text: &str) -> Option<u128> {
    let mut rest = text.trim_matches(' ');
    if text.len() > duration::MAX_TEXT_CHARS || rest.is_empty() {
        return None;
    }
    let mut sum = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u128 = rest[..digits].parse().ok().filter(|_| digits <= 10)?;
        rest = rest[digits..].trim_start_matches(' ');
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let name = Some(&rest[..letters]).filter(|name| *name != "M")?.to_ascii_lowercase();
        let (names, unit) = UNITS.iter().find(|(names, _)| names.contains(&&*name))?;
        // Twelve months are a year.
        let (number, unit) =
            if names.contains(&"month") && number.is_multiple_of(12) { (number / 12, &YEAR) } else { (number, unit) };
        rest = rest[letters..].trim_start_matches(' ');
        sum += number * unit;
    }
    Some(sum)
}

//! Parsers of the values of settings, for clap. The error of each names the value, and the values that are allowed.

use std::{
    ffi::OsString,
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use bytesize::ByteSize;
use clap::builder::{OsStringValueParser, TypedValueParser};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::{domain, watched_files::read_regular_file};

/// The maximum of timeouts and delays.
const MAX_WAIT: Duration = Duration::from_hours(1);

/// A value that is a text. Unlike clap's own parser, this one names the setting whose value is not UTF-8.
pub(super) fn text<T, E>(
    parse: impl Fn(&str) -> Result<T, E> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
    E: Display,
{
    OsStringValueParser::new().try_map(move |value: OsString| {
        let text = value.to_str().ok_or("it is not UTF-8")?;
        parse(text).map_err(|error| error.to_string())
    })
}

/// A value that is the name of a file, which `read` reads.
pub(super) fn file<T, E>(
    read: impl Fn(&Path) -> Result<T, E> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
    E: Display,
{
    OsStringValueParser::new().try_map(move |name| read(&PathBuf::from(name)).map_err(|error| error.to_string()))
}

/// A value that is a number within bounds.
pub(super) fn number<N>(bounds: RangeInclusive<N>) -> impl TypedValueParser<Value = N>
where
    N: FromStr + Display + PartialOrd + Clone + Send + Sync + 'static,
{
    text(move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| format!("{text:?} is not a number from {} to {}", bounds.start(), bounds.end()))
    })
}

/// A value that is a number of bytes within bounds, such as `64 MiB`.
pub(super) fn bytes(bounds: RangeInclusive<usize>) -> impl TypedValueParser<Value = usize> {
    text(move |text| {
        let size = text.parse::<ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
        size.filter(|size| bounds.contains(size)).ok_or_else(|| {
            let [min, max] = [bounds.start(), bounds.end()].map(|size| ByteSize(*size as u64));
            format!("{text:?} is not a size such as 64 MiB, from {min} to {max}")
        })
    })
}

/// A value that is a duration within bounds; `0` needs no unit.
pub(super) fn duration(min: Duration, max: Duration) -> impl TypedValueParser<Value = Duration> {
    text(move |text| {
        let zero = (text == "0").then_some(Duration::ZERO);
        let duration = zero.map_or_else(|| domain::duration::parse(text), Ok).map_err(|error| error.to_string())?;
        if (min..=max).contains(&duration) {
            return Ok(duration);
        }
        let [min, max] = [min, max].map(humantime::format_duration);
        Err(format!("{text:?} is not from {min} to {max}"))
    })
}

/// A value that is a duration from 1 ms to 1 h.
pub(super) fn timeout() -> impl TypedValueParser<Value = Duration> {
    duration(Duration::from_millis(1), MAX_WAIT)
}

/// A value that is a duration from 0 to 1 h.
pub(super) fn delay() -> impl TypedValueParser<Value = Duration> {
    duration(Duration::ZERO, MAX_WAIT)
}

/// Parses an address and port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and port such as 127.0.0.1:25441"))
}

/// Parses `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

/// Reads a regular file. The error names it.
pub(super) fn read_file(file: &Path) -> Result<Vec<u8>, String> {
    read_regular_file(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// Reads a file that holds a secret and nothing else ([`secret_line`]).
pub fn read_secret(file: &Path) -> Result<SecretString, String> {
    let bytes = SecretSlice::from(read_file(file)?);
    let text = str::from_utf8(bytes.expose_secret()).map_err(|_| "it is not UTF-8");
    let line = text.and_then(secret_line).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(line.into())
}

/// Returns the secret in a text that holds nothing else, without the byte order mark and the line ends that editors
/// write.
pub fn secret_line(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end_matches(['\r', '\n']);
    if line.contains(char::is_control) {
        Err("it holds a control character, such as the end of a line")
    } else {
        Ok(line)
    }
}

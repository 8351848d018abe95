//! Logs, on standard error: text on a terminal, one JSON object a line elsewhere.

use std::{fmt, io, net::IpAddr, str::FromStr};

use tracing::{Span, Subscriber, field};
use tracing_subscriber::{EnvFilter, Layer, fmt as lines, registry::LookupSpan};

use super::audit;

/// The target of the line that each request leaves.
pub(super) const REQUESTS: &str = "mayfly::request";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// A text is no [`LogFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a format is \"auto\", \"text\" or \"json\"")]
pub struct LogFormatError;

impl LogFormat {
    pub(super) fn resolve(self, terminal: bool) -> Self {
        match self {
            Self::Auto if terminal => Self::Text,
            Self::Auto => Self::Json,
            chosen => chosen,
        }
    }
}

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, LogFormatError> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogFormatError),
        }
    }
}

/// What `directives` select, and audit events in any case, unless the directives speak of those, too.
pub(super) fn filter(directives: &str) -> EnvFilter {
    let filter = EnvFilter::new(directives);
    if directives.contains(audit::TARGET) {
        filter
    } else {
        filter.add_directive(format!("{}=info", audit::TARGET).parse().expect("a constant directive"))
    }
}

pub(super) fn text<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    lines::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
}

pub(super) fn json<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    lines::layer().with_writer(io::stderr).json().flatten_event(true).with_span_list(false)
}

/// The span of a request: its id, the address of the client, and, once somebody logged in, the user are in every line
/// that is written under it. It goes with the audit events, which are nothing without it.
pub(super) fn request_span(request_id: &str, client: Option<IpAddr>) -> Span {
    let client = client.map(field::display);
    tracing::error_span!(target: audit::TARGET, "request", request_id, client, user = field::Empty)
}

/// The span of a command of the operators', with the user of the operating system who gave it.
pub fn command_span() -> Span {
    tracing::error_span!(target: audit::TARGET, "command", uid = super::process::uid())
}

/// Notes who makes the request of the current span.
pub fn user(name: impl fmt::Display) {
    Span::current().record("user", field::display(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_json_and_a_terminal_text() {
        assert_eq!(LogFormat::Auto.resolve(true), LogFormat::Text);
        assert_eq!(LogFormat::Auto.resolve(false), LogFormat::Json);
        assert_eq!("text".parse::<LogFormat>().unwrap().resolve(false), LogFormat::Text);
        assert_eq!("JSON".parse::<LogFormat>(), Err(LogFormatError));
    }

    #[test]
    fn audit_events_are_logged_unless_told_otherwise() {
        assert_eq!(filter("error").to_string(), "audit=info,error");
        assert_eq!(filter("error,audit=off").to_string(), "audit=off,error");
    }
}

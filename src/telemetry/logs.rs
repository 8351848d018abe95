//! Logs, on standard error: text on a terminal, one JSON object a line elsewhere.
//!
//! A thread of its own writes the lines, so that a standard error that nobody reads blocks nothing but that thread.

use std::{
    fmt,
    io::{self, Write},
    net::IpAddr,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tracing::{Span, Subscriber, field};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, fmt as lines, registry::LookupSpan};

use super::audit;

/// The target of the line that each request leaves.
pub(super) const REQUESTS: &str = "mayfly::request";

/// Lines that wait for the writing thread, at most. Further lines are dropped and counted. A line has a few hundred
/// bytes.
const MAX_WAITING_LINES: usize = 8192;

/// The count of lines that found no room in the queue.
static UNQUEUED: OnceLock<ErrorCounter> = OnceLock::new();

/// The count of lines that standard error refused.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

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

/// Starts the thread that writes lines to standard error. When the guard is dropped, the thread has one second to write
/// what is left in the queue.
pub(super) fn writer() -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES).thread_name("log");
    let (writer, guard) = builder.finish(StandardError { reported: 0 });
    let _ = UNQUEUED.set(writer.error_counter());
    (writer, guard)
}

/// Lines dropped since the start: those that found the queue full, and those that standard error refused.
pub(super) fn dropped_lines() -> u64 {
    unqueued_lines().saturating_add(UNWRITTEN.load(Relaxed))
}

fn unqueued_lines() -> u64 {
    UNQUEUED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Standard error, as the writing thread uses it. It never fails: a line that is refused is counted as dropped.
struct StandardError {
    /// How many of [`unqueued_lines`] the log tells of already.
    reported: u64,
}

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            UNWRITTEN.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    /// Called each time the queue is empty: it has room for the line that tells of dropped ones.
    fn flush(&mut self) -> io::Result<()> {
        let unqueued = unqueued_lines();
        let lines = unqueued - self.reported;
        self.reported = unqueued;
        if lines > 0 {
            tracing::warn!(lines, "dropped lines of the log: standard error was not read in time");
        }
        Ok(())
    }
}

pub(super) fn text<S: Subscriber + for<'a> LookupSpan<'a>>(writer: NonBlocking) -> impl Layer<S> {
    lines::layer().with_writer(writer).with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
}

pub(super) fn json<S: Subscriber + for<'a> LookupSpan<'a>>(writer: NonBlocking) -> impl Layer<S> {
    lines::layer().with_writer(writer).json().flatten_event(true).with_span_list(false)
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

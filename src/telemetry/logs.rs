//! Logs on standard error: text on a terminal, one JSON object a line elsewhere.
//!
//! A thread of its own writes the lines, so that a standard error that is not read blocks only that thread.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    net::IpAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use clap::ValueEnum;
use tracing::{Span, Subscriber, field};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, fmt::layer, registry::LookupSpan};

use super::{
    events::AUDIT,
    json_lines::{JsonLine, JsonMembers},
};

/// The most bytes of lines that are written at once; a longer line is written alone.
const WRITE_BYTES: usize = 64 * 1024;

/// Lines that wait for the writing thread, at most: a few hundred bytes each. Further lines are dropped and counted.
const MAX_WAITING_LINES: usize = 8192;

/// The pause of the writing thread after it has written, so that what is logged meanwhile is written together: a thread
/// that is woken for each line takes as much time as the line itself.
const WRITE_PAUSE: Duration = Duration::from_millis(2);

/// Lines dropped because the queue was full.
static UNQUEUED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines dropped because standard error is closed.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text, for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// The filter with these directives. Audit events pass it unless the directives name their target.
pub(super) fn filter(directives: &str) -> EnvFilter {
    let filter = EnvFilter::new(directives);
    if directives.contains(AUDIT) {
        filter
    } else {
        filter.add_directive(format!("{AUDIT}=info").parse().expect("a constant directive"))
    }
}

/// The layer that formats lines and gives them to `writer`.
pub(super) fn line_layer<S>(format: LogFormat, writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_terminal = io::stderr().is_terminal();
    if format == LogFormat::Text || format == LogFormat::Auto && is_terminal {
        layer().with_writer(writer).with_ansi(is_terminal).boxed()
    } else {
        layer().with_writer(writer).fmt_fields(JsonMembers).event_format(JsonLine).boxed()
    }
}

/// Starts the thread that writes lines to standard error. When the guard is dropped, the thread has one second to write
/// the lines left in the queue.
pub(super) fn start_writer() -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES).thread_name("log");
    let (writer, guard) = builder.finish(StandardError { lines: Vec::new(), reported: 0 });
    let _ = UNQUEUED.set(writer.error_counter());
    (writer, guard)
}

/// Lines dropped since the start, for either reason.
pub(super) fn dropped_lines() -> u64 {
    unqueued_lines().saturating_add(UNWRITTEN.load(Relaxed))
}

/// Lines dropped since the start because the queue was full.
fn unqueued_lines() -> u64 {
    UNQUEUED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Standard error, as the writing thread uses it: a line is written at once, and those that follow within
/// [`WRITE_PAUSE`] together. Writing never fails: lines that cannot be written are counted.
struct StandardError {
    /// The lines to write next.
    lines: Vec<u8>,
    /// How many of the [`unqueued_lines`] the log has reported.
    reported: u64,
}

impl StandardError {
    fn write_lines(&mut self) {
        if io::stderr().write_all(&self.lines).is_err() {
            let lines = self.lines.split_inclusive(|byte| *byte == b'\n').count();
            UNWRITTEN.fetch_add(lines as u64, Relaxed);
        }
        self.lines.clear();
    }
}

impl Write for StandardError {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.len() + line.len() > WRITE_BYTES {
            self.write_lines();
        }
        self.lines.extend_from_slice(line);
        Ok(line.len())
    }

    /// Called each time the queue is empty, so that there is room for a line about dropped ones.
    fn flush(&mut self) -> io::Result<()> {
        let unqueued = unqueued_lines();
        let lines = unqueued - self.reported;
        self.reported = unqueued;
        if lines > 0 {
            tracing::warn!(lines, "dropped lines of the log: standard error was not read in time");
        }
        // After the report: while this blocks, the queue may become full.
        self.write_lines();
        thread::sleep(WRITE_PAUSE);
        Ok(())
    }
}

/// The span of a request. Each line within it has the request id, the client's address and, after a login, the user,
/// with the party that logged the user in if it was not a password.
///
/// Its target is that of audit events, so that a filter that keeps these events keeps their span, too.
pub(super) fn request_span(request_id: &str, client: Option<IpAddr>) -> Span {
    let client = client.map(field::display);
    tracing::error_span!(target: AUDIT, "request", request_id, client, user = field::Empty, origin = field::Empty)
}

/// The span of a command of the command line, with the operating system's user who runs it.
pub fn command_span() -> Span {
    tracing::error_span!(target: AUDIT, "command", uid = rustix::process::getuid().as_raw())
}

/// Adds the user who logged in to the span of the current request.
pub fn add_user_to_span(name: impl fmt::Display) {
    Span::current().record("user", field::display(name));
}

/// Adds the party that logged the user in to the span of the current request.
pub fn add_origin_to_span(origin: impl fmt::Display) {
    Span::current().record("origin", field::display(origin));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_events_are_logged_unless_the_directives_name_them() {
        assert_eq!(filter("error").to_string(), "audit=info,error");
        assert_eq!(filter("error,audit=off").to_string(), "audit=off,error");
    }
}

//! Logs, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging what `filter` selects. A panic is logged with its place, and without its message, which may hold what
/// nobody should read.
///
/// # Panics
/// Where it is called twice, or with a filter that is none.
pub fn init(filter: &str) {
    fmt().with_env_filter(EnvFilter::new(filter)).with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
}

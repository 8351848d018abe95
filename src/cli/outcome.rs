//! The outcome of a command: output or a failure.

use std::io::{self, Write};

use crate::config::ConfigErrors;

/// Why a command failed.
pub(super) enum Failure {
    /// An argument or a setting is wrong: exit code 2.
    Usage(String),
    /// The command could not do its work: exit code 1.
    Runtime(String),
    /// The service does not answer, or something else answers in its place: exit code 3.
    Unreachable(String),
    /// This signal ended the command: exit code 128 plus its number, like that of a process killed by it.
    Signal(u8),
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Usage(errors.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// Prints to standard output. A closed pipe is no failure: its reader has read enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

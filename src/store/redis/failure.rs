//! Why a request failed, and the [`StoreError`] that it becomes.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::error::Elapsed;

use crate::store::StoreError;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// Connecting failed: nothing was sent.
    #[error(transparent)]
    Unconnected(RedisError),
    /// Redis answered with an error, or the connection broke or timed out after the request was sent.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Any other reason, such as the deadline or a corrupt record.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Elapsed> for Failure {
    fn from(_: Elapsed) -> Self {
        Self::Store(StoreError::Timeout)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Store(error) => return error,
            Failure::Unconnected(error) => return Self::Refused(Arc::new(error)),
            Failure::Redis(error) if error.is_timeout() => return Self::Timeout,
            Failure::Redis(error) => error,
        };
        match server_error_code(&error).as_deref() {
            Some("TOOLATE") => Self::TooLate,
            Some("LOGINENDED") => Self::LoginEnded,
            Some("FORBIDDEN") => Self::Forbidden,
            // With these, Redis rejects a command before it runs.
            Some(
                "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MISCONF" | "MOVED" | "NOAUTH" | "NOPERM" | "NOREPLICAS"
                | "OOM" | "READONLY" | "TRYAGAIN",
            ) => Self::Refused(Arc::new(error)),
            _ => Self::Unavailable(Arc::new(error)),
        }
    }
}

impl Failure {
    /// Whether the next request needs another connection: this one is gone, hangs, or leads to a node that is not the
    /// primary.
    pub(super) fn needs_new_connection(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Timeout),
            Self::Unconnected(_) => false,
            Self::Redis(error) => error.is_unrecoverable_error() || error.is_timeout() || self.is_demoted(),
        }
    }

    /// Whether the connection broke after the request was sent: the request may have run.
    pub(super) fn is_dropped(&self) -> bool {
        matches!(self, Self::Redis(error) if error.is_connection_dropped())
    }

    /// Whether the server rejected a write whose authority had lapsed by its clock.
    pub(super) fn is_too_late(&self) -> bool {
        matches!(self, Self::Redis(error) if server_error_code(error).as_deref() == Some("TOOLATE"))
    }

    /// Whether the server is a Redis replica (it was demoted): it did nothing, and another connection may lead to the
    /// primary.
    pub(super) fn is_demoted(&self) -> bool {
        matches!(self, Self::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly))
    }
}

/// The code of the server's error, such as `TOOLATE`; in a pipeline, that of its first command: the script before a
/// `WAIT`.
fn server_error_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().filter(|(index, _)| *index == 0).map(|(_, error)| error.code().to_owned())
}

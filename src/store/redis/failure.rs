//! Why a request failed, and the [`StoreError`] that it becomes.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::error::Elapsed;

use crate::store::StoreError;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// There is no connection: nothing was sent.
    #[error(transparent)]
    Unconnected(RedisError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Any other reason.
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
        match code(&error).as_deref() {
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
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Timeout),
            Self::Unconnected(_) => false,
            Self::Redis(error) => error.is_unrecoverable_error() || error.is_timeout() || self.is_demoted(),
        }
    }

    /// Whether the connection broke; the request may have run.
    pub(super) fn is_dropped(&self) -> bool {
        matches!(self, Self::Redis(error) if error.is_connection_dropped())
    }

    /// Whether the server rejected a write whose authority had lapsed by its clock.
    pub(super) fn is_too_late(&self) -> bool {
        matches!(self, Self::Redis(error) if code(error).as_deref() == Some("TOOLATE"))
    }

    /// Whether the server is a replica: it did nothing, and another connection may lead to the primary.
    pub(super) fn is_demoted(&self) -> bool {
        matches!(self, Self::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly))
    }
}

/// The code of the server's error: of the command's, or of the first command's in a pipeline, which is the script's
/// whatever WAIT answered after it.
fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().filter(|(index, _)| *index == 0).map(|(_, error)| error.code().to_owned())
}

//! Why a token is not accepted.

use std::{error::Error, sync::Arc};

/// Why a token is not accepted: it was rejected, or nobody could say.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The token is not accepted. Answer with [`VerifyError::status`]: 401 or 403.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The service could not be asked, so the token may be live or revoked. Answer with 503.
    #[error("the token could not be verified: {0}")]
    Unavailable(#[from] Unavailable),
}

/// Why a token was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The token has expired, was revoked, or was never issued by this service.
    #[error("the token is not valid")]
    NotLive,
    /// The token is for other audiences.
    #[error("the token is for another audience")]
    Audience,
    /// The token lacks one of these scopes, which are separated by spaces.
    #[error("the token lacks one of the scopes: {0}")]
    Scope(String),
    /// The token is bound to networks, and the address of the client is in none of them or unknown.
    #[error("the token may not be used from the client's address")]
    Network,
}

/// Why the service gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The service could not be reached, or the connection broke.
    #[error("no connection: {0}")]
    Connection(#[source] Arc<dyn Error + Send + Sync>),
    /// The service did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The service rejected the credentials of this verifier: 401, or 403 for a role that may not introspect.
    #[error("the service rejected the credentials (HTTP {0})")]
    Credentials(u16),
    /// The service answered with this HTTP status.
    #[error("the service answered with HTTP {0}")]
    Status(u16),
    /// The answer cannot be understood, or claims an age that is not possible.
    #[error("the answer cannot be understood")]
    Malformed,
    /// Too many tokens are being asked about.
    #[error("too many tokens are being verified at once")]
    Busy,
}

impl VerifyError {
    /// The HTTP status to answer with: 401, 403 or 503.
    pub fn status(&self) -> u16 {
        match self {
            Self::Rejected(Rejection::NotLive | Rejection::Audience) => 401,
            Self::Rejected(Rejection::Scope(_) | Rejection::Network) => 403,
            Self::Unavailable(_) => 503,
        }
    }

    /// The `WWW-Authenticate` header to answer with (RFC 6750, section 3). `None`: the answer has none.
    pub fn challenge(&self) -> Option<String> {
        match self {
            Self::Rejected(Rejection::NotLive | Rejection::Audience) => {
                Some(r#"Bearer error="invalid_token", error_description="The token is not valid""#.into())
            }
            // Scopes are demanded by the service itself. RFC 6749, section 3.3: they have neither `"` nor `\`.
            Self::Rejected(Rejection::Scope(scopes)) => {
                let scopes: String = scopes.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
                let scopes = scopes.replace(['"', '\\'], "");
                Some(format!(r#"Bearer error="insufficient_scope", scope="{scopes}""#))
            }
            Self::Rejected(Rejection::Network) => Some(r#"Bearer error="insufficient_scope""#.into()),
            Self::Unavailable(_) => None,
        }
    }
}

#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod lease_table;
#[cfg(feature = "poem")]
mod poem;
mod token;
#[cfg(feature = "tower")]
mod tower;
mod verifier;
mod wire;

#[cfg(feature = "poem")]
pub use self::poem::{VerifyEndpoint, VerifyMiddleware};
#[cfg(feature = "tower")]
pub use self::tower::{VerifyLayer, VerifyService};
pub use self::{
    error::{Rejection, Unavailable, VerifyError},
    http::{Credentials, UrlError},
    token::{Demands, Token},
    verifier::{Builder, ConnectError, Stats, Verifier},
    wire::TokenId,
};

/// The presented token of these headers: of the one `Authorization: Bearer`.
#[cfg(any(feature = "poem", feature = "tower"))]
fn bearer(headers: &::http::HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(::http::header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

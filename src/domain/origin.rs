//! Origins: the parties that say who their users are, in place of a password of ours.

use std::str::FromStr;

use derive_more::Display;

/// A party whose word is enough to log a user in. Its users have no password here.
#[derive(Debug, Display, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A trusted issuer of JWTs.
    #[display("issuer:{_0}")]
    Issuer(IssuerId),
    /// The trusted proxies, which send the name of the user in a header.
    #[display("proxy")]
    Proxy,
}

/// The exact `iss` of a trusted issuer: 1 to [`IssuerId::MAX_BYTES`] bytes of visible ASCII.
#[derive(Debug, Display, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuerId(String);

/// The text is not an [`IssuerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an issuer is 1 to {} visible ASCII characters", IssuerId::MAX_BYTES)]
pub struct IssuerIdError;

/// The text is not an [`Origin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is \"proxy\", or \"issuer:\" and the issuer's `iss`")]
pub struct OriginError;

impl IssuerId {
    /// The maximum length.
    pub const MAX_BYTES: usize = 512;

    /// The `iss` as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuerId {
    type Err = IssuerIdError;

    /// Takes the text as it is: two issuers are the same only if all of their bytes are.
    fn from_str(text: &str) -> Result<Self, IssuerIdError> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=Self::MAX_BYTES).contains(&text.len()) && is_visible {
            Ok(Self(text.to_owned()))
        } else {
            Err(IssuerIdError)
        }
    }
}

/// Parses what `Display` writes.
impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text.strip_prefix("issuer:") {
            Some(issuer) => issuer.parse().map(Self::Issuer).map_err(|_| OriginError),
            None if text == "proxy" => Ok(Self::Proxy),
            None => Err(OriginError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_it_is_written() {
        let issuer = |text: &str| Origin::Issuer(text.parse().unwrap());
        for origin in [Origin::Proxy, issuer("https://idp.example"), issuer("proxy"), issuer("issuer:proxy")] {
            assert_eq!(origin.to_string().parse(), Ok(origin));
        }
        for bad in ["", "password", "Proxy", "proxy ", "issuer:", "issuer:a b", "https://idp.example"] {
            assert_eq!(bad.parse::<Origin>(), Err(OriginError), "{bad:?}");
        }
    }

    #[test]
    fn an_issuer_is_compared_byte_by_byte() {
        let id = |text: &str| text.parse::<IssuerId>();
        assert_ne!(id("https://idp.example"), id("https://idp.example/"));
        assert_ne!(id("https://idp.example"), id("https://IDP.example"));
        for bad in ["", "https://idp.exаmple", "https://idp.example\n", &"x".repeat(IssuerId::MAX_BYTES + 1)] {
            assert_eq!(id(bad), Err(IssuerIdError), "{bad:?}");
        }
    }
}

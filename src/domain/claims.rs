//! The claims of a token's JWT.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    attributes::{Attribute, Attributes},
    life::Life,
    token::{Description, TokenId},
    user::UserName,
};

/// Maximum length of a JWT, in bytes; no longer one is issued. As a Basic password beside a name of up to 100 bytes, it
/// fits into the 8 KiB that nginx has for a line of a request's head (`large_client_header_buffers`).
///
/// Without attributes, JWTs are at most about 3.3 KiB long: a description of 256 characters at up to four bytes each, a
/// name of 64 characters twice, and an issuer of 256 bytes, in base64. With all attributes at their limits, a
/// description of up to 650 bytes fits.
pub const MAX_JWT_BYTES: usize = 6000;

/// The claims of a token, in the order in which they are written: those of the API's contract, then the registered
/// claims (RFC 7519, section 4.1) with the same values, for other software.
///
/// A JWT with unknown or duplicate claims is rejected: no token was issued with such claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The name of the owner.
    pub username: String,
    /// The token's id.
    pub jwt_token_id: String,
    /// The owner's description of the token.
    pub jwt_token_description: String,
    /// When the token expires at the latest, in seconds since 1970.
    pub exp: u64,
    /// When the token was issued, in seconds since 1970.
    pub iat: u64,
    /// The same as `username`.
    pub sub: String,
    /// The same as `jwt_token_id`.
    pub jti: String,
    /// The configured issuer, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The scopes, if there are any, with a space between two (RFC 8693, section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The audiences, if there are any: always an array, also of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
}

impl Claims {
    /// Reads the claims of a JWT without a check of its signature: anyone can have written them.
    pub fn unverified(jwt: &str) -> Option<Self> {
        if jwt.len() > MAX_JWT_BYTES {
            return None;
        }
        let (_, payload) = jwt.rsplit_once('.')?.0.split_once('.')?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The owner and the id of the token, if they are well formed.
    pub fn owner_and_id(&self) -> Option<(UserName, TokenId)> {
        Some((self.username.parse().ok()?, self.jwt_token_id.parse().ok()?))
    }

    /// The claims of a token that is issued at `iat`, in seconds since 1970. `exp - iat` is exactly `life`.
    pub fn new(
        owner: &UserName,
        id: TokenId,
        description: &Description,
        life: Life,
        iat: u64,
        iss: Option<String>,
    ) -> Self {
        Self {
            username: owner.to_string(),
            jwt_token_id: id.to_string(),
            jwt_token_description: description.as_str().to_owned(),
            exp: iat + life.seconds(),
            iat,
            sub: owner.to_string(),
            jti: id.to_string(),
            iss,
            scope: None,
            aud: None,
        }
    }

    /// Adds the attributes that are claims. Networks are not: only this service compares addresses with them.
    #[must_use]
    pub fn with_attributes(self, attributes: &Attributes) -> Self {
        let audiences: Vec<String> = attributes.audiences.entries().collect();
        let scope = Some(attributes.scopes.as_str()).filter(|scope| !scope.is_empty()).map(str::to_owned);
        Self { scope, aud: (!audiences.is_empty()).then_some(audiences), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_that_is_too_long_is_rejected() {
        let claims = Claims {
            username: "alice".into(),
            jwt_token_id: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            jwt_token_description: "Token specter".into(),
            exp: 2,
            iat: 1,
            sub: "alice".into(),
            jti: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            iss: None,
            scope: None,
            aud: None,
        };
        let payload = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap());
        let jwt = |length: usize| format!("header.{payload}.{}", "x".repeat(length - "header..".len() - payload.len()));
        assert_eq!(Claims::unverified(&jwt(MAX_JWT_BYTES)), Some(claims));
        assert_eq!(Claims::unverified(&jwt(MAX_JWT_BYTES + 1)), None);
    }
}

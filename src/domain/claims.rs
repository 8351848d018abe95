//! What a token's JWT says.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    life::Life,
    token::{Description, TokenId},
    user::UserName,
};

/// The longest token that is looked at, in bytes. The longest that is issued has about 3 KiB: 256 characters of
/// description at up to four bytes each, twice a name of 64, in base64.
pub const MAX_JWT_BYTES: usize = 4096;

/// The claims of a token, in the order in which they are written: those of the contract, then the registered names
/// for the same things (RFC 7519, section 4.1) that other software looks for.
///
/// Unknown and duplicate claims are an error when read: nothing but what was written here is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The owner's name.
    pub username: String,
    /// The token's id.
    pub jwt_token_id: String,
    /// What the owner calls it.
    pub jwt_token_description: String,
    /// When it dies at the latest, in seconds since the epoch.
    pub exp: u64,
    /// When it was issued, in seconds since the epoch.
    pub iat: u64,
    /// `username` again.
    pub sub: String,
    /// `jwt_token_id` again.
    pub jti: String,
    /// Who issued it, where that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

impl Claims {
    /// What a text says that looks like one of our JWTs. Anybody can have written it.
    pub fn unverified(jwt: &str) -> Option<Self> {
        if jwt.len() > MAX_JWT_BYTES {
            return None;
        }
        let (_, payload) = jwt.rsplit_once('.')?.0.split_once('.')?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The claims of `owner`'s token, issued at `iat` seconds since the epoch; `exp - iat` is `life` exactly.
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_read() {
        let claims = Claims {
            username: "alice".into(),
            jwt_token_id: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            jwt_token_description: "Token specter".into(),
            exp: 2,
            iat: 1,
            sub: "alice".into(),
            jti: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            iss: None,
        };
        let payload = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap());
        let jwt = |length: usize| format!("header.{payload}.{}", "x".repeat(length - "header..".len() - payload.len()));
        assert_eq!(Claims::unverified(&jwt(MAX_JWT_BYTES)), Some(claims));
        assert_eq!(Claims::unverified(&jwt(MAX_JWT_BYTES + 1)), None);
    }
}

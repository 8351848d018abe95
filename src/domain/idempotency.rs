//! The Idempotency-Key of a request for a token (draft-ietf-httpapi-idempotency-key-header-07), and the record of what
//! was signed for it: a repetition of the request signs the same JWT again, though no JWT is stored.

use std::{str::FromStr, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{life::Life, token::TokenId};

/// The longest time for which the record of a key is kept. It is kept no longer than its token's life.
pub const MAX_RETENTION: Duration = Duration::from_hours(24);

/// The most keys of a user that are kept. Only keys whose tokens were revoked or rotated count beyond the quota of
/// tokens, so the limit bounds the memory of a user who creates and revokes tokens in turn.
pub const MAX_KEYS: usize = 10_000;

/// The key of a request, which its client has chosen: 1 to 255 visible ASCII characters. Only the SHA-256 of the key is
/// kept, in unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The text is not an [`IdempotencyKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {} visible ASCII characters, as in a UUID", IdempotencyKey::MAX_LENGTH)]
pub struct IdempotencyKeyError;

impl IdempotencyKey {
    /// Maximum length in characters.
    pub const MAX_LENGTH: usize = 255;

    /// A regular expression (ECMA-262) for the texts that can be parsed, for the OpenAPI document: a key in quotes, or
    /// a text that does not both begin and end with a quote.
    pub const PATTERN: &str = r#"^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$"#;

    /// The SHA-256 of the key, in 43 characters.
    pub fn digest(&self) -> &str {
        &self.0
    }
}

/// Reads the value of the header. By the draft, the value is a string in quotes (RFC 9651, section 3.3.3); most clients
/// send the bare key. So one pair of quotes around the key does not belong to the key, and `""` is an empty key.
impl FromStr for IdempotencyKey {
    type Err = IdempotencyKeyError;

    fn from_str(text: &str) -> Result<Self, IdempotencyKeyError> {
        let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let key = quoted.unwrap_or(text).as_bytes();
        if (1..=Self::MAX_LENGTH).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) {
            Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key))))
        } else {
            Err(IdempotencyKeyError)
        }
    }
}

/// A digest of what a request asks for: a repetition with the same key has to ask for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFingerprint(String);

impl RequestFingerprint {
    /// The fingerprint of a request: its operation, and all values of its path and body, as they were parsed. Not of
    /// the bytes of the body: a client that repeats a request may serialize it anew.
    ///
    /// # Panics
    /// If `values` cannot be written as JSON.
    pub fn of(values: &impl Serialize) -> Self {
        let json = serde_json::to_vec(values).expect("plain strings and numbers are JSON");
        Self(BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, &json).as_ref()[..16]))
    }

    /// A fingerprint from the text that [`Self::as_str`] returned.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The fingerprint as a text: half of a SHA-256, in 22 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was signed for a request with an Idempotency-Key, and is not in the token's own record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// The token that was issued.
    pub token_id: TokenId,
    /// The `iat` of its JWT, in seconds since 1970.
    pub issued_at: u64,
    /// The `kid` of the key that signed its JWT.
    pub kid: String,
    /// The request that the token was issued for.
    pub request: RequestFingerprint,
}

impl Issuance {
    /// How long the record is kept, for a token with this life.
    pub fn retention(life: Life) -> Duration {
        life.duration().min(MAX_RETENTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_ascii_with_or_without_quotes() {
        let key = |text: &str| text.parse::<IdempotencyKey>();
        let bare = key("8e03978e-40d5-43e8-bc93-6894a57f9324").unwrap();
        assert_eq!(key("\"8e03978e-40d5-43e8-bc93-6894a57f9324\""), Ok(bare.clone()));
        assert_ne!(key("8E03978e-40d5-43e8-bc93-6894a57f9324"), Ok(bare));
        let longest = "x".repeat(255);
        for good in ["!", "~", "\"", "a\"b", "\"a", "a\"", "\"\"\"", &longest, &format!("\"{longest}\"")] {
            assert!(key(good).is_ok(), "{good:?}");
        }
        for bad in ["", "\"\"", "a b", "a\tb", "a\u{7f}", "\"a b\"", "ü", &"x".repeat(256), &format!("\"{longest}x\"")]
        {
            assert_eq!(key(bad), Err(IdempotencyKeyError), "{bad:?}");
        }
    }

    #[test]
    fn the_pattern_of_a_key_agrees_with_the_parser() {
        let pattern = regex::RegexBuilder::new(IdempotencyKey::PATTERN).unicode(false).build().unwrap();
        // The first and last visible characters, their neighbours, and quotes, at all lengths around the limits.
        let characters = ["\"", "a", "!", "#", "~", " ", "\u{7f}", "\n", "ü"];
        let lengths = (0..4).chain(253..259);
        for (length, edge) in lengths.flat_map(|length| characters.map(|edge| (length, edge))) {
            for (middle, end) in characters.iter().flat_map(|middle| characters.map(|end| (middle, end))) {
                let text = match length {
                    0 => String::new(),
                    1 => edge.to_owned(),
                    _ => format!("{edge}{}{end}", middle.repeat(length - 2)),
                };
                assert_eq!(pattern.is_match(&text), text.parse::<IdempotencyKey>().is_ok(), "{text:?}");
            }
        }
    }

    #[test]
    fn a_fingerprint_tells_requests_apart() {
        let fingerprint = RequestFingerprint::of(&("issue", "a", 1));
        assert_eq!(fingerprint, RequestFingerprint::from_stored(fingerprint.as_str().to_owned()));
        assert_eq!(fingerprint.as_str().len(), 22);
        for other in [("issue", "a", 2), ("issue", "a\",1", 1), ("rotate", "a", 1)] {
            assert_ne!(fingerprint, RequestFingerprint::of(&other));
        }
    }
}

//! Tokens, without their JWTs.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use uuid::{Uuid, fmt::Hyphenated};

use super::{attributes::SharedAttributes, life::Life, user::UserName};

/// The id of a token: a random UUID (v4), written in lower case with hyphens and read in either case (RFC 9562, section
/// 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(Uuid);

/// The text is not a [`TokenId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token id")]
pub struct TokenIdError;

impl TokenId {
    /// A new id from a cryptographic generator.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The 16 bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id as a text: lower case with hyphens.
    pub fn to_ascii(self) -> [u8; Hyphenated::LENGTH] {
        let mut text = [0; Hyphenated::LENGTH];
        self.0.hyphenated().encode_lower(&mut text);
        text
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        let id = Self(Uuid::try_parse(text).map_err(|_| TokenIdError)?);
        // `Uuid` also reads forms with braces, with `urn:uuid:` and without hyphens.
        if id.to_ascii().eq_ignore_ascii_case(text.as_bytes()) { Ok(id) } else { Err(TokenIdError) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The owner's description of a token: 1 to 256 characters after trimming, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description(String);

/// The text is not a [`Description`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a description is 1 to {} characters once trimmed, without control characters", Description::MAX_CHARS)]
pub struct DescriptionError;

impl Description {
    /// Maximum length in characters (Unicode scalar values).
    pub const MAX_CHARS: usize = 256;

    /// A regular expression (ECMA-262) for the texts that can be parsed, for the OpenAPI document. It lists the white
    /// space, as the meaning of `\s` depends on the language.
    pub const PATTERN: &str = concat!(
        r"^[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*",
        r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
        r"([^\x00-\x1f\x7f-\x9f]{0,254}[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?",
        r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$",
    );

    /// The trimmed text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Description> for String {
    fn from(Description(text): Description) -> Self {
        text
    }
}

impl FromStr for Description {
    type Err = DescriptionError;

    fn from_str(text: &str) -> Result<Self, DescriptionError> {
        let text = text.trim();
        let fits = !text.is_empty() && text.chars().count() <= Self::MAX_CHARS;
        if fits && !text.contains(char::is_control) { Ok(Self(text.to_owned())) } else { Err(DescriptionError) }
    }
}

/// The SHA-256 of a whole JWT, which is stored instead of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Computes the digest of a JWT.
    pub fn of(jwt: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, jwt.as_bytes()).as_ref());
        Self(bytes)
    }

    /// The digest in 43 characters of unpadded base64url.
    pub fn to_base64(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Parses the text of [`TokenDigest::to_base64`]; `None`: it is another text.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

/// A token as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The id, which is the `jti` of the JWT.
    pub id: TokenId,
    /// The owner's description.
    pub description: Description,
    /// The time from its creation to its expiry.
    pub life: Life,
    /// What it may be used for, for which services, and from where.
    pub attributes: SharedAttributes,
    /// The digest of its JWT.
    pub digest: TokenDigest,
    /// The token that replaces this one, if it was rotated: then this one stays live for the overlap only.
    pub successor: Option<TokenId>,
}

/// The content of a JWT that one of our keys signed. Small, since a million may be cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedToken {
    /// The user whom the token belongs to.
    pub owner: Arc<UserName>,
    /// Its `jti`.
    pub id: TokenId,
    /// When the token was issued, and when it expires.
    pub validity: Validity,
    /// The generation of the keys that verified the JWT. In another generation it has to be verified again.
    pub key_generation: u32,
    /// Its last use that the store does not have yet.
    pub unsent_use: UnsentUse,
}

/// A [`SignedToken`] that its copies share. `Arc` of the standard library would count weak references in 8 more bytes.
pub type SharedToken = triomphe::Arc<SignedToken>;

/// The `iat` and `exp` of a token, in eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    issued_at: u32,
    life_seconds: u32,
}

impl Validity {
    /// From `iat` and `exp`, in seconds since 1970. Never ends after `exp`: times of issue after 2106 count as 2106,
    /// lives of more than 136 years as 136 years, and where `exp` is before `iat`, both are `exp`.
    pub fn new(issued_at: u64, expires_at: u64) -> Self {
        let fit = |seconds| u32::try_from(seconds).unwrap_or(u32::MAX);
        let issued_at = fit(issued_at.min(expires_at));
        Self { issued_at, life_seconds: fit(expires_at - u64::from(issued_at)) }
    }

    /// When the token was issued, in seconds since 1970: its `iat`.
    pub fn issued_at(self) -> u64 {
        self.issued_at.into()
    }

    /// The second in which the token expires, in seconds since 1970: its `exp`.
    pub fn expires_at(self) -> u64 {
        self.issued_at() + u64::from(self.life_seconds)
    }

    /// The same, but expiring at `latest` if that is earlier.
    #[must_use]
    pub fn until(self, latest: u64) -> Self {
        Self::new(self.issued_at(), self.expires_at().min(latest))
    }
}

/// When a token was last used, until the store has it: in seconds since 1970; zero: there is no such use. It is no part
/// of a token's content: a clone has none, and all are equal.
#[derive(Debug, Default)]
pub struct UnsentUse(AtomicU32);

impl UnsentUse {
    /// Records a use, and returns whether it is the first that the store does not have. Costs one load if the token was
    /// used in the same second.
    pub fn record(&self, now: u64) -> bool {
        let now = u32::try_from(now).unwrap_or(u32::MAX).max(1);
        self.0.load(Relaxed) != now && self.0.swap(now, Relaxed) == 0
    }

    /// When the token was last used; `None`: the store has it.
    pub fn get(&self) -> Option<u32> {
        Some(self.0.load(Relaxed)).filter(|at| *at != 0)
    }

    /// Forgets the use at this time, which the store has; `false`: the token was used again since.
    pub fn forget(&self, at: u32) -> bool {
        self.0.compare_exchange(at, 0, Relaxed, Relaxed).is_ok()
    }
}

impl Clone for UnsentUse {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for UnsentUse {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for UnsentUse {}

impl SignedToken {
    /// Whether `exp` has passed at `now`, in seconds since 1970. Not yet in the second `exp` itself: only the store
    /// knows the millisecond in which the token expires.
    pub fn is_expired(&self, now: u64) -> bool {
        self.validity.expires_at() < now
    }
}

/// The operator's rules for new tokens.
#[derive(Debug, Clone)]
pub struct TokenPolicy {
    /// The maximum life of a token.
    pub max_life: Life,
    /// The maximum number of live tokens of each user.
    pub quota: usize,
    /// The `iss` of all JWTs; `None`: they have none.
    pub issuer: Option<String>,
}

/// A live token with the rest of its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveToken {
    /// The token.
    pub token: Token,
    /// The rest of its life, by the store's clock.
    pub remaining: Duration,
}

/// A live token as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedToken {
    /// The token.
    pub token: Token,
    /// The rest of its life, by the store's clock.
    pub remaining: Duration,
    /// When a service last accepted it, in seconds since 1970, as far as replicas have told the store; `None`: never.
    pub last_used: Option<u64>,
}

impl LiveToken {
    /// The token with its last use.
    pub fn with_use(self, last_used: Option<u64>) -> InspectedToken {
        InspectedToken { token: self.token, remaining: self.remaining, last_used }
    }
}

/// A use of a token, for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The id of the token.
    pub id: TokenId,
    /// When it was used, in seconds since 1970.
    pub at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validity_never_ends_after_exp() {
        const LAST: u64 = u32::MAX as u64;
        for (iat, exp, expected) in [
            (1_662_720_135, 1_662_723_735, (1_662_720_135, 1_662_723_735)),
            (0, 10_000_000_000, (0, LAST)),
            (5_000_000_000, 5_000_000_060, (LAST, 5_000_000_060)),
            (10, 5, (5, 5)),
        ] {
            let validity = Validity::new(iat, exp);
            assert_eq!((validity.issued_at(), validity.expires_at()), expected);
            for latest in [0, iat.saturating_sub(1), iat, exp, u64::MAX] {
                assert_eq!(validity.until(latest).expires_at(), validity.expires_at().min(latest));
            }
        }
    }

    #[test]
    fn an_id_has_one_written_form() {
        let text = "b56929f3-54f1-4dc2-9984-9bba615e26e6";
        for read in [text, "B56929F3-54F1-4DC2-9984-9BBA615E26E6"] {
            assert_eq!(read.parse::<TokenId>().unwrap().to_string(), text);
        }
        for other in [
            "b56929f354f14dc299849bba615e26e6",
            "{b56929f3-54f1-4dc2-9984-9bba615e26e6}",
            "urn:uuid:b56929f3-54f1-4dc2-9984-9bba615e26e6",
            "b56929f3",
            "",
            "*",
        ] {
            assert_eq!(other.parse::<TokenId>(), Err(TokenIdError), "{other:?}");
        }
    }

    #[test]
    fn a_description_is_trimmed_and_bounded() {
        assert_eq!(" Token specter ".parse::<Description>().unwrap().as_str(), "Token specter");
        assert!("ü".repeat(256).parse::<Description>().is_ok());
        for bad in ["", "  ", "a\nb", "a\u{7f}b", "a\u{85}b", &"x".repeat(257)] {
            assert_eq!(bad.parse::<Description>(), Err(DescriptionError), "{bad:?}");
        }
    }

    #[test]
    fn a_use_is_unsent_until_the_store_has_the_last_one() {
        let unsent = UnsentUse::default();
        assert_eq!((unsent.record(7), unsent.record(7), unsent.record(8), unsent.get()), (true, false, false, Some(8)));
        assert_eq!((unsent.forget(7), unsent.get()), (false, Some(8)));
        assert_eq!((unsent.forget(8), unsent.get()), (true, None));
        assert_eq!((unsent.record(8), unsent.get()), (true, Some(8)));
    }

    #[test]
    fn a_digest_is_read_as_it_was_written() {
        let digest = TokenDigest::of("abc");
        assert_eq!(TokenDigest::from_base64(&digest.to_base64()), Some(digest));
        assert_eq!(TokenDigest::from_base64("AAAA"), None);
    }
}

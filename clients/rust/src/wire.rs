//! The answers of the service, parsed strictly: what cannot be understood is no answer.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;
use uuid::Uuid;

use crate::token::{Facts, Token};

/// The id of a token: a random UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(Uuid);

impl TokenId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Bits that are as random as the id.
    #[allow(clippy::cast_possible_truncation, reason = "any bits do")]
    pub(crate) fn low_bits(self) -> usize {
        self.0.as_u128() as usize
    }
}

/// As in the JWT: lower case, with hyphens.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// An answer that this version of the library does not understand, or that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be understood")]
pub(crate) struct Malformed;

/// The answer of `/oauth2/introspect`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Introspection {
    /// The token is live, as of this time before the answer.
    Live(Token, Duration),
    /// The token is not live.
    NotLive,
}

/// The answer of `/api/v1alpha/changes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The cursor of the next question.
    pub(crate) cursor: String,
    /// The time before the answer as of which the changes are complete.
    pub(crate) age: Duration,
    /// Whether a sequence begins.
    pub(crate) reset: bool,
    /// The tokens that changed.
    pub(crate) tokens: Vec<TokenId>,
}

#[derive(Deserialize)]
struct IntrospectionBody {
    active: bool,
    username: Option<String>,
    jti: Option<String>,
    iat: Option<u64>,
    exp: Option<u64>,
    iss: Option<String>,
    scope: Option<String>,
    aud: Option<OneOrMany>,
    networks: Option<Vec<String>>,
    age_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct ChangesBody {
    cursor: String,
    age_ms: u64,
    reset: bool,
    tokens: Vec<String>,
}

/// The longest cursor, in bytes.
const MAX_CURSOR_BYTES: usize = 4096;

impl Introspection {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let body: IntrospectionBody = serde_json::from_slice(body).map_err(|_| Malformed)?;
        if !body.active {
            return Ok(Self::NotLive);
        }
        let facts = Facts {
            id: body.jti.as_deref().and_then(TokenId::parse).ok_or(Malformed)?,
            username: body.username.ok_or(Malformed)?,
            issued_at: body.iat,
            expires_at: body.exp.ok_or(Malformed)?,
            issuer: body.iss,
            scopes: body.scope.map(|scope| scope.split_whitespace().map(str::to_owned).collect()).unwrap_or_default(),
            audiences: match body.aud {
                None => Vec::new(),
                Some(OneOrMany::One(audience)) => vec![audience],
                Some(OneOrMany::Many(audiences)) => audiences,
            },
            networks: body.networks.unwrap_or_default().iter().map(|text| network(text)).collect::<Result<_, _>>()?,
        };
        Ok(Self::Live(Token::new(facts), Duration::from_millis(body.age_ms.ok_or(Malformed)?)))
    }
}

/// A network, or an address as the network of this address alone.
fn network(text: &str) -> Result<IpNet, Malformed> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| Malformed)
}

impl Changes {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let ChangesBody { cursor, age_ms, reset, tokens } = serde_json::from_slice(body).map_err(|_| Malformed)?;
        // The cursor becomes part of a URL.
        let is_plain = cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        if !is_plain || cursor.len() > MAX_CURSOR_BYTES {
            return Err(Malformed);
        }
        let tokens = tokens.iter().map(|id| TokenId::parse(id)).collect::<Option<_>>().ok_or(Malformed)?;
        Ok(Self { cursor, age: Duration::from_millis(age_ms), reset, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "b56929f3-54f1-4dc2-9984-9bba615e26e6";

    fn introspection(age: &str) -> Result<Introspection, Malformed> {
        let body = format!(r#"{{"active":true,"username":"alice","jti":"{ID}","exp":7,"age_ms":{age}}}"#);
        Introspection::parse(body.as_bytes())
    }

    fn changes(age: &str, cursor: &str, ids: &str) -> Result<Changes, Malformed> {
        let body = format!(r#"{{"cursor":"{cursor}","age_ms":{age},"reset":false,"tokens":[{ids}]}}"#);
        Changes::parse(body.as_bytes())
    }

    #[test]
    fn an_age_that_is_no_whole_number_of_milliseconds_makes_an_answer_none() {
        let too_huge = "99999999999999999999";
        for age in ["-1", "-0.1", "1.5", "NaN", "Infinity", "1e400", "null", "\"12\"", "true", "", "[]", too_huge] {
            assert_eq!(introspection(age), Err(Malformed), "{age}");
            assert_eq!(changes(age, "x", ""), Err(Malformed), "{age}");
        }
        let huge = Duration::from_millis(u64::MAX);
        assert!(matches!(introspection("18446744073709551615"), Ok(Introspection::Live(_, age)) if age == huge));
        assert_eq!(changes("18446744073709551615", "x", "").unwrap().age, huge);
    }

    #[test]
    fn an_answer_that_lacks_something_or_repeats_it_is_none() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"active":1}"#,
            r#"{"active":true}"#,
            &format!(r#"{{"active":true,"active":true,"username":"a","jti":"{ID}","exp":7,"age_ms":1}}"#),
            r#"{"active":true,"username":"a","jti":"x","exp":7,"age_ms":1}"#,
            &format!(r#"{{"active":true,"username":"a","jti":"{ID}","exp":-7,"age_ms":1}}"#),
        ] {
            assert_eq!(Introspection::parse(body.as_bytes()), Err(Malformed), "{body}");
            assert_eq!(Changes::parse(body.as_bytes()), Err(Malformed), "{body}");
        }
        assert_eq!(Introspection::parse(br#"{"active":false}"#), Ok(Introspection::NotLive));
    }

    #[test]
    fn a_cursor_that_does_not_fit_into_a_url_and_an_id_that_is_none_make_an_answer_none() {
        let lengthy = "x".repeat(MAX_CURSOR_BYTES + 1);
        for cursor in ["a&b", "a b", "\\n", "\u{e9}", "a#b", &lengthy] {
            assert_eq!(changes("1", cursor, ""), Err(Malformed), "{cursor:.20}");
        }
        assert!(changes("1", "6b1f2d0c9e8a4735-1-0-2a.x~", &format!("\"{ID}\"")).is_ok());
        assert_eq!(changes("1", "x", "\"x\""), Err(Malformed));
    }

    #[test]
    fn what_a_token_may_carry_is_read() {
        let body = format!(
            r#"{{"active":true,"username":"alice","jti":"{ID}","exp":7,"iat":3,"iss":"i","scope":"a b","aud":["x","y"],
            "networks":["192.0.2.0/24","2001:db8::1"],"age_ms":1,"new":{{}}}}"#
        );
        let Ok(Introspection::Live(token, _)) = Introspection::parse(body.as_bytes()) else { panic!("it is live") };
        assert_eq!((token.scopes(), token.audiences()), (&["a".into(), "b".into()][..], &["x".into(), "y".into()][..]));
        assert_eq!(token.networks()[1].to_string(), "2001:db8::1/128");
        assert!(Introspection::parse(body.replace("192.0.2.0/24", "192.0.2.0/33").as_bytes()).is_err());
    }

    /// Bytes at random, and answers with bytes changed at random: no panic, and no memory beyond the answer's.
    #[test]
    fn no_bytes_make_the_parsers_panic() {
        let body = format!(
            r#"{{"cursor":"a","reset":true,"tokens":["{ID}"],"active":true,"username":"a","jti":"{ID}","exp":7,
            "age_ms":1}}"#
        );
        let mut rng = fastrand::Rng::new();
        for _ in 0..100_000 {
            let mut bytes = body.clone().into_bytes();
            for _ in 0..rng.usize(1..4) {
                let index = rng.usize(..bytes.len());
                bytes[index] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let _ = (Introspection::parse(&bytes), Changes::parse(&bytes));
        }
    }
}

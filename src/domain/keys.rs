//! The keys that sign tokens: a JWK Set (RFC 7517) of which the first key signs and all verify.

use std::{collections::HashMap, fmt};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::claims::Claims;

/// The fewest bytes of a symmetric key: as many as SHA-256 gives (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// The longest token that is looked at, in bytes. The longest that is issued has about 3 KiB: 256 characters of
/// description at up to four bytes each, twice a name of 64, in base64.
pub const MAX_JWT_BYTES: usize = 4096;

/// Why a text is no [`KeySet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWK Set in JSON. The parser's words are withheld, for they may quote a key.
    #[error("not a JWK Set: line {line}, column {column}")]
    Json {
        /// Where, counted from 1.
        line: usize,
        /// Where, counted from 1.
        column: usize,
    },
    /// `{"keys": []}`.
    #[error("the set has no key; `mayfly key generate` makes one")]
    Empty,
    /// One of its keys cannot be used. Keys count from 1.
    #[error("key {0}: {1}")]
    Key(usize, KeyError),
}

/// Why a JWK cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `kid` is missing or odd.
    #[error("\"kid\" must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Id,
    /// Two keys with one name.
    #[error("another key has the same \"kid\"")]
    DuplicateId,
    /// Not a kind of key that can sign here.
    #[error("only \"kty\": \"oct\" with \"alg\": \"HS256\" is supported")]
    Unsupported,
    /// `k` is missing or not base64url.
    #[error("\"k\" must be unpadded base64url")]
    Encoding,
    /// A key that can be guessed.
    #[error("\"k\" has {0} bytes, and at least {MIN_SECRET_BYTES} are needed; `mayfly key generate` makes a good one")]
    Short(usize),
}

/// A token is refused. There is one answer to all that can be wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this service")]
pub struct InvalidToken;

/// The keys of a service, in memory.
pub struct KeySet {
    signing_header: String,
    /// By the encoded header that a token signed with the key begins with. Looking up the exact bytes leaves an
    /// attacker no header to play with: no other `alg`, `kid`, `typ`, `crit`, `jku`, `x5u`, `jwk` or `b64` is ever
    /// parsed (RFC 8725, sections 3.1 to 3.10).
    keys: HashMap<String, Key>,
}

struct Key {
    algorithm: Algorithm,
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// A JWK Set as it stands in a file. Members that are not needed (`use`, `key_ops`) are ignored.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    alg: String,
    #[serde(default)]
    kid: String,
    k: Option<SecretString>,
}

/// The header of our tokens, written in this order.
#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'a str,
    kid: &'a str,
}

impl KeySet {
    /// Reads a JWK Set; the first key will sign.
    pub fn parse(json: &str) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_str(json)
            .map_err(|error| KeySetError::Json { line: error.line(), column: error.column() })?;
        let mut signing_header = None;
        let mut keys = HashMap::new();
        for (index, jwk) in set.keys.iter().enumerate() {
            let fail = |error| KeySetError::Key(index + 1, error);
            let (header, key) = jwk.load().map_err(fail)?;
            if keys.insert(header.clone(), key).is_some() {
                return Err(fail(KeyError::DuplicateId));
            }
            signing_header.get_or_insert(header);
        }
        Ok(Self { signing_header: signing_header.ok_or(KeySetError::Empty)?, keys })
    }

    /// The signed JWT of these claims: header, payload and signature, each in base64url, with dots between.
    ///
    /// # Panics
    /// Where the cryptographic library fails on a key that it loaded.
    pub fn sign(&self, claims: &Claims) -> SecretString {
        let header = &self.signing_header;
        let key = &self.keys[header];
        let payload = encode(claims);
        let message = format!("{header}.{payload}");
        let signature = crypto::sign(message.as_bytes(), &key.signing, key.algorithm).expect("a loaded key signs");
        format!("{message}.{signature}").into()
    }

    /// The claims of a token that one of these keys signed. Says nothing of whether it still lives.
    pub fn verify(&self, jwt: &str) -> Result<Claims, InvalidToken> {
        if jwt.len() > MAX_JWT_BYTES {
            return Err(InvalidToken);
        }
        let (message, signature) = jwt.rsplit_once('.').ok_or(InvalidToken)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken)?;
        let key = self.keys.get(header).ok_or(InvalidToken)?;
        match crypto::verify(signature, message.as_bytes(), &key.verifying, key.algorithm) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(InvalidToken),
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| InvalidToken)?;
        serde_json::from_slice(&payload).map_err(|_| InvalidToken)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl Jwk {
    fn load(&self) -> Result<(String, Key), KeyError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=64).contains(&self.kid.len()) || !self.kid.chars().all(allowed) {
            return Err(KeyError::Id);
        }
        if (&*self.kty, &*self.alg) != ("oct", "HS256") {
            return Err(KeyError::Unsupported);
        }
        let k = self.k.as_ref().ok_or(KeyError::Encoding)?;
        let secret = BASE64_URL_SAFE_NO_PAD.decode(k.expose_secret()).map_err(|_| KeyError::Encoding)?;
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyError::Short(secret.len()));
        }
        let key = Key {
            algorithm: Algorithm::HS256,
            signing: EncodingKey::from_secret(&secret),
            verifying: DecodingKey::from_secret(&secret),
        };
        Ok((encode(&Header { typ: "JWT", alg: &self.alg, kid: &self.kid }), key))
    }
}

/// A JWK Set, as JSON to be kept in a file, with one new HS256 key of 32 random bytes.
///
/// # Panics
/// Where the operating system has no randomness to give.
pub fn generate() -> SecretString {
    let mut secret = [0; MIN_SECRET_BYTES];
    getrandom::fill(&mut secret).expect("the operating system gives random bytes");
    let set = json!({
        "keys": [{
            "kty": "oct",
            "alg": "HS256",
            "use": "sig",
            "kid": Uuid::new_v4().to_string(),
            "k": BASE64_URL_SAFE_NO_PAD.encode(secret),
        }]
    });
    format!("{set:#}\n").into()
}

fn encode(value: &impl Serialize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("plain strings and numbers are JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(json: &str) -> Result<KeySet, KeySetError> {
        KeySet::parse(json)
    }

    fn oct(kid: &str, k: &str) -> String {
        json!({"kty": "oct", "alg": "HS256", "kid": kid, "k": k}).to_string()
    }

    fn claims() -> Claims {
        Claims {
            username: "alice".into(),
            jwt_token_id: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            jwt_token_description: "Token specter".into(),
            exp: 1_662_741_735,
            iat: 1_662_720_135,
            sub: "alice".into(),
            jti: "b56929f3-54f1-4dc2-9984-9bba615e26e6".into(),
            iss: None,
        }
    }

    #[test]
    fn a_generated_set_signs_and_verifies() {
        let set = set(generate().expose_secret()).unwrap();
        let jwt = set.sign(&claims());
        assert_eq!(set.verify(jwt.expose_secret()), Ok(claims()));
        assert_eq!(format!("{set:?}"), "KeySet(1 keys)");
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let (old, new) = (oct("old", &"A".repeat(43)), oct("new", &"B".repeat(43).replace('B', "E")));
        let before = set(&format!(r#"{{"keys":[{old}]}}"#)).unwrap();
        let after = set(&format!(r#"{{"keys":[{new},{old}]}}"#)).unwrap();
        assert_eq!(after.verify(before.sign(&claims()).expose_secret()), Ok(claims()));
        assert_eq!(before.verify(after.sign(&claims()).expose_secret()), Err(InvalidToken));
    }

    #[test]
    fn only_the_exact_header_is_accepted() {
        let set = set(&format!(r#"{{"keys":[{}]}}"#, oct("a", &"A".repeat(43)))).unwrap();
        let jwt = set.sign(&claims());
        let (message, signature) = jwt.expose_secret().rsplit_once('.').unwrap();
        let (_, payload) = message.split_once('.').unwrap();
        let key = EncodingKey::from_secret(&[0; 32]);
        for header in [
            r#"{"alg":"HS256","typ":"JWT","kid":"a"}"#,
            r#"{"typ":"JWT","alg":"HS256"}"#,
            r#"{"typ":"JWT","alg":"HS256","kid":"a","crit":["b64"],"b64":false}"#,
            r#"{"typ":"JWT","alg":"none","kid":"a"}"#,
        ] {
            let message = format!("{}.{payload}", BASE64_URL_SAFE_NO_PAD.encode(header));
            let signed = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            assert_eq!(set.verify(&format!("{message}.{signed}")), Err(InvalidToken), "{header}");
            assert_eq!(set.verify(&format!("{message}.")), Err(InvalidToken), "{header}");
        }
        assert_eq!(set.verify(&format!("{message}.{signature}x")), Err(InvalidToken));
        assert_eq!(set.verify(&"x".repeat(1 << 20)), Err(InvalidToken));
    }

    #[test]
    fn unusable_sets_say_why() {
        let good = oct("a", &"A".repeat(43));
        for (json, error) in [
            ("{".to_owned(), KeySetError::Json { line: 1, column: 1 }),
            (r#"{"keys":[]}"#.to_owned(), KeySetError::Empty),
            (format!(r#"{{"keys":[{good},{good}]}}"#), KeySetError::Key(2, KeyError::DuplicateId)),
            (format!(r#"{{"keys":[{}]}}"#, oct("", &"A".repeat(43))), KeySetError::Key(1, KeyError::Id)),
            (format!(r#"{{"keys":[{}]}}"#, oct("a", "AAAA")), KeySetError::Key(1, KeyError::Short(3))),
            (format!(r#"{{"keys":[{}]}}"#, oct("a", "?")), KeySetError::Key(1, KeyError::Encoding)),
            (r#"{"keys":[{"kty":"RSA","kid":"a"}]}"#.to_owned(), KeySetError::Key(1, KeyError::Unsupported)),
        ] {
            assert_eq!(set(&json).unwrap_err(), error, "{json}");
        }
    }
}

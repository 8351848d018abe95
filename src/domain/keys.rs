//! Signing keys, ready to sign and verify JWTs.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::crypto;
use secrecy::SecretString;
use serde::Serialize;

use super::{
    claims::{Claims, MAX_JWT_BYTES},
    jwk::{Jwk, JwkError, JwkSetError, LoadedKey, PublicJwk, parse_set},
};

/// Why a JWT is not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Its header names no key of this set. The key may be in a newer version of the set.
    #[error("a token of an unknown key")]
    UnknownKey,
    /// It is malformed, or the key that its header names did not sign it.
    #[error("not a token of this service")]
    Rejected,
}

/// The keys of a service, in the order of their file. One of them signs ([`KeySet::sign`]); all verify.
pub struct KeySet(Vec<Key>);

/// A key of a [`KeySet`].
struct Key {
    id: String,
    /// When the key begins to sign, in seconds since 1970.
    signs_from: u64,
    /// The encoded header of all tokens that this key signs. The header of a presented token must equal that of a key,
    /// byte by byte, so no other `alg`, `kid`, `typ`, `crit`, `jku`, `x5u`, `jwk` or `b64` is ever parsed (RFC 8725,
    /// sections 3.1 to 3.10).
    header: String,
    loaded: LoadedKey,
    /// Set once the key signed or verified a token. If such a key leaves the file, its removal is logged as an error.
    was_used: AtomicBool,
}

/// The header of our JWTs, with its members in the order in which they are written. Secret scanners rely on the order.
#[derive(Serialize)]
struct JwtHeader<'a> {
    typ: &'static str,
    alg: &'static str,
    kid: &'a str,
}

impl KeySet {
    /// Reads a JWK Set in JSON, and checks each key.
    pub fn parse(json: &str) -> Result<Self, JwkSetError> {
        let mut keys = Vec::<Key>::new();
        for (index, jwk) in parse_set::<Jwk>(json)?.into_iter().enumerate() {
            let fail = |error| JwkSetError::Key(index + 1, error);
            let loaded = jwk.load().map_err(fail)?;
            if keys.iter().any(|key| key.id == jwk.kid) {
                return Err(fail(JwkError::DuplicateId));
            }
            keys.push(Key {
                signs_from: jwk.signs_from().unwrap_or(0),
                header: encode(&JwtHeader { typ: "JWT", alg: loaded.algorithm.as_str(), kid: &jwk.kid }),
                id: jwk.kid,
                loaded,
                was_used: AtomicBool::new(false),
            });
        }
        if keys.is_empty() { Err(JwkSetError::Empty) } else { Ok(Self(keys)) }
    }

    /// Signs a JWT with these claims: header, payload and signature, each in base64url, with dots between. Signs with
    /// [`Self::signing_kid`].
    ///
    /// # Panics
    /// If the cryptographic library fails with a key that it loaded.
    pub fn sign(&self, claims: &Claims) -> SecretString {
        self.signing_key(claims.iat).sign(claims)
    }

    /// The `kid` of the key that signs tokens that are issued at `iat`, in seconds since 1970.
    pub fn signing_kid(&self, iat: u64) -> &str {
        &self.signing_key(iat).id
    }

    /// Signs claims that the key `kid` has signed before: the result is the same JWT. `None`: the key is gone, or its
    /// algorithm gives another signature each time.
    ///
    /// # Panics
    /// If the cryptographic library fails with a key that it loaded.
    pub fn sign_again(&self, kid: &str, claims: &Claims) -> Option<SecretString> {
        let key = self.0.iter().find(|key| key.id == kid)?;
        key.loaded.algorithm.is_deterministic().then(|| key.sign(claims))
    }

    /// The first key whose time to sign has come at `iat`, or the first key if there is none.
    fn signing_key(&self, iat: u64) -> &Key {
        self.0.iter().find(|key| key.signs_from <= iat).unwrap_or(&self.0[0])
    }

    /// Verifies the signature of a JWT and returns its claims. Only the store knows whether the token is live.
    pub fn verify(&self, jwt: &str) -> Result<Claims, InvalidToken> {
        if jwt.len() > MAX_JWT_BYTES {
            return Err(InvalidToken::Rejected);
        }
        let (message, signature) = jwt.rsplit_once('.').ok_or(InvalidToken::Rejected)?;
        let (header, _) = message.split_once('.').ok_or(InvalidToken::Rejected)?;
        let key = self.0.iter().find(|key| key.header == header).ok_or(InvalidToken::UnknownKey)?;
        match crypto::verify(signature, message.as_bytes(), &key.loaded.verifying, key.loaded.algorithm.into()) {
            Ok(true) => key.was_used.store(true, Relaxed),
            Ok(false) | Err(_) => return Err(InvalidToken::Rejected),
        }
        Claims::unverified(jwt).ok_or(InvalidToken::Rejected)
    }

    /// The `kid` of each key, in the order of the set.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| &*key.id)
    }

    /// The `kid` of each key that signed a token or verified one.
    pub fn used_ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|key| key.was_used.load(Relaxed)).map(|key| &*key.id)
    }

    /// The public keys, in the order of the set. Symmetric keys have none.
    pub fn public_keys(&self) -> Vec<PublicJwk> {
        self.0.iter().filter_map(|key| key.loaded.public.clone()).collect()
    }
}

impl Key {
    /// Signs a JWT with these claims.
    fn sign(&self, claims: &Claims) -> SecretString {
        self.was_used.store(true, Relaxed);
        let message = format!("{}.{}", self.header, encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.loaded.signing, self.loaded.algorithm.into())
            .expect("a loaded key signs");
        format!("{message}.{signature}").into()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.0.len())
    }
}

/// The value as JSON in unpadded base64url, as in a JWT.
fn encode(value: &impl Serialize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("plain strings and numbers are JSON"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::EncodingKey;
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;
    use crate::domain::{
        jwk::Algorithm,
        key_rotation::{generate, rotate},
    };

    fn set(json: &str) -> Result<KeySet, JwkSetError> {
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
            scope: None,
            aud: None,
        }
    }

    #[test]
    fn a_generated_set_signs_and_verifies() {
        for algorithm in Algorithm::ALL {
            let set = set(generate(algorithm, 0).expose_secret()).unwrap();
            let jwt = set.sign(&claims());
            assert_eq!(set.verify(jwt.expose_secret()), Ok(claims()));
            assert_eq!(format!("{set:?}"), "KeySet(1 keys)");
            let (message, _) = jwt.expose_secret().rsplit_once('.').unwrap();
            assert_eq!(set.verify(&format!("{message}.{}", "A".repeat(86))), Err(InvalidToken::Rejected));
        }
    }

    #[test]
    fn a_new_key_signs_once_its_time_has_come() {
        let before = generate(Algorithm::Hs256, 0);
        let now = claims().iat;
        let at_once = rotate(before.expose_secret(), Some(Algorithm::EdDsa), now, Some(Duration::ZERO)).unwrap();
        let later = rotate(before.expose_secret(), Some(Algorithm::EdDsa), now, Some(Duration::from_secs(1))).unwrap();
        let (before, at_once, later) = (
            set(before.expose_secret()).unwrap(),
            set(at_once.expose_secret()).unwrap(),
            set(later.expose_secret()).unwrap(),
        );
        assert_eq!(at_once.verify(before.sign(&claims()).expose_secret()), Ok(claims()));
        assert_eq!(before.verify(at_once.sign(&claims()).expose_secret()), Err(InvalidToken::UnknownKey));
        assert_eq!(before.verify(later.sign(&claims()).expose_secret()), Ok(claims()));
        let a_second_later = Claims { iat: now + 1, ..claims() };
        assert_eq!(before.verify(later.sign(&a_second_later).expose_secret()), Err(InvalidToken::UnknownKey));
    }

    #[test]
    fn a_key_that_no_longer_signs_still_signs_again() {
        for algorithm in Algorithm::ALL {
            let before = generate(algorithm, 0);
            let after = rotate(before.expose_secret(), None, 1, Some(Duration::ZERO)).unwrap();
            let (before, after) = (set(before.expose_secret()).unwrap(), set(after.expose_secret()).unwrap());
            let (kid, jwt) = (before.signing_kid(claims().iat), before.sign(&claims()));
            assert_ne!(after.signing_kid(claims().iat), kid);
            let again = after.sign_again(kid, &claims()).map(|jwt| jwt.expose_secret().to_owned());
            assert_eq!(again, (algorithm != Algorithm::Es256).then(|| jwt.expose_secret().to_owned()));
            assert!(before.sign_again(after.signing_kid(claims().iat), &claims()).is_none(), "it has no such key");
        }
    }

    #[test]
    fn a_symmetric_key_is_never_public() {
        let both =
            rotate(generate(Algorithm::Hs256, 0).expose_secret(), Some(Algorithm::Es256), 0, Some(Duration::ZERO))
                .unwrap();
        let public = set(both.expose_secret()).unwrap().public_keys();
        assert_eq!(public.iter().map(|key| &*key.kty).collect::<Vec<_>>(), ["EC"]);
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
            let signed = crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
            assert!(set.verify(&format!("{message}.{signed}")).is_err(), "{header}");
            assert!(set.verify(&format!("{message}.")).is_err(), "{header}");
        }
        assert_eq!(set.verify(&format!("{message}.{signature}x")), Err(InvalidToken::Rejected));
        assert_eq!(set.verify(&"x".repeat(1 << 20)), Err(InvalidToken::Rejected));
    }

    #[test]
    fn unusable_sets_say_why() {
        let good = oct("a", &"A".repeat(43));
        let okp = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "a", "x": "AAAA"}).to_string();
        for (json, error) in [
            ("{".to_owned(), JwkSetError::Json { line: 1, column: 1 }),
            (r#"{"keys":[]}"#.to_owned(), JwkSetError::Empty),
            (format!(r#"{{"keys":[{good},{good}]}}"#), JwkSetError::Key(2, JwkError::DuplicateId)),
            (format!(r#"{{"keys":[{}]}}"#, oct("", &"A".repeat(43))), JwkSetError::Key(1, JwkError::Id)),
            (format!(r#"{{"keys":[{}]}}"#, oct("a", "AAAA")), JwkSetError::Key(1, JwkError::Short(3))),
            (format!(r#"{{"keys":[{}]}}"#, oct("a", "?")), JwkSetError::Key(1, JwkError::Member("k", ""))),
            (format!(r#"{{"keys":[{okp}]}}"#), JwkSetError::Key(1, JwkError::Member("x", " of 32 bytes"))),
            (r#"{"keys":[{"kty":"RSA","kid":"a"}]}"#.to_owned(), JwkSetError::Key(1, JwkError::Unsupported)),
        ] {
            assert_eq!(set(&json).unwrap_err(), error, "{json}");
        }
    }
}

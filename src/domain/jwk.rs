//! Keys as they stand in a file: a JWK Set (RFC 7517) with private keys.
//!
//! A key is `oct` for HS256 (RFC 7518, section 6.4), `OKP` with `Ed25519` for EdDSA (RFC 8037) or `EC` with `P-256` for
//! ES256 (RFC 7518, section 6.2). Two members say when it signs: `iat`, when it was made, and `nbf`, before which it only
//! verifies; both as in OpenID Federation, in seconds since the epoch. Other members (`use`, `key_ops`) are left alone.

use std::{fmt, str::FromStr, time::Duration};

use aws_lc_rs::{
    encoding::{AsBigEndian, Curve25519SeedBin, EcPrivateKeyBin},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The fewest bytes of a symmetric key: as many as SHA-256 gives (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// For how long a new public key is published before it signs, unless told otherwise: longer than the five minutes for
/// which clients may cache the keys, by what replicas take to read them.
pub const PUBLISHED_BEFORE_SIGNING: Duration = Duration::from_mins(6);

/// The bytes of an Ed25519 key, and of a coordinate of P-256.
const CURVE_BYTES: usize = 32;

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: one secret signs and verifies. The fastest, for those who ask this service about a token.
    Hs256,
    /// Ed25519: others can verify a signature with the public key.
    EdDsa,
    /// ECDSA on P-256 with SHA-256: the same, for those whose libraries have no Ed25519.
    Es256,
}

/// A text is no [`Algorithm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm is HS256, EdDSA or ES256")]
pub struct AlgorithmError;

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hs256, Self::EdDsa, Self::Es256];

    /// Its name in a JWK and in the header of a JWT (RFC 7518, section 3.1, and RFC 8037, section 3.1).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::HS256,
            Algorithm::EdDsa => Self::EdDSA,
            Algorithm::Es256 => Self::ES256,
        }
    }
}

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Self, AlgorithmError> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(AlgorithmError)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no set of usable keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
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
    Key(usize, JwkError),
}

/// Why a JWK cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// `kid` is missing or odd.
    #[error("\"kid\" must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Id,
    /// Two keys with one name.
    #[error("another key has the same \"kid\"")]
    DuplicateId,
    /// Not a kind of key that can sign here.
    #[error(
        "supported are \"kty\": \"oct\" with \"alg\": \"HS256\", \"OKP\" with \"crv\": \"Ed25519\" and \"EdDSA\", and \
         \"EC\" with \"P-256\" and \"ES256\""
    )]
    Unsupported,
    /// A member is missing or is not what it should be.
    #[error("{0:?} must be unpadded base64url{1}")]
    Member(&'static str, &'static str),
    /// A key that can be guessed.
    #[error("\"k\" has {0} bytes, and at least {MIN_SECRET_BYTES} are needed; `mayfly key generate` makes a good one")]
    Short(usize),
    /// The private key belongs to another public key.
    #[error("\"d\" is not the private key of this public key")]
    Mismatch,
}

/// A JWK as it stands in a file.
#[derive(Deserialize)]
pub(super) struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    alg: String,
    #[serde(default)]
    pub(super) kid: String,
    iat: Option<u64>,
    nbf: Option<u64>,
    #[serde(default)]
    crv: String,
    x: Option<String>,
    y: Option<String>,
    d: Option<SecretString>,
    k: Option<SecretString>,
}

/// A JWK Set as it stands in a file.
#[derive(Deserialize)]
pub(super) struct JwkSet {
    pub(super) keys: Vec<Jwk>,
}

/// What a JWK is good for.
pub(super) struct LoadedKey {
    pub(super) algorithm: Algorithm,
    pub(super) signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    pub(super) public: Option<PublicJwk>,
}

/// A key that anybody may know, as `/.well-known/jwks.json` gives it. A symmetric key has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicJwk {
    /// The key type.
    pub kty: &'static str,
    /// The curve.
    pub crv: &'static str,
    /// A coordinate, or all there is.
    pub x: String,
    /// The other coordinate, where there is one.
    pub y: Option<String>,
    /// The algorithm.
    pub alg: &'static str,
    /// The key's name.
    pub kid: String,
}

impl JwkSet {
    pub(super) fn parse(json: &str) -> Result<Self, JwkSetError> {
        serde_json::from_str(json).map_err(|error| JwkSetError::Json { line: error.line(), column: error.column() })
    }
}

impl Jwk {
    /// From when on it signs, in seconds since the epoch, where the file says so.
    pub(super) fn signs_from(&self) -> Option<u64> {
        self.nbf.or(self.iat)
    }

    pub(super) fn load(&self) -> Result<LoadedKey, JwkError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=64).contains(&self.kid.len()) || !self.kid.chars().all(allowed) {
            return Err(JwkError::Id);
        }
        match (&*self.kty, &*self.alg, &*self.crv) {
            ("oct", "HS256", "") => self.load_secret(),
            ("OKP", "EdDSA", "Ed25519") => self.load_ed25519(),
            ("EC", "ES256", "P-256") => self.load_p256(),
            _ => Err(JwkError::Unsupported),
        }
    }

    fn load_secret(&self) -> Result<LoadedKey, JwkError> {
        let secret = self.k.as_ref().and_then(|k| decode(k.expose_secret())).ok_or(JwkError::Member("k", ""))?;
        if secret.len() < MIN_SECRET_BYTES {
            return Err(JwkError::Short(secret.len()));
        }
        Ok(LoadedKey {
            algorithm: Algorithm::Hs256,
            signing: EncodingKey::from_secret(&secret),
            verifying: DecodingKey::from_secret(&secret),
            public: None,
        })
    }

    fn load_ed25519(&self) -> Result<LoadedKey, JwkError> {
        let (x, d) = (coordinate("x", self.x.as_deref())?, self.private()?);
        let pair = Ed25519KeyPair::from_seed_and_public_key(&d, &x).map_err(|_| JwkError::Mismatch)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| JwkError::Mismatch)?;
        Ok(LoadedKey {
            algorithm: Algorithm::EdDsa,
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ed_der(&x),
            public: Some(self.public("OKP", "Ed25519", Algorithm::EdDsa, &x, None)),
        })
    }

    fn load_p256(&self) -> Result<LoadedKey, JwkError> {
        let (x, y) = (coordinate("x", self.x.as_deref())?, coordinate("y", self.y.as_deref())?);
        // An uncompressed point (SEC 1, section 2.3.3).
        let point = [&[4][..], &x, &y].concat();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &self.private()?, &point)
            .map_err(|_| JwkError::Mismatch)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| JwkError::Mismatch)?;
        Ok(LoadedKey {
            algorithm: Algorithm::Es256,
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ec_der(&point),
            public: Some(self.public("EC", "P-256", Algorithm::Es256, &x, Some(&y))),
        })
    }

    fn private(&self) -> Result<[u8; CURVE_BYTES], JwkError> {
        coordinate("d", self.d.as_ref().map(ExposeSecret::expose_secret))
    }

    fn public(
        &self,
        kty: &'static str,
        crv: &'static str,
        algorithm: Algorithm,
        x: &[u8],
        y: Option<&[u8]>,
    ) -> PublicJwk {
        let encode = |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let alg = algorithm.as_str();
        PublicJwk { kty, crv, x: encode(x), y: y.map(encode), alg, kid: self.kid.clone() }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

fn coordinate(member: &'static str, text: Option<&str>) -> Result<[u8; CURVE_BYTES], JwkError> {
    let bytes = text.and_then(decode).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(JwkError::Member(member, " of 32 bytes"))
}

/// A JWK Set, as JSON to be kept in a file, with one new key made `now` (seconds since the epoch).
///
/// # Panics
/// Where the operating system has no randomness to give.
pub fn generate(algorithm: Algorithm, now: u64) -> SecretString {
    write(&[new_key(algorithm, now, None)])
}

/// The set with a new key in front, which signs from `delay` on; all others go on verifying. Without an `algorithm`, the new
/// key has that of the first one; without a `delay`, it signs at once, or after [`PUBLISHED_BEFORE_SIGNING`] where others
/// verify with its public half.
///
/// # Panics
/// Where the operating system has no randomness to give.
pub fn rotate(
    set: &str,
    algorithm: Option<Algorithm>,
    now: u64,
    delay: Option<Duration>,
) -> Result<SecretString, JwkSetError> {
    let first = JwkSet::parse(set)?.keys.first().and_then(|key| key.alg.parse().ok());
    let algorithm = algorithm.or(first).unwrap_or(Algorithm::Hs256);
    let default = if algorithm == Algorithm::Hs256 { Duration::ZERO } else { PUBLISHED_BEFORE_SIGNING };
    let delay = delay.unwrap_or(default);
    let nbf = (!delay.is_zero()).then_some(now + delay.as_secs());
    let mut keys = values(set)?;
    keys.insert(0, new_key(algorithm, now, nbf));
    Ok(write(&keys))
}

/// The set without the keys that signed nothing in the last `age`, and the names of those. Once `age` is the longest life
/// of a token, nothing that lives needs them.
///
/// A key stopped signing when one in front of it began; where the file does not say when that was, the key stays.
pub fn prune(set: &str, age: Duration, now: u64) -> Result<(SecretString, Vec<String>), JwkSetError> {
    let keys = JwkSet::parse(set)?.keys;
    let retired_at = |index: usize| keys[..index].iter().filter_map(Jwk::signs_from).min();
    let is_old = |index: &usize| retired_at(*index).is_some_and(|at| at.saturating_add(age.as_secs()) <= now);
    let (old, kept): (Vec<_>, Vec<_>) = (0..keys.len()).partition(is_old);
    let values = values(set)?;
    let kept: Vec<_> = kept.into_iter().map(|index| values[index].clone()).collect();
    Ok((write(&kept), old.into_iter().map(|index| keys[index].kid.clone()).collect()))
}

/// The keys of a set with all of their members.
fn values(set: &str) -> Result<Vec<Value>, JwkSetError> {
    #[derive(Deserialize)]
    struct Values {
        keys: Vec<Value>,
    }
    let set: Values =
        serde_json::from_str(set).map_err(|error| JwkSetError::Json { line: error.line(), column: error.column() })?;
    Ok(set.keys)
}

fn write(keys: &[Value]) -> SecretString {
    format!("{:#}\n", json!({ "keys": keys })).into()
}

fn new_key(algorithm: Algorithm, iat: u64, nbf: Option<u64>) -> Value {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let mut key = match algorithm {
        Algorithm::Hs256 => {
            let mut secret = [0; MIN_SECRET_BYTES];
            getrandom::fill(&mut secret).expect("the operating system gives random bytes");
            json!({"kty": "oct", "k": encode(&secret)})
        }
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate().expect("the operating system gives random bytes");
            let seed = pair.seed().expect("a new key has a seed");
            let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().expect("a seed has bytes");
            json!({
                "kty": "OKP",
                "crv": "Ed25519",
                "x": encode(pair.public_key().as_ref()),
                "d": encode(seed.as_ref()),
            })
        }
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .expect("the operating system gives random bytes");
            let (x, y) = pair.public_key().as_ref()[1..].split_at(CURVE_BYTES);
            let private: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().expect("a new key has bytes");
            json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "d": encode(private.as_ref())})
        }
    };
    let members = key.as_object_mut().expect("each is an object");
    members.insert("alg".into(), algorithm.as_str().into());
    members.insert("use".into(), "sig".into());
    members.insert("kid".into(), Uuid::new_v4().to_string().into());
    members.insert("iat".into(), iat.into());
    if let Some(nbf) = nbf {
        members.insert("nbf".into(), nbf.into());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kids(set: &str) -> Vec<String> {
        JwkSet::parse(set).unwrap().keys.into_iter().map(|key| key.kid).collect()
    }

    #[test]
    fn a_generated_key_can_be_used() {
        for algorithm in Algorithm::ALL {
            let set = generate(algorithm, 5);
            let key = JwkSet::parse(set.expose_secret()).unwrap().keys.remove(0);
            assert_eq!(key.signs_from(), Some(5));
            let loaded = key.load().unwrap();
            assert_eq!(loaded.algorithm, algorithm);
            assert_eq!(loaded.public.is_some(), algorithm != Algorithm::Hs256);
        }
    }

    #[test]
    fn a_private_key_of_another_is_refused() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let key = |member: &str| new_key(algorithm, 0, None)[member].clone();
            let mut mixed = new_key(algorithm, 0, None);
            mixed["d"] = key("d");
            let mixed: Jwk = serde_json::from_value(mixed).unwrap();
            assert_eq!(mixed.load().err(), Some(JwkError::Mismatch));
        }
    }

    #[test]
    fn a_rotation_adds_in_front_and_keeps_everything() {
        let first = r#"{"keys": [{"kty": "oct", "kid": "a", "x5t": "kept"}]}"#;
        let second = rotate(first, Some(Algorithm::EdDsa), 100, Some(Duration::from_mins(1))).unwrap();
        let keys = values(second.expose_secret()).unwrap();
        assert_eq!((keys.len(), &keys[1]["x5t"], &keys[0]["nbf"]), (2, &json!("kept"), &json!(160)));
        assert!(rotate("[]", None, 100, Some(Duration::ZERO)).is_err());
    }

    #[test]
    fn a_rotation_keeps_the_algorithm_unless_told_otherwise() {
        for algorithm in Algorithm::ALL {
            let set = rotate(generate(algorithm, 0).expose_secret(), None, 1, Some(Duration::ZERO)).unwrap();
            let keys = values(set.expose_secret()).unwrap();
            assert_eq!((&keys[0]["alg"], keys.len()), (&json!(algorithm.as_str()), 2));
        }
    }

    #[test]
    fn keys_are_pruned_by_when_they_stopped_signing() {
        let set = r#"{"keys": [
            {"kid": "signing", "iat": 800, "nbf": 900}, {"kid": "before", "iat": 500}, {"kid": "old", "iat": 100}
        ]}"#;
        let pruned = |age, now| {
            let (rest, gone) = prune(set, Duration::from_secs(age), now).unwrap();
            (kids(rest.expose_secret()), gone)
        };
        assert_eq!(pruned(400, 899).1, [""; 0]);
        // `old` signed until 500, `before` until 900.
        assert_eq!(pruned(400, 900), (vec!["signing".to_owned(), "before".to_owned()], vec!["old".to_owned()]));
        assert_eq!(pruned(400, 1300).0, ["signing"]);
        assert_eq!(pruned(0, u64::MAX).0, ["signing"]);
        let undated = r#"{"keys": [{"kid": "a"}, {"kid": "b", "iat": 0}]}"#;
        assert_eq!(prune(undated, Duration::ZERO, 1000).unwrap().1, [""; 0]);
    }
}

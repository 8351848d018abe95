//! Signing keys as their file holds them: a JWK Set (RFC 7517) with private keys.
//!
//! A key is `oct` for HS256 (RFC 7518, section 6.4), `OKP` with `Ed25519` for EdDSA (RFC 8037) or `EC` with `P-256` for
//! ES256 (RFC 7518, section 6.2). The member `iat` is when the key was made; before `nbf` the key verifies and does not
//! sign. Both members are those of OpenID Federation, in seconds since 1970. Other members (`use`, `key_ops`) are
//! ignored.

use std::str::FromStr;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};

/// Minimum length of a symmetric key, in bytes: the length of a SHA-256 digest (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Length of an Ed25519 key and of a P-256 coordinate, in bytes.
pub(super) const CURVE_BYTES: usize = 32;

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: one secret signs and verifies. The fastest algorithm.
    Hs256,
    /// Ed25519: other services can verify with the public key.
    EdDsa,
    /// ECDSA on P-256 with SHA-256: for other services whose libraries lack Ed25519.
    Es256,
}

/// The text names no [`Algorithm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm is HS256, EdDSA or ES256")]
pub struct AlgorithmError;

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 3] = [Self::Hs256, Self::EdDsa, Self::Es256];

    /// The name in JWKs and in the headers of JWTs (RFC 7518, section 3.1, and RFC 8037, section 3.1).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }

    /// Whether a key signs the same claims with the same signature each time. ECDSA draws a random number for each
    /// signature.
    pub(super) fn is_deterministic(self) -> bool {
        match self {
            Self::Hs256 | Self::EdDsa => true,
            Self::Es256 => false,
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

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// Not a JWK Set in JSON. The parser's own message is left out: it may quote a key.
    #[error("not a JWK Set: line {line}, column {column}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The set has no key: `{"keys": []}`.
    #[error("the set has no key; `mayfly key generate` makes one")]
    Empty,
    /// A key cannot be used. Keys count from 1.
    #[error("key {0}: {1}")]
    Key(usize, JwkError),
}

/// Why a JWK cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// `kid` is missing, or has other characters or another length.
    #[error("\"kid\" must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Id,
    /// Two keys have one `kid`.
    #[error("another key has the same \"kid\"")]
    DuplicateId,
    /// The key has another type, algorithm or curve than those supported.
    #[error(
        "supported are \"kty\": \"oct\" with \"alg\": \"HS256\", \"OKP\" with \"crv\": \"Ed25519\" and \"EdDSA\", and \
         \"EC\" with \"P-256\" and \"ES256\""
    )]
    Unsupported,
    /// A member is missing or malformed: its name, and the length that it must have, as a part of the message.
    #[error("{0:?} must be unpadded base64url{1}")]
    Member(&'static str, &'static str),
    /// The secret has only this number of bytes, and can be guessed.
    #[error("\"k\" has {0} bytes, and at least {MIN_SECRET_BYTES} are needed; `mayfly key generate` makes a good one")]
    Short(usize),
    /// The private key belongs to another public key.
    #[error("\"d\" is not the private key of this public key")]
    Mismatch,
}

/// A JWK with its private key, not yet checked: its members as in RFC 7517 and RFC 7518.
#[derive(Deserialize)]
pub(super) struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default)]
    pub(super) alg: String,
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

/// A key that is ready to sign and verify.
pub(super) struct LoadedKey {
    pub(super) algorithm: Algorithm,
    pub(super) signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    /// `None` for a symmetric key.
    pub(super) public: Option<PublicJwk>,
}

/// The public part of a key, as `/.well-known/jwks.json` publishes it. A symmetric key has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicJwk {
    /// The type of the key.
    pub kty: String,
    /// The curve.
    pub crv: String,
    /// The Ed25519 key, or a coordinate on P-256.
    pub x: String,
    /// The other coordinate on P-256.
    pub y: Option<String>,
    /// The algorithm.
    pub alg: String,
    /// The id of the key.
    pub kid: String,
}

/// The keys of a JWK Set in JSON, each deserialized into a `K`.
pub(super) fn parse_set<K: DeserializeOwned>(json: &str) -> Result<Vec<K>, JwkSetError> {
    #[derive(Deserialize)]
    struct JwkSet<K> {
        keys: Vec<K>,
    }
    let set: Result<JwkSet<K>, _> = serde_json::from_str(json);
    Ok(set.map_err(|error| JwkSetError::Json { line: error.line(), column: error.column() })?.keys)
}

impl Jwk {
    /// When the key begins to sign, in seconds since 1970; `None`: the file does not say.
    pub(super) fn signs_from(&self) -> Option<u64> {
        self.nbf.or(self.iat)
    }

    /// Checks the key, and converts it for signing and verifying.
    pub(super) fn load(&self) -> Result<LoadedKey, JwkError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=64).contains(&self.kid.len()) || !self.kid.chars().all(is_allowed) {
            return Err(JwkError::Id);
        }
        match (&*self.kty, &*self.alg, &*self.crv) {
            ("oct", "HS256", "") => self.load_secret(),
            ("OKP", "EdDSA", "Ed25519") => self.load_ed25519(),
            ("EC", "ES256", "P-256") => self.load_p256(),
            _ => Err(JwkError::Unsupported),
        }
    }

    /// Loads an `oct` key for HS256.
    fn load_secret(&self) -> Result<LoadedKey, JwkError> {
        let secret = self.k.as_ref().and_then(|k| decode_base64(k.expose_secret())).ok_or(JwkError::Member("k", ""))?;
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

    /// Loads an `OKP` key for EdDSA, whose private and public key must belong together.
    fn load_ed25519(&self) -> Result<LoadedKey, JwkError> {
        let x = curve_bytes("x", self.x.as_deref())?;
        let pair =
            Ed25519KeyPair::from_seed_and_public_key(&self.private_key()?, &x).map_err(|_| JwkError::Mismatch)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| JwkError::Mismatch)?;
        Ok(LoadedKey {
            algorithm: Algorithm::EdDsa,
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ed_der(&x),
            public: self.public_key(),
        })
    }

    /// Loads an `EC` key for ES256, whose private and public key must belong together.
    fn load_p256(&self) -> Result<LoadedKey, JwkError> {
        // An uncompressed point (SEC 1, section 2.3.3).
        let point = [&[4][..], &curve_bytes("x", self.x.as_deref())?, &curve_bytes("y", self.y.as_deref())?].concat();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &self.private_key()?, &point)
            .map_err(|_| JwkError::Mismatch)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| JwkError::Mismatch)?;
        Ok(LoadedKey {
            algorithm: Algorithm::Es256,
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ec_der(&point),
            public: self.public_key(),
        })
    }

    fn private_key(&self) -> Result<[u8; CURVE_BYTES], JwkError> {
        curve_bytes("d", self.d.as_ref().map(ExposeSecret::expose_secret))
    }

    /// The public part; `None`: `x` is missing.
    fn public_key(&self) -> Option<PublicJwk> {
        let Self { kty, alg, kid, crv, x, y, .. } = self;
        let (kty, crv, alg, kid) = (kty.clone(), crv.clone(), alg.clone(), kid.clone());
        let y = y.clone().filter(|_| kty == "EC");
        Some(PublicJwk { kty, crv, x: x.clone()?, y, alg, kid })
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// Decodes a member of a JWK that is a key or a coordinate on a curve: 32 bytes in base64url.
fn curve_bytes(member: &'static str, text: Option<&str>) -> Result<[u8; CURVE_BYTES], JwkError> {
    let bytes = text.and_then(decode_base64).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(JwkError::Member(member, " of 32 bytes"))
}

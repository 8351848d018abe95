//! JWTs of other issuers, and the public keys that verify them.
//!
//! Not with the crate `openidconnect`: 4.1 depends on `rsa` 0.9 (RUSTSEC-2023-0071) without any of its features, and is
//! for the flows of a relying party, which this service is not.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;

/// The maximum length of a JWT of another issuer, in bytes. Those with many groups have several KiB.
pub const MAX_ISSUER_JWT_BYTES: usize = 12 * 1024;

/// The maximum number of keys in a set.
pub const MAX_KEYS: usize = 100;

/// The length of an RSA modulus, in bytes: from 2048 to 8192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The signature algorithms, all of them asymmetric: with an HMAC, a public key would be a secret to sign with.
const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("RS256", Algorithm::RS256),
    ("PS256", Algorithm::PS256),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The types of a JWT (`typ`) that may log in: ID tokens and access tokens (RFC 9068). Others have other purposes, such
/// as to log somebody out (RFC 8725, section 3.11).
const TYPES: [&str; 4] = ["JWT", "at+jwt", "application/jwt", "application/at+jwt"];

/// A JWT whose signature was not checked yet.
pub struct IssuerJwt<'a> {
    message: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    /// The claims, an object.
    pub claims: Value,
}

/// Why a text is not a JWT that can log in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerJwtError {
    /// It is no JWT: it does not have three parts, or they are not JSON objects in base64url.
    #[error("this is no JWT: three parts in base64url with dots between, of at most 12 KiB")]
    Malformed,
    /// The header has another `alg`.
    #[error("\"alg\" is {0:?}, and must be RS256, PS256, ES256, ES384 or EdDSA")]
    Algorithm(String),
    /// The header has another `typ`.
    #[error("\"typ\" is {0:?}, and must be JWT or at+jwt, or missing")]
    Type(String),
    /// The header has `crit` or `b64`, which change the meaning of the JWT (RFC 7515, section 4.1.11, and RFC 7797).
    #[error("the header has an extension that this service does not understand (\"crit\", \"b64\")")]
    Extension,
}

impl IssuerJwtError {
    /// What is wrong, as a label without a text of the JWT.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm(_) => "alg",
            Self::Type(_) => "typ",
            Self::Extension => "crit",
        }
    }
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No key has the `kid` of the header and fits its `alg`. A newer version of the set may have it.
    #[error("the issuer has no key with the \"kid\" and for the \"alg\" of the header")]
    UnknownKey,
    /// The header has no `kid`, and several keys fit.
    #[error("the header has no \"kid\", and the issuer has several keys for its \"alg\"")]
    NoKeyId,
    /// The key of the header did not sign it.
    #[error("the signature is wrong")]
    Wrong,
}

impl SignatureError {
    /// What is wrong, as a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownKey | Self::NoKeyId => "kid",
            Self::Wrong => "signature",
        }
    }
}

/// The header of a JWT. Members that are not here, such as `jku`, `jwk`, `x5u` and `x5c`, are never read: they name
/// keys of the sender's choice.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

impl<'a> IssuerJwt<'a> {
    /// Reads a JWT, and checks its header.
    pub fn parse(jwt: &'a str) -> Result<Self, IssuerJwtError> {
        if jwt.len() > MAX_ISSUER_JWT_BYTES {
            return Err(IssuerJwtError::Malformed);
        }
        let parts = || {
            let (message, signature) = jwt.rsplit_once('.')?;
            let (header, payload) = message.split_once('.')?;
            let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
            let claims: Value = serde_json::from_slice(&decode(payload)?).ok()?;
            claims.is_object().then_some((message, signature, header, claims))
        };
        let (message, signature, header, claims) = parts().ok_or(IssuerJwtError::Malformed)?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(IssuerJwtError::Extension);
        }
        if let Some(typ) = header.typ.filter(|typ| !TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known))) {
            return Err(IssuerJwtError::Type(typ));
        }
        let known = ALGORITHMS.iter().find(|(name, _)| *name == header.alg);
        let (_, algorithm) = *known.ok_or(IssuerJwtError::Algorithm(header.alg))?;
        Ok(Self { message, signature, algorithm, key_id: header.kid, claims })
    }

    /// The header's `kid` and `alg`, for messages.
    pub fn key(&self) -> String {
        let algorithm = self.algorithm;
        match &self.key_id {
            Some(kid) => format!("kid {kid:?}, {algorithm:?}"),
            None => format!("no kid, {algorithm:?}"),
        }
    }
}

/// The `iss` of a JWT, without a check of its signature: anyone can have written it.
pub fn unverified_issuer(jwt: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    if jwt.len() > MAX_ISSUER_JWT_BYTES {
        return None;
    }
    let (_, payload) = jwt.rsplit_once('.')?.0.split_once('.')?;
    serde_json::from_slice::<Claims>(&decode(payload)?).ok().map(|claims| claims.iss)
}

/// The public keys of an issuer.
pub struct IssuerKeySet(Vec<PublicKey>);

/// A key, and the algorithms that it verifies: a key is never used with an algorithm of another type (RFC 8725, section
/// 3.1).
struct PublicKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    verifying: DecodingKey,
}

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerKeySetError {
    /// It is no JWK Set in JSON.
    #[error("this is no JWK Set")]
    Malformed,
    /// It has more than [`MAX_KEYS`] keys: this number.
    #[error("the set has {0} keys, and at most {MAX_KEYS} are allowed")]
    TooMany(usize),
    /// Two keys have one `kid` and fit one algorithm, so that it is unclear which one a JWT names.
    #[error("two keys have the \"kid\" {0:?}")]
    DuplicateId(String),
}

/// A public key as a JWK (RFC 7517 and RFC 7518, section 6).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl IssuerKeySet {
    /// Reads a JWK Set. Keys of other types, for other purposes and of unsafe lengths are left out (RFC 7517, section
    /// 5).
    pub fn parse(json: &[u8]) -> Result<Self, IssuerKeySetError> {
        #[derive(Deserialize)]
        struct JwkSet {
            keys: Vec<Value>,
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| IssuerKeySetError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(IssuerKeySetError::TooMany(set.keys.len()));
        }
        let jwks = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<_> = jwks.filter_map(Jwk::load).collect();
        for (index, key) in keys.iter().enumerate() {
            let is_same = |other: &PublicKey| other.id == key.id && other.algorithms.iter().any(|a| key.fits(*a));
            if let Some(id) = key.id.as_ref().filter(|_| keys[..index].iter().any(is_same)) {
                return Err(IssuerKeySetError::DuplicateId(id.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// The number of keys that can verify.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key can verify.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the signature of a JWT by the key that its header names. Without a `kid`, there has to be one key only
    /// that fits its `alg`.
    pub fn verify(&self, jwt: &IssuerJwt<'_>) -> Result<(), SignatureError> {
        let mut keys =
            self.0.iter().filter(|key| key.fits(jwt.algorithm) && (jwt.key_id.is_none() || key.id == jwt.key_id));
        let key = keys.next().ok_or(SignatureError::UnknownKey)?;
        if keys.next().is_some() {
            return Err(SignatureError::NoKeyId);
        }
        match crypto::verify(jwt.signature, jwt.message.as_bytes(), &key.verifying, jwt.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(SignatureError::Wrong),
        }
    }
}

impl PublicKey {
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

impl Jwk {
    /// The key, ready to verify; `None`: it is not for signatures of the algorithms that are supported.
    fn load(self) -> Option<PublicKey> {
        let is_for_signatures = self.r#use.is_none_or(|purpose| purpose == "sig")
            && self.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !is_for_signatures {
            return None;
        }
        let bytes = |text: Option<String>, length: usize| decode(&text?).filter(|bytes| bytes.len() == length);
        let point = |x, y, length| Some([&[4][..], &bytes(x, length)?, &bytes(y, length)?].concat());
        let (fitting, verifying): (&[_], _) = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", None) => {
                let (modulus, exponent) = (decode(&self.n?)?, decode(&self.e?)?);
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                let modulus = &modulus[zeros..];
                if !RSA_MODULUS_BYTES.contains(&modulus.len()) {
                    return None;
                }
                (&[Algorithm::RS256, Algorithm::PS256], DecodingKey::from_rsa_raw_components(modulus, &exponent))
            }
            // An uncompressed point (SEC 1, section 2.3.3).
            ("EC", Some("P-256")) => (&[Algorithm::ES256], DecodingKey::from_ec_der(&point(self.x, self.y, 32)?)),
            ("EC", Some("P-384")) => (&[Algorithm::ES384], DecodingKey::from_ec_der(&point(self.x, self.y, 48)?)),
            ("OKP", Some("Ed25519")) => (&[Algorithm::EdDSA], DecodingKey::from_ed_der(&bytes(self.x, 32)?)),
            _ => return None,
        };
        let mut algorithms = fitting.to_vec();
        if let Some(alg) = self.alg {
            algorithms.retain(|algorithm| ALGORITHMS.contains(&(&*alg, *algorithm)));
        }
        (!algorithms.is_empty()).then_some(PublicKey { id: self.kid, algorithms, verifying })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn jwt(header: &Value, claims: &Value) -> String {
        format!("{}.{}.{}", encode(header.to_string()), encode(claims.to_string()), encode([0; 64]))
    }

    #[test]
    fn a_jwt_is_an_object_of_bounded_length() {
        let header = json!({"alg": "ES256"});
        let of_length = |length: usize| {
            let overhead = jwt(&header, &json!({"iss": "a", "pad": ""})).len();
            jwt(&header, &json!({"iss": "a", "pad": "x".repeat((length - overhead) * 3 / 4)}))
        };
        let (longest, too_long) = (of_length(MAX_ISSUER_JWT_BYTES), of_length(MAX_ISSUER_JWT_BYTES + 4));
        assert!((MAX_ISSUER_JWT_BYTES - 3..=MAX_ISSUER_JWT_BYTES).contains(&longest.len()), "{}", longest.len());
        assert!(too_long.len() > MAX_ISSUER_JWT_BYTES);
        assert_eq!((IssuerJwt::parse(&longest).err(), unverified_issuer(&longest).as_deref()), (None, Some("a")));
        assert_eq!(IssuerJwt::parse(&too_long).err(), Some(IssuerJwtError::Malformed));
        assert_eq!(unverified_issuer(&too_long), None);
        for claims in [json!([]), json!("a"), json!(1), json!(null), json!([{"iss": "a"}])] {
            assert_eq!(IssuerJwt::parse(&jwt(&header, &claims)).err(), Some(IssuerJwtError::Malformed), "{claims}");
        }
    }

    #[test]
    fn keys_of_unsafe_or_impossible_lengths_are_left_out() {
        let count = |jwk: Value| IssuerKeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap().len();
        let rsa = |bytes: usize| count(json!({"kty": "RSA", "n": encode(vec![0xff; bytes]), "e": "AQAB"}));
        assert_eq!([128, 255, 256, 1024, 1025, 2048].map(rsa), [0, 0, 1, 1, 0, 0]);
        // Zeros in front make no key longer.
        let padded = [vec![0; 200], vec![0xff; 128]].concat();
        assert_eq!(count(json!({"kty": "RSA", "n": encode(padded), "e": "AQAB"})), 0);
        let ec = |crv: &str, x: usize, y: usize| {
            count(json!({"kty": "EC", "crv": crv, "x": encode(vec![1; x]), "y": encode(vec![1; y])}))
        };
        assert_eq!([ec("P-256", 32, 32), ec("P-256", 31, 32), ec("P-256", 32, 33), ec("P-256", 48, 48)], [1, 0, 0, 0]);
        assert_eq!([ec("P-384", 48, 48), ec("P-384", 32, 32), ec("secp256k1", 32, 32)], [1, 0, 0]);
        let ed = |length: usize| count(json!({"kty": "OKP", "crv": "Ed25519", "x": encode(vec![1; length])}));
        assert_eq!([31, 32, 33].map(ed), [0, 1, 0]);
    }
}

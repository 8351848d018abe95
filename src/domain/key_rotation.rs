//! Changes of a key file: generate a set of signing keys, add a key, remove old keys.

use std::time::Duration;

use aws_lc_rs::{
    encoding::{AsBigEndian, Curve25519SeedBin, EcPrivateKeyBin},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::jwk::{Algorithm, CURVE_BYTES, Jwk, JwkSetError, MIN_SECRET_BYTES, parse_set};

/// Default time between the publication of a new public key and the first token that it signs: clients cache public
/// keys for five minutes, and replicas take a moment to read the file.
pub const PUBLISHED_BEFORE_SIGNING: Duration = Duration::from_mins(6);

/// The beginning of the `kid` of each generated key. So all JWTs of one algorithm begin with the same text, by which
/// secret scanners find them: docs/verification.md has the pattern.
const KEY_ID_PREFIX: &str = "mayfly-";

/// A JWK Set in JSON with one new key. `now`, in seconds since 1970, is its `iat`.
///
/// # Panics
/// If the operating system gives no random bytes.
pub fn generate(algorithm: Algorithm, now: u64) -> SecretString {
    to_json(&[new_key(algorithm, now, None)])
}

/// Returns the set with a new key in front, which begins to sign after `delay`. The other keys still verify.
///
/// Defaults: the `algorithm` of the first key; no `delay` for HS256, [`PUBLISHED_BEFORE_SIGNING`] for algorithms with
/// public keys.
///
/// # Panics
/// If the operating system gives no random bytes.
pub fn rotate(
    set: &str,
    algorithm: Option<Algorithm>,
    now: u64,
    delay: Option<Duration>,
) -> Result<SecretString, JwkSetError> {
    let first = parse_set::<Jwk>(set)?.first().and_then(|key| key.alg.parse().ok());
    let algorithm = algorithm.or(first).unwrap_or(Algorithm::Hs256);
    let default = if algorithm == Algorithm::Hs256 { Duration::ZERO } else { PUBLISHED_BEFORE_SIGNING };
    let delay = delay.unwrap_or(default);
    let nbf = (!delay.is_zero()).then_some(now + delay.as_secs());
    let mut keys = parse_set(set)?;
    keys.insert(0, new_key(algorithm, now, nbf));
    Ok(to_json(&keys))
}

/// Returns the set without the keys that stopped signing at least `age` ago, and the ids of the removed keys. If `age`
/// is the longest life of a token, no live token needs a removed key.
///
/// A key stopped signing when a key in front of it began to sign. If the file does not say when, the key stays.
pub fn prune(set: &str, age: Duration, now: u64) -> Result<(SecretString, Vec<String>), JwkSetError> {
    let keys: Vec<Jwk> = parse_set(set)?;
    let retired_at = |index: usize| keys[..index].iter().filter_map(Jwk::signs_from).min();
    let is_old = |index: &usize| retired_at(*index).is_some_and(|at| at.saturating_add(age.as_secs()) <= now);
    let (old, kept): (Vec<_>, Vec<_>) = (0..keys.len()).partition(is_old);
    // Read as JSON values, to keep members that a `Jwk` ignores.
    let values: Vec<Value> = parse_set(set)?;
    let kept: Vec<_> = kept.into_iter().map(|index| values[index].clone()).collect();
    Ok((to_json(&kept), old.into_iter().map(|index| keys[index].kid.clone()).collect()))
}

/// A JWK Set of these keys, as JSON on several lines.
fn to_json(keys: &[Value]) -> SecretString {
    format!("{:#}\n", json!({ "keys": keys })).into()
}

/// A new random key as a JWK, with this `iat` and `nbf`.
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
    members.insert("kid".into(), format!("{KEY_ID_PREFIX}{}", Uuid::new_v4()).into());
    members.insert("iat".into(), iat.into());
    if let Some(nbf) = nbf {
        members.insert("nbf".into(), nbf.into());
    }
    key
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::jwk::JwkError;

    fn kids(set: &str) -> Vec<String> {
        parse_set::<Jwk>(set).unwrap().into_iter().map(|key| key.kid).collect()
    }

    #[test]
    fn a_generated_key_can_be_used() {
        for algorithm in Algorithm::ALL {
            let set = generate(algorithm, 5);
            let key = parse_set::<Jwk>(set.expose_secret()).unwrap().remove(0);
            assert_eq!(key.signs_from(), Some(5));
            let loaded = key.load().unwrap();
            assert_eq!(loaded.algorithm, algorithm);
            assert_eq!(loaded.public.is_some(), algorithm != Algorithm::Hs256);
        }
    }

    #[test]
    fn a_private_key_that_does_not_match_is_rejected() {
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
        let keys: Vec<Value> = parse_set(second.expose_secret()).unwrap();
        assert_eq!((keys.len(), &keys[1]["x5t"], &keys[0]["nbf"]), (2, &json!("kept"), &json!(160)));
        assert!(rotate("[]", None, 100, Some(Duration::ZERO)).is_err());
    }

    #[test]
    fn a_rotation_keeps_the_algorithm_unless_told_otherwise() {
        for algorithm in Algorithm::ALL {
            let set = rotate(generate(algorithm, 0).expose_secret(), None, 1, Some(Duration::ZERO)).unwrap();
            let keys: Vec<Value> = parse_set(set.expose_secret()).unwrap();
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

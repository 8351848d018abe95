//! Trusted issuers: their file, templates of names, and JWTs and keys of others. No input panics, a template never
//! gives one name for different claims, and no JWT is accepted that the key of the test did not sign.

use std::sync::Arc;

use mayfly::domain::{
    issuer_jwt::{IssuerJwt, IssuerKeySet, MAX_ISSUER_JWT_BYTES, MAX_KEYS, unverified_issuer},
    issuers_file::{self, MAX_ISSUERS},
    user_template::UserTemplate,
};
use serde_json::{Value, json};

use super::in_process::NOW;

/// The public key of RFC 8037, appendix A.2.
const KEYS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// Reads the input as each of the texts.
pub fn check(input: &[u8]) {
    if let Ok(keys) = IssuerKeySet::parse(input) {
        assert!(keys.len() <= MAX_KEYS);
    }
    let Ok(text) = str::from_utf8(input) else { return };
    check_file(text);
    check_template(text);
    check_jwt(text);
}

/// The first line is claims, the rest is a file.
fn check_file(text: &str) {
    let (first, rest) = text.split_once('\n').unwrap_or(("", text));
    let claims: Value = serde_json::from_str(first).unwrap_or_else(|_| json!({"exp": NOW + 60}));
    match issuers_file::parse(rest, Some("https://mayfly.example")) {
        Ok(issuers) => {
            assert!(issuers.len() <= MAX_ISSUERS);
            for issuer in issuers.into_iter().map(Arc::new) {
                assert_ne!(issuer.name.as_str(), "https://mayfly.example");
                let checks = issuer.checks(&claims, NOW);
                let admission = issuer.admit(&claims, NOW);
                assert_eq!(admission.is_ok(), checks.iter().all(|check| check.result.is_ok()), "{checks:?}");
                if let Ok(admission) = admission {
                    assert_eq!(claims["iss"], issuer.name.as_str());
                    assert!(!admission.is_expired(NOW) && !admission.description().as_str().is_empty());
                }
            }
        }
        Err(error) => assert!(!error.mistakes().is_empty() && !error.to_string().is_empty()),
    }
}

/// The first line is a template of `{a}` and `{b}`, and the next four are two values of each.
fn check_template(text: &str) {
    let mut lines = text.split('\n');
    let Some(Ok(template)) = lines.next().map(str::parse::<UserTemplate>) else { return };
    let shown = template.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&template), "{shown}");
    let mut next = || lines.next().unwrap_or_default();
    let [first, second] = [[next(), next()], [next(), next()]];
    let name = |[a, b]: [&str; 2]| template.name(&json!({"a": a, "b": b})).ok();
    let (Some(one), Some(other)) = (name(first), name(second)) else { return };
    let is_used = [shown.contains("{a}"), shown.contains("{b}")];
    let is_same = (0..2).all(|claim| !is_used[claim] || first[claim] == second[claim]);
    assert_eq!(one == other, is_same, "{shown}: {first:?}, {second:?}");
}

fn check_jwt(text: &str) {
    let issuer = unverified_issuer(text);
    if let Ok(jwt) = IssuerJwt::parse(text) {
        assert!(text.len() <= MAX_ISSUER_JWT_BYTES && jwt.claims.is_object() && !jwt.key().is_empty());
        assert_eq!(issuer.as_deref(), jwt.claims["iss"].as_str());
        // Nobody has its private key here.
        assert!(IssuerKeySet::parse(KEYS.as_bytes()).unwrap().verify(&jwt).is_err(), "{text}");
    }
}

//! JWTs that must not log in.

use std::{thread, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{TOKEN, Trusting, issuer, with};
use crate::support::{
    Backend, Service,
    issuer::{DISCOVERY, IssuerKey, JWKS, LocalIssuer, Reply, now},
};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A JWT that is signed with HMAC-SHA256 and this secret.
fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// An issuer with a key of each algorithm, whose `kid` is the algorithm, and a service that trusts it.
struct Target {
    keys: [IssuerKey; 5],
    issuer: LocalIssuer,
    trusting: Trusting,
}

impl Target {
    fn start() -> Self {
        let keys = ["RS256", "PS256", "ES256", "ES384", "EdDSA"].map(|alg| IssuerKey::new(alg, alg));
        let issuer = LocalIssuer::start(&keys.each_ref());
        let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"{sub}\""));
        trusting.wait_for_keys(&keys[2].sign(&issuer.claims()));
        Self { keys, issuer, trusting }
    }

    fn key(&self, alg: &str) -> &IssuerKey {
        self.keys.iter().find(|key| key.alg == alg).unwrap()
    }

    /// Asserts that none of these JWTs logs in or leaves a user.
    fn refuses(&self, jwts: &[String]) {
        for jwt in jwts {
            let answer = self.trusting.list(jwt);
            assert_eq!(answer.status, 401, "{jwt}: {answer:?}");
            assert_eq!(self.trusting.exchange(jwt, &[]).status, 400, "{jwt}");
        }
        let users = self.trusting.service.admin().get("/api/v1alpha/user").send().json();
        assert_eq!(users["users"].as_array().unwrap().len(), 1, "{users}");
    }
}

#[test]
fn a_signature_that_no_key_made_does_not_log_in() {
    let target = Target::start();
    let claims = target.issuer.claims();
    let mut forged = Vec::new();
    for key in &target.keys {
        let jwk = key.jwk();
        // The public key as an HMAC secret, in all the forms that are at hand.
        let secrets = ["n", "x", "y"].iter().filter_map(|member| jwk[member].as_str());
        let secrets = secrets.flat_map(|text| [text.as_bytes().to_vec(), BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()]);
        for secret in secrets.chain([jwk.to_string().into_bytes(), Vec::new()]) {
            for alg in ["HS256", "hs256", key.alg] {
                forged.push(hs256(&json!({"typ": "JWT", "alg": alg, "kid": key.kid}), &claims, &secret));
            }
        }
        for alg in ["none", "None", "NONE", "", "HS256", &key.alg.to_lowercase()] {
            let signed = key.sign_with(&json!({"typ": "JWT", "alg": alg, "kid": key.kid}), &claims);
            forged.push(format!("{}.", signed.rsplit_once('.').unwrap().0));
            forged.push(signed);
        }
        // A key with an algorithm of another, and the key of somebody else under its id.
        for other in target.keys.iter().filter(|other| other.alg != key.alg) {
            forged.push(key.sign_with(&json!({"alg": other.alg, "kid": key.kid}), &claims));
            forged.push(key.sign_with(&json!({"alg": key.alg, "kid": other.kid}), &claims));
        }
        forged.push(IssuerKey::new(&key.kid, key.alg).sign(&claims));
        let signed = key.sign(&claims);
        let (message, signature) = signed.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        forged.push(format!("{message}.{}", "A".repeat(signature.len())));
        forged.push(message.to_owned());
        forged.push(format!("{message}."));
        forged.push(format!("{message}.{signature}="));
        forged.push(format!("{header}.{}.{signature}", encode(with(&claims, "sub", "admin").to_string())));
    }
    forged.extend(["a.b.c", "e30.e30.e30", "..", &"x".repeat(13_000)].map(str::to_owned));
    assert!(forged.len() > 150, "{}", forged.len());
    target.refuses(&forged);
}

#[test]
fn a_header_that_names_another_key_or_an_extension_does_not_log_in() {
    let target = Target::start();
    let evil = LocalIssuer::start(&[&IssuerKey::new("evil", "ES256")]);
    let claims = target.issuer.claims();
    let own = IssuerKey::new("evil", "ES256");
    let mut forged = Vec::new();
    for (member, value) in [
        ("jku", json!(format!("{}{JWKS}", evil.url))),
        ("x5u", json!(format!("{}/certificate", evil.url))),
        ("jwk", own.jwk()),
        ("x5c", json!(["MIIB"])),
    ] {
        forged.push(own.sign_with(&with(&json!({"alg": "ES256", "kid": "evil"}), member, value.clone()), &claims));
        forged.push(own.sign_with(&with(&json!({"alg": "ES256", "kid": "ES256"}), member, value), &claims));
    }
    for (member, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("typ", json!("logout+jwt")),
        ("typ", json!("dpop+jwt")),
        ("kid", json!("../../dev/null")),
        ("kid", json!("' OR 1=1 --")),
        ("kid", json!("{ES256}\r\nX: y")),
        ("kid", json!(["ES256"])),
        ("kid", json!({"a": 1})),
        ("kid", json!("x".repeat(5000))),
        ("alg", json!(["ES256"])),
    ] {
        let header = json!({"typ": "JWT", "alg": "ES256", "kid": "ES256"});
        forged.push(target.key("ES256").sign_with(&with(&header, member, value), &claims));
    }
    target.refuses(&forged);
    for path in [JWKS, DISCOVERY, "/certificate"] {
        assert!(evil.requests(path).is_empty(), "the header's URL was asked");
    }
    // Without a kid, one key only may fit the algorithm: here, one does.
    for (alg, header) in [("EdDSA", json!({"alg": "EdDSA"})), ("ES384", json!({"alg": "ES384", "typ": "at+JWT"}))] {
        assert_eq!(target.trusting.list(&target.key(alg).sign_with(&header, &claims)).status, 200);
    }
}

#[test]
fn claims_that_do_not_meet_the_rules_do_not_log_in() {
    let target = Target::start();
    let evil = LocalIssuer::start(&[]);
    let (issuer, key, claims) = (&target.issuer, target.key("ES256"), target.issuer.claims());
    let mut forged = Vec::new();
    for (name, value) in [
        ("iss", json!(format!("{}/", issuer.url))),
        ("iss", json!(format!("{}.evil.example", issuer.url))),
        ("iss", json!(format!("{}/../", issuer.url))),
        ("iss", json!(issuer.url.to_uppercase())),
        ("iss", json!(issuer.url.trim_end_matches(|c: char| c.is_ascii_digit()))),
        ("iss", json!(issuer.url.replace('1', "\u{ff11}"))),
        ("iss", json!([issuer.url])),
        ("iss", json!(evil.url)),
        ("aud", json!("https://mayfly.example/")),
        ("aud", json!("https://mayfly.exampl\u{435}")),
        ("aud", json!({"https://mayfly.example": 1})),
        ("aud", json!(["x"])),
        ("exp", json!(now() - 61)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!("9999999999")),
        ("exp", json!([9_999_999_999_u64])),
        ("exp", Value::Null),
        ("nbf", json!(now() + 120)),
        ("iat", json!(now() + 120)),
        ("sub", json!(["admin"])),
        ("sub", json!({"a": "admin"})),
        ("sub", json!("")),
        ("sub", json!("a b")),
        ("sub", json!("\u{430}dmin")),
        ("sub", json!("..")),
        ("sub", json!("x".repeat(65))),
    ] {
        forged.push(key.sign(&with(&claims, name, value)));
    }
    let mut without_expiry = claims.clone();
    without_expiry.as_object_mut().unwrap().remove("exp");
    forged.push(key.sign(&without_expiry));
    target.refuses(&forged);
    // What only looks odd logs in: RFC 7519 allows fractions, and times that are far away.
    for exp in [json!(4_000_000_000.5), json!(u64::MAX), json!(1e300)] {
        assert_eq!(target.trusting.list(&key.sign(&with(&claims, "exp", exp))).status, 200);
    }
}

#[test]
fn a_token_of_ours_is_no_subject_token() {
    let (issuer, _) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"ci\""));
    let (_, token) = trusting.service.admin().issue("x", "1h");
    let detail = trusting.exchange(&token, &[]).problem(400);
    assert_eq!(detail, "subject_token: this is no JWT of an issuer that is trusted here.");
    assert_eq!(trusting.list(&token).status, 403);
    // A service cannot trust itself.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .env("MAYFLY_ISSUERS_FILE", &trusting.file)
        .env("MAYFLY_JWT_ISSUER", &issuer.url)
        .env("MAYFLY_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && text.contains("MAYFLY_ISSUERS_FILE") && text.contains("itself"),
        "{text}"
    );
}

#[test]
fn unknown_key_ids_cause_one_fetch_in_ten_seconds_and_delay_nobody() {
    let ((issuer, key), (other, other_key)) = (issuer(), issuer());
    let text = [issuer.entry("user = \"ci\""), other.entry("user = \"other\"")].concat();
    let trusting = Trusting::start(Backend::Memory, &text);
    let (jwt, other_jwt) = (key.sign(&issuer.claims()), other_key.sign(&other.claims()));
    trusting.wait_for_keys(&jwt);
    trusting.wait_for_keys(&other_jwt);
    // From now on, a fetch takes long.
    issuer.answer(JWKS, Reply::keys(&[&key]).after(Duration::from_secs(3)));
    let begun = std::time::Instant::now();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (trusting, issuer, key) = (&trusting, &issuer, &key);
            scope.spawn(move || {
                for number in 0..600 {
                    let header = json!({"alg": "ES256", "kid": format!("{worker}-{number}")});
                    assert_eq!(trusting.list(&key.sign_with(&header, &issuer.claims())).status, 401);
                }
            });
        }
        for _ in 0..50 {
            for jwt in [&jwt, &other_jwt] {
                let asked = std::time::Instant::now();
                assert_eq!(trusting.list(jwt).status, 200);
                assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
            }
        }
    });
    let fetches = issuer.requests(JWKS);
    let allowed = 2 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
    assert!(fetches.len() <= allowed, "{} fetches in {:?}", fetches.len(), begun.elapsed());
    for pair in fetches.windows(2) {
        assert!(pair[1] - pair[0] > Duration::from_millis(9_500), "{:?}", pair[1] - pair[0]);
    }
    assert_eq!(other.requests(JWKS).len(), 1);
}

#[test]
fn a_service_without_issuers_takes_no_jwt_of_others() {
    let (issuer, key) = issuer();
    let service = Service::start(Backend::Memory);
    let client = service.client().with_bearer(&key.sign(&issuer.claims()));
    assert_eq!(client.get(TOKEN).send().status, 401);
    assert!(issuer.requests(DISCOVERY).is_empty());
}

//! Forged tokens (RFC 8725): each is rejected with 401, within 50 ms.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Service};

const VERIFY: &str = "/api/v1alpha/verify";

/// The longest that a rejection may take. It takes microseconds.
const LIMIT: Duration = Duration::from_secs(1);

/// A service, one of its live tokens in parts, and the key that signed it.
struct Target {
    service: Service,
    jwt: String,
    header: Value,
    claims: Value,
    secret: Vec<u8>,
}

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn decode(part: &str) -> Value {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

impl Target {
    fn new(backend: Backend) -> Self {
        Self::of(Service::start(backend))
    }

    fn of(service: Service) -> Self {
        let (_, jwt) = service.admin().issue("Token specter", "1h");
        let keys: Value = serde_json::from_str(&std::fs::read_to_string(&service.keys_file).unwrap()).unwrap();
        let secret = BASE64_URL_SAFE_NO_PAD.decode(keys["keys"][0]["k"].as_str().unwrap()).unwrap();
        let mut parts = jwt.split('.');
        let (header, claims) = (decode(parts.next().unwrap()), decode(parts.next().unwrap()));
        Self { service, jwt, header, claims, secret }
    }

    /// Signs this header and these claims with the key of the service.
    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let key = EncodingKey::from_secret(&self.secret);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    fn with_header(&self, member: &str, value: Value) -> String {
        let mut header = self.header.clone();
        header[member] = value;
        self.sign(&header.to_string(), &self.claims.to_string())
    }

    fn with_claim(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims.clone();
        claims[claim] = value;
        self.sign(&self.header.to_string(), &claims.to_string())
    }

    #[track_caller]
    /// Asserts that every endpoint rejects a token.
    fn rejects(&self, what: &str, token: &str) {
        let mut quickest = Duration::MAX;
        let client = self.service.client().with_bearer(token);
        // The quickest of three requests: the limit is for the service, not for stalls of the machine.
        for _ in 0..3 {
            let begun = Instant::now();
            let answer: Answer = client.get(VERIFY).send();
            quickest = quickest.min(begun.elapsed());
            answer.problem(401);
            assert!(answer.header("www-authenticate").contains("invalid_token"), "{what}");
        }
        assert!(quickest < LIMIT, "{what} took {quickest:?}");
        client.get("/api/v1alpha/token/self").send().problem(401);
        let inactive = self.service.admin().post_form("/oauth2/introspect", &[("token", token)]).send();
        assert_eq!(inactive.text, r#"{"active":false}"#, "{what}");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[rstest]
fn forged_headers_are_rejected(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let target = Target::new(backend);
    assert_eq!(target.service.client().with_bearer(&target.jwt).get(VERIFY).send().status, 200);
    let (message, signature) = target.jwt.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();

    for alg in ["none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "EdDSA", ""] {
        target.rejects(&format!("alg {alg:?}"), &target.with_header("alg", json!(alg)));
        let unsigned = json!({"typ": "JWT", "alg": alg, "kid": target.header["kid"]}).to_string();
        target.rejects(&format!("alg {alg:?} unsigned"), &format!("{}.{payload}.", encode(&unsigned)));
        target.rejects(&format!("alg {alg:?} resigned"), &format!("{}.{payload}.{signature}", encode(&unsigned)));
    }
    for (member, value) in [
        ("kid", json!("another")),
        ("kid", json!("../../dev/null")),
        ("kid", json!("' OR 1=1 --")),
        ("kid", Value::Null),
        ("typ", json!("at+jwt")),
        ("cty", json!("JWT")),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/cert.pem")),
        ("jwk", json!({"kty": "oct", "k": encode([0; 32])})),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        target.rejects(&format!("{member}: {value}"), &target.with_header(member, value));
    }
}

#[test]
fn a_token_signed_with_the_public_key_as_secret_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start_with(Backend::Memory, |command| {
        let key = mayfly::domain::key_rotation::generate(mayfly::domain::jwk::Algorithm::EdDsa, 0);
        let file = directory.path().join("keys.json");
        std::fs::write(&file, secrecy::ExposeSecret::expose_secret(&key)).unwrap();
        command.env("MAYFLY_JWT_KEYS_FILE", file);
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    let public = service.client().get("/.well-known/jwks.json").send().json();
    let (message, _) = jwt.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let x = public["keys"][0]["x"].as_str().unwrap();
    for secret in [BASE64_URL_SAFE_NO_PAD.decode(x).unwrap(), x.into()] {
        let mut confused = decode(header);
        for alg in ["HS256", "EdDSA"] {
            confused["alg"] = json!(alg);
            let message = format!("{}.{payload}", encode(confused.to_string()));
            let key = EncodingKey::from_secret(&secret);
            let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            service.client().with_bearer(&format!("{message}.{signature}")).get(VERIFY).send().problem(401);
        }
    }
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
}

#[rstest]
fn forged_claims_are_rejected_despite_a_valid_signature(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let target = Target::new(backend);
    let header = target.header.to_string();
    let claims = target.claims.to_string();
    for (claim, value) in [
        ("exp", json!(now() - 1)),
        ("exp", json!(now())),
        ("exp", json!(now() + 1_000_000)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(-1)),
        ("exp", json!("9999999999")),
        ("exp", json!(1e300)),
        ("exp", Value::Null),
        ("iat", json!(now() + 3600)),
        ("nbf", json!(now() + 3600)),
        ("username", json!("another")),
        ("username", json!("admin}:user")),
        ("username", json!("*")),
        ("username", json!("")),
        ("sub", json!("another")),
        ("jti", json!("b56929f3-54f1-4dc2-9984-9bba615e26e6")),
        ("jwt_token_id", json!("b56929f3-54f1-4dc2-9984-9bba615e26e6")),
        ("jwt_token_id", json!("*")),
        ("jwt_token_description", json!("another")),
        ("iss", json!("https://elsewhere.example")),
        ("role", json!("admin")),
    ] {
        target.rejects(&format!("{claim}: {value}"), &target.with_claim(claim, value));
    }
    let doubled = claims.replacen('{', r#"{"username":"another","#, 1);
    target.rejects("a duplicate claim", &target.sign(&header, &doubled));
    target.rejects("no claims", &target.sign(&header, "{}"));
    target.rejects("an array", &target.sign(&header, "[]"));
    target.rejects("no JSON", &target.sign(&header, "\u{0}"));
    target.rejects("deep JSON", &target.sign(&header, &"[".repeat(2000)));
    // The same claims in other bytes: the signature is valid, and the token was never issued.
    target.rejects("white space", &target.sign(&header, &claims.replacen('{', "{ ", 1)));
    let mut other = target.claims.clone();
    other["jwt_token_id"] = json!("b56929f3-54f1-4dc2-9984-9bba615e26e6");
    other["jti"] = other["jwt_token_id"].clone();
    target.rejects("never issued", &target.sign(&header, &other.to_string()));
}

#[rstest]
fn malformed_tokens_are_rejected(#[values("0", "250ms")] lease: &str) {
    let target = Target::of(Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", lease);
    }));
    let jwt = &target.jwt;
    // The verification is cached, and must not be found for the others.
    assert_eq!(target.service.client().with_bearer(jwt).get(VERIFY).send().status, 200);
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    // The last of 43 letters has two bits beyond the signature: another letter is another text of the same signature.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(signature.chars().last().unwrap()).unwrap();
    let twin = alphabet.chars().nth(last ^ 1).unwrap();
    for (what, token) in [
        ("a trailing dot", format!("{jwt}.")),
        ("a leading dot", format!(".{jwt}")),
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("five parts", format!("{jwt}.x.y")),
        ("padding", format!("{jwt}=")),
        ("another alphabet", format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+"))),
        ("a twin of the signature", format!("{message}.{}{twin}", &signature[..signature.len() - 1])),
        ("lower case", jwt.to_lowercase()),
        ("doubled", format!("{jwt}{jwt}")),
        ("4 KiB", "x".repeat(4096)),
        ("12 KiB of dots", ".".repeat(12_000)),
    ] {
        if token != *jwt {
            target.rejects(what, &token);
        }
    }
}

#[test]
fn a_megabyte_as_a_token_is_rejected() {
    let service = Service::start(Backend::Memory);
    let junk = "x".repeat(1 << 20);
    service.client().post_form("/oauth2/revoke", &[("token", &junk)]).send().problem(413);
    assert_eq!(service.client().with_bearer(&"x".repeat(40 << 10)).get(VERIFY).send().status, 431);
    assert_eq!(service.client().get("/livez").send().status, 200);
}

#[test]
fn a_token_in_two_authorization_headers_is_rejected() {
    let target = Target::new(Backend::Memory);
    let twice = target.service.client().with_bearer(&target.jwt).get(VERIFY);
    twice.header("authorization", &format!("Bearer {}", target.jwt)).send().problem(400);
}

//! The pattern of docs/verification.md, by which secret scanners find leaked tokens.

use std::{
    collections::HashSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, crypto};
use mayfly::domain::{
    claims::Claims,
    jwk::Algorithm,
    key_rotation::{generate, rotate},
    keys::KeySet,
    life::Life,
    token::TokenId,
    user::UserName,
};
use regex::{Regex, RegexBuilder};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Backend, Service, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The number of tokens of each kind.
const TOKENS: usize = 10_000;

/// Returns the pattern in the guide. Go's RE2, which gitleaks uses, and Hyperscan, which GitHub uses, read it alike: as
/// here, `\w` is ASCII for them.
fn pattern() -> Regex {
    let guide = fs::read_to_string(Path::new(ROOT).join("docs/verification.md")).unwrap();
    let (_, rest) = guide.split_once("regex = '''").unwrap();
    let (pattern, rest) = rest.split_once("'''").unwrap();
    // gitleaks searches only texts that contain the keyword, in lower case.
    let keyword = rest.trim_start().strip_prefix("keywords = [\"").unwrap().split('"').next().unwrap();
    assert!(pattern.to_lowercase().starts_with(keyword));
    RegexBuilder::new(pattern).unicode(false).build().unwrap()
}

/// A new token of these keys, with claims of any length.
fn token(keys: &KeySet) -> String {
    let name: UserName = "a".repeat(fastrand::usize(1..=64)).parse().unwrap();
    let description = "ü".repeat(fastrand::usize(1..=256)).parse().unwrap();
    let life = Life::parse(&format!("{}s", fastrand::u32(1..30_000_000))).unwrap();
    let issuer = fastrand::bool().then(|| "https://tokens.example".to_owned());
    let claims = Claims::new(&name, TokenId::random(), &description, life, fastrand::u64(0..1 << 32), issuer);
    keys.sign(&claims).expose_secret().to_owned()
}

/// Asserts that the pattern finds this token, and just its characters, wherever it leaked to.
#[track_caller]
fn is_found(pattern: &Regex, jwt: &str) {
    for text in [
        jwt.to_owned(),
        format!("Authorization: Bearer {jwt}\r\n"),
        format!(r#"{{"jwt_token":"{jwt}","jwt_token_life":1}}"#),
        format!("export TOKEN='{jwt}'\n"),
        format!("https://user:{jwt}@example.com/?token={jwt}&x=y"),
    ] {
        let found: HashSet<_> = pattern.find_iter(&text).map(|found| found.as_str()).collect();
        assert_eq!(found, HashSet::from([jwt]), "{text}");
    }
}

#[test]
fn every_token_of_a_generated_key_is_found() {
    let (pattern, key_count) = (pattern(), 100);
    for algorithm in Algorithm::ALL {
        for number in 0..key_count {
            let mut keys = generate(algorithm, 0);
            if number % 2 == 1 {
                keys = rotate(keys.expose_secret(), None, 0, Some(Duration::ZERO)).unwrap();
            }
            let keys = KeySet::parse(keys.expose_secret()).unwrap();
            (0..TOKENS / key_count).for_each(|_| is_found(&pattern, &token(&keys)));
        }
    }
}

#[test]
fn every_way_to_get_a_key_gives_tokens_that_are_found() {
    let (pattern, directory) = (pattern(), tempfile::tempdir().unwrap());
    let file = directory.path().join("keys.json");
    let mut files: Vec<PathBuf> = Vec::new();
    for (number, arguments) in
        [&["generate"][..], &["generate", "--alg", "EdDSA"], &["generate", "--alg", "ES256"]].into_iter().enumerate()
    {
        let file = directory.path().join(format!("{number}.json"));
        let output = run(Service::command().arg("key").args(arguments), "");
        assert!(output.status.success(), "{output:?}");
        fs::write(&file, output.stdout).unwrap();
        files.push(file);
    }
    fs::copy(&files[0], &file).unwrap();
    let output = run(Service::command().args(["key", "rotate"]).arg(&file), "");
    assert!(output.status.success(), "{output:?}");
    files.push(file);
    // It works in its own directory.
    fs::copy(Path::new(ROOT).join("deploy/secrets/create"), directory.path().join("create")).unwrap();
    let output = run(Command::new("bash").arg(directory.path().join("create")), "");
    assert!(output.status.success(), "{output:?}");
    files.push(directory.path().join("keys/jwt-keys.json"));
    for file in files {
        let keys = KeySet::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        is_found(&pattern, &token(&keys));
    }
    // The embedded store has a temporary key.
    let service = Service::start_with(Backend::Memory, |command| {
        command.env_remove("MAYFLY_JWT_KEYS_FILE");
    });
    is_found(&pattern, &service.admin().issue("x", "1h").1);
}

/// JWTs of other services, and such that look like ours: with another `kid`, or with the members of the header in
/// another order.
fn jwt_of_others(number: usize) -> String {
    let key = EncodingKey::from_secret(&[7; 32]);
    let claims = json!({"sub": "alice", "username": "alice", "jti": TokenId::random().to_string(), "exp": number});
    let random = TokenId::random().to_string();
    let kids = ["", "mayfly", "mayfly_", "Mayfly-", "mayflY-", "may-fly-", "x-mayfly-", "-mayfly-", " mayfly-"];
    let kid = kids.get(number % (kids.len() + 1)).map(|kid| format!("{kid}{random}"));
    if number.is_multiple_of(2) {
        let typ = (!number.is_multiple_of(3)).then(|| ["JWT", "at+jwt", "jwt"][number % 5 % 3].to_owned());
        return jsonwebtoken::encode(&Header { typ, kid, ..Header::default() }, &claims, &key).unwrap();
    }
    let alg = ["HS256", "EdDSA", "ES256", "RS256"][number % 4];
    let ours = format!("mayfly-{random}");
    let header = match number % 7 {
        0 => json!({"alg": alg, "typ": "JWT", "kid": ours}),
        1 => json!({"alg": alg, "kid": ours, "typ": "JWT"}),
        2 => json!({"kid": ours, "typ": "JWT", "alg": alg}),
        3 => json!({"typ": "JWT", "kid": ours, "alg": alg}),
        4 => json!({"typ": "JWT", "alg": "RS256", "kid": ours}),
        5 => json!({"typ": "JWT", "alg": alg, "jku": "https://example.com", "kid": ours}),
        _ => json!({"typ": "JWT", "alg": alg, "kid": kid}),
    };
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(&header), encode(&claims));
    let signature = crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn neither_this_tree_nor_tokens_of_others_are_found() {
    let pattern = pattern();
    let mut text = String::new();
    for number in 0..TOKENS {
        writeln!(text, r#"{{"token":"{}"}}"#, jwt_of_others(number)).unwrap();
    }
    let files = run(Command::new("git").args(["ls-files", "-z"]).current_dir(ROOT), "").stdout;
    let files = String::from_utf8(files).unwrap();
    let files: Vec<_> = files.split_terminator('\0').collect();
    assert!(files.contains(&"README.md") && files.contains(&"openapi/openapi.yaml"));
    for file in files {
        let bytes = fs::read(Path::new(ROOT).join(file)).unwrap();
        text += &String::from_utf8_lossy(&bytes);
    }
    let found: Vec<_> = pattern.find_iter(&text).map(|found| found.as_str()).collect();
    assert_eq!(found, [""; 0]);
}

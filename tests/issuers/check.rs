//! `mayfly issuer check`: what a file is worth, and what a JWT would be let in as.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Output,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::support::{
    Authority, Service,
    issuer::{DISCOVERY, IssuerKey, JWKS, LocalIssuer, Reply},
    run,
};

/// A file of issuers.
struct File {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("issuers.toml");
        fs::write(&path, text).unwrap();
        Self { path, _directory: directory }
    }

    /// Runs the command, with a JWT on standard input.
    fn check(&self, jwt: Option<&str>) -> Output {
        let mut command = Service::command();
        command.args(["issuer", "check"]).arg(&self.path).args(jwt.map(|_| "-"));
        run(&mut command, jwt.unwrap_or_default())
    }

    /// The output of a check that succeeds.
    #[track_caller]
    fn passes(&self, jwt: Option<&str>) -> String {
        let output = self.check(jwt);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The output and the error of a check that fails.
    #[track_caller]
    fn fails(&self, jwt: Option<&str>) -> String {
        let output = self.check(jwt);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

#[test]
fn a_jwt_of_each_algorithm_is_let_in_by_its_rules() {
    let keys = ["RS256", "PS256", "ES256", "ES384", "EdDSA"].map(|alg| IssuerKey::new(&format!("key-{alg}"), alg));
    let issuer = LocalIssuer::start(&keys.each_ref());
    let file = File::new(&issuer.entry("user = \"ci-{sub}\"\nmax_life = \"1 hour\"\nscopes = [\"deploy\"]"));
    let text = file.passes(None);
    assert!(text.contains("ok: 5 keys at") && text.contains(&issuer.url), "{text}");
    for key in &keys {
        let text = file.passes(Some(&key.sign(&issuer.claims())));
        for expected in [
            &format!("signature: ok: kid \"{}\", {}", key.kid, key.alg),
            "aud: ok: https://mayfly.example",
            "exp: ok: expires in",
            "user: ok: ci-a",
            "It logs in as ci-a (role user where the user is new; tokens live at most 1 hour; scopes: [\"deploy\"])",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}

#[test]
fn a_jwt_that_is_not_let_in_is_told_each_rule_that_it_breaks() {
    let key = IssuerKey::new("a", "ES256");
    let issuer = LocalIssuer::start(&[&key]);
    let entry = |lines: &str| issuer.entry(lines);
    let file = File::new(&format!(
        "{}\n{}",
        entry("user = \"ci-{owner}\"\nrequire = { ref = \"refs/heads/main\" }"),
        entry("user = \"ops\"\nrequire = { ref = [\"refs/heads/ops\", \"x\"] }")
    ));
    let mut claims = issuer.claims();
    claims["aud"] = json!("https://mayfly.example/");
    claims["exp"] = json!(5);
    claims["ref"] = json!("refs/heads/other");
    let text = file.fails(Some(&key.sign(&claims)));
    for expected in [
        "aud: FAILED: it is \"https://mayfly.example/\", and \"https://mayfly.example\" must be in it",
        "exp: FAILED: it has expired",
        "require.ref: FAILED: it is \"refs/heads/other\", and must be \"refs/heads/main\"",
        "require.ref: FAILED: it is \"refs/heads/other\", and must be \"refs/heads/ops\" or \"x\"",
        "user: FAILED: there is no claim \"owner\"",
        "user: ok: ops",
        "the JWT does not log in",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let other = IssuerKey::new("a", "ES256");
    let text = file.fails(Some(&other.sign(&issuer.claims())));
    assert!(text.contains("signature: FAILED: the signature is wrong"), "{text}");
    claims["iss"] = json!(format!("{}/", issuer.url));
    let text = file.fails(Some(&key.sign(&claims)));
    assert!(text.contains("is exactly") && text.contains(&issuer.url), "{text}");
    for (jwt, expected) in [("x", "this is no JWT"), ("", "this is no JWT")] {
        assert!(file.fails(Some(jwt)).contains(expected));
    }
}

#[test]
fn all_mistakes_in_a_file_are_told_at_once() {
    let text = File::new("[[issuer]]\nissuer = \"http://a\"\nuser = \"{\"\n[[issuer]]\nkeys = 1\n").fails(None);
    for expected in [
        "issuer 1 (http://a): issuer: must begin with https://",
        "issuer 1 (http://a): audience: missing",
        "issuer 1 (http://a): user: write the name of a claim",
        "issuer 2: issuer: missing",
        "issuer 2: keys: there is no such field",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let file = File::new("");
    assert_eq!(file.passes(None), "");
    fs::set_permissions(&file.path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(file.fails(None).contains("others can write"));
    // Those who write the keys can log in, too.
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [IssuerKey::new("a", "EdDSA").jwk()]}).to_string()).unwrap();
    let lines = format!("user = \"ci\"\naudience = \"x\"\njwks_file = \"{}\"", keys.display());
    let file = File::new(&format!("[[issuer]]\nissuer = \"ci\"\n{lines}\n"));
    assert!(file.passes(None).contains("ok: 1 keys"));
    fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o662)).unwrap();
    assert!(file.fails(None).contains("others can write"));
}

#[test]
fn an_issuer_that_misbehaves_has_no_keys() {
    let key = IssuerKey::new("a", "ES256");
    let issuer = LocalIssuer::start(&[&key]);
    let file = File::new(&issuer.entry("user = \"ci\""));
    let good = file.passes(None);
    assert!(good.contains("ok: 1 keys"), "{good}");
    let discovery = |uri: &str| Reply::json(&json!({"issuer": issuer.url, "jwks_uri": uri}));
    let keys = format!("{}{JWKS}", issuer.url);
    let mut many = vec![key.jwk(); 10_000];
    for (number, jwk) in many.iter_mut().enumerate() {
        jwk["kid"] = json!(number.to_string());
    }
    let elsewhere = LocalIssuer::start(&[&key]);
    for (path, reply, expected) in [
        (DISCOVERY, Reply::redirect("http://issuer.example/"), "answers 302, and redirects are not followed"),
        (DISCOVERY, Reply::redirect("http://169.254.169.254/latest/meta-data/"), "redirects are not followed"),
        (DISCOVERY, Reply::redirect(&format!("{}{DISCOVERY}", elsewhere.url)), "redirects are not followed"),
        (DISCOVERY, Reply { status: "500 Oh", ..Reply::bytes("") }, "the server answers 500"),
        (DISCOVERY, Reply::bytes("<html>"), "this is no OpenID configuration"),
        (DISCOVERY, Reply::json(&json!({"issuer": issuer.url})), "this is no OpenID configuration"),
        (DISCOVERY, Reply::json(&json!({"issuer": "https://x", "jwks_uri": keys})), "must be exactly as configured"),
        (DISCOVERY, discovery("http://169.254.169.254/keys"), "must begin with https://"),
        (DISCOVERY, discovery("https://169.254.169.254/keys"), "its address is link-local"),
        (DISCOVERY, discovery("http://issuer.example/keys"), "must begin with https://"),
        (DISCOVERY, discovery("file:///etc/passwd"), "\"jwks_uri\""),
        (JWKS, Reply::redirect(&format!("{}{JWKS}", elsewhere.url)), "redirects are not followed"),
        (JWKS, Reply::bytes("garbage"), "this is no JWK Set"),
        (JWKS, Reply::json(&json!({"keys": many})), "more than 1 MiB"),
        (JWKS, Reply::json(&json!({"keys": &many[..1000]})), "the set has 1000 keys, and at most 100"),
        (JWKS, Reply::json(&json!({"keys": [key.jwk(), key.jwk()]})), "two keys have the \"kid\" \"a\""),
        (JWKS, Reply::json(&json!({"keys": []})), "no key that can verify"),
        (JWKS, Reply::bytes(vec![b' '; 10 << 20]), "the document has more than 1 MiB"),
        (JWKS, Reply::keys(&[&key]).after(Duration::from_mins(1)), "no answer in time"),
    ] {
        issuer.answer(DISCOVERY, discovery(&keys));
        issuer.answer(JWKS, Reply::keys(&[&key]));
        issuer.answer(path, reply);
        let begun = Instant::now();
        let text = file.fails(None);
        assert!(text.contains(expected), "{expected} in {text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{expected}");
    }
    for path in [DISCOVERY, JWKS] {
        assert!(elsewhere.requests(path).is_empty(), "a redirect was followed");
    }
}

#[test]
fn only_keys_that_fit_verify() {
    let key = IssuerKey::new("a", "RS256");
    let issuer = LocalIssuer::start(&[]);
    let file = File::new(&issuer.entry("user = \"ci\""));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut jwk = key.jwk();
        change(&mut jwk);
        issuer.answer(JWKS, Reply::json(&json!({"keys": [jwk]})));
        file.check(Some(&key.sign(&issuer.claims()))).status.success()
    };
    assert!(changed(&|_| {}));
    assert!(changed(&|jwk| drop(jwk.as_object_mut().unwrap().remove("alg"))));
    assert!(changed(&|jwk| drop(jwk.as_object_mut().unwrap().remove("use"))));
    assert!(changed(&|jwk| jwk["key_ops"] = json!(["verify"])));
    assert!(!changed(&|jwk| jwk["alg"] = json!("PS256")));
    assert!(!changed(&|jwk| jwk["alg"] = json!("HS256")));
    assert!(!changed(&|jwk| jwk["alg"] = json!("RSA-OAEP")));
    assert!(!changed(&|jwk| jwk["use"] = json!("enc")));
    assert!(!changed(&|jwk| jwk["key_ops"] = json!(["encrypt"])));
    assert!(!changed(&|jwk| jwk["kid"] = json!("b")));
    assert!(!changed(&|jwk| jwk["kty"] = json!("oct")));
    // 1024 bits.
    assert!(!changed(&|jwk| jwk["n"] = json!(jwk["n"].as_str().unwrap()[..171])));
    // Some encoders write a zero in front, which changes nothing.
    assert!(changed(&|jwk| {
        let n = BASE64_URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
        jwk["n"] = json!(BASE64_URL_SAFE_NO_PAD.encode([&[0][..], &n].concat()));
    }));
}

#[test]
fn a_jwt_without_a_key_id_is_of_the_only_key_that_fits() {
    let keys = [IssuerKey::new("a", "ES256"), IssuerKey::new("b", "ES256"), IssuerKey::new("c", "EdDSA")];
    let issuer = LocalIssuer::start(&keys.each_ref());
    let file = File::new(&issuer.entry("user = \"ci\""));
    let check = |key: &IssuerKey| key.sign_with(&json!({"alg": key.alg}), &issuer.claims());
    assert!(file.passes(Some(&check(&keys[2]))).contains("signature: ok: no kid, EdDSA"));
    for key in &keys[..2] {
        let text = file.fails(Some(&check(key)));
        assert!(text.contains("no \"kid\", and the issuer has several keys for its \"alg\""), "{text}");
    }
}

#[test]
fn an_issuer_on_this_machine_is_asked_without_a_proxy() {
    let issuer = LocalIssuer::start(&[&IssuerKey::new("a", "ES256")]);
    let file = File::new(&issuer.entry("user = \"ci\""));
    let mut command = Service::command();
    command.args(["issuer", "check"]).arg(&file.path);
    // Nothing listens there.
    command.envs(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")));
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = run(&mut command, "");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_private_authority_verifies_the_issuer_of_its_entry_only() {
    let key = IssuerKey::new("a", "ES256");
    let authority = Authority::new();
    let identity = authority.identify("localhost");
    let directory = tempfile::tempdir().unwrap();
    let [key_file, ca_file] = ["key.pem", "ca.pem"].map(|name| directory.path().join(name));
    identity.write_key(&key_file);
    fs::write(&ca_file, authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.der()], PrivateKeyDer::from_pem_file(&key_file).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = json!({"keys": [key.jwk()]}).to_string();
    let server = thread::spawn(move || {
        // With the right authority, and without.
        for stream in listener.incoming().take(2) {
            let connection = ServerConnection::new(Arc::new(tls.clone())).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.flush();
        }
    });
    let entry = |more: &str| {
        let common = "issuer = \"kubernetes\"\naudience = \"mayfly\"\nuser = \"{sub}\"";
        format!("[[issuer]]\n{common}\njwks_uri = \"https://localhost:{port}/keys\"\n{more}\n")
    };
    let text = File::new(&entry(&format!("ca_file = \"{}\"", ca_file.display()))).passes(None);
    assert!(text.contains("ok: 1 keys"), "{text}");
    let text = File::new(&entry("")).fails(None);
    assert!(text.contains("certificate") || text.contains("UnknownIssuer"), "{text}");
    server.join().unwrap();
}

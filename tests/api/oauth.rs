//! `/oauth2` and `/.well-known`, by their RFCs: 6749, 7009, 7662 and 8414.

use base64::{Engine, prelude::BASE64_STANDARD};
use rstest::rstest;
use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Service, run};

const INTROSPECT: &str = "/oauth2/introspect";
const REVOKE: &str = "/oauth2/revoke";
const SELF: &str = "/api/v1alpha/token/self";

#[rstest]
fn a_live_token_is_introspected(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start_with(backend, |command| {
        command.env("MAYFLY_JWT_ISSUER", "https://tokens.example");
    });
    let (id, jwt) = service.admin().issue("x", "1h");
    for client in [service.admin(), service.client().with_bearer(&jwt)] {
        for fields in [&[("token", &*jwt)][..], &[("token", &jwt), ("token_type_hint", "access_token"), ("x", "y")]] {
            let answer = client.post_form(INTROSPECT, fields).send();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("cache-control"), "no-store");
            let body = answer.json();
            let [iat, exp, age_ms] = ["iat", "exp", "age_ms"].map(|name| body[name].as_u64().unwrap());
            assert_eq!(exp - iat, 3600);
            assert_eq!(
                body,
                json!({
                    "active": true, "username": "admin", "sub": "admin", "jti": id, "iat": iat, "exp": exp,
                    "iss": "https://tokens.example", "token_type": "Bearer", "age_ms": age_ms,
                })
            );
        }
    }
}

#[rstest]
fn the_introspection_of_an_invalid_token_says_only_inactive(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, revoked) = admin.issue("x", "1h");
    admin.delete(&format!("/api/v1alpha/token/{id}")).send();
    for token in [&*revoked, "", "x", "a.b.c", &"x".repeat(10_000)] {
        let answer = admin.post_form(INTROSPECT, &[("token", token)]).send();
        assert_eq!((answer.status, &*answer.text), (200, r#"{"active":false}"#), "{token}");
    }
    let caller = service.client().with_bearer(&revoked).post_form(INTROSPECT, &[("token", "x")]).send();
    caller.problem(401);
    assert_eq!(caller.json()["error"], "invalid_token");
    let caller = service.client().with_basic("admin", "wrong").post_form(INTROSPECT, &[("token", "x")]).send();
    caller.problem(401);
    assert_eq!(caller.json()["error"], "invalid_client");
}

#[test]
fn only_introspectors_and_administrators_introspect_others_tokens() {
    let service = Service::start(Backend::Redis);
    for (name, role) in [("bob", "user"), ("gate", "introspector")] {
        service.add_user(name, role);
    }
    let bob = service.client().with_basic("bob", "secret");
    let (_, bobs) = bob.issue("x", "1h");
    let (_, admins) = service.admin().issue("x", "1h");
    let active = |name: &str, password: &str, token: &str| {
        let client = service.client().with_basic(name, password);
        client.post_form(INTROSPECT, &[("token", token)]).send().json()["active"].as_bool().unwrap()
    };
    assert_eq!((active("bob", "secret", &bobs), active("bob", "secret", &admins)), (true, false));
    assert_eq!((active("gate", "secret", &bobs), active("gate", "secret", &admins)), (true, true));
    assert_eq!((active("admin", ADMIN_PASSWORD, &bobs), active("admin", ADMIN_PASSWORD, &admins)), (true, true));
    // A token has the role of its owner.
    let with_token = |token: &str, about: &str| {
        service.client().with_bearer(token).post_form(INTROSPECT, &[("token", about)]).send().json()["active"].clone()
    };
    assert_eq!((with_token(&bobs, &admins), with_token(&admins, &bobs)), (json!(false), json!(true)));
}

#[rstest]
fn the_holder_of_a_token_may_revoke_it(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let (_, jwt) = service.admin().issue("x", "1h");
    let (_, other) = service.admin().issue("y", "1h");
    let bearer = service.client().with_bearer(&jwt);
    assert_eq!(bearer.get("/api/v1alpha/verify").send().status, 200);
    for token in [&*jwt, &jwt, "x", ""] {
        let answer = service.client().post_form(REVOKE, &[("token", token), ("token_type_hint", "x")]).send();
        assert_eq!((answer.status, &*answer.text), (200, ""), "{token}");
    }
    bearer.get("/api/v1alpha/verify").send().problem(401);
    bearer.get(SELF).send().problem(401);
    assert_eq!(service.client().with_bearer(&other).get(SELF).send().status, 200);
}

/// `curl --data-urlencode token@file` sends the line end of the file.
#[rstest]
fn white_space_around_a_token_is_ignored(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    for (before, after) in [("", "\n"), ("", "\r\n"), (" \t", " "), ("\n", "\n\n")] {
        let (_, jwt) = admin.issue("x", "1h");
        let form = [("token", &*format!("{before}{jwt}{after}"))];
        assert_eq!(admin.post_form(INTROSPECT, &form).send().json()["active"], true, "{form:?}");
        assert_eq!(service.client().post_form(REVOKE, &form).send().status, 200);
        service.client().with_bearer(&jwt).get(SELF).send().problem(401);
        assert_eq!(admin.post_form(INTROSPECT, &form).send().text, r#"{"active":false}"#);
    }
}

/// As editors and shells put it into a form: a client must not believe that a token was revoked which lives on.
#[rstest]
fn a_token_is_sent_alone(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    for (before, after) in [("\u{feff}", ""), ("\u{feff} ", "\r\n"), ("\n\u{feff}", "\u{feff}")] {
        let (_, jwt) = admin.issue("x", "1h");
        let form = [("token", &*format!("{before}{jwt}{after}"))];
        assert_eq!(admin.post_form(INTROSPECT, &form).send().json()["active"], true, "{form:?}");
        assert_eq!(service.client().post_form(REVOKE, &form).send().status, 200);
        service.client().with_bearer(&jwt).get(SELF).send().problem(401);
    }
    let (_, jwt) = admin.issue("x", "1h");
    for (before, after) in
        [("Bearer ", ""), ("bearer  ", ""), ("\"", "\""), ("'", "'"), ("token: ", ""), ("", " x"), ("<", ">")]
    {
        for (client, path) in [(&admin, INTROSPECT), (&service.client(), REVOKE)] {
            let answer = client.post_form(path, &[("token", &format!("{before}{jwt}{after}"))]).send();
            answer.problem(400);
            assert_eq!(answer.json()["error"], "invalid_request", "{path} {before}");
            assert_eq!(answer.json()["message"], "token: send the token alone, without \"Bearer\" and without quotes.");
        }
    }
    assert_eq!(service.client().with_bearer(&jwt).get(SELF).send().status, 200);
}

#[test]
fn a_revocation_without_redis_is_503() {
    let mut service = Service::start(Backend::Redis);
    let (_, jwt) = service.admin().issue("x", "1h");
    drop(service.redis.take());
    let answer = service.client().post_form(REVOKE, &[("token", &jwt)]).send();
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
    // A token that Mayfly never issued is known to be invalid without Redis.
    assert_eq!(service.client().post_form(REVOKE, &[("token", "x")]).send().status, 200);
}

#[test]
fn malformed_forms_are_rejected() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    for path in [INTROSPECT, REVOKE] {
        for body in ["", "x=y", "token=a&token=b"] {
            let form = "application/x-www-form-urlencoded";
            let answer = admin.request("POST", path).header("content-type", form).body(body).send();
            answer.problem(400);
            assert_eq!(answer.json()["error"], "invalid_request", "{path} {body}");
        }
        admin.post(path, &json!({"token": "x"})).send().problem(415);
        admin.request("POST", path).body("token=x").send().problem(415);
        admin.post_form(path, &[("token", &"x".repeat(17_000))]).send().problem(413);
    }
    service.client().post_form(INTROSPECT, &[("token", "x")]).send().problem(401);
}

/// Form-encodes a text as `openid-client` and `oauth4webapi` do: all but letters and digits.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| match byte {
        b' ' => text + "+",
        byte if byte.is_ascii_alphanumeric() => text + &char::from(byte).to_string(),
        byte => text + &format!("%{byte:02X}"),
    })
}

/// The status of a request to a path with these credentials.
fn status_of(service: &Service, method: &str, path: &str, name: &str, password: &str) -> u16 {
    let credentials = BASE64_STANDARD.encode(format!("{name}:{password}"));
    let draft = service.client().request(method, path).header("authorization", &format!("Basic {credentials}"));
    draft.header("content-type", "application/x-www-form-urlencoded").body("token=x").send().status
}

#[rstest]
fn a_client_secret_may_be_form_encoded(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let introspect = |name: &str, password: &str| status_of(&service, "POST", INTROSPECT, name, password);
    let passwords = ["a-._%+:b", "correct horse battery staple", "100%25", "a+b", "50%+x", "%", "é~ü", "secret"];
    for (number, password) in passwords.into_iter().enumerate() {
        for name in [format!("order-service{number}"), format!("plain{number}"), format!("a+b@c{number}")] {
            let body = json!({"username": name, "role": "introspector", "password": password});
            assert_eq!(service.admin().post("/api/v1alpha/user", &body).send().status, 201);
            // Plain (curl, authlib), encoded (RFC 6749, section 2.3.1), and encoded but for `-._~` (Python).
            let python =
                encoded(password).replace("%2D", "-").replace("%2E", ".").replace("%5F", "_").replace("%7E", "~");
            assert_eq!(introspect(&name, password), 200, "{name} {password}");
            assert_eq!(introspect(&encoded(&name), &encoded(password)), 200, "{name} {password}");
            assert_eq!(introspect(&encoded(&name), &python), 200, "{name} {python}");
            assert_eq!(introspect(&name, "wrong"), 401, "{name} {password}");
            // Other paths take the plain password only.
            let elsewhere = |password: &str| status_of(&service, "GET", "/api/v1alpha/token", &name, password);
            assert_eq!(elsewhere(password), 200);
            if encoded(password) != password {
                assert_eq!(elsewhere(&encoded(password)), 401, "{name} {password}");
            }
        }
    }
}

#[test]
fn a_password_that_may_be_encoded_counts_as_one_failure() {
    // The failures before the login is throttled.
    let failures = |password: &str| {
        let service = Service::start(Backend::Memory);
        (0..100).take_while(|_| status_of(&service, "POST", INTROSPECT, "admin", password) == 401).count()
    };
    let plain = failures("wrong:");
    assert!((1..100).contains(&plain), "{plain}");
    assert_eq!([failures("wr%4Fng"), failures("wr+ng"), failures("%")], [plain; 3]);
}

#[test]
fn authlib_logs_in_and_accepts_the_metadata() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_JWT_ISSUER", "https://tokens.example/shop/");
    });
    let (name, password) = ("order-service", "a-._%+:b");
    let user = json!({"username": name, "role": "introspector", "password": password});
    assert_eq!(service.admin().post("/api/v1alpha/user", &user).send().status, 201);
    let (_, jwt) = service.admin().issue("x", "1h");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/authlib_client.py");
    let mut command = std::process::Command::new(python);
    command.args([script, &service.url, "https://tokens.example/shop/", name, password, &jwt]);
    let output = run(&mut command, "");
    assert!(output.status.success(), "{output:?}");
    service.client().with_bearer(&jwt).get(SELF).send().problem(401);
}

#[test]
fn the_urls_of_the_metadata_have_the_scheme_of_the_request() {
    let metadata = |service: &Service, path: &str, headers: &[(&str, &str)]| {
        let draft = service.client().get(&format!("/.well-known/oauth-authorization-server{path}"));
        headers.iter().fold(draft, |draft, (name, value)| draft.header(name, value)).send()
    };
    let start = |variable: &'static str, value: &'static str| {
        Service::start_with(Backend::Memory, move |command| {
            command.env(variable, value);
        })
    };
    let proxied = start("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    let direct = start("MAYFLY_TRUSTED_PROXIES", "10.0.0.0/8");
    for headers in [[("x-forwarded-proto", "https")], [("forwarded", "for=192.0.2.1;proto=https")]] {
        let asked = |service| metadata(service, "", &headers).json()["jwks_uri"].as_str().unwrap().to_owned();
        assert!(asked(&proxied).starts_with("https://127.0.0.1:") && asked(&direct).starts_with("http://127.0.0.1:"));
    }
    let plain = metadata(&proxied, "", &[]).json();
    assert!(plain["issuer"].as_str().unwrap().starts_with("http://"));
    assert!(plain.as_object().unwrap().values().all(|value| value.as_array().is_none_or(|array| !array.is_empty())));
    metadata(&proxied, "/shop", &[]).problem(404);

    // RFC 8414, section 3.1.
    let issuer = start("MAYFLY_JWT_ISSUER", "https://tokens.example/a/shop/");
    for path in ["/a/shop", "/a/shop/", ""] {
        let found = metadata(&issuer, path, &[]).json();
        assert_eq!(found["issuer"], "https://tokens.example/a/shop/");
        assert_eq!(found["introspection_endpoint"], "https://tokens.example/a/shop/oauth2/introspect");
    }
    for path in ["/a", "/a/shop/x", "/shop"] {
        metadata(&issuer, path, &[]).problem(404);
    }
}

#[test]
fn the_metadata_name_the_endpoints() {
    let service = Service::start(Backend::Memory);
    let metadata = service.client().get("/.well-known/oauth-authorization-server").send().json();
    assert_eq!(metadata["issuer"], service.url);
    for (member, path) in [
        ("jwks_uri", "/.well-known/jwks.json"),
        ("introspection_endpoint", INTROSPECT),
        ("revocation_endpoint", REVOKE),
    ] {
        assert_eq!(metadata[member], format!("{}{path}", service.url));
    }
    let issuer = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_JWT_ISSUER", "https://tokens.example");
    });
    let metadata = issuer.client().get("/.well-known/oauth-authorization-server").send().json();
    assert_eq!(metadata["issuer"], "https://tokens.example");
    assert_eq!(metadata["jwks_uri"], "https://tokens.example/.well-known/jwks.json");
}

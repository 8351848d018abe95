//! Errors: every one is a problem (RFC 9457), whichever layer finds it.

use std::io::Read;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Service};

const TOKEN: &str = "/api/v1alpha/token";

#[test]
fn malformed_bodies_are_rejected_with_the_reason() {
    let service = Service::start(Backend::Memory);
    let post = |content_type: &str, body: &str| {
        service.admin().request("POST", TOKEN).header("content-type", content_type).body(body).send()
    };
    let good = r#"{"jwt_token_description": "x", "jwt_token_life": "1h"}"#;
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        assert_eq!(post(content_type, good).status, 201, "{content_type}");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        post(content_type, good).problem(415);
    }
    service.admin().request("POST", TOKEN).body(good).send().problem(415);
    for (body, hint) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "must be a JSON object"),
        (r#"["x", "1h"]"#, "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("\"x\"", "must be a JSON object"),
        ("{}", "missing field `jwt_token_description`"),
        (r#"{"jwt_token_description": "x"}"#, "missing field `jwt_token_life`"),
        (r#"{"jwt_token_description": 1, "jwt_token_life": "1h"}"#, "invalid type"),
        (r#"{"jwt_token_description": "x", "jwt_token_life": 3600}"#, "invalid type"),
        (r#"{"jwt_token_description": null, "jwt_token_life": "1h"}"#, "invalid type"),
        (r#"{"jwt_token_description": "x", "jwt_token_life": "1h", "admin": true}"#, "unknown field `admin`"),
        (r#"{"jwt_token_description": "x", "jwt_token_life": "1h", "jwt_token_life": "2h"}"#, "duplicate field"),
        (r#"{"jwt_token_description": "x", "jwt_token_life": "1h"} x"#, "trailing"),
    ] {
        let detail = post("application/json", body).problem(400);
        assert!(detail.contains(hint), "{body}: {detail}");
    }
    service
        .admin()
        .request("POST", TOKEN)
        .header("content-type", "application/json")
        .body(b"\"\xff\"")
        .send()
        .problem(400);
}

#[test]
fn large_bodies_and_headers_are_rejected() {
    let service = Service::start(Backend::Memory);
    let body = json!({"jwt_token_description": "x".repeat(16 * 1024), "jwt_token_life": "1h"});
    service.admin().post(TOKEN, &body).send().problem(413);
    service.admin().get(TOKEN).header("x-padding", &"x".repeat(17 * 1024)).send().problem(431);
    assert_eq!(service.admin().get(TOKEN).header("x-padding", &"x".repeat(15 * 1024)).send().status, 200);
}

#[test]
fn unknown_paths_are_404_and_unknown_methods_405_with_allow() {
    let service = Service::start(Backend::Memory);
    for path in ["/nothing", "/api", "/api/v1alpha", "/api/v1alpha/token/x/y", "/docs/x", "//api/v1alpha/nothing"] {
        service.client().get(path).send().problem(404);
    }
    for (method, path, allow) in [
        ("PUT", TOKEN, "POST, GET, HEAD, DELETE"),
        ("PATCH", "/api/v1alpha/token/", "POST, GET, HEAD, DELETE"),
        ("GET", "/oauth2/introspect", "POST"),
        ("POST", "/api/v1alpha/token/b56929f3-54f1-4dc2-9984-9bba615e26e6", "GET, HEAD, DELETE"),
        ("PATCH", "/api/v1alpha/token/self", "GET, HEAD, DELETE"),
        ("OPTIONS", TOKEN, "POST, GET, HEAD, DELETE"),
        ("TRACE", "/livez", "GET, HEAD"),
        ("PUT", "//api//v1alpha/token", "POST, GET, HEAD, DELETE"),
        ("POST", "/docs", "GET, HEAD"),
        ("PUT", "/openapi.json", "GET, HEAD"),
    ] {
        let answer = service.admin().request(method, path).send();
        assert!(answer.problem(405).contains(allow));
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}

#[test]
fn head_is_answered_like_get_without_a_body() {
    let service = Service::start(Backend::Memory);
    let answer = service.admin().request("HEAD", TOKEN).send();
    assert_eq!((answer.status, &*answer.text), (200, ""));
}

#[test]
fn a_request_keeps_a_valid_request_id() {
    let service = Service::start(Backend::Memory);
    let id = |given: &str| {
        let answer = service.client().get(TOKEN).header("x-request-id", given).send();
        answer.problem(401);
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(id("deploy-42.a_b"), "deploy-42.a_b");
    for odd in ["", "a b", "a\"b", "ü", &"x".repeat(65)] {
        assert!(uuid::Uuid::parse_str(&id(odd)).is_ok(), "{odd:?}");
    }
}

#[test]
fn a_content_length_over_the_limit_is_rejected_before_the_body() {
    let service = Service::start(Backend::Memory);
    let basic = BASE64_STANDARD.encode(format!("admin:{ADMIN_PASSWORD}"));
    let request = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {basic}\r\nContent-Type: application/json\r\n\
         Content-Length: 999999\r\n\r\n{{}}"
    );
    assert!(service.raw(request.as_bytes()).starts_with("HTTP/1.1 413 "));
}

#[test]
fn malformed_requests_are_rejected_and_do_no_harm() {
    let service = Service::start(Backend::Memory);
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        assert!(service.raw(bytes).starts_with("HTTP/1.1 400 "), "{bytes:?}");
    }
    let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(service.raw(endless.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert_eq!(service.client().get("/livez").send().status, 200);
}

#[test]
fn contradicting_lengths_are_rejected() {
    let service = Service::start(Backend::Memory);
    for headers in ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: x", "Transfer-Encoding: gzip"] {
        let answer = service.raw(format!("POST {TOKEN} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\nhello").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers}: {answer}");
    }
}

#[test]
fn a_request_has_one_host_header() {
    let service = Service::start(Backend::Memory);
    let ask = |version: &str, hosts: &str| {
        service.raw(format!("GET /livez HTTP/{version}\r\nConnection: close\r\n{hosts}\r\n").as_bytes())
    };
    for (version, hosts) in [("1.1", ""), ("1.1", "Host: x\r\nhost: x\r\n"), ("1.0", "Host: x\r\nHost: y\r\n")] {
        let answer = ask(version, hosts);
        assert!(answer.contains(" 400 Bad Request\r\n") && answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains("one Host header"), "{answer}");
    }
    for (version, hosts) in [("1.1", "Host: x\r\n"), ("1.1", "Host:\r\n"), ("1.0", ""), ("1.0", "Host: x\r\n")] {
        let answer = ask(version, hosts);
        assert!(answer.contains(" 200 OK\r\n"), "{version} {hosts}: {answer}");
    }
}

#[test]
fn no_secret_is_logged() {
    let mut log = tempfile::tempfile().unwrap();
    let redirected = log.try_clone().unwrap();
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LOG", "trace").stderr(redirected);
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send();
    service.client().with_basic("admin", "wrong-password").get(TOKEN).send();
    drop(service);
    let mut text = String::new();
    std::io::Seek::rewind(&mut log).unwrap();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains("request_id"), "{text}");
    let basic = BASE64_STANDARD.encode(format!("admin:{ADMIN_PASSWORD}"));
    for secret in [ADMIN_PASSWORD, "wrong-password", &jwt, &basic, "argon2id$"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

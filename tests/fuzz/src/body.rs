//! Bodies of requests, in JSON and as forms.

use poem::{
    Request,
    http::{Method, StatusCode, header},
};
use serde_json::{Map, Value, json};

use super::in_process::{Answer, InProcess, with_service};

const TOKEN: &str = "/api/v1alpha/token";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// The longest life that this service allows, in seconds.
const MAX_LIFE: u64 = 365 * 86_400;

/// Sends the input, without its first byte, to the operation that this byte stands for.
pub fn check(input: &[u8]) {
    let Some((operation, body)) = input.split_first() else { return };
    with_service(|service| match operation % 4 {
        0 => issue(service, body),
        1 => rotate(service, body),
        2 => introspect(service, body),
        _ => revoke(service, body),
    });
}

fn send(service: &InProcess, method: Method, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri_str(path)
        .header(header::AUTHORIZATION, InProcess::authorization())
        .header(header::CONTENT_TYPE, content_type);
    service.answer(request.body(body.to_vec()))
}

/// Revokes all tokens of the administrator, and says how many there were.
fn revoke_all(service: &InProcess) -> Value {
    let answer = send(service, Method::DELETE, TOKEN, JSON, b"");
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()["jwt_tokens_deleted"].clone()
}

/// What is issued is what the body asks for, in the words that the answer repeats.
fn issue(service: &InProcess, body: &[u8]) {
    let answer = send(service, Method::POST, TOKEN, JSON, body);
    if answer.status != StatusCode::CREATED {
        return assert!([StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE].contains(&answer.status));
    }
    let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
    assert_eq!(asked.len(), 2);
    let issued = answer.json();
    assert_eq!(issued["jwt_token_description"], asked["jwt_token_description"].as_str().unwrap().trim());
    let life = issued["jwt_token_life"].as_u64().unwrap();
    assert!((1..=MAX_LIFE).contains(&life));
    super::life::check(asked["jwt_token_life"].as_str().unwrap().as_bytes());
    let presented = service.run(service.services.tokens.verify(issued["jwt_token"].as_str().unwrap())).unwrap();
    assert_eq!(presented.signed.expires_at - presented.signed.issued_at, life);
    assert_eq!(presented.live.token.description.as_str(), issued["jwt_token_description"]);
    assert_eq!(revoke_all(service), 1);
}

/// A rotated token has one successor, and dies where there is no overlap.
fn rotate(service: &InProcess, body: &[u8]) {
    let wanted = json!({"jwt_token_description": "x", "jwt_token_life": "1h"}).to_string();
    let issued = send(service, Method::POST, TOKEN, JSON, wanted.as_bytes()).json();
    let path = format!("{TOKEN}/{}/rotate", issued["jwt_token_id"].as_str().unwrap());
    let status = send(service, Method::POST, &path, JSON, body).status;
    let left = revoke_all(service);
    if status == StatusCode::CREATED {
        assert!(left == 1 || left == 2);
    } else {
        assert!([StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE].contains(&status));
        assert_eq!(left, 1);
    }
}

/// Whether a form is about the one token that was issued to somebody else.
fn names_live_token(service: &InProcess, body: &[u8]) -> bool {
    let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(body).unwrap_or_default();
    fields.iter().any(|(name, value)| name == "token" && *value == service.jwt)
}

fn introspect(service: &InProcess, body: &[u8]) {
    let answer = send(service, Method::POST, "/oauth2/introspect", FORM, body);
    if answer.status == StatusCode::OK {
        assert_eq!(answer.json()["active"], names_live_token(service, body));
    } else {
        assert!([StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE].contains(&answer.status));
    }
}

fn revoke(service: &InProcess, body: &[u8]) {
    if names_live_token(service, body) {
        return;
    }
    let status = send(service, Method::POST, "/oauth2/revoke", FORM, body).status;
    assert!([StatusCode::OK, StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE].contains(&status));
    assert!(service.run(service.services.tokens.verify(&service.jwt)).is_ok());
}

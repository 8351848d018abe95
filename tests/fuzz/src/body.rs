//! Bodies of requests, in JSON and as forms.

use poem::{
    Request,
    http::{Method, StatusCode, header},
};
use serde_json::{Map, Value, json};

use super::in_process::{Answer, InProcess, LOGIN, with_service};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";
const CAROL: &str = "/api/v1alpha/user/carol";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// The longest life of a token, in seconds.
const MAX_LIFE: u64 = 365 * 86_400;

/// Sends the input without its first byte, which chooses the operation.
pub fn check(input: &[u8]) {
    let Some((operation, body)) = input.split_first() else { return };
    with_service(|service| match operation % 8 {
        0 => issue(service, body),
        1 => rotate(service, body),
        2 => introspect(service, body),
        3 => revoke(service, body),
        4 => add_user(service, body),
        5 => change_user(service, body),
        6 => change_last_admin(service, body),
        _ => change_password(service, body),
    });
}

fn send(service: &InProcess, method: Method, path: &str, content_type: &str, body: &[u8]) -> Answer {
    send_as(service, LOGIN, method, path, content_type, body)
}

fn send_as(service: &InProcess, login: &str, method: Method, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri_str(path)
        .header(header::AUTHORIZATION, InProcess::authorization(login))
        .header(header::CONTENT_TYPE, content_type);
    service.answer(request.body(body.to_vec()))
}

/// Whether a request was refused for its body, and not for the state of the service.
fn refuses_body(status: StatusCode) -> bool {
    [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE].contains(&status)
}

/// Revokes all tokens of the administrator, and returns their number.
fn revoke_all(service: &InProcess) -> Value {
    let answer = send(service, Method::DELETE, &format!("{TOKEN}?all=true"), JSON, b"");
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()["jwt_tokens_deleted"].clone()
}

/// A token is issued as the body asks, and the answer repeats its fields.
fn issue(service: &InProcess, body: &[u8]) {
    let answer = send(service, Method::POST, TOKEN, JSON, body);
    if answer.status != StatusCode::CREATED {
        return assert!(refuses_body(answer.status));
    }
    let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
    let issued = answer.json();
    assert_eq!(issued["jwt_token_description"], asked["jwt_token_description"].as_str().unwrap().trim());
    let life = issued["jwt_token_life"].as_u64().unwrap();
    assert!((1..=MAX_LIFE).contains(&life));
    super::life::check(asked["jwt_token_life"].as_str().unwrap().as_bytes());
    let presented = service.run(service.services.tokens.verify(issued["jwt_token"].as_str().unwrap())).unwrap();
    let validity = presented.signed.validity;
    assert_eq!(validity.expires_at() - validity.issued_at(), life);
    let inspected =
        service.run(service.services.tokens.inspect_presented(issued["jwt_token"].as_str().unwrap())).unwrap();
    assert_eq!(inspected.token.description.as_str(), issued["jwt_token_description"]);
    let [scopes, audiences, networks] = inspected.token.attributes.entries();
    let entries = |field: &str| asked.get(field).map_or(&[][..], |value| value.as_array().unwrap());
    assert_eq!(scopes, entries("jwt_token_scopes"));
    assert_eq!(audiences, entries("jwt_token_audiences"));
    // Networks have another written form.
    assert_eq!(networks.len(), entries("jwt_token_networks").len());
    let attributes = ["jwt_token_scopes", "jwt_token_audiences", "jwt_token_networks"];
    assert_eq!(asked.len(), 2 + attributes.iter().filter(|field| asked.contains_key(**field)).count());
    assert_eq!(revoke_all(service), 1);
}

/// A rotated token has one successor, and is revoked where there is no overlap.
fn rotate(service: &InProcess, body: &[u8]) {
    let wanted = json!({"jwt_token_description": "x", "jwt_token_life": "1h"}).to_string();
    let issued = send(service, Method::POST, TOKEN, JSON, wanted.as_bytes()).json();
    let path = format!("{TOKEN}/{}/rotate", issued["jwt_token_id"].as_str().unwrap());
    let status = send(service, Method::POST, &path, JSON, body).status;
    let left = revoke_all(service);
    if status == StatusCode::CREATED {
        assert!(left == 1 || left == 2);
    } else {
        assert!(refuses_body(status));
        assert_eq!(left, 1);
    }
}

/// Whether a form names the token that was issued to another user.
fn names_live_token(service: &InProcess, body: &[u8]) -> bool {
    let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(body).unwrap_or_default();
    fields.iter().any(|(name, value)| name == "token" && *value == service.jwt)
}

fn introspect(service: &InProcess, body: &[u8]) {
    let answer = send(service, Method::POST, "/oauth2/introspect", FORM, body);
    if answer.status == StatusCode::OK {
        assert_eq!(answer.json()["active"], names_live_token(service, body));
    } else {
        assert!(refuses_body(answer.status));
    }
}

fn revoke(service: &InProcess, body: &[u8]) {
    if names_live_token(service, body) {
        return;
    }
    let status = send(service, Method::POST, "/oauth2/revoke", FORM, body).status;
    assert!(status == StatusCode::OK || refuses_body(status));
    assert!(service.run(service.services.tokens.verify(&service.jwt)).is_ok());
}

/// A user is added as the body asks, and can log in with the password of the body.
fn add_user(service: &InProcess, body: &[u8]) {
    let answer = send(service, Method::POST, USER, JSON, body);
    if answer.status != StatusCode::CREATED {
        return assert!(answer.status == StatusCode::CONFLICT || refuses_body(answer.status));
    }
    let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
    let (name, password) = (asked["username"].as_str().unwrap(), asked["password"].as_str().unwrap());
    assert_eq!(asked.len(), if asked.contains_key("role") { 3 } else { 2 });
    let added = answer.json();
    assert_eq!(added["username"], name);
    assert_eq!(&added["role"], asked.get("role").unwrap_or(&"user".into()));
    assert_eq!(added["disabled"], false);
    assert_eq!(tokens(service, &format!("{name}:{password}")), Some(0));
    remove(service, answer.headers[header::LOCATION].to_str().unwrap());
}

/// A user is changed as the body says, or not at all.
fn change_user(service: &InProcess, body: &[u8]) {
    add_carol(service);
    let answer = send(service, Method::PATCH, CAROL, JSON, body);
    let now = send(service, Method::GET, CAROL, JSON, b"").json();
    if answer.status == StatusCode::OK {
        let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
        assert!(asked.keys().all(|name| name == "role" || name == "disabled"));
        assert_eq!(&now["role"], asked.get("role").unwrap_or(&"user".into()));
        assert_eq!(&now["disabled"], asked.get("disabled").unwrap_or(&false.into()));
    } else {
        assert!(refuses_body(answer.status));
        assert_eq!((&now["role"], &now["disabled"]), (&"user".into(), &false.into()));
    }
    assert_eq!(tokens(service, "carol:first"), (now["disabled"] == false).then_some(1));
    remove(service, CAROL);
}

/// The last administrator stays one.
fn change_last_admin(service: &InProcess, body: &[u8]) {
    let path = format!("{USER}/admin");
    let answer = send(service, Method::PATCH, &path, JSON, body);
    if answer.status == StatusCode::OK {
        let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
        assert!(asked.get("role").is_none_or(|role| role == "admin"));
        assert!(asked.get("disabled").is_none_or(|disabled| disabled == false));
    } else {
        assert!(answer.status == StatusCode::CONFLICT || refuses_body(answer.status));
    }
    let now = send(service, Method::GET, &path, JSON, b"").json();
    assert_eq!((&now["role"], &now["disabled"]), (&"admin".into(), &false.into()));
}

/// Afterwards the user has the password of the body alone, and keeps or loses the tokens as it asks; or nothing
/// changed.
fn change_password(service: &InProcess, body: &[u8]) {
    add_carol(service);
    let answer = send_as(service, "carol:first", Method::PUT, &format!("{CAROL}/password"), JSON, body);
    if answer.status == StatusCode::OK {
        let asked: Map<String, Value> = serde_json::from_slice(body).unwrap();
        let password = asked["password"].as_str().unwrap();
        let revoked = u64::from(asked.get("revoke_tokens").is_some_and(|revoke| *revoke == true));
        assert_eq!(asked.len(), if asked.contains_key("revoke_tokens") { 2 } else { 1 });
        assert_eq!(answer.json()["jwt_tokens_deleted"], revoked);
        assert_eq!(tokens(service, "carol:first").is_some(), password == "first");
        assert_eq!(tokens(service, &format!("carol:{password}")), Some(1 - revoked));
    } else {
        assert!(refuses_body(answer.status));
        assert_eq!(tokens(service, "carol:first"), Some(1));
    }
    remove(service, CAROL);
}

/// Adds a user with a token.
fn add_carol(service: &InProcess) {
    service.forget_failures();
    let carol = json!({"username": "carol", "password": "first"}).to_string();
    assert_eq!(send(service, Method::POST, USER, JSON, carol.as_bytes()).status, StatusCode::CREATED);
    let token = json!({"jwt_token_description": "x", "jwt_token_life": "1h"}).to_string();
    let issued = send_as(service, "carol:first", Method::POST, TOKEN, JSON, token.as_bytes());
    assert_eq!(issued.status, StatusCode::CREATED);
}

fn remove(service: &InProcess, path: &str) {
    assert_eq!(send(service, Method::DELETE, path, JSON, b"").status, StatusCode::OK);
}

/// The number of tokens of a user; `None` if the login fails.
fn tokens(service: &InProcess, login: &str) -> Option<u64> {
    let answer = send_as(service, login, Method::GET, TOKEN, JSON, b"");
    if answer.status == StatusCode::UNAUTHORIZED {
        return None;
    }
    assert_eq!(answer.status, StatusCode::OK);
    Some(answer.json()["jwt_tokens"].as_object().unwrap().len() as u64)
}

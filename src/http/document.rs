//! The OpenAPI document: generated from the operations, and completed by `openapi_overlay.yaml` and
//! [`documented_failures`].

use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Value, json};

use super::{
    attributes,
    changes::ChangesApi,
    documented_failures,
    health::HealthApi,
    kubernetes::KubernetesApi,
    oauth::OAuthApi,
    paths::{CHANGES, USERS},
    revocation::RevocationApi,
    token::TokenApi,
    token_exchange::TokenExchangeApi,
    user::UserApi,
    user_token::UserTokenApi,
    whoami::WhoamiApi,
};
use crate::domain::{duration, password::Password, token::Description, user::UserName};

/// All operations of the API.
pub(super) fn api() -> OpenApiService<impl OpenApi, ()> {
    let operations = (
        TokenApi,
        TokenExchangeApi,
        RevocationApi,
        WhoamiApi,
        UserApi,
        UserTokenApi,
        OAuthApi,
        ChangesApi,
        KubernetesApi,
        HealthApi,
    );
    OpenApiService::new(operations, "Mayfly", env!("CARGO_PKG_VERSION"))
}

/// The OpenAPI document.
///
/// # Panics
/// If poem-openapi generates no JSON.
pub fn document() -> Value {
    let mut document: Value = serde_json::from_str(&api().spec()).expect("poem-openapi writes JSON");
    replace_all_of(&mut document);
    merge(&mut document, serde_yaml::from_str(include_str!("openapi_overlay.yaml")).expect("the overlay is YAML"));
    for (schema, property, pattern) in [
        ("TokenRequest", "jwt_token_description", Description::PATTERN),
        ("TokenRequest", "jwt_token_life", duration::PATTERN),
        ("RotateRequest", "overlap", duration::PATTERN),
        ("TokenExchangeForm", "requested_life", duration::PATTERN),
        ("UserRequest", "username", UserName::PATTERN),
        ("UserRequest", "password", Password::PATTERN),
        ("PasswordRequest", "password", Password::PATTERN),
    ] {
        document["components"]["schemas"][schema]["properties"][property]["pattern"] = json!(pattern);
    }
    for (property, schema) in attributes::request_schemas() {
        merge(&mut document["components"]["schemas"]["TokenRequest"]["properties"][property], schema);
    }
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in operations.as_object_mut().into_iter().flat_map(|operations| operations.values_mut()) {
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                if parameter["example"].is_string() {
                    continue;
                }
                parameter["example"] = match parameter["name"].as_str() {
                    Some("limit") => json!(100),
                    Some("Idempotency-Key") => json!("8e03978e-40d5-43e8-bc93-6894a57f9324"),
                    Some("name") => json!("carol"),
                    Some("after") if path == USERS => json!("carol"),
                    Some("after") if path == CHANGES => json!("6b1f2d0c9e8a4735-1-0-2a"),
                    _ => json!("b56929f3-54f1-4dc2-9984-9bba615e26e6"),
                };
                if parameter["name"] == "after" && path == USERS {
                    parameter["schema"]["pattern"] = json!(UserName::PATTERN);
                }
            }
            documented_failures::add_to(path, operation);
        }
    }
    document
}

/// Merges a patch into a document (JSON Merge Patch, RFC 7396), except that `null` removes nothing.
fn merge(document: &mut Value, patch: Value) {
    match (document, patch) {
        (Value::Object(document), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(document.entry(name).or_insert(Value::Null), value);
            }
        }
        (document, patch) => *document = patch,
    }
}

/// Replaces each `allOf` of a `$ref` by the reference alone: client generators fail on a text or default beside it.
fn replace_all_of(value: &mut Value) {
    if let Some(reference) = value.pointer("/allOf/0/$ref").cloned() {
        *value = json!({ "$ref": reference });
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(replace_all_of),
        Value::Array(elements) => elements.iter_mut().for_each(replace_all_of),
        _ => {}
    }
}

/// The OpenAPI document as YAML.
///
/// # Panics
/// If the document cannot be written as YAML.
pub fn document_yaml() -> String {
    serde_yaml::to_string(&document()).expect("JSON is YAML")
}

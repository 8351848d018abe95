//! Scopes, audiences and networks: in requests, answers and claims.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Service};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";
const VERIFY: &str = "/api/v1alpha/verify";

/// Asks for a token with these fields beside its description and life.
fn ask(client: &Client, fields: &Value) -> Answer {
    let mut body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    client.post(TOKEN, &body).send()
}

/// The id and the JWT of a token.
fn id_and_jwt(issued: &Answer) -> (String, String) {
    assert_eq!(issued.status, 201, "{issued:?}");
    let field = |name: &str| issued.json()[name].as_str().unwrap().to_owned();
    (field("jwt_token_id"), field("jwt_token"))
}

fn claims(jwt: &str) -> Value {
    let payload = jwt.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn all_attributes() -> Value {
    json!({
        "jwt_token_scopes": ["read", "repo:status"],
        "jwt_token_audiences": ["https://api.example"],
        "jwt_token_networks": ["127.0.0.0/8", "192.0.2.7/32", "2001:DB8::/32"],
    })
}

/// The attributes above as they are written in a list and in details.
fn shown() -> Value {
    json!({
        "jwt_token_scopes": ["read", "repo:status"],
        "jwt_token_audiences": ["https://api.example"],
        "jwt_token_networks": ["127.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
    })
}

/// The members of a token in a list or in details that are attributes.
fn attributes(token: &Value) -> Value {
    let of_token = token.as_object().unwrap().iter();
    Value::Object(
        of_token.filter(|(name, _)| shown().get(name).is_some()).map(|(n, v)| (n.clone(), v.clone())).collect(),
    )
}

#[rstest]
fn attributes_are_shown_wherever_the_token_is(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let issued = ask(&admin, &all_attributes());
    let (id, jwt) = id_and_jwt(&issued);
    // The answer is the seed's.
    assert_eq!(issued.json().as_object().unwrap().len(), 5);

    let claims = claims(&jwt);
    assert_eq!(
        (&claims["scope"], &claims["aud"], claims.get("networks")),
        (&json!("read repo:status"), &json!(["https://api.example"]), None)
    );
    let bearer = service.client().with_bearer(&jwt);
    for details in [admin.get(&format!("{TOKEN}/{id}")), bearer.get(SELF)] {
        assert_eq!(attributes(&details.send().json()), shown());
    }
    for list in [TOKEN, "/api/v1alpha/user/admin/token"] {
        assert_eq!(attributes(&admin.get(list).send().json()["jwt_tokens"][&id]), shown(), "{list}");
    }
    let introspected = admin.post_form("/oauth2/introspect", &[("token", &jwt)]).send().json();
    assert_eq!(
        (&introspected["scope"], &introspected["aud"], &introspected["networks"]),
        (&json!("read repo:status"), &json!(["https://api.example"]), &shown()["jwt_token_networks"])
    );
    let verified = bearer.get(VERIFY).send();
    assert_eq!((verified.status, verified.header("x-auth-scope")), (200, "read repo:status"));
}

#[rstest]
fn a_token_without_attributes_is_shown_as_in_the_seed(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    // An empty list of scopes is none.
    for fields in [json!({}), json!({"jwt_token_scopes": []})] {
        let (id, jwt) = id_and_jwt(&ask(&admin, &fields));
        let bearer = service.client().with_bearer(&jwt);
        assert_eq!(claims(&jwt).as_object().unwrap().len(), 7);
        assert_eq!(bearer.get(SELF).send().json().as_object().unwrap().len(), 5);
        assert_eq!(admin.get(TOKEN).send().json()["jwt_tokens"][&id].as_object().unwrap().len(), 3);
        let introspected = admin.post_form("/oauth2/introspect", &[("token", &jwt)]).send().json();
        for name in ["scope", "aud", "networks"] {
            assert_eq!(introspected.get(name), None);
        }
        let verified = bearer.get(VERIFY).send();
        assert_eq!((verified.status, verified.headers.get("x-auth-scope")), (200, None));
    }
}

#[rstest]
fn a_successor_keeps_the_attributes(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, jwt) = id_and_jwt(&ask(&admin, &all_attributes()));
    let rotated = admin.post(&format!("{TOKEN}/{id}/rotate"), &json!({"overlap": "5m"})).send();
    let (successor, new) = id_and_jwt(&rotated);
    for (id, jwt) in [(id, jwt), (successor, new)] {
        assert_eq!(attributes(&admin.get(&format!("{TOKEN}/{id}")).send().json()), shown());
        assert_eq!(claims(&jwt)["scope"], "read repo:status");
        let answer = service.client().with_bearer(&jwt).get(&format!("{VERIFY}?scope=read")).send();
        assert_eq!((answer.status, answer.header("x-auth-scope")), (200, "read repo:status"));
    }
}

#[rstest]
fn a_repeated_request_has_the_same_attributes(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let ask = |fields: &Value| {
        let mut body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        service.admin().post(TOKEN, &body).header("idempotency-key", "once").send()
    };
    let first = ask(&all_attributes());
    assert_eq!(id_and_jwt(&first), id_and_jwt(&ask(&all_attributes())));
    for other in [json!({}), json!({"jwt_token_scopes": ["read", "repo:status"]})] {
        ask(&other).problem(422);
    }
    let mut others = all_attributes();
    others["jwt_token_networks"] = json!(["127.0.0.0/8"]);
    ask(&others).problem(422);
}

#[test]
fn a_field_that_breaks_a_rule_is_named_with_the_rule() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    let (scopes, audiences, networks) = ("jwt_token_scopes", "jwt_token_audiences", "jwt_token_networks");
    let many = |count: usize| (0..count).map(|number| format!("192.0.2.{number}")).collect::<Vec<_>>();
    for (field, value, expected) in [
        (scopes, json!("read"), "The body: jwt_token_scopes: invalid type: string \"read\", expected a sequence"),
        (scopes, json!(null), "The body: jwt_token_scopes: invalid type: null, expected a sequence"),
        (scopes, json!(["a", 5]), "The body: jwt_token_scopes[1]: invalid type: integer `5`, expected a string"),
        (scopes, json!(["a", null]), "The body: jwt_token_scopes[1]: invalid type: null, expected a string"),
        (scopes, json!(["a", ""]), "jwt_token_scopes[1]: must be a scope of RFC 6749: visible ASCII"),
        (scopes, json!(["read write"]), "jwt_token_scopes[0]: must be a scope of RFC 6749"),
        (scopes, json!(["a\""]), "jwt_token_scopes[0]: must be a scope of RFC 6749"),
        (scopes, json!(["ü"]), "jwt_token_scopes[0]: must be a scope of RFC 6749"),
        (scopes, json!(["a", "b", "a"]), "jwt_token_scopes[2]: must not be there twice."),
        (scopes, json!(many(33)), "jwt_token_scopes: must have at most 32 entries."),
        (scopes, json!(["x".repeat(1025)]), "jwt_token_scopes: must have at most 1024 bytes in all"),
        (audiences, json!({}), "The body: jwt_token_audiences: invalid type: map, expected a sequence"),
        (audiences, json!([[]]), "The body: jwt_token_audiences[0]: invalid type: sequence, expected a string"),
        (audiences, json!([]), "jwt_token_audiences: must not be empty: leave the field out instead."),
        (audiences, json!([""]), "jwt_token_audiences[0]: must be 1 to 256 visible ASCII characters."),
        (audiences, json!(["a b"]), "jwt_token_audiences[0]: must be 1 to 256 visible ASCII characters."),
        (audiences, json!(["x".repeat(257)]), "jwt_token_audiences[0]: must be 1 to 256 visible ASCII characters."),
        (audiences, json!(["a", "a"]), "jwt_token_audiences[1]: must not be there twice."),
        (audiences, json!(many(9)), "jwt_token_audiences: must have at most 8 entries."),
        (networks, json!(true), "The body: jwt_token_networks: invalid type: boolean `true`, expected a sequence"),
        (networks, json!([]), "jwt_token_networks: must not be empty: leave the field out instead."),
        (networks, json!(["localhost"]), "jwt_token_networks[0]: must be an address or a network, such as"),
        (networks, json!(["10.0.0.0/33"]), "jwt_token_networks[0]: must be an address or a network, such as"),
        (
            networks,
            json!(["10.0.0.1/8"]),
            "jwt_token_networks[0]: must not have bits set beyond its prefix: write 10.0.0.0/8.",
        ),
        (networks, json!(["::ffff:10.0.0.0/104"]), "jwt_token_networks[0]: must not be IPv4 written as IPv6"),
        (networks, json!(["0.0.0.0/0"]), "jwt_token_networks[0]: must not contain all addresses"),
        (networks, json!(["::/0"]), "jwt_token_networks[0]: must not contain all addresses"),
        (networks, json!(["192.0.2.1", "192.0.2.1/32"]), "jwt_token_networks[1]: must not be there twice."),
        (networks, json!(many(17)), "jwt_token_networks: must have at most 16 entries."),
        (
            "jwt_token_scope",
            json!(["a"]),
            "The body: jwt_token_scope: unknown field `jwt_token_scope`, expected one of",
        ),
    ] {
        let detail = ask(&admin, &json!({field: value})).problem(400);
        assert!(detail.starts_with(expected), "{value}: {detail}");
    }
    let twice =
        r#"{"jwt_token_description":"x","jwt_token_life":"1h","jwt_token_scopes":["a"],"jwt_token_scopes":["b"]}"#;
    let answer = admin.request("POST", TOKEN).header("content-type", "application/json").body(twice).send();
    assert!(answer.problem(400).contains("duplicate field `jwt_token_scopes`"), "{answer:?}");
    assert_eq!(admin.get(TOKEN).send().json()["message"], "No tokens exist");
}

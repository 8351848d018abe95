//! The exchange of an issuer's JWT for a token (RFC 8693).

use serde_json::json;

use super::{EXCHANGE, TOKEN, Trusting, VERIFY, issuer};
use crate::support::{Backend, eventually};

#[test]
fn a_jwt_is_exchanged_for_a_token() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Redis, &issuer.entry("user = \"ci\"\nmax_life = \"1 hour\""));
    let jwt = key.sign(&issuer.claims());
    for (fields, life) in [
        (&[][..], 3600),
        (&[("requested_life", "10 minutes")], 600),
        (&[("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"), ("client_id", "ci")], 3600),
    ] {
        let answer = trusting.exchange(&jwt, fields);
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{answer:?}");
        let body = answer.json();
        let token = body["access_token"].as_str().unwrap();
        assert_eq!(
            body,
            json!({
                "access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_type": "Bearer", "expires_in": life
            })
        );
        let verified = trusting.service.client().with_bearer(token).get(VERIFY).send();
        assert_eq!((verified.status, verified.header("x-auth-user")), (200, "ci"));
    }
    let listed = trusting.list(&jwt).json();
    let descriptions: Vec<_> = listed["jwt_tokens"].as_object().unwrap().values().collect();
    assert_eq!(descriptions[0]["jwt_token_description"], format!("{}: a", issuer.url));
    assert_eq!(descriptions.len(), 3);
}

#[test]
fn a_token_has_the_scopes_and_audiences_that_were_asked_for() {
    let (issuer, key) = issuer();
    let entry = |more: &str| issuer.entry(&format!("user = \"ci\"\n{more}"));
    let trusting = Trusting::start(Backend::Redis, &entry("scopes = [\"deploy\", \"read\"]\nmax_life = \"1 hour\""));
    let jwt = key.sign(&issuer.claims());
    let fields = [("scope", "deploy read"), ("audience", "shop"), ("audience", "billing")];
    let body = trusting.exchange(&jwt, &fields).json();
    assert_eq!(body["scope"], "deploy read", "{body}");
    let token = body["access_token"].as_str().unwrap();
    let introspected = trusting.with(&jwt).post_form("/oauth2/introspect", &[("token", token)]).send().json();
    assert_eq!((&introspected["scope"], &introspected["aud"]), (&json!("deploy read"), &json!(["shop", "billing"])));

    for (fields, error) in [
        (&[("scope", "deploy admin")][..], "invalid_scope"),
        (&[("scope", "\"")], "invalid_scope"),
        (&[("audience", "a b")], "invalid_target"),
        (&[("audience", "a"), ("audience", "a")], "invalid_target"),
    ] {
        let answer = trusting.exchange(&jwt, fields);
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(error)), "{answer:?}");
    }
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h", "jwt_token_scopes": ["admin"]});
    assert_eq!(trusting.with(&jwt).post(TOKEN, &body).send().status, 400);
    // A rotation is no way around a rule that became stricter.
    let listed = trusting.list(&jwt).json();
    let id = listed["jwt_tokens"].as_object().unwrap().keys().next().unwrap().clone();
    trusting.replace(&entry("scopes = [\"read\"]\nmax_life = \"1 hour\""));
    let rotate = || trusting.with(&jwt).request("POST", &format!("{TOKEN}/{id}/rotate")).send();
    assert_eq!(
        eventually("the rule is in force", || (trusting.exchange(&jwt, &[("scope", "deploy")]).status == 400)
            .then(rotate))
        .status,
        403
    );
    // The token lives for an hour.
    trusting.replace(&entry("max_life = \"59 minutes\""));
    let is_in_force = || trusting.exchange(&jwt, &[]).json()["expires_in"] == 3540;
    eventually("the rule is in force", || is_in_force().then_some(()));
    assert!(rotate().problem(403).contains("must be at most 59 minutes here"));
}

#[test]
fn an_exchange_that_is_refused_says_why_in_the_words_of_oauth() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"ci\"\nmax_life = \"1 hour\""));
    let jwt = key.sign(&issuer.claims());
    trusting.wait_for_keys(&jwt);
    for (fields, error, detail) in [
        (&[("requested_life", "2 hours")][..], "invalid_request", "requested_life: must be at most 1 hour here."),
        (&[("requested_life", "soon")], "invalid_request", "requested_life: "),
        (&[("requested_token_type", "urn:ietf:params:oauth:token-type:saml2")], "invalid_request", "requested_token"),
        (&[("actor_token", "x")], "invalid_request", "actor_token: "),
        (&[("resource", "https://a")], "invalid_target", "resource: "),
        (&[("subject_token", "x")], "invalid_request", "The body: duplicate field `subject_token`"),
    ] {
        let answer = trusting.exchange(&jwt, fields);
        assert!(answer.problem(400).starts_with(detail), "{answer:?}");
        assert_eq!(answer.json()["error"], error, "{answer:?}");
    }
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    let jwt_type = "urn:ietf:params:oauth:token-type:jwt";
    for (fields, error) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "client_credentials")], "unsupported_grant_type"),
        (vec![("grant_type", exchange)], "invalid_request"),
        (vec![("grant_type", exchange), ("subject_token", &jwt)], "invalid_request"),
        (vec![("grant_type", exchange), ("subject_token", &*jwt), ("subject_token_type", "urn:x")], "invalid_request"),
        (vec![("grant_type", exchange), ("subject_token", "no"), ("subject_token_type", jwt_type)], "invalid_request"),
    ] {
        let answer = trusting.service.client().post_form(EXCHANGE, &fields).send();
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(error)), "{answer:?}");
    }
    assert_eq!(trusting.service.client().get(EXCHANGE).send().status, 405);
    let body = json!({"grant_type": exchange});
    assert_eq!(trusting.service.client().post(EXCHANGE, &body).send().status, 415);
}

#[test]
fn the_metadata_name_the_endpoint() {
    let (issuer, _) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"ci\""));
    let metadata = trusting.service.client().get("/.well-known/oauth-authorization-server").send().json();
    assert_eq!(metadata["token_endpoint"], format!("{}{EXCHANGE}", trusting.service.url));
    assert_eq!(metadata["grant_types_supported"], json!(["urn:ietf:params:oauth:grant-type:token-exchange"]));
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], json!(["none"]));
}

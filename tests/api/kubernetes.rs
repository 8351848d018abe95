//! `/kubernetes/tokenreview`: the webhook of kube-apiserver. `tests/kubernetes.rs` has a real one ask it.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Backend, Client, Service};

const REVIEW: &str = "/kubernetes/tokenreview";

/// The request as kube-apiserver sends it.
fn review(token: &str, audiences: &Value) -> Value {
    json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {"creationTimestamp": null},
        "spec": {"token": token, "audiences": audiences}, "status": {"user": {}},
    })
}

fn issue(client: &Client, attributes: &Value) -> (String, String) {
    let mut body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    body.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
    let answer = client.post("/api/v1alpha/token", &body).send();
    assert_eq!(answer.status, 201, "{answer:?}");
    let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (field("jwt_token_id"), field("jwt_token"))
}

#[rstest]
fn a_live_token_is_authenticated_and_any_other_is_not(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    admin.add_user("kubernetes", "introspector");
    let webhook = service.client().with_basic("kubernetes", "secret");
    let ask = |token: &str, audiences: Value| {
        let answer = webhook.post(REVIEW, &review(token, &audiences)).send();
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{answer:?}");
        let body = answer.json();
        assert_eq!((&body["apiVersion"], &body["kind"]), (&json!("authentication.k8s.io/v1"), &json!("TokenReview")));
        body["status"].clone()
    };

    let (id, plain) = issue(&admin, &json!({}));
    for audiences in [json!([]), Value::Null] {
        let user = json!({"username": "admin", "extra": {"mayfly/token-id": [id]}});
        assert_eq!(ask(&plain, audiences), json!({"authenticated": true, "user": user}));
    }
    let (id, full) =
        issue(&admin, &json!({"jwt_token_scopes": ["deploy", "read"], "jwt_token_audiences": ["k8s", "other"]}));
    let extra = json!({"mayfly/token-id": [id], "mayfly/scopes": ["deploy", "read"]});
    let user = json!({"username": "admin", "extra": extra});
    let status = json!({"authenticated": true, "user": user, "audiences": ["k8s"]});
    assert_eq!(ask(&full, json!(["https://kubernetes.default.svc", "k8s"])), status);

    let no = |reason: &str| json!({"authenticated": false, "error": reason});
    // An audience is demanded, and the token has none or others.
    assert_eq!(ask(&plain, json!(["k8s"])), no("The token is for none of these audiences."));
    assert_eq!(ask(&full, json!(["k8"])), no("The token is for none of these audiences."));
    // The address of the client is not known.
    let (_, inside) = issue(&admin, &json!({"jwt_token_networks": ["127.0.0.0/8"]}));
    assert!(ask(&inside, json!([]))["error"].as_str().unwrap().contains("networks"));
    for other in ["", "x", &format!("{plain}x")] {
        assert_eq!(ask(other, json!([])), no("The token is not valid."));
    }
    assert_eq!(admin.delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
    assert_eq!(ask(&full, json!(["k8s"])), no("The token is not valid."));
}

#[test]
fn the_webhook_has_to_log_in_as_an_introspector() {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    service.admin().add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let (_, of_alice) = alice.issue("x", "1h");
    let send = |client: &Client, body: &Value| client.post(REVIEW, body).send();
    send(&service.client(), &review(&jwt, &json!([]))).problem(401);
    send(&alice, &review(&jwt, &json!([]))).problem(403);
    send(&service.client().with_bearer(&of_alice), &review(&of_alice, &json!([]))).problem(403);
    // A token of an introspector will do.
    assert_eq!(send(&service.client().with_bearer(&jwt), &review(&of_alice, &json!([]))).status, 200);
    for (member, value) in
        [("apiVersion", json!("authentication.k8s.io/v1beta1")), ("kind", json!("Pod")), ("spec", json!({}))]
    {
        let mut body = review(&jwt, &json!([]));
        body[member] = value;
        send(&service.admin(), &body).problem(400);
    }
}

#[test]
fn in_doubt_there_is_no_answer() {
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    drop(service.redis.take());
    service.admin().post(REVIEW, &review(&jwt, &json!([]))).send().problem(503);
}

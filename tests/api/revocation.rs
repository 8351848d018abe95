//! `/api/v1alpha/token/revoke` and `/api/v1alpha/user/{name}/token/revoke`.

use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Backend, Log, Service, eventually};

const REVOKE: &str = "/api/v1alpha/token/revoke";
const UNKNOWN: &str = "b56929f3-54f1-4dc2-9984-9bba615e26e6";

#[rstest]
fn listed_tokens_are_revoked_and_the_others_named(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let [(first, jwt), (second, _), (kept, kept_jwt)] = [(); 3].map(|()| admin.issue("x", "1h"));
    // A revocation waits until the watch has told that these are new. After that, only their own end changes them.
    let (other, _) = admin.issue("x", "1h");
    assert_eq!(admin.delete(&format!("/api/v1alpha/token/{other}")).send().status, 200);
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
    let ids = json!({"jwt_token_ids": [first, UNKNOWN, second.to_uppercase(), "no id", first]});
    let begun = Instant::now();
    let answer = admin.post(REVOKE, &ids).send();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(begun.elapsed() > Duration::from_millis(250), "it waits for the leases");
    let expected = json!({
        "message": "Tokens deleted", "jwt_tokens_deleted": 2, "jwt_tokens_not_found": [UNKNOWN, "no id"],
    });
    assert_eq!(answer.json(), expected);
    service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().problem(401);
    assert_eq!(service.client().with_bearer(&kept_jwt).get("/api/v1alpha/verify").send().status, 200);
    let repeated = admin.post(&format!("{REVOKE}/"), &ids).send().json();
    assert_eq!(
        (&repeated["jwt_tokens_deleted"], repeated["jwt_tokens_not_found"][0].as_str()),
        (&0.into(), Some(&*first))
    );
    let list = admin.get("/api/v1alpha/token").send().json();
    assert_eq!(list["jwt_tokens"].as_object().unwrap().keys().collect::<Vec<_>>(), [&kept]);
}

#[rstest]
fn an_empty_or_long_list_revokes_nothing(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, jwt) = admin.issue("x", "1h");
    let too_many: Vec<_> = (0..10_001).map(|_| &id).collect();
    for body in
        [json!({"jwt_token_ids": []}), json!({}), json!({"jwt_token_ids": null}), json!({"jwt_token_ids": too_many})]
    {
        admin.post(REVOKE, &body).send().problem(400);
    }
    admin.post(REVOKE, &json!({"jwt_token_ids": ["x".repeat(512 * 1024)]})).send().problem(413);
    // A stranger's long body is not read.
    let body = json!({"jwt_token_ids": ["x".repeat(100_000)]});
    service.client().post(REVOKE, &body).send().problem(401);
    service.client().with_bearer(&jwt).post(REVOKE, &json!({"jwt_token_ids": [id]})).send().problem(403);
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
}

#[test]
fn an_administrator_revokes_listed_tokens_of_a_user_and_the_event_names_them() {
    let log = Log::new();
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LOG", "error").stderr(log.stdio());
    });
    service.add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let ids: Vec<String> = (0..101).map(|_| alice.issue("x", "1h").0).collect();
    let path = "/api/v1alpha/user/alice/token/revoke";
    alice.post(path, &json!({"jwt_token_ids": ids})).send().problem(403);
    service.admin().post("/api/v1alpha/user/bob/token/revoke", &json!({"jwt_token_ids": ids})).send().problem(404);
    let answer = service.admin().post(path, &json!({"jwt_token_ids": ids})).send().json();
    assert_eq!((&answer["jwt_tokens_deleted"], &answer["jwt_tokens_not_found"]), (&101.into(), &json!([])));
    let events = || -> Option<Vec<Value>> {
        let lines = log.lines().into_iter().filter(|line| line["message"] == "tokens.revoked").collect::<Vec<_>>();
        (lines.len() == 2).then_some(lines)
    };
    let events = eventually("both events are written", events);
    assert_eq!((&events[0]["tokens"], &events[1]["tokens"]), (&100.into(), &1.into()));
    let named = events.iter().flat_map(|event| event["token_ids"].as_str().unwrap().split(' '));
    let mut named: Vec<_> = named.map(str::to_owned).collect();
    let mut ids = ids;
    named.sort();
    ids.sort();
    assert_eq!(named, ids);
    assert_eq!((&events[0]["owner"], &events[0]["outcome"]), (&"alice".into(), &"done".into()));
}

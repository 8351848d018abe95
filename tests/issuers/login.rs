//! A JWT of a trusted issuer logs in wherever a password does.

use rstest::rstest;
use serde_json::json;

use super::{TOKEN, Trusting, USER, VERIFY, issuer, request, with};
use crate::support::{
    Backend, Client, eventually,
    issuer::{IssuerKey, LocalIssuer, now},
};

#[rstest]
#[case(Backend::Memory)]
#[case(Backend::Redis)]
fn a_jwt_logs_in_wherever_a_password_does(#[case] backend: Backend) {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(backend, &issuer.entry("user = \"ci-{sub}\"\nmax_life = \"1 hour\""));
    let jwt = key.sign(&issuer.claims());
    let client = trusting.with(&jwt);
    // Nothing is created by a look.
    assert_eq!(client.get(TOKEN).send().json(), json!({"message": "No tokens exist", "jwt_tokens": {}}));
    assert_eq!(trusting.service.admin().get(&format!("{USER}/ci-a")).send().status, 404);

    let (id, token) = client.issue("x", "1h");
    assert_eq!(trusting.service.client().with_bearer(&token).get(VERIFY).send().header("x-auth-user"), "ci-a");
    assert_eq!(client.get(&format!("{TOKEN}/{id}")).send().status, 200);
    let introspected = client.post_form("/oauth2/introspect", &[("token", &token)]).send();
    assert_eq!(introspected.json()["username"], "ci-a");
    let rotated = client.request("POST", &format!("{TOKEN}/{id}/rotate")).send();
    assert_eq!(rotated.status, 201, "{rotated:?}");
    let id = rotated.json()["jwt_token_id"].as_str().unwrap().to_owned();
    assert_eq!(client.delete(&format!("{TOKEN}/{id}")).send().status, 200);
    assert_eq!(client.post(TOKEN, &request("61m")).send().problem(400), "jwt_token_life: must be at most 1 hour here.");

    let user = trusting.service.admin().get(&format!("{USER}/ci-a")).send().json();
    assert_eq!(user["origin"], format!("issuer:{}", issuer.url), "{user}");
    // It is no token of ours, and administers nothing.
    assert_eq!(client.get(VERIFY).send().status, 401);
    assert_eq!(client.get(&format!("{TOKEN}/self")).send().status, 403);
    assert_eq!(client.get(USER).send().status, 403);
    let password = json!({"password": "a password of ours"});
    let set = client.put(&format!("{USER}/ci-a/password"), &password).send();
    assert!(set.status == 403 || set.status == 409, "its logins would outlive the issuer's rules: {set:?}");
    assert_eq!(client.get(TOKEN).send().status, 200);
}

#[test]
fn a_disabled_user_stays_out_whatever_the_issuer_says() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Redis, &issuer.entry("user = \"ci\""));
    let client = trusting.with(&key.sign(&issuer.claims()));
    let (_, token) = client.issue("x", "1h");
    let admin = trusting.service.admin();
    assert_eq!(admin.patch(&format!("{USER}/ci"), &json!({"disabled": true})).send().status, 200);
    let verify = || trusting.service.client().with_bearer(&token).get(VERIFY).send().status;
    assert_eq!((client.get(TOKEN).send().status, client.post(TOKEN, &request("1h")).send().status), (403, 403));
    assert_eq!(verify(), 401);
    assert_eq!(admin.patch(&format!("{USER}/ci"), &json!({"disabled": false})).send().status, 200);
    assert_eq!(client.get(TOKEN).send().status, 200);
    assert_eq!(admin.delete(&format!("{USER}/ci")).send().status, 200);
    // Removed, and created anew.
    client.issue("x", "1h");
}

#[test]
fn an_issuer_never_logs_in_as_a_user_of_another_origin() {
    let ((first, first_key), (second, second_key)) = (issuer(), issuer());
    let text = [first.entry("user = \"{sub}\""), second.entry("user = \"{sub}\"\nrole = \"admin\"")].concat();
    let trusting = Trusting::start(Backend::Memory, &text);
    let first_jwt = |sub: &str| first_key.sign(&with(&first.claims(), "sub", sub));
    let second_jwt = |sub: &str| second_key.sign(&with(&second.claims(), "sub", sub));
    for (jwt, expected) in [(first_jwt("admin"), 409), (second_jwt("admin"), 409), (first_jwt("a"), 201)] {
        assert_eq!(trusting.with(&jwt).post(TOKEN, &request("1h")).send().status, expected);
    }
    assert_eq!(trusting.list(&second_jwt("a")).status, 409);
    assert_eq!(trusting.exchange(&second_jwt("a"), &[]).status, 409);
    let failed = trusting.log.wait_for("INFO", "login.failed");
    assert_eq!((&failed["reason"], &failed["account"]), (&json!("other_origin"), &json!("admin")), "{failed}");
    assert_eq!(failed["origin"], format!("issuer:{}", first.url));
}

#[test]
fn the_role_of_a_rule_bounds_the_role_of_its_logins() {
    let (issuer, key) = issuer();
    let entry = |role: &str| issuer.entry(&format!("user = \"ops\"\nrole = \"{role}\""));
    let trusting = Trusting::start(Backend::Redis, &entry("admin"));
    let client = trusting.with(&key.sign(&issuer.claims()));
    // Not yet stored, and so no administrator yet.
    assert_eq!(client.get(USER).send().status, 403);
    client.issue("x", "1h");
    assert_eq!(client.get(USER).send().status, 200);
    trusting.replace(&entry("user"));
    eventually("the rule is in force", || (client.get(USER).send().status == 403).then_some(()));
}

#[test]
fn the_file_is_read_again_when_it_changes() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"ci\""));
    let jwt = key.sign(&issuer.claims());
    trusting.wait_for_keys(&jwt);
    let (_, token) = trusting.with(&jwt).issue("x", "1h");

    trusting.replace("[[issuer]]\nissuer = 1\n");
    let line = trusting.log.wait_for("ERROR", "the old issuers stay in force");
    assert!(line["error"].as_str().unwrap().contains("issuer 1: issuer: must be a text"), "{line}");
    assert_eq!(trusting.list(&jwt).status, 200);

    trusting.replace(&issuer.entry("user = \"ci\"\nrequire = { ref = \"main\" }"));
    eventually("the new rule is in force", || (trusting.list(&jwt).status == 401).then_some(()));
    let admitted = key.sign(&with(&issuer.claims(), "ref", "main"));
    assert_eq!(trusting.list(&admitted).status, 200);
    let failed = trusting.log.wait_for("INFO", "login.failed");
    assert_eq!((&failed["reason"], &failed["rule"]), (&json!("issuer_rules"), &json!("require.ref")), "{failed}");

    // Its logins end, its tokens do not.
    trusting.replace("");
    eventually("the issuer is gone", || (trusting.list(&admitted).status == 401).then_some(()));
    assert_eq!(trusting.service.client().with_bearer(&token).get(VERIFY).send().status, 200);
    assert_eq!(trusting.log.wait_for("INFO", "issuers.changed")["issuers"], issuer.url);
}

#[test]
fn the_first_entry_of_an_issuer_whose_rules_are_met_applies() {
    let (issuer, key) = issuer();
    let entry =
        |user: &str, branch: &str| issuer.entry(&format!("user = \"{user}\"\nrequire = {{ ref = \"{branch}\" }}"));
    let trusting = Trusting::start(Backend::Memory, &[entry("prod", "main"), entry("test", "dev")].concat());
    for (branch, user) in [("main", "prod"), ("dev", "test")] {
        let answer = trusting.exchange(&key.sign(&with(&issuer.claims(), "ref", branch)), &[]);
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let verified = trusting.service.client().with_bearer(&token).get(VERIFY).send();
        assert_eq!(verified.header("x-auth-user"), user);
    }
    assert_eq!(trusting.list(&key.sign(&with(&issuer.claims(), "ref", "other"))).status, 401);
}

#[test]
fn a_jwt_is_refused_after_its_end_although_it_was_checked_before() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"ci\""));
    // It has expired, and the minute of skew has not.
    let jwt = key.sign(&with(&issuer.claims(), "exp", now() - 56));
    trusting.wait_for_keys(&jwt);
    let refused = eventually("it expires", || Some(trusting.list(&jwt)).filter(|answer| answer.status != 200));
    assert_eq!(refused.problem(401), "The token has expired.");
    assert_eq!(trusting.exchange(&jwt, &[]).problem(400), "subject_token: The token has expired.");
}

#[test]
fn keys_in_a_file_are_read_again_when_they_change() {
    let keys = ["a", "b"].map(|kid| IssuerKey::new(kid, "EdDSA"));
    let issuer = LocalIssuer::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    let write = |key: &IssuerKey| {
        let new = directory.path().join("new");
        std::fs::write(&new, json!({"keys": [key.jwk()]}).to_string()).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write(&keys[0]);
    let entry = issuer.entry(&format!("user = \"ci\"\njwks_file = \"{}\"", file.display()));
    let trusting = Trusting::start(Backend::Memory, &entry);
    let jwts = keys.each_ref().map(|key| key.sign(&issuer.claims()));
    // Read before the first request.
    assert_eq!((trusting.list(&jwts[0]).status, trusting.list(&jwts[1]).status), (200, 401));
    write(&keys[1]);
    eventually("the new key is in force", || (trusting.list(&jwts[1]).status == 200).then_some(()));
    assert_eq!(trusting.list(&jwts[0]).status, 401);
    std::fs::write(&file, "garbage").unwrap();
    let line = trusting.log.wait_for("ERROR", "cannot get the keys of an issuer");
    assert_eq!((&line["issuer"], &line["kept"]), (&json!(issuer.url), &json!(true)), "{line}");
    assert_eq!(trusting.list(&jwts[1]).status, 200);
}

#[test]
fn events_and_metrics_name_the_issuer() {
    let (issuer, key) = issuer();
    let trusting = Trusting::start(Backend::Redis, &issuer.entry("user = \"ci\""));
    trusting.with(&key.sign(&issuer.claims())).issue("x", "1h");
    trusting.list(&IssuerKey::new("a", "ES256").sign(&issuer.claims()));
    let origin = json!(format!("issuer:{}", issuer.url));
    let event = trusting.log.wait_for("INFO", "token.issued");
    assert_eq!((&event["span"]["user"], &event["span"]["origin"]), (&json!("ci"), &origin), "{event}");
    let failed = trusting.log.wait_for("INFO", "login.failed");
    assert_eq!((&failed["origin"], &failed["rule"]), (&origin, &json!("signature")), "{failed}");
    let page = Client::new(&trusting.service.metrics_url).get("").send().text;
    for (metric, result) in [("issuer_logins", "ok"), ("issuer_logins", "failed"), ("issuer_key_fetches", "ok")] {
        let series = format!("mayfly_{metric}_total{{issuer=\"{}\",result=\"{result}\"}} 1", issuer.url);
        assert!(page.contains(&series), "{series} in {page}");
    }
}

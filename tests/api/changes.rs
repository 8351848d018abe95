//! `/api/v1alpha/changes`, and the age of what introspection answers.

use std::{collections::HashSet, fs, time::Instant};

use mayfly::{
    domain::{jwk::Algorithm, key_rotation::generate},
    store::leased::LEASE,
};
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Backend, Client, Log, Service, eventually};

const CHANGES: &str = "/api/v1alpha/changes";
const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// Asks as a verifier does, and follows the cursor.
struct Asking {
    client: Client,
    cursor: String,
    told: HashSet<String>,
    resets: usize,
}

impl Asking {
    fn begin(client: Client) -> Self {
        let mut asking = Self { client, cursor: String::new(), told: HashSet::new(), resets: 0 };
        let first = eventually("there is a watch", || {
            let answer = asking.client.get(CHANGES).send();
            (answer.status == 200).then_some(answer)
        });
        asking.take(&first.json());
        asking
    }

    fn take(&mut self, answer: &Value) {
        let members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["cursor", "age_ms", "reset", "tokens"]);
        self.cursor = answer["cursor"].as_str().unwrap().into();
        assert!(answer["age_ms"].is_u64());
        self.resets += usize::from(answer["reset"].as_bool().unwrap());
        self.told.extend(answer["tokens"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
    }

    fn ask(&mut self) {
        let answer = self.client.get(&format!("{CHANGES}?after={}", self.cursor)).send();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
        self.take(&answer.json());
    }

    /// Asks until it was told of these tokens.
    fn expect(&mut self, tokens: &[&str]) {
        eventually("it is told", || {
            self.ask();
            tokens.iter().all(|id| self.told.contains(*id)).then_some(())
        });
        self.told.retain(|id| !tokens.contains(&&**id));
    }
}

#[rstest]
fn each_token_that_changes_is_told(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    admin.add_user("gate", "introspector");
    let (own, jwt) = service.client().with_basic("gate", "secret").issue("for the gate", "1h");
    for client in [service.client().with_basic("gate", "secret"), service.client().with_bearer(&jwt)] {
        let mut asking = Asking::begin(client);
        let [(revoked, _), (rotated, _), (left, _)] = [(); 3].map(|()| admin.issue("x", "1h"));
        asking.expect(&[&revoked, &rotated, &left]);
        assert_eq!(admin.delete(&format!("{TOKEN}/{revoked}")).send().status, 200);
        asking.expect(&[&revoked]);
        let rotation = admin.post(&format!("{TOKEN}/{rotated}/rotate"), &json!({"overlap": "10m"})).send();
        let successor = rotation.json()["jwt_token_id"].as_str().unwrap().to_owned();
        asking.expect(&[&rotated, &successor]);
        // It may have been created shortly before.
        asking.told.remove(&own);
        assert_eq!((asking.told.len(), asking.resets), (0, 1), "{:?}", asking.told);
    }
}

/// All changes of a user that end the user's tokens. What a verifier knows of each would be renewed otherwise.
#[rstest]
fn each_token_of_a_user_is_told_who_loses_all_of_them(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let mut asking = Asking::begin(admin.clone());
    let alice = format!("{USER}/alice");
    let changes: [&dyn Fn() -> u16; 4] = [
        &|| admin.patch(&alice, &json!({"disabled": true})).send().status,
        &|| {
            let body = json!({"password": "secret", "revoke_tokens": true});
            admin.put(&format!("{alice}/password"), &body).send().status
        },
        &|| admin.delete(&format!("{alice}/token?all=true")).send().status,
        &|| admin.delete(&alice).send().status,
    ];
    admin.add_user("alice", "user");
    for change in changes {
        admin.patch(&alice, &json!({"disabled": false})).send();
        let client = service.client().with_basic("alice", "secret");
        let (first, second) = (client.issue("x", "1h").0, client.issue("y", "1h").0);
        asking.expect(&[&first, &second]);
        assert_eq!(change(), 200);
        asking.expect(&[&first, &second]);
    }
    assert_eq!((asking.told.len(), asking.resets), (0, 1));
}

#[rstest]
fn a_text_that_is_no_cursor_of_this_replica_is_a_reset(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let other = Service::start(Backend::Memory);
    let (mut asking, others) = (Asking::begin(service.admin()), Asking::begin(other.admin()).cursor);
    let (before, _) = asking.cursor.rsplit_once('-').unwrap();
    let future = format!("{before}-ffffffffffffffff");
    let garbage = "x%00%ff".repeat(600);
    for (resets, cursor) in (2..).zip(["", "x", "0-0-0-0", &future, &others, &garbage, &"0-0-0-0.".repeat(500)]) {
        asking.cursor = cursor.into();
        asking.ask();
        asking.ask();
        assert_eq!(asking.resets, resets, "{cursor}");
    }
    let repeated = asking.client.get(&format!("{CHANGES}?after=x&after=y")).send();
    assert_eq!(repeated.problem(400), "after: give one cursor.");
}

#[test]
fn only_introspectors_and_administrators_are_told_of_changes() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    for (name, role, status) in [("bob", "user", 403), ("gate", "introspector", 200), ("root", "admin", 200)] {
        admin.add_user(name, role);
        let basic = service.client().with_basic(name, "secret");
        let bearer = service.client().with_bearer(&basic.issue("x", "1h").1);
        for client in [basic, bearer] {
            assert_eq!(client.get(CHANGES).send().status, status, "{name}");
        }
    }
    service.client().get(CHANGES).send().problem(401);
    let gate = service.client().with_basic("gate", "secret");
    assert_eq!(admin.patch(&format!("{USER}/gate"), &json!({"role": "user"})).send().status, 200);
    gate.get(CHANGES).send().problem(403);
    assert_eq!(admin.patch(&format!("{USER}/gate"), &json!({"disabled": true})).send().status, 200);
    gate.get(CHANGES).send().problem(401);
}

#[test]
fn without_a_watch_there_are_no_changes() {
    let without_leases = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    without_leases.admin().get(CHANGES).send().problem(503);

    let log = Log::new();
    let service = Service::start_with(Backend::Redis, |command| {
        command.stderr(log.stdio());
    });
    let mut asking = Asking::begin(service.admin());
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    let redis = service.redis.as_ref().unwrap();
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    log.wait_for("WARN", "leases are not renewed");
    bearer.get(CHANGES).send().problem(503);
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    asking.client = bearer;
    eventually("another watch has begun", || (asking.client.get(CHANGES).send().status == 200).then_some(()));
    asking.ask();
    assert_eq!(asking.resets, 2);
}

#[test]
fn flushing_redis_and_other_keys_are_a_reset() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LOG", "info");
    });
    let mut asking = Asking::begin(service.admin());
    let keys = generate(Algorithm::Hs256, 0);
    fs::write(&service.keys_file, keys.expose_secret()).unwrap();
    eventually("the keys are read", || {
        asking.ask();
        (asking.resets == 2).then_some(())
    });
    service.redis.as_ref().unwrap().cli(&["FLUSHALL"]);
    eventually("everything changed", || {
        // Until the first administrator is added again, the login fails.
        let answer = asking.client.get(&format!("{CHANGES}?after={}", asking.cursor)).send();
        if answer.status == 200 {
            asking.take(&answer.json());
        }
        (asking.resets == 3).then_some(())
    });
}

#[rstest]
fn introspection_says_how_old_its_knowledge_is(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (_, jwt) = admin.issue("x", "1h");
    let begun = Instant::now();
    eventually("the lease was renewed", || {
        let sent = Instant::now();
        let answer = admin.post_form("/oauth2/introspect", &[("token", &jwt)]).send().json();
        let age = u128::from(answer["age_ms"].as_u64().unwrap());
        // Rounded up. No older than a lease when the replica looked.
        assert!((1..=LEASE.as_millis() + sent.elapsed().as_millis() + 1).contains(&age), "{age}");
        (begun.elapsed() > 3 * LEASE).then_some(())
    });
}

//! Audit events: one for each change.

use std::{cell::Cell, collections::BTreeMap, io::Write};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Backend, Client, Log, RedisServer, Service, eventually, free_port, run};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// The audit events in a log, in order.
fn events(log: &Log) -> Vec<Value> {
    log.lines().into_iter().filter(|line| line["target"] == "audit").collect()
}

/// The audit events of all requests that were answered so far: that of a further token follows theirs.
fn all_events(service: &Service, log: &Log) -> Vec<Value> {
    let (id, _) = service.admin().issue("the last", "1h");
    eventually("the event of the last token", || {
        let mut events = events(log);
        let last = events.pop()?;
        (last["token_id"] == id).then_some(events)
    })
}

/// Reads the audit events of a log in order.
struct Trail<'a> {
    log: &'a Log,
    read: Cell<usize>,
}

impl<'a> Trail<'a> {
    fn of(log: &'a Log) -> Self {
        Self { log, read: Cell::new(0) }
    }

    /// Waits for the next event with this name: the log is written after the response.
    fn next(&self, event: &str) -> Value {
        let next = || {
            let events = events(self.log);
            let index = (self.read.get()..events.len()).find(|index| events[*index]["message"] == event)?;
            self.read.set(index + 1);
            Some(events[index].clone())
        };
        eventually(event, next)
    }
}

#[test]
fn the_event_of_a_change_names_the_user_and_the_client() {
    let log = Log::new();
    let trail = Trail::of(&log);
    let service = Service::start_with(Backend::Redis, |command| {
        // Audit events only.
        command.env("MAYFLY_LOG", "error").stderr(log.stdio());
    });
    assert_eq!(trail.next("user.added")["account"], "admin");

    let (id, jwt) = service.admin().issue("x", "1h");
    let issued = trail.next("token.issued");
    assert_eq!(issued["level"], "INFO");
    assert_eq!((&issued["owner"], &issued["token_id"]), (&"admin".into(), &(&*id).into()));
    assert_eq!(issued["life_seconds"], 3600);
    for attribute in ["scopes", "audiences", "networks"] {
        assert_eq!(issued.get(attribute), None);
    }
    assert_eq!((&issued["span"]["user"], &issued["span"]["client"]), (&"admin".into(), &"127.0.0.1".into()));

    let revoke = service.admin().delete(&format!("{TOKEN}/{id}")).header("x-request-id", "the-revocation");
    assert_eq!(revoke.send().status, 200);
    let revoked = trail.next("token.revoked");
    assert_eq!((&revoked["owner"], &revoked["token_id"]), (&"admin".into(), &(&*id).into()));
    assert_eq!(revoked["span"]["request_id"], "the-revocation");
    assert_eq!((&revoked["span"]["user"], &revoked["span"]["client"]), (&"admin".into(), &"127.0.0.1".into()));

    // A change that did not take place is no event.
    service.admin().delete(&format!("{TOKEN}/{id}")).send().problem(404);
    service.client().with_bearer(&jwt).delete(&format!("{TOKEN}/self")).send().problem(401);
    assert_eq!(all_events(&service, &log).iter().filter(|line| line["message"] == "token.revoked").count(), 1);

    // A token that revokes itself: no user logged in.
    let (id, jwt) = service.admin().issue("y", "1h");
    assert_eq!(service.client().with_bearer(&jwt).delete(&format!("{TOKEN}/self")).send().status, 200);
    let revoked = trail.next("token.revoked");
    assert_eq!((&revoked["token_id"], &revoked["span"]["user"]), (&(&*id).into(), &Value::Null));

    let (first, _) = service.admin().issue("z", "1h");
    let rotation =
        service.admin().post(&format!("{TOKEN}/{first}/rotate"), &serde_json::json!({"overlap": "5m"})).send();
    let rotated = trail.next("token.rotated");
    assert_eq!((&rotated["token_id"], &rotated["overlap_seconds"]), (&(&*first).into(), &300.into()));
    assert_eq!(rotated["successor_id"], rotation.json()["jwt_token_id"]);

    assert_eq!(service.admin().delete("/api/v1alpha/token?all=true").send().status, 200);
    let revoked = trail.next("tokens.revoked");
    // Both of the rotation, and that of `all_events`.
    assert_eq!((&revoked["owner"], &revoked["tokens"]), (&"admin".into(), &3.into()));

    let keys = serde_json::from_str::<Value>(&std::fs::read_to_string(&service.keys_file).unwrap()).unwrap();
    let kid = keys["keys"][0]["kid"].as_str().unwrap();
    let rotation = Service::command().args(["key", "rotate", service.keys_file.to_str().unwrap()]).status().unwrap();
    assert!(rotation.success());
    let changed = trail.next("keys.changed");
    let (_, old) = changed["keys"].as_str().unwrap().split_once(' ').unwrap();
    assert_eq!(old, kid);

    assert!(log.lines().iter().all(|line| line["target"] == "audit"), "{}", log.text());
}

#[test]
fn the_event_of_a_new_token_names_its_attributes() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    let body = json!({
        "jwt_token_description": "x", "jwt_token_life": "1h",
        "jwt_token_scopes": ["read", "repo:status"],
        "jwt_token_audiences": ["https://api.example"],
        "jwt_token_networks": ["192.0.2.7/32", "2001:DB8::/32"],
    });
    assert_eq!(service.admin().post(TOKEN, &body).send().status, 201);
    let issued = Trail::of(&log).next("token.issued");
    assert_eq!(issued["scopes"], "read repo:status");
    assert_eq!(issued["audiences"], "https://api.example");
    assert_eq!(issued["networks"], "192.0.2.7 2001:db8::/32");
}

#[test]
fn the_event_of_an_administrators_change_names_both_users() {
    let log = Log::new();
    let trail = Trail::of(&log);
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LOG", "error").stderr(log.stdio());
    });
    assert_eq!(trail.next("user.added")["account"], "admin");
    let admin = service.admin();
    let user = "/api/v1alpha/user/alice";
    let by_admin = |event: &str, fields: &[(&str, Value)]| {
        let line = trail.next(event);
        assert_eq!(line["span"]["user"], "admin", "{line}");
        for (field, value) in fields {
            assert_eq!(&line[*field], value, "{line}");
        }
    };
    admin.add_user("alice", "user");
    by_admin("user.added", &[("account", "alice".into()), ("role", "user".into())]);
    assert_eq!(admin.patch(user, &json!({"role": "introspector"})).send().status, 200);
    by_admin("user.role_changed", &[("account", "alice".into()), ("role", "introspector".into())]);

    let alice = service.client().with_basic("alice", "secret");
    let (id, _) = alice.issue("x", "1h");
    assert_eq!(admin.delete(&format!("{user}/token/{id}")).send().status, 200);
    by_admin("token.revoked", &[("owner", "alice".into()), ("token_id", (&*id).into())]);
    alice.issue("x", "1h");
    assert_eq!(admin.delete(&format!("{user}/token?all=true")).send().status, 200);
    by_admin("tokens.revoked", &[("owner", "alice".into()), ("tokens", 1.into())]);

    alice.issue("x", "1h");
    assert_eq!(admin.patch(user, &json!({"disabled": true})).send().status, 200);
    by_admin("user.disabled", &[("account", "alice".into()), ("tokens", 1.into())]);
    assert_eq!(admin.patch(user, &json!({"disabled": false})).send().status, 200);
    by_admin("user.enabled", &[("account", "alice".into())]);
    for _ in 0..2 {
        alice.issue("x", "1h");
    }
    let password = json!({"password": "second", "revoke_tokens": true});
    assert_eq!(alice.put(&format!("{user}/password"), &password).send().status, 200);
    let changed = trail.next("user.password_changed");
    assert_eq!((&changed["account"], &changed["tokens"]), (&"alice".into(), &2.into()));
    assert_eq!(changed["span"]["user"], "alice");
    service.client().with_basic("alice", "second").issue("x", "1h");
    assert_eq!(admin.delete(user).send().status, 200);
    by_admin("user.removed", &[("account", "alice".into()), ("tokens", 1.into())]);

    // A change that did not take place is no event.
    let count = events(&log).len();
    admin.patch(user, &json!({"disabled": true})).send().problem(404);
    admin.delete(user).send().problem(404);
    admin.patch("/api/v1alpha/user/admin", &json!({"disabled": true})).send().problem(409);
    admin.delete("/api/v1alpha/user/admin").send().problem(409);
    assert_eq!(all_events(&service, &log).len(), count);
}

#[test]
fn an_unconfirmed_change_is_an_event_with_that_outcome() {
    let log = Log::new();
    let redis = RedisServer::start_with(free_port(), &["--repl-diskless-sync-delay", "0"]);
    let replica_of = format!("127.0.0.1 {}", redis.port);
    let replica = RedisServer::start_with(free_port(), &["--replicaof", &replica_of]);
    eventually("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1").env("MAYFLY_LOG", "error").stderr(log.stdio());
    });
    service.wait_until_ready();
    let (admin, user) = (service.admin(), "/api/v1alpha/user/alice");
    let ready = || admin.patch(&format!("{USER}/admin"), &json!({"role": "admin"})).send();
    eventually("the replica acknowledges", || (ready().status == 200).then_some(()));
    admin.add_user("alice", "user");
    // The first administrator may have been added before the replica followed.
    let find = |event: &str, outcome: &str| {
        let is_it = |line: &Value| line["message"] == event && line["outcome"] == outcome && line["account"] != "admin";
        eventually(event, || events(&log).into_iter().find(is_it))
    };
    find("user.added", "done");
    let token = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let ids: Vec<String> = (0..2).map(|_| admin.issue("x", "1h").0).collect();

    replica.process.signal(Signal::SIGSTOP);
    for (request, event) in [
        (admin.post(TOKEN, &token), "token.issued"),
        (admin.post(&format!("{TOKEN}/{}/rotate", ids[0]), &json!({})), "token.rotated"),
        (admin.delete(&format!("{TOKEN}/{}", ids[1])), "token.revoked"),
        (admin.delete(&format!("{TOKEN}?all=true")), "tokens.revoked"),
        (admin.post(USER, &json!({"username": "bob", "password": "x"})), "user.added"),
        (admin.patch(user, &json!({"role": "introspector"})), "user.role_changed"),
        (admin.put(&format!("{user}/password"), &json!({"password": "x"})), "user.password_changed"),
        (admin.patch(user, &json!({"disabled": true})), "user.disabled"),
        (admin.patch(user, &json!({"disabled": false})), "user.enabled"),
        (admin.delete(user), "user.removed"),
    ] {
        request.send().problem(503);
        let line = find(event, "unconfirmed");
        assert_eq!((&line["span"]["user"], &line["tokens"]), (&"admin".into(), &Value::Null), "{line}");
    }
    replica.process.signal(Signal::SIGCONT);
    let again = || admin.patch(user, &json!({"disabled": true})).send();
    eventually("the replica acknowledges again", || (again().status == 200).then_some(()));
    find("user.disabled", "done");
}

#[test]
fn retries_to_add_the_first_administrator_are_one_unconfirmed_event() {
    let log = Log::new();
    let port = free_port();
    let service = Service::launch(Some(&format!("redis://127.0.0.1:{port}")), |command| {
        command.stderr(log.stdio());
    });
    eventually("the store is unreachable", || log.text().contains("the store does not answer").then_some(()));
    assert!(events(&log).is_empty(), "no write was sent");
    let redis = RedisServer::start_with(port, &["--maxmemory", "1"]);
    let refused = || {
        let errors = redis.cli(&["INFO", "errorstats"]);
        errors.lines().find_map(|line| line.strip_prefix("errorstat_OOM:count=")?.trim_end().parse().ok()).unwrap_or(0)
    };
    eventually("the service retries", || (refused() >= 3).then_some(()));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    service.wait_until_ready();
    log.wait_for("INFO", "the store is prepared");
    let outcomes: Vec<_> = events(&log).into_iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["unconfirmed", "done"]);
    assert_eq!(log.count("cannot prepare the store"), 1);
}

#[test]
fn a_failed_login_has_its_reason_and_no_unknown_name() {
    let log = Log::new();
    let trail = Trail::of(&log);
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    service.client().with_basic("admin", "wrong").get(TOKEN).send().problem(401);
    let failed = trail.next("login.failed");
    assert_eq!((&failed["reason"], &failed["account"]), (&"wrong_password".into(), &"admin".into()));
    assert_eq!((&failed["span"]["user"], &failed["span"]["client"]), (&Value::Null, &"127.0.0.1".into()));

    // People type passwords into the field for names.
    service.client().with_basic("tr0ub4dor", ADMIN_PASSWORD).get(TOKEN).send().problem(401);
    eventually("the event", || {
        let failed = trail.next("login.failed");
        (failed["reason"] == "unknown_user" && failed["account"].is_null()).then_some(())
    });
    assert!(!log.text().contains("tr0ub4dor"), "{}", log.text());
}

#[test]
fn repeated_failed_logins_are_counted_instead_of_written() {
    let log = Log::new();
    let mut service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").stderr(log.stdio());
    });
    let guess = |address: &str, user: &str| {
        let request = service.client().with_basic(user, "a guess").get(TOKEN).header("x-forwarded-for", address);
        request.header("x-request-id", "a-guess").send().status
    };
    // One client, then many networks of one IPv6 site.
    let (mut checked, mut throttled) = (0, 0);
    for _ in 0..200 {
        match guess("192.0.2.1", "admin") {
            401 => checked += 1,
            429 => throttled += 1,
            status => panic!("{status}"),
        }
    }
    for network in 0..100 {
        assert_eq!(guess(&format!("2001:db8:1:{network:x}::1"), &format!("nobody{network}")), 401);
    }
    assert!(checked > 1 && throttled > 1);
    let metrics = Client::new(&service.metrics_url).get("").send().text;
    for (reason, count) in [("wrong_password", checked), ("throttled", throttled), ("unknown_user", 100)] {
        let line = format!("mayfly_login_failures_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
    service.process.signal(Signal::SIGTERM);
    service.process.wait();

    let failures = events(&log).into_iter().filter(|line| line["message"] == "login.failed");
    let lines = failures.map(|line| {
        assert_ne!(line["span"]["client"], Value::Null, "{line}");
        (line["reason"].as_str().unwrap().to_owned(), line["account"].clone(), line["repeated"].as_u64())
    });
    // Where the guesses take more than a minute, their repetitions are several lines.
    let (mut first, mut repeated) = (Vec::new(), BTreeMap::<String, u64>::new());
    for (reason, account, count) in lines {
        assert_eq!(account, if reason == "wrong_password" { json!("admin") } else { Value::Null });
        match count {
            None => first.push(reason),
            Some(count) => *repeated.entry(reason).or_default() += count,
        }
    }
    assert_eq!(first, ["wrong_password", "throttled", "unknown_user"]);
    let expected = [("wrong_password", checked - 1), ("throttled", throttled - 1), ("unknown_user", 99)];
    assert_eq!(repeated, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    // A throttled guess leaves no line of its request either.
    let requests = log.lines().into_iter().filter(|line| line["message"] == "request" && line["status"] == 429);
    assert_eq!(requests.count(), 0);
}

#[test]
fn the_event_of_a_command_names_the_operating_systems_user() {
    let service = Service::start(Backend::Redis);
    let url = service.redis.as_ref().unwrap().url();
    for (arguments, event) in [
        (&["add", "bob", "--role=admin", "--password-stdin"][..], "user.added"),
        (&["password", "bob", "--password-stdin"], "user.password_changed"),
        (&["password", "bob", "--revoke-tokens", "--password-stdin"], "user.password_changed"),
        (&["role", "bob", "user"], "user.role_changed"),
        (&["disable", "bob"], "user.disabled"),
        (&["enable", "bob"], "user.enabled"),
        (&["remove", "bob"], "user.removed"),
    ] {
        let output = run(Service::command().env("MAYFLY_REDIS_URL", &url).arg("user").args(arguments), "secret");
        assert!(output.status.success(), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line: Value = serde_json::from_str(&stderr).expect(&stderr);
        assert_eq!(
            (&line["target"], &line["message"], &line["account"]),
            (&"audit".into(), &event.into(), &"bob".into())
        );
        assert_eq!(line["span"]["name"], "command");
        assert!(line["span"]["uid"].is_u64(), "{line}");
    }
}

#[test]
fn a_client_that_hangs_up_cannot_suppress_the_event() {
    let log = Log::new();
    let trail = Trail::of(&log);
    let service = Service::start_with(Backend::Redis, |command| {
        command.stderr(log.stdio());
    });
    let (id, jwt) = service.admin().issue("x", "1h");
    let request = format!("DELETE {TOKEN}/self HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {jwt}\r\n\r\n");
    let mut stream = service.connect();
    stream.write_all(request.as_bytes()).unwrap();
    // The response comes one lease after the write.
    let find = || service.redis.as_ref().unwrap().cli(&["EXISTS", &format!("mayfly:{{admin}}:token:{id}")]);
    eventually("the token is gone", || (find() == "0").then_some(()));
    drop(stream);
    assert_eq!(trail.next("token.revoked")["token_id"], *id);
}

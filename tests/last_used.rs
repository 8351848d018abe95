//! When tokens were last used: replicas tell each other through Redis.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Client, Cluster, Log, RedisServer, Service, eventually, free_port};

const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";
const INTROSPECT: &str = "/oauth2/introspect";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn start(redis_url: &str, keys: Option<&Path>) -> Service {
    let service = Service::launch(Some(redis_url), |command| {
        command.envs(keys.map(|keys| ("MAYFLY_JWT_KEYS_FILE", keys)));
    });
    service.wait_until_ready();
    service
}

/// Stops a replica as a deployment does.
fn stop(mut replica: Service) {
    replica.process.signal(Signal::SIGTERM);
    assert!(replica.process.wait().success());
}

/// When a token was last used: by the details, the list and the administrator's list, which agree unless a use comes in
/// between.
fn last_use(admin: &Client, id: &str) -> Option<u64> {
    let used = |token: &Value| token.get("jwt_token_last_used").map(|at| at.as_u64().unwrap());
    let get = |path: &str| {
        let answer = admin.get(path).send();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    eventually("details and lists agree", || {
        let details = used(&get(&format!("{TOKEN}/{id}")));
        let lists = [TOKEN, "/api/v1alpha/user/admin/token"].map(|list| used(&get(list)["jwt_tokens"][id]));
        (lists == [details; 2]).then_some(details)
    })
}

#[test]
fn a_use_shows_at_all_replicas_within_30_s_and_survives_a_crash() {
    let redis = RedisServer::start();
    let first = start(&redis.url(), None);
    let [mut second, third] = [(); 2].map(|()| start(&redis.url(), Some(&first.keys_file)));
    let (id, jwt) = first.admin().issue("x", "1h");
    assert_eq!(last_use(&third.admin(), &id), None);
    let bearer = second.client().with_bearer(&jwt);
    let used_from = now();
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    let (used, begun) = (used_from..=now() + 1, Instant::now());
    let shown = loop {
        if let Some(at) = last_use(&third.admin(), &id) {
            break at;
        }
        assert!(begun.elapsed() < Duration::from_secs(31), "it is not stored yet");
        sleep(Duration::from_millis(50));
    };
    assert!(used.contains(&shown), "{shown} is not in {used:?}");
    // A crash loses what was not sent yet, and nothing else.
    eventually("a second has passed", || (now() > *used.end()).then_some(()));
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    second.process.signal(Signal::SIGKILL);
    second.process.wait();
    for replica in [&first, &third] {
        let at = last_use(&replica.admin(), &id).unwrap();
        assert!(at == shown || at > *used.end(), "{at}");
    }
    // Another replica records the next use.
    let used_from = now();
    assert_eq!(third.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
    stop(third);
    assert!(last_use(&first.admin(), &id).unwrap() >= used_from);
}

/// In one server, or in a Cluster.
#[rstest]
fn a_shutdown_sends_what_is_left(#[values(false, true)] is_cluster: bool) {
    let (redis, cluster) = (RedisServer::start(), is_cluster.then(|| Cluster::start(false)));
    let url = cluster.as_ref().map_or_else(|| redis.url(), Cluster::url);
    let first = start(&url, None);
    let second = start(&url, Some(&first.keys_file));
    let admin = first.admin();
    let mut ids = Vec::new();
    for name in ["alice", "bob", "carol"] {
        admin.add_user(name, "user");
        let user = first.client().with_basic(name, "secret");
        let (id, jwt) = user.issue("x", "1h");
        assert_eq!(second.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
        ids.push((user, id));
    }
    let (begun, stopped_from) = (Instant::now(), now());
    stop(second);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for (user, id) in ids {
        let details = user.get(&format!("{TOKEN}/{id}")).send().json();
        let used = details["jwt_token_last_used"].as_u64().unwrap();
        assert!((stopped_from - 20..=stopped_from + 1).contains(&used), "{used}");
    }
}

#[rstest]
fn only_a_token_that_a_service_accepted_counts_as_used(#[values("0", "250ms")] lease: &str) {
    let redis = RedisServer::start();
    let first = start(&redis.url(), None);
    let second = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &first.keys_file).env("MAYFLY_LEASE", lease);
    });
    second.wait_until_ready();
    let (admin, bob) = (first.admin(), second.client().with_basic("bob", "secret"));
    admin.add_user("bob", "user");
    let issue = || admin.issue("x", "1h");
    let bearer = |jwt: &str| second.client().with_bearer(jwt);
    let (verified, introspected, caller, as_password) = (issue(), issue(), issue(), issue());
    let (unused, inspected, insufficient, of_another) = (issue(), issue(), issue(), issue());
    assert_eq!(bearer(&verified.1).get(VERIFY).send().status, 200);
    assert_eq!(second.client().with_basic("x", &as_password.1).get(VERIFY).send().status, 200);
    let about = |client: &Client, jwt: &str| client.post_form(INTROSPECT, &[("token", jwt)]).send().json();
    assert_eq!(about(&bearer(&caller.1), &introspected.1)["active"], true);
    // None of these is an acceptance by a service.
    assert_eq!(bearer(&inspected.1).get(&format!("{TOKEN}/self")).send().status, 200);
    assert_eq!(bearer(&insufficient.1).get(TOKEN).send().status, 403);
    assert_eq!(about(&bob, &of_another.1), json!({"active": false}));
    assert_eq!(bearer(&format!("{}x", unused.1)).get(VERIFY).send().status, 401);
    let limited = json!({"jwt_token_description": "x", "jwt_token_life": "1h", "jwt_token_networks": ["192.0.2.7"]});
    let limited = admin.post(TOKEN, &limited).send().json();
    let of_elsewhere = ["jwt_token_id", "jwt_token"].map(|name| limited[name].as_str().unwrap().to_owned());
    let of_elsewhere: (String, String) = of_elsewhere.into();
    let (without_scope, for_another_service) = (issue(), issue());
    bearer(&without_scope.1).get(&format!("{VERIFY}?scope=read")).send().problem(403);
    bearer(&for_another_service.1).get(&format!("{VERIFY}?audience=shop")).send().problem(401);
    bearer(&of_elsewhere.1).get(VERIFY).send().problem(403);
    stop(second);
    for (id, _) in [verified, introspected, caller, as_password] {
        assert!(last_use(&admin, &id).is_some());
    }
    let refused = [unused, inspected, insufficient, of_another, of_elsewhere, without_scope, for_another_service];
    for (id, _) in refused {
        assert_eq!(last_use(&admin, &id), None);
    }
}

#[test]
fn a_use_waits_while_redis_is_down() {
    // It is killed: what it answered is on the disk.
    let redis = RedisServer::start_with(free_port(), &["--appendfsync", "always"]);
    let log = Log::new();
    let first = start(&redis.url(), None);
    let second = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &first.keys_file).stderr(log.stdio());
    });
    second.wait_until_ready();
    let (id, jwt) = first.admin().issue("x", "1h");
    assert_eq!(second.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
    let used_until = now() + 1;
    let stopped = redis.stop();
    log.wait_for("WARN", "does not take the last uses of tokens");
    let _redis = stopped.start_again();
    second.wait_until_ready();
    eventually("a second has passed", || (now() > used_until).then_some(()));
    stop(second);
    // A replica stays ready in a short outage.
    eventually("the other replica answers", || (first.admin().get(TOKEN).send().status == 200).then_some(()));
    let used = last_use(&first.admin(), &id).unwrap_or_else(|| panic!("{}", log.text()));
    assert!(used <= used_until, "{used}");
    assert_eq!(log.count("takes the last uses of tokens again"), 1, "{}", log.text());
}

#[test]
fn a_use_brings_no_record_of_a_removed_user_back() {
    let redis = RedisServer::start();
    let first = start(&redis.url(), None);
    let second = start(&redis.url(), Some(&first.keys_file));
    let admin = first.admin();
    let jwts = ["alice", "bob"].map(|name| {
        admin.add_user(name, "user");
        let (_, jwt) = first.client().with_basic(name, "secret").issue("x", "1h");
        assert_eq!(second.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
        assert_eq!(admin.delete(&format!("/api/v1alpha/user/{name}")).send().status, 200);
        jwt
    });
    admin.add_user("alice", "user");
    let alice = first.client().with_basic("alice", "secret");
    let (id, _) = alice.issue("x", "1h");
    stop(second);
    assert_eq!(redis.cli(&["KEYS", "*:used"]), "");
    assert_eq!(redis.cli(&["KEYS", "*{bob}*"]), "mayfly:{bob}:removal");
    assert_eq!(alice.get(&format!("{TOKEN}/{id}")).send().json().get("jwt_token_last_used"), None);
    for jwt in jwts {
        first.client().with_bearer(&jwt).get(VERIFY).send().problem(401);
    }
}

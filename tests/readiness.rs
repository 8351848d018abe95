//! Conditions of Redis that make a service unready or are warned about, and the recovery from an emptied Redis.

use serde_json::json;

use crate::support::{Answer, Backend, Client, Log, RedisServer, Service, eventually};

const TOKEN: &str = "/api/v1alpha/token";

fn readiness(service: &Service) -> Answer {
    service.client().get("/readyz").send()
}

/// Waits until the service is not ready, and returns why.
fn unready(service: &Service) -> String {
    let answer = eventually("it is unready", || Some(readiness(service)).filter(|answer| answer.status == 503));
    answer.problem(503)
}

/// Waits until the service is ready with this many warnings, and returns them.
fn warnings(service: &Service, count: usize) -> Vec<String> {
    eventually("it is ready", || {
        let answer = readiness(service);
        let warnings: Vec<String> = serde_json::from_value(answer.json()["warnings"].clone()).unwrap_or_default();
        (answer.status == 200 && warnings.len() == count).then_some(warnings)
    })
}

/// Starts a Redis with a user `limited`, who has these ACL rules after `+@all`, and returns it with the URL of that
/// user.
fn redis_with_limited_user(rules: &[&str]) -> (RedisServer, String) {
    let redis = RedisServer::start();
    redis.cli(&["ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all"]);
    allow(&redis, rules);
    let url = format!("redis://limited:secret@127.0.0.1:{}", redis.port);
    (redis, url)
}

fn allow(redis: &RedisServer, rules: &[&str]) {
    assert_eq!(redis.cli(&[&["ACL", "SETUSER", "limited"], rules].concat()), "OK");
}

#[test]
fn a_policy_that_evicts_any_key_makes_the_service_unready_while_it_is_set() {
    let log = Log::new();
    let service = Service::start_with(Backend::Redis, |command| {
        command.stderr(log.stdio());
    });
    let redis = service.redis.as_ref().unwrap();
    let set = |policy: &str| assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory-policy", policy]), "OK");
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
        set(policy);
        let why = unready(&service);
        assert!(why.contains("set maxmemory-policy to noeviction"), "{policy}: {why}");
        // Tokens are served all the same, so that nothing but the policy decides when requests come back.
        assert_eq!(service.admin().get(TOKEN).send().status, 200);
        set("noeviction");
        assert_eq!(warnings(&service, 0), [] as [&str; 0]);
    }
    log.wait_for("ERROR", "may evict any key");
    log.wait_for("INFO", "no longer: Redis may evict any key");

    for policy in ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"] {
        set(policy);
        let warnings = warnings(&service, 1);
        assert!(warnings[0].contains("maxmemory-policy to noeviction"), "{policy}: {warnings:?}");
    }
    log.wait_for("WARN", "may evict tokens");
    set("noeviction");
    assert_eq!(warnings(&service, 0), [] as [&str; 0]);
    log.wait_for("INFO", "no longer: Redis may evict tokens");
}

#[test]
fn a_service_does_not_become_ready_where_redis_evicts_any_key() {
    let redis = RedisServer::start();
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let service = Service::launch(Some(&redis.url()), |_| {});
    eventually("it says why", || {
        readiness(&service).problem(503).contains("set maxmemory-policy to noeviction").then_some(())
    });
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    service.wait_until_ready();
    service.admin().issue("x", "1h");
}

#[test]
fn a_user_without_info_is_served_and_warned() {
    let (redis, url) = redis_with_limited_user(&["-@dangerous"]);
    let service = Service::launch(Some(&url), |_| {});
    let [warning] = &warnings(&service, 1)[..] else { panic!("one warning") };
    assert!(warning.contains("INFO") && warning.contains("+info"), "{warning}");
    let (id, _) = service.admin().issue("x", "1h");
    assert_eq!(service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    allow(&redis, &["+info"]);
    assert_eq!(warnings(&service, 0), [] as [&str; 0]);
}

#[test]
fn a_user_without_scripting_makes_the_service_unready_at_the_start_and_later() {
    let (redis, url) = redis_with_limited_user(&["-@scripting"]);
    let log = Log::new();
    let service = Service::launch(Some(&url), |command| {
        command.stderr(log.stdio());
    });
    let says_why = || {
        let why = readiness(&service).problem(503);
        (why.contains("scripts") && why.contains("deploy/redis-acl")).then_some(())
    };
    eventually("it says why", says_why);
    log.wait_for("ERROR", "does not allow this service's user to run scripts");
    assert_eq!(service.client().get("/livez").send().status, 200);
    allow(&redis, &["+@scripting"]);
    service.wait_until_ready();
    service.admin().issue("x", "1h");

    allow(&redis, &["-@scripting"]);
    eventually("it says why", || (readiness(&service).status == 503).then(says_why).flatten());
    allow(&redis, &["+@scripting"]);
    service.wait_until_ready();
    log.wait_for("INFO", "no longer: Redis");
}

#[test]
fn an_emptied_redis_is_logged_and_counted_and_gets_its_administrator_again() {
    let log = Log::new();
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.stderr(log.stdio());
    });
    let counted = |service: &Service| {
        let page = Client::new(&service.metrics_url).get("").send().text;
        let count = page.lines().find_map(|line| line.strip_prefix("mayfly_store_emptied_total ")).map(str::to_owned);
        count.expect("it is counted from the start")
    };
    let warnings = || log.count("came back empty");
    assert_eq!((counted(&service).as_str(), warnings()), ("0", 0));

    let redis = service.redis.take().unwrap();
    let (_, jwt) = service.admin().issue("x", "1h");
    redis.cli(&["FLUSHALL"]);
    log.wait_for("ERROR", "came back empty");
    service.wait_until_ready();
    assert_eq!(service.admin().get(TOKEN).send().json()["jwt_tokens"], json!({}));
    service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().problem(401);
    assert_eq!((counted(&service).as_str(), warnings()), ("1", 1));

    // Killed and started again without its append-only file.
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let emptied = redis.stop();
    emptied.forget();
    let _redis = emptied.start_again();
    eventually("it is counted", || (counted(&service) == "2").then_some(()));
    service.wait_until_ready();
    assert_eq!(service.admin().get(TOKEN).send().status, 200);
    eventually("it is warned of", || (warnings() == 2).then_some(()));
}

#[test]
fn without_a_configured_password_an_emptied_redis_gets_no_administrator() {
    let log = Log::new();
    let service = Service::start_with(Backend::Redis, |command| {
        // Then only the service's checks send PERSIST.
        command.env("MAYFLY_LEASE", "0").env_remove("MAYFLY_ADMIN_PASSWORD").stderr(log.stdio());
    });
    service.add_user("alice", "admin");
    let redis = service.redis.as_ref().unwrap();
    let alice = service.client().with_basic("alice", "secret");
    assert_eq!(alice.get(TOKEN).send().status, 200);
    redis.cli(&["CONFIG", "RESETSTAT"]);
    eventually("it sees that there is somebody", || {
        redis.cli(&["INFO", "commandstats"]).contains("cmdstat_persist:").then_some(())
    });
    redis.cli(&["FLUSHALL"]);
    log.wait_for("ERROR", "came back empty");
    eventually("it says so again", || (log.count("there are no users") == 2).then_some(()));
    alice.get(TOKEN).send().problem(401);
}

#[test]
fn an_administrator_password_without_effect_is_logged() {
    let redis = RedisServer::start();
    let start = |password: &str, expected: usize| {
        let log = Log::new();
        let service = Service::launch(Some(&redis.url()), |command| {
            command.env("MAYFLY_ADMIN_PASSWORD", password).stderr(log.stdio());
        });
        service.wait_until_ready();
        eventually("as often as expected", || (log.count("changed nothing") == expected).then_some(()));
    };
    start("first", 0);
    start("first", 0);
    start("second", 1);
}

#[test]
fn the_recovery_of_lease_renewal_is_logged() {
    let (redis, url) = redis_with_limited_user(&["-client"]);
    let log = Log::new();
    let service = Service::launch(Some(&url), |command| {
        command.stderr(log.stdio());
    });
    service.wait_until_ready();
    log.wait_for("WARN", "leases are not renewed");
    assert!(!log.text().contains("leases are renewed again"));
    allow(&redis, &["+client"]);
    log.wait_for("INFO", "leases are renewed again");
}

#[test]
fn logins_before_the_first_administrator_are_503() {
    let redis = RedisServer::start();
    // Redis has no replica, so no write is acknowledged and no administrator can be added.
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1");
    });
    service.admin().get("/api/v1alpha/token").send().problem(503);
    service.client().get("/readyz").send().problem(503);
}

#[test]
fn a_failing_lease_renewal_is_logged_once() {
    let log = Log::new();
    let redis = RedisServer::start();
    let service = Service::launch(Some(&redis.url()), |command| {
        command.stderr(log.stdio());
    });
    service.wait_until_ready();
    let count = |message: &str| log.text().matches(message).count();
    let tries = || {
        redis
            .info("cmdstat_client|tracking")
            .trim_start_matches("calls=")
            .split(',')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let before = tries();
    eventually("it tries again", || (tries() >= before + 8).then_some(()));
    assert_eq!((count("leases are not renewed"), count("leases are renewed again")), (1, 0));
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("they are renewed again", || (count("leases are renewed again") == 1).then_some(()));
}

//! The records in Redis, and decisions that only Redis makes.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Backend, Proxy, RedisServer, Service, eventually, free_port, run};

const TOKEN: &str = "/api/v1alpha/token";

#[test]
fn a_token_is_one_key_whose_ttl_is_its_life() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("Token specter", "6 hours");
    let key = format!("mayfly:{{admin}}:token:{id}");
    assert_eq!(redis.cli(&["KEYS", "mayfly:*:token:*"]), key);

    let pttl = || redis.cli(&["PTTL", &key]).parse::<f64>().unwrap() / 1000.0;
    let before = pttl();
    let details = service.admin().get(&format!("{TOKEN}/{id}")).send().json();
    let remaining = details["jwt_token_life_remaining"].as_f64().unwrap();
    assert!((pttl()..=before).contains(&remaining), "API {remaining}, PTTL {before} before");

    // The API reports the TTL in Redis, not the requested life.
    redis.cli(&["EXPIRE", &key, "100"]);
    let details = service.admin().get(&format!("{TOKEN}/{id}")).send().json();
    assert!((90.0..=100.0).contains(&details["jwt_token_life_remaining"].as_f64().unwrap()), "{details}");
    let list = service.admin().get(TOKEN).send().json();
    assert!((90.0..=100.0).contains(&list["jwt_tokens"][&id]["jwt_token_remaining_life"].as_f64().unwrap()), "{list}");

    // Redis holds no secret that can authenticate.
    let mut everything = String::new();
    for key in redis.cli(&["KEYS", "*"]).lines() {
        let command = match &*redis.cli(&["TYPE", key]) {
            "string" => vec!["GET", key],
            "hash" => vec!["HGETALL", key],
            "set" => vec!["SMEMBERS", key],
            "zset" => vec!["ZRANGE", key, "0", "-1"],
            other => panic!("{key} is a {other}"),
        };
        everything += &redis.cli(&command);
    }
    assert!(everything.contains("Token specter") && everything.contains("$argon2id$v=19$m=19456,t=2,p=1$"));
    for secret in [&*jwt, jwt.rsplit('.').next().unwrap(), ADMIN_PASSWORD] {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
}

#[test]
fn deleting_its_key_revokes_a_token() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("x", "1h");
    assert_eq!(redis.cli(&["DEL", &format!("mayfly:{{admin}}:token:{id}")]), "1");
    service.admin().get(&format!("{TOKEN}/{id}")).send().problem(404);
    service.admin().delete(&format!("{TOKEN}/{id}")).send().problem(404);
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);
    assert_eq!(service.admin().get(TOKEN).send().json()["message"], "No tokens exist");
    assert_eq!(redis.cli(&["EXISTS", "mayfly:{admin}:tokens"]), "0", "the index is empty");
}

#[test]
fn the_index_lists_every_live_token_whatever_its_ttl() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (short, _) = service.admin().issue("x", "1s");
    let (lengthened, jwt) = service.admin().issue("x", "1m");
    let key = |id: &str| format!("mayfly:{{admin}}:token:{id}");
    redis.cli(&["EXPIRE", &key(&lengthened), "3600"]);
    eventually("the short one is dead", || (redis.cli(&["EXISTS", &key(&short)]) == "0").then_some(()));
    assert_eq!(redis.cli(&["TTL", "mayfly:{admin}:tokens"]), "-1");
    let list = service.admin().get(TOKEN).send().json();
    assert_eq!(list["jwt_tokens"].as_object().unwrap().keys().collect::<Vec<_>>(), [&lengthened]);
    service.add_user("another", "admin");
    let removed = run(Service::command().env("MAYFLY_REDIS_URL", redis.url()).args(["user", "remove", "admin"]), "");
    assert!(removed.status.success());
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);
}

#[test]
fn an_unreadable_record_does_not_hide_other_tokens() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (odd, _) = service.admin().issue("x", "1h");
    let (good, _) = service.admin().issue("x", "1h");
    redis.cli(&["PERSIST", &format!("mayfly:{{admin}}:token:{odd}")]);
    let list = service.admin().get(TOKEN).send();
    assert_eq!(list.status, 200);
    assert_eq!(list.json()["jwt_tokens"].as_object().unwrap().keys().collect::<Vec<_>>(), [&good]);
    service.admin().get(&format!("{TOKEN}/{odd}")).send().problem(503);
}

/// A restriction that cannot be read is not left out: the token is in doubt, and can still be revoked.
#[test]
fn broken_attributes_hide_no_other_tokens() {
    let service = Service::start(Backend::Redis);
    let (redis, admin) = (service.redis.as_ref().unwrap(), service.admin());
    let (good, _) = admin.issue("x", "1h");
    for (field, value) in [
        ("c", json!("a  b")),
        ("c", json!("a a")),
        ("c", json!(5)),
        ("a", json!("\u{fc}")),
        ("n", json!("10.0.0.0/33")),
        ("n", json!("0.0.0.0/0")),
        ("n", json!([])),
    ] {
        let (broken, jwt) = admin.issue("x", "1h");
        let key = format!("mayfly:{{admin}}:token:{broken}");
        let mut record: Value = serde_json::from_str(&redis.cli(&["GET", &key])).unwrap();
        record[field] = value.clone();
        redis.cli(&["SET", &key, &record.to_string(), "KEEPTTL"]);
        let list = admin.get(TOKEN).send();
        assert_eq!(list.status, 200);
        assert_eq!(list.json()["jwt_tokens"].as_object().unwrap().keys().collect::<Vec<_>>(), [&good], "{value}");
        let bearer = service.client().with_bearer(&jwt);
        admin.get(&format!("{TOKEN}/{broken}")).send().problem(503);
        bearer.get("/api/v1alpha/verify").send().problem(503);
        admin.post_form("/oauth2/introspect", &[("token", &jwt)]).send().problem(503);
        assert_eq!(admin.delete(&format!("{TOKEN}/{broken}")).send().status, 200, "{value}");
        bearer.get("/api/v1alpha/verify").send().problem(401);
    }
}

#[test]
fn a_token_of_another_life_or_content_is_not_accepted() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("x", "1h");
    let (_, other) = service.admin().issue("y", "1h");
    let key = format!("mayfly:{{admin}}:token:{id}");
    let mut record: Value = serde_json::from_str(&redis.cli(&["GET", &key])).unwrap();

    // The record has the digest of another JWT.
    record["h"] = mayfly::domain::token::TokenDigest::of(&other).to_base64().into();
    redis.cli(&["SET", &key, &record.to_string(), "KEEPTTL"]);
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);

    // In doubt the response is 503: neither valid nor invalid.
    for corrupt in ["", "{}", "\u{1}"] {
        redis.cli(&["SET", &key, corrupt, "KEEPTTL"]);
        service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(503);
        service.admin().get(&format!("{TOKEN}/{id}")).send().problem(503);
    }
}

#[test]
fn each_operation_is_one_round_trip() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    let redis = service.redis.as_ref().unwrap();
    let admin = service.admin();
    let (id, jwt) = admin.issue("x", "1h");
    admin.get(TOKEN).send();
    admin.delete(&format!("{TOKEN}/{}", admin.issue("y", "1h").0)).send();
    let bearer = service.client().with_bearer(&jwt);
    // A login reads the user by HGETALL after a GETEX, which only a primary answers. A Bearer token needs no login. An
    // inspection also reads the last use by HGET, in the same pipeline.
    for (what, request, expected) in [
        ("list", admin.get(TOKEN), vec!["evalsha", "getex", "hgetall"]),
        ("inspect", admin.get(&format!("{TOKEN}/{id}")), vec!["getex", "hget", "hgetall", "pttl"]),
        ("verify", bearer.get("/api/v1alpha/token/self"), vec!["getex", "hget", "pttl"]),
        ("list users", admin.get("/api/v1alpha/user"), vec!["getex", "hgetall", "zrange"]),
        ("revoke", admin.delete(&format!("{TOKEN}/{id}")), vec!["evalsha", "getex", "hgetall"]),
    ] {
        redis.cli(&["CONFIG", "RESETSTAT"]);
        assert_eq!(request.send().status, 200, "{what}");
        let stats = redis.cli(&["INFO", "commandstats"]);
        let commands = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
        // The count includes commands of scripts, redis-cli, and the service's check twice a second.
        let in_scripts = [
            "config|resetstat",
            "del",
            "hdel",
            "hmget",
            "mget",
            "zrem",
            "zrevrange",
            "info",
            "exists",
            "persist",
            "time",
        ];
        let calls = |command: &str| {
            let count = stats
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
            count.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        // Each check is a script that calls PERSIST.
        let is_look = |command: &str| command == "evalsha" && calls("evalsha") == calls("persist");
        let is_get_in_script = |command: &str| what == "list" && ["get", "pttl"].contains(&command);
        let mut sent: Vec<_> = commands
            .filter(|command| !in_scripts.contains(command) && !is_get_in_script(command) && !is_look(command))
            .collect();
        sent.sort_unstable();
        assert_eq!(sent, expected, "{what}: {stats}");
    }
}

#[test]
fn scripts_are_loaded_again_after_redis_lost_them() {
    let service = Service::start(Backend::Redis);
    service.admin().issue("x", "1h");
    service.redis.as_ref().unwrap().cli(&["SCRIPT", "FLUSH"]);
    let (id, _) = service.admin().issue("y", "1h");
    assert_eq!(service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
}

#[test]
fn a_full_redis_still_revokes() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("x", "1h");
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let body = serde_json::json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let refused = service.admin().post(TOKEN, &body).send();
    refused.problem(503);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(service.admin().get(TOKEN).send().status, 200);
    assert_eq!(service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(service.admin().post(TOKEN, &body).send().status, 201);
}

#[test]
fn a_hash_of_lower_cost_is_replaced_at_the_next_login() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_PASSWORD_COST", "m=64,t=1,p=1");
    });
    let redis = service.redis.as_ref().unwrap();
    let hash = || redis.cli(&["HGET", "mayfly:{admin}:user", "password"]);
    assert!(hash().starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", hash());
    let cheaper = hash();
    let dearer = Service::launch(Some(&redis.url()), |_| {});
    dearer.client().with_basic("admin", "wrong").get(TOKEN).send().problem(401);
    assert_eq!(hash(), cheaper, "only who knows the password has it hashed");
    let before = dearer.hashes();
    for _ in 0..3 {
        assert_eq!(dearer.admin().get(TOKEN).send().status, 200);
        assert_eq!(dearer.hashes() - before, 2, "one to verify the old hash and one that is new");
    }
    let new = hash();
    assert!(new.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{new}");
    let before = service.hashes();
    for _ in 0..3 {
        assert_eq!(service.admin().get(TOKEN).send().status, 200);
        assert_eq!(service.hashes() - before, 1);
    }
    assert_eq!(hash(), new);

    // A hash of excessive cost is rejected as unreadable.
    redis.cli(&["HSET", "mayfly:{admin}:user", "password", &new.replace("m=19456,", "m=4194304,")]);
    eventually("its lease is over", || (dearer.admin().get(TOKEN).send().status == 503).then_some(()));
}

#[test]
fn forged_tokens_do_not_occupy_the_connections_that_wait_for_replicas() {
    let redis = RedisServer::start_with(free_port(), &["--repl-diskless-sync-delay", "0"]);
    let link = Proxy::to(redis.port);
    let replica_of = format!("127.0.0.1 {}", link.port);
    let replica = RedisServer::start_with(free_port(), &["--replicaof", &replica_of]);
    eventually("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1");
    });
    service.wait_until_ready();
    let (_, jwt) = service.admin().issue("x", "1h");
    let (message, _) = jwt.rsplit_once('.').unwrap();
    let made_up = format!("{message}.{}", "A".repeat(43));
    // A distant replica: waiting for it could occupy all connections.
    link.delay(Duration::from_millis(100));
    let (begun, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..128 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    begun.fetch_add(1, Relaxed);
                    let status = service.client().post_form("/oauth2/revoke", &[("token", &made_up)]).send().status;
                    assert!([200, 503].contains(&status), "{status}");
                }
            });
        }
        eventually("all have begun", || (begun.load(Relaxed) >= 128).then_some(()));
        let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
        let statuses: Vec<u16> = (0..8).map(|_| service.admin().post(TOKEN, &body).send().status).collect();
        is_over.store(true, Relaxed);
        assert_eq!(statuses, [201; 8]);
    });
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
}

#[test]
fn a_token_of_an_unknown_key_is_revoked_on_every_replica_before_the_response() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let other = Service::launch(Some(&redis.url()), |_| {});
    other.wait_until_ready();
    for _ in 0..5 {
        let (_, jwt) = service.admin().issue("x", "1h");
        let verify = || service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status;
        assert_eq!(verify(), 200);
        let revoke = |replica: &Service| replica.client().post_form("/oauth2/revoke", &[("token", &jwt)]).send().status;
        thread::scope(|scope| {
            // The other revocation finds no record while the first is not yet answered.
            let first = scope.spawn(|| revoke(&service));
            let is_gone = || redis.cli(&["ZCARD", "mayfly:{admin}:tokens"]) == "0";
            eventually("it is revoked", || is_gone().then_some(()));
            assert_eq!(revoke(&other), 200);
            assert_eq!(verify(), 401);
            assert_eq!(first.join().unwrap(), 200);
        });
    }
}

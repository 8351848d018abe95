//! Idempotency-Keys over HTTP: replicas of the service on one Redis give equal answers to a repeated request.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Answer, Backend, Client, Log, RedisServer, Service, eventually, run};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";
const VERIFY: &str = "/api/v1alpha/verify";
const KEY: &str = "Idempotency-Key";
const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

fn body() -> Value {
    json!({"jwt_token_description": "Token specter", "jwt_token_life": "1h"})
}

fn create(client: &Client, key: &str) -> Answer {
    client.post(TOKEN, &body()).header(KEY, key).send()
}

fn rotate(client: &Client, id: &str, key: &str, body: &Value) -> Answer {
    client.post(&format!("{TOKEN}/{id}/rotate"), body).header(KEY, key).send()
}

/// Asserts that the answer has a token, and returns its id and its JWT.
#[track_caller]
fn issued(answer: &Answer) -> (String, String) {
    assert_eq!(answer.status, 201, "{answer:?}");
    let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("{TOKEN}/{}", field("jwt_token_id")));
    (field("jwt_token_id"), field("jwt_token"))
}

fn ids(client: &Client) -> Vec<String> {
    client.get(TOKEN).send().json()["jwt_tokens"].as_object().unwrap().keys().cloned().collect()
}

/// Generates keys in a file of a new directory.
fn key_file(algorithm: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let generated = run(Service::command().args(["key", "generate", "--alg", algorithm]), "");
    fs::write(&file, generated.stdout).unwrap();
    (directory, file)
}

/// Starts a replica with these keys on this Redis.
fn replica(redis_url: &str, keys: &Path) -> Service {
    let service = Service::launch(Some(redis_url), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", keys);
    });
    service.wait_until_ready();
    service
}

#[rstest]
#[case("HS256")]
#[case("EdDSA")]
fn twenty_requests_at_three_replicas_get_one_token_and_equal_answers(#[case] algorithm: &str) {
    let redis = RedisServer::start();
    let (_directory, keys) = key_file(algorithm);
    let replicas = [(); 3].map(|()| replica(&redis.url(), &keys));
    let admins = replicas.each_ref().map(Service::admin);
    let at_once = |send: &(dyn Fn(&Client) -> Answer + Sync)| -> HashSet<(String, String, String)> {
        let answers: Vec<Answer> = thread::scope(|scope| {
            let requests: Vec<_> = admins.iter().cycle().take(20).map(|admin| scope.spawn(|| send(admin))).collect();
            requests.into_iter().map(|request| request.join().unwrap()).collect()
        });
        let fields = |answer: Answer| {
            let (id, jwt) = issued(&answer);
            (id, jwt, answer.text)
        };
        answers.into_iter().map(fields).collect()
    };
    let created = at_once(&|admin| create(admin, UUID));
    assert_eq!(created.len(), 1, "{created:?}");
    let (id, jwt, _) = created.into_iter().next().unwrap();
    assert_eq!(ids(&admins[0]), [&*id]);
    assert_eq!(replicas[1].client().with_bearer(&jwt).get(VERIFY).send().status, 200);

    let rotated = at_once(&|admin| rotate(admin, &id, "rotation", &json!({})));
    assert_eq!(rotated.len(), 1, "{rotated:?}");
    let (successor, new, _) = rotated.into_iter().next().unwrap();
    assert_eq!(ids(&admins[0]), [&*successor]);
    assert_eq!(replicas[1].client().with_bearer(&jwt).get(VERIFY).send().status, 401);
    assert_eq!(replicas[2].client().with_bearer(&new).get(VERIFY).send().status, 200);
    create(&admins[2], UUID).problem(409);
}

#[rstest]
#[case("HS256")]
#[case("EdDSA")]
fn a_key_that_no_longer_signs_signs_the_same_jwt_again(#[case] algorithm: &str) {
    let redis = RedisServer::start();
    let (_directory, keys) = key_file(algorithm);
    let first = replica(&redis.url(), &keys);
    let old = issued(&create(&first.admin(), UUID));
    let original = fs::read_to_string(&keys).unwrap();
    let file = keys.to_str().unwrap();
    let rotated = run(Service::command().args(["key", "rotate", file, "--alg", "HS256", "--delay", "0s"]), "");
    assert!(rotated.status.success(), "{rotated:?}");
    let second = replica(&redis.url(), &keys);
    let (_, new) = issued(&create(&second.admin(), "new"));
    let header = |jwt: &str| jwt.split('.').next().unwrap().to_owned();
    assert_ne!(header(&new), header(&old.1), "another key signs");
    assert_eq!(issued(&create(&second.admin(), UUID)), old);

    // A replica without the new key cannot answer its token, but names it.
    fs::write(&keys, original).unwrap();
    let third = replica(&redis.url(), &keys);
    let id = second.admin().get(TOKEN).send().json()["jwt_tokens"].as_object().unwrap().keys().next().unwrap().clone();
    let detail = create(&third.admin(), "new").problem(409);
    assert!(detail.contains(&id) && detail.contains("JWT cannot be shown again"), "{detail}");
    assert_eq!(issued(&create(&third.admin(), UUID)), old);
}

#[test]
fn a_token_of_es256_is_named_and_not_signed_again() {
    let redis = RedisServer::start();
    let (_directory, keys) = key_file("ES256");
    let replicas = [(); 2].map(|()| replica(&redis.url(), &keys));
    let (id, jwt) = issued(&create(&replicas[0].admin(), UUID));
    for replica in &replicas {
        let detail = create(&replica.admin(), UUID).problem(409);
        assert!(detail.contains(&id) && detail.contains("JWT cannot be shown again"), "{detail}");
    }
    assert_eq!(ids(&replicas[1].admin()), [&*id]);
    assert_eq!(replicas[1].client().with_bearer(&jwt).get(VERIFY).send().status, 200);

    let (successor, _) = issued(&rotate(&replicas[0].admin(), &id, "rotation", &json!({})));
    let detail = rotate(&replicas[1].admin(), &id, "rotation", &json!({})).problem(409);
    assert!(detail.contains(&successor), "{detail}");
}

#[rstest]
fn a_key_belongs_to_one_request(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let first = issued(&create(&admin, UUID));
    let same = |body: &str| {
        let request = admin.request("POST", TOKEN).header("content-type", "application/json").body(body);
        issued(&request.header(KEY, UUID).send())
    };
    // The same values, serialized anew.
    assert_eq!(same(r#" {"jwt_token_life": "60 minutes","jwt_token_description":" T\u006fken specter"}"#), first);
    for other in [
        json!({"jwt_token_description": "Token specter", "jwt_token_life": "61m"}),
        json!({"jwt_token_description": "token specter", "jwt_token_life": "1h"}),
    ] {
        admin.post(TOKEN, &other).header(KEY, UUID).send().problem(422);
    }
    rotate(&admin, &first.0, UUID, &json!({})).problem(422);
    let wrong = json!({"jwt_token_description": "Token specter", "jwt_token_life": "1M"});
    admin.post(TOKEN, &wrong).header(KEY, UUID).send().problem(400);
    assert_eq!(ids(&admin), [&*first.0]);

    // A new key is another token, and so is none.
    let second = issued(&create(&admin, "another"));
    let (third, _) = admin.issue("Token specter", "1h");
    assert_eq!(ids(&admin), [&*third, &*second.0, &*first.0]);
    let successor = issued(&rotate(&admin, &first.0, "rotation", &json!({"overlap": "60s"})));
    assert_eq!(issued(&rotate(&admin, &first.0, "rotation", &json!({"overlap": "1 minute"}))), successor);
    rotate(&admin, &first.0, "rotation", &json!({"overlap": "61s"})).problem(422);
    rotate(&admin, &first.0, "rotation", &json!({})).problem(422);
    rotate(&admin, &second.0, "rotation", &json!({"overlap": "60s"})).problem(422);
    create(&admin, "rotation").problem(422);
    rotate(&admin, &first.0, "another-rotation", &json!({})).problem(409);
}

#[rstest]
fn a_repetition_whose_token_is_gone_names_it(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let gone = |key: &str, id: &str| {
        let detail = create(&admin, key).problem(409);
        assert!(detail.contains(id) && detail.contains("revoked or rotated"), "{detail}");
    };
    let (deleted, _) = issued(&create(&admin, "deleted"));
    assert_eq!(admin.delete(&format!("{TOKEN}/{deleted}")).send().status, 200);
    gone("deleted", &deleted);
    let other = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    admin.post(TOKEN, &other).header(KEY, "deleted").send().problem(422);

    // Rotated, and live for the overlap.
    let (rotated, _) = issued(&create(&admin, "rotated"));
    let (successor, _) = issued(&rotate(&admin, &rotated, "rotation", &json!({"overlap": "2s"})));
    gone("rotated", &rotated);
    eventually("it expires", || (admin.get(&format!("{TOKEN}/{rotated}")).send().status == 404).then_some(()));
    gone("rotated", &rotated);
    assert_eq!(issued(&rotate(&admin, &rotated, "rotation", &json!({"overlap": "2s"}))).0, successor);
    rotate(&admin, &rotated, "another", &json!({})).problem(404);

    assert_eq!(admin.delete(&format!("{TOKEN}?all=true")).send().status, 200);
    rotate(&admin, &rotated, "rotation", &json!({"overlap": "2s"})).problem(409);

    // After the token's life, the key is free.
    let brief = json!({"jwt_token_description": "x", "jwt_token_life": "1s"});
    let send = || issued(&admin.post(TOKEN, &brief).header(KEY, "brief").send()).0;
    let first = send();
    eventually("the key is free again", || (send() != first).then_some(()));
}

#[test]
fn a_key_is_a_users_own() {
    let service = Service::start(Backend::Redis);
    let admin = service.admin();
    let (id, _) = issued(&create(&admin, UUID));
    admin.add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let (hers, _) = issued(&create(&alice, UUID));
    assert_ne!(hers, id);
    assert_eq!(ids(&alice), [&*hers]);

    let password = json!({"password": "second"});
    assert_eq!(admin.put(&format!("{USER}/alice/password"), &password).send().status, 200);
    let alice = service.client().with_basic("alice", "second");
    assert_eq!(issued(&create(&alice, UUID)).0, hers, "a retry after a change of password");
    assert_eq!(admin.patch(&format!("{USER}/alice"), &json!({"disabled": true})).send().status, 200);
    create(&alice, UUID).problem(401);

    assert_eq!(admin.delete(&format!("{USER}/alice")).send().status, 200);
    admin.add_user("alice", "user");
    let namesake = service.client().with_basic("alice", "secret");
    let (its, _) = issued(&create(&namesake, UUID));
    assert_ne!(its, hers);
}

#[rstest]
fn a_key_is_one_header_of_1_to_255_visible_characters(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let login = BASE64_STANDARD.encode(format!("admin:{ADMIN_PASSWORD}"));
    let send = |path: &str, headers: &[&[u8]]| {
        let body = if path == TOKEN { body().to_string() } else { String::new() };
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        )
        .into_bytes();
        for header in headers {
            request.extend([b"idempotency-key:", *header, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        request.extend(body.as_bytes());
        service.raw(&request)
    };
    let (longest, too_long) = ("x".repeat(255), "x".repeat(256));
    for good in [&b"x"[..], b" \t~ ", b"a,b;c=\"", longest.as_bytes(), format!("\"{longest}\"").as_bytes()] {
        let answer = send(TOKEN, &[good]);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    let id = ids(&service.admin()).pop().unwrap();
    let bad: [&[&[u8]]; 11] = [
        &[b""],
        &[b" "],
        &[b"\"\""],
        &[b"a b"],
        &[b"a\tb"],
        &["ü".as_bytes()],
        &[b"\xff"],
        &[too_long.as_bytes()],
        &[b"\"a b\""],
        &[b"a", b"a"],
        &[b"a", b"\xff"],
    ];
    let before = ids(&service.admin());
    for path in [TOKEN, &format!("{TOKEN}/{id}/rotate")] {
        for headers in bad {
            let answer = send(path, headers);
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Idempotency-Key: must be"), "{answer}");
        }
        // hyper itself rejects control characters.
        for control in [b"a\0b", b"a\x01b", b"a\x7fb"] {
            let answer = send(path, &[control]);
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
    }
    assert_eq!(ids(&service.admin()), before);
    let admin = service.admin();
    assert_eq!(issued(&create(&admin, UUID)), issued(&create(&admin, &format!("\"{UUID}\""))));
    // Strangers learn nothing about headers.
    service.client().post(TOKEN, &body()).header(KEY, "a b").send().problem(401);
}

#[test]
fn a_repetition_at_the_quota_gets_its_token() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_TOKEN_QUOTA", "1");
    });
    let admin = service.admin();
    let token = issued(&create(&admin, UUID));
    create(&admin, "another").problem(409);
    assert_eq!(issued(&create(&admin, UUID)), token);
    assert_eq!(admin.delete(&format!("{TOKEN}/{}", token.0)).send().status, 200);
    issued(&create(&admin, "another"));
    let detail = create(&admin, UUID).problem(409);
    assert!(detail.contains(&token.0), "{detail}");
}

#[test]
fn a_request_with_a_key_costs_one_script_and_a_rotation_two_round_trips() {
    let service = Service::start(Backend::Redis);
    let (admin, redis) = (service.admin(), service.redis.as_ref().unwrap());
    // So that Redis has the scripts, and the service the login.
    let warm = issued(&create(&admin, "warm")).0;
    rotate(&admin, &warm, "warm-rotation", &json!({}));
    rotate(&admin, &warm, "warm-rotation", &json!({}));

    redis.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    // The token, and the requests to Redis that were about tokens.
    let measured = |send: &dyn Fn() -> Answer| {
        redis.cli(&["SLOWLOG", "RESET"]);
        let token = issued(&send());
        let commands = redis.cli(&["--json", "SLOWLOG", "GET", "100"]);
        let commands: Vec<Vec<Value>> = serde_json::from_str(&commands).unwrap();
        let is_about_tokens = |command: &&Vec<Value>| command[3].to_string().contains("{admin}:token:");
        let name = |command: &Vec<Value>| command[3][0].as_str().unwrap().to_owned();
        // Not the commands of scripts; a GETEX is in one pipeline with a PTTL.
        let is_request = |name: &String| ["EVALSHA", "GETEX"].contains(&name.as_str());
        (token, commands.iter().rev().filter(is_about_tokens).map(name).filter(is_request).collect::<Vec<_>>())
    };
    let (first, commands) = measured(&|| create(&admin, UUID));
    assert_eq!(commands, ["EVALSHA"]);
    let (repeated, commands) = measured(&|| create(&admin, UUID));
    assert_eq!((&repeated, commands), (&first, vec!["EVALSHA".to_owned()]));
    let (successor, commands) = measured(&|| rotate(&admin, &first.0, "rotation", &json!({})));
    assert_eq!(commands, ["GETEX", "EVALSHA"]);
    let (repeated, commands) = measured(&|| rotate(&admin, &first.0, "rotation", &json!({})));
    assert_eq!((repeated, commands), (successor, ["GETEX", "EVALSHA"].map(str::to_owned).to_vec()));
}

#[test]
fn a_repetition_leaves_one_event_of_the_token_and_one_of_its_repetition() {
    let log = Log::new();
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LOG", "error").stderr(log.stdio());
    });
    let admin = service.admin();
    let token = issued(&create(&admin, UUID));
    assert_eq!(issued(&create(&admin, UUID)), token);
    let other = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    admin.post(TOKEN, &other).header(KEY, UUID).send().problem(422);
    let successor = issued(&rotate(&admin, &token.0, "rotation", &json!({})));
    assert_eq!(issued(&rotate(&admin, &token.0, "rotation", &json!({}))), successor);
    assert_eq!(admin.delete(&format!("{TOKEN}/{}", successor.0)).send().status, 200);
    log.wait_for("INFO", "token.revoked");
    let events: Vec<(String, String)> = log
        .lines()
        .iter()
        .filter(|line| line["message"].as_str().unwrap().starts_with("token."))
        .map(|line| (line["message"].as_str().unwrap().to_owned(), line["token_id"].as_str().unwrap().to_owned()))
        .collect();
    let event = |name: &str, (id, _): &(String, String)| (name.to_owned(), id.clone());
    assert_eq!(
        events,
        [
            event("token.issued", &token),
            event("token.repeated", &token),
            event("token.rotated", &token),
            event("token.repeated", &successor),
            event("token.revoked", &successor),
        ]
    );
    assert!(!log.text().contains(UUID), "a key is in no log");
    let metrics = Client::new(&service.metrics_url).get("").send().text;
    let count = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    assert_eq!(count("mayfly_tokens_issued_total"), Some(1.0), "{metrics}");
    assert_eq!(count("mayfly_tokens_rotated_total"), Some(1.0));
}

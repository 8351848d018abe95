//! Secrets never appear in logs, spans, metrics or responses. Each secret is a text that occurs nowhere else.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::json;
use uuid::Uuid;

use super::panicking;
use crate::support::{Answer, Client, Collector, Log, Process, RedisServer, Service, eventually, run};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// A secret for this use.
fn canary(name: &str) -> String {
    format!("canary-{name}-{}", Uuid::new_v4().simple())
}

/// The secrets of a test.
struct Secrets(Vec<String>);

impl Secrets {
    #[track_caller]
    fn assert_not_in(&self, place: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for secret in &self.0 {
            assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
        }
    }
}

/// The `k` of a JWK Set's only key.
fn key_of(set: &str) -> String {
    let set: serde_json::Value = serde_json::from_str(set).unwrap();
    set["keys"][0]["k"].as_str().unwrap().to_owned()
}

fn generated_keys() -> String {
    let output = run(Service::command().args(["key", "generate"]), "");
    String::from_utf8(output.stdout).unwrap()
}

/// Sends each kind of request that can hold a secret, and collects the responses. The one that issues the token holds
/// it and is left out.
fn exercise(service: &Service, secrets: &mut Secrets, admin: &Client, answers: &mut Vec<Answer>) {
    let (id, jwt) = admin.issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    let form = |client: &Client, path: &str| {
        let form = client.request("POST", path).header("content-type", "application/x-www-form-urlencoded");
        form.body(format!("token={jwt}")).send()
    };
    let wrong = canary("wrong-password");
    let odd = json!({"jwt_token_description": &jwt, "jwt_token_life": &wrong, wrong.as_str(): 1});
    answers.extend([
        // Requests that succeed.
        admin.get(TOKEN).send(),
        admin.get(&format!("{TOKEN}/{id}")).send(),
        bearer.get("/api/v1alpha/verify").send(),
        bearer.get(&format!("{TOKEN}/self")).send(),
        form(admin, "/oauth2/introspect"),
        // Requests that fail.
        service.client().with_basic("admin", &wrong).get(TOKEN).send(),
        service.client().with_basic(&wrong, &wrong).get(TOKEN).send(),
        service.client().with_bearer(&wrong).get("/api/v1alpha/verify").send(),
        service.client().with_bearer(&jwt[..jwt.len() - 1]).get("/api/v1alpha/verify").send(),
        bearer.get(TOKEN).send(),
        admin.get("/api/v1alpha/verify").send(),
        admin.get(&format!("{TOKEN}/self")).send(),
        admin.get(&format!("{TOKEN}/{wrong}")).send(),
        service.client().get(&format!("/{wrong}/{jwt}?token={jwt}")).send(),
        bearer.get(&format!("/api/v1alpha/verify/{wrong}?token={jwt}")).send(),
        admin
            .request("POST", TOKEN)
            .header("content-type", "application/json")
            .body(format!("{{\"jwt_token_life\": \"{jwt}"))
            .send(),
        bearer.get(TOKEN).header("authorization", &format!("Basic {wrong}")).send(),
        bearer.get(TOKEN).header("x-padding", &wrong.repeat(400)).send(),
        bearer.get(TOKEN).header("traceparent", &wrong).header("x-request-id", &format!("{wrong} {jwt}")).send(),
        admin.delete(&format!("{TOKEN}/{id}")).send(),
        bearer.get("/api/v1alpha/verify").send(),
        form(&service.client(), "/oauth2/revoke"),
    ]);
    let (first, second) = (canary("users-password"), canary("users-second-password"));
    let user = json!({"username": "alice", "password": &first});
    let (path, alice) = (format!("{USER}/alice/password"), service.client().with_basic("alice", &first));
    answers.extend([
        admin.post(USER, &user).send(),
        admin.post(USER, &user).send(),
        admin.get(USER).send(),
        alice.put(&path, &json!({"password": &second, "revoke_tokens": true})).send(),
        alice.get(TOKEN).send(),
        admin.put(&path, &json!({"password": second.repeat(100)})).send(),
        admin.put(&path, &json!({"password": &second, "revoke_tokens": 1})).send(),
        admin.delete(&format!("{USER}/alice")).send(),
    ]);
    assert_eq!(
        answers.iter().rev().take(8).map(|answer| answer.status).collect::<Vec<_>>(),
        [200, 400, 400, 401, 200, 200, 409, 201]
    );
    secrets.0.extend([first, second]);
    // A response may name an unknown field of its own request.
    let told = admin.post(TOKEN, &odd).send();
    assert_eq!(told.status, 400);
    secrets.0.extend([wrong, jwt.rsplit('.').next().unwrap().to_owned(), jwt]);
}

#[test]
fn no_secret_leaves_a_service_with_or_without_failures() {
    for format in ["json", "text"] {
        let collector = Collector::start();
        let (log, redis) = (Log::new(), RedisServer::start());
        let (password, redis_password, header) = (canary("password"), canary("redis"), canary("header"));
        redis.cli(&["CONFIG", "SET", "requirepass", &redis_password]);
        let configure = |command: &mut Command| {
            command
                .env("MAYFLY_LOG", "trace")
                .env("MAYFLY_LOG_FORMAT", format)
                .env("MAYFLY_ADMIN_PASSWORD", &password)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
                .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-api-key={header}"))
                .env("OTEL_BSP_SCHEDULE_DELAY", "20")
                .env("OTEL_BLRP_SCHEDULE_DELAY", "20")
                .env("OTEL_METRIC_EXPORT_INTERVAL", "20")
                .stderr(log.stdio());
        };
        let url = format!("redis://:{redis_password}@127.0.0.1:{}", redis.port);
        let mut service = Service::launch(Some(&url), configure);
        eventually("ready", || (service.client().get("/readyz").send().status == 200).then_some(()));
        let keys = fs::read_to_string(&service.keys_file).unwrap();
        let mut secrets = Secrets(vec![password.clone(), redis_password.clone(), key_of(&keys), "$argon2id$".into()]);
        let admin = service.client().with_basic("admin", &password);
        let mut answers = Vec::new();
        exercise(&service, &mut secrets, &admin, &mut answers);

        // A key file that cannot be parsed.
        let broken = generated_keys();
        secrets.0.push(key_of(&broken));
        fs::write(&service.keys_file, broken.trim_end().trim_end_matches('}')).unwrap();
        service.process.signal(Signal::SIGHUP);
        eventually("the broken file is logged", || log.text().contains("signing keys stay in force").then_some(()));

        // A Redis with another password, then none.
        let other = canary("other-redis");
        redis_cli(&redis, &redis_password, &["CONFIG", "SET", "requirepass", &other]);
        redis_cli(&redis, &other, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        answers.push(admin.get(TOKEN).send());
        drop(redis);
        answers.push(admin.get(TOKEN).send());
        assert!(answers.iter().rev().take(2).all(|answer| answer.status == 503), "{answers:?}");

        let page = Client::new(&service.metrics_url).get("").send().text;
        service.process.signal(Signal::SIGTERM);
        assert_eq!(service.process.wait().code(), Some(0));
        for answer in answers {
            secrets.assert_not_in("an answer", format!("{answer:?}").as_bytes());
        }
        let received = collector.received();
        assert!(!received.spans().is_empty() && !received.log_lines().is_empty() && !received.metrics.is_empty());
        secrets.assert_not_in("the exported data", &received.bytes);
        secrets.0.push(header);
        secrets.assert_not_in("the greeting", service.greeting.as_bytes());
        secrets.assert_not_in("the metrics", page.as_bytes());
        eventually("the log is written", || log.text().contains("login.failed").then_some(()));
        secrets.assert_not_in("the log", log.text().as_bytes());
    }
}

/// Runs redis-cli with a password.
fn redis_cli(redis: &RedisServer, password: &str, arguments: &[&str]) {
    let port = redis.port.to_string();
    let output =
        run(Command::new("redis-cli").args(["-p", &port, "-a", password, "--no-auth-warning"]).args(arguments), "");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn no_secret_leaves_a_panic() {
    // A panic hook is global, so the service is a process of its own: this test, with these variables.
    if let [Ok(password), Ok(keys)] = ["CANARY_PASSWORD", "CANARY_KEYS"].map(env::var) {
        return panicking::serve(password, keys);
    }
    let collector = Collector::start();
    let (log, password, keys) = (Log::new(), canary("password"), generated_keys());
    let mut process = Process::spawn(
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "telemetry::canary::no_secret_leaves_a_panic", "--nocapture"])
            .env("CANARY_PASSWORD", &password)
            .env("CANARY_KEYS", &keys)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .env("OTEL_BLRP_SCHEDULE_DELAY", "20")
            .stdout(Stdio::piped())
            .stderr(log.stdio()),
    );
    let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find(|line| line.starts_with("http://")).unwrap();
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let request = Client::new(&url).with_basic("admin", &password).post(TOKEN, &body);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = request.header("x-request-id", "unlucky").header("traceparent", traceparent).send();
    answer.problem(500);

    // The log has the place and the request of the panic, and the span of the request has failed.
    let panic = eventually("the panic", || log.lines().into_iter().find(|line| line["message"] == "panic"));
    assert!(panic["location"].as_str().unwrap().contains("panicking.rs:"), "{panic}");
    assert_eq!(panic["span"]["request_id"], "unlucky");
    let span = eventually("the span", || collector.received().spans().into_iter().find(|span| span.kind == 2));
    assert_eq!(span.attributes["error.type"], "500");

    let secrets = Secrets(vec![password, key_of(&keys)]);
    secrets.assert_not_in("the answer", format!("{answer:?}").as_bytes());
    secrets.assert_not_in("the log", log.text().as_bytes());
    secrets.assert_not_in("the exported data", &collector.received().bytes);
}

#[test]
fn no_secret_leaves_a_wrong_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let (password, redis_password, keys) = (canary("password"), canary("redis"), generated_keys());
    let secrets = Secrets(vec![password.clone(), redis_password.clone(), key_of(&keys)]);
    let broken = keys.replace("HS256", "HS999");
    for (keys, url) in [
        (&*broken, format!("redis://:{redis_password}@127.0.0.1:1")),
        (&keys, format!("redis://:{redis_password}@")),
        (&keys, format!("postgres://x:{redis_password}@127.0.0.1")),
        (&keys[1..], format!("redis://{redis_password}:x@127.0.0.1:port")),
    ] {
        fs::write(&file, keys).unwrap();
        let output = run(
            Service::command()
                .env("MAYFLY_LOG", "trace")
                .env("MAYFLY_ADMIN_PASSWORD", &password)
                .env("MAYFLY_JWT_KEYS_FILE", &file)
                .env("MAYFLY_REDIS_URL", url),
            "",
        );
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        secrets.assert_not_in("standard output", &output.stdout);
        secrets.assert_not_in("standard error", &output.stderr);
    }
}

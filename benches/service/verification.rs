//! What a verification costs beside a service that does nothing, and what attributes add.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    TOKEN, VERIFY,
    connection::{basic, exchange, request},
    runtime,
    support::{Collector, Process, RedisServer, Service, run as run_command},
    unobserved,
    wrk::{CONNECTIONS, Order, Presented, Target, take_turns},
};

/// Rounds of each comparison, and how long each target runs in each.
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;

/// The tokens that are verified: ten users with the default quota each.
const USERS: usize = 10;
const TOKENS_PER_USER: usize = 1_000;
const TOKENS: usize = USERS * TOKENS_PER_USER;

pub fn run() {
    let redis = RedisServer::start();
    let collector = Collector::start();
    let leased = unobserved(&redis.url(), &[]);
    let keys = leased.keys_file.to_str().unwrap();
    let unleased = unobserved(&redis.url(), &[("MAYFLY_LEASE", "0"), ("MAYFLY_JWT_KEYS_FILE", keys)]);
    let observed = unobserved(
        &redis.url(),
        &[
            ("MAYFLY_JWT_KEYS_FILE", keys),
            ("MAYFLY_METRICS_LISTEN", "127.0.0.1:0"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", collector.url)),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
        ],
    );
    let (ceiling, ceiling_url) = ceiling();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    issue(&leased, &redis, "plain", &json!([]), &file);

    let tokens = Presented { file: &file, count: TOKENS, order: Order::Random };
    let target = |name: &str, url: &str, path, process| Target {
        name: name.into(),
        url: url.into(),
        path,
        process,
        redis: vec![&redis],
        tokens,
        loads: Vec::new(),
    };
    let mut targets = [
        target("poem's hello world (the ceiling)", &ceiling_url, "/", &ceiling),
        target("verify, leased", &leased.url, VERIFY, &leased.process),
        target("verify, lease off", &unleased.url, VERIFY, &unleased.process),
        target("verify, leased, metrics on and 1 % traced", &observed.url, VERIFY, &observed.process),
    ];
    take_turns("verification", &mut targets, ROUNDS, SECONDS);

    println!(
        "\nVerification of {TOKENS} live tokens at random, {CONNECTIONS} connections, \
         medians of {ROUNDS} rounds of {SECONDS} s\n"
    );
    println!("| | requests/s | of the ceiling | server CPU, µs a request |\n|---|---|---|---|");
    for target in &targets {
        println!(
            "| {} | {:.0} | {:.2} | {:.1} |",
            target.name,
            target.median(|load| load.requests_per_second),
            target.ratio(&targets[0], |load| load.requests_per_second),
            target.median(|load| load.service_microseconds),
        );
    }
    println!(
        "\nMetrics and traces leave {:.3} of the requests/s of a leased verification.",
        targets[3].ratio(&targets[1], |load| load.requests_per_second)
    );
}

/// What scopes add to a leased verification, whether they are demanded or not.
pub fn run_demands() {
    let redis = RedisServer::start();
    let service = unobserved(&redis.url(), &[]);
    let directory = tempfile::tempdir().unwrap();
    let [plain, with_scopes] = ["plain", "scoped"].map(|name| directory.path().join(name));
    issue(&service, &redis, "plain", &json!([]), &plain);
    let scopes: Vec<_> = (0..10).map(|number| format!("read:part{number}")).collect();
    issue(&service, &redis, "scoped", &json!(scopes), &with_scopes);

    let target = |name: &str, path, file| Target {
        name: name.into(),
        url: service.url.clone(),
        path,
        process: &service.process,
        redis: vec![&redis],
        tokens: Presented { file, count: TOKENS, order: Order::Random },
        loads: Vec::new(),
    };
    let mut targets = [
        target("nothing demanded of a plain token", VERIFY, &plain),
        target("nothing demanded of a token with ten scopes", VERIFY, &with_scopes),
        target("one scope demanded of a token with ten", "/api/v1alpha/verify?scope=read:part7", &with_scopes),
    ];
    take_turns("demands", &mut targets, ROUNDS, SECONDS);
    println!("\nLeased verification of {TOKENS} tokens, medians of {ROUNDS} rounds of {SECONDS} s\n");
    println!("| | server CPU, µs a request | ratio to the first | ratio to the second |\n|---|---|---|---|");
    for target in &targets {
        println!(
            "| {} | {:.2} | {:.3} | {:.3} |",
            target.name,
            target.median(|load| load.service_microseconds),
            target.ratio(&targets[0], |load| load.service_microseconds),
            target.ratio(&targets[1], |load| load.service_microseconds),
        );
    }
}

/// Starts the example `ceiling`, and returns its URL.
fn ceiling() -> (Process, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_mayfly")).with_file_name("examples").join("ceiling");
    let mut process = Process::spawn(Command::new(binary).stdout(Stdio::piped()));
    let mut address = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut address).unwrap();
    (process, format!("http://{}", address.trim()))
}

/// Issues [`TOKENS`] with these scopes, and writes their JWTs to the file.
fn issue(service: &Service, redis: &RedisServer, prefix: &str, scopes: &Value, file: &Path) {
    eprintln!("issuing {TOKENS} tokens …");
    let mut body = json!({"jwt_token_description": "a token of 20 letter", "jwt_token_life": "1 day"});
    if scopes != &json!([]) {
        body["jwt_token_scopes"] = scopes.clone();
    }
    let mut out = fs::File::create(file).unwrap();
    for user in 0..USERS {
        let name = format!("{prefix}{user}");
        let mut command = Service::command();
        command.env("MAYFLY_REDIS_URL", redis.url()).args(["user", "add", &name, "--password-stdin"]);
        assert!(run_command(&mut command, "secret").status.success());
        let requests = vec![request("POST", TOKEN, &basic(&name), &body.to_string()); TOKENS_PER_USER];
        for answer in runtime().block_on(exchange(service.address(), &requests, 8)) {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            writeln!(out, "{}", answer["jwt_token"].as_str().unwrap()).unwrap();
        }
    }
}

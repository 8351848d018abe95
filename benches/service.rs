//! `make bench`: measures requests/s, CPU time and memory, and prints tables.
//!
//! All targets take turns on one machine, so compare ratios and medians. The load comes from `wrk` over loopback:
//! client, service and Redis share the cores.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use mayfly::{
    domain::{
        attributes::SharedAttributes,
        life::Life,
        password::{HashCost, PasswordHash},
        token::{Token, TokenDigest, TokenId},
        user::{LoginEpoch, Role, User, UserName},
    },
    store::{
        Authority, Creation, NewToken, Store,
        redis::{RedisOptions, RedisStore},
    },
};
use serde_json::json;
use support::{Client, Collector, Process, RedisServer, Service, eventually, run};

/// Rounds of each comparison. Tables show the median.
const ROUNDS: usize = 5;

/// How long `wrk` runs in each round, and before it without a measurement, so that leases exist.
const SECONDS: u32 = 4;
const WARM_UP_SECONDS: u32 = 1;

/// Threads and connections of `wrk`. With one thread, `wrk` is the bottleneck: a fifth of two cores idled.
const THREADS: u32 = 2;
const CONNECTIONS: u32 = 64;

/// The tokens that are verified: ten users with the default quota each.
const USERS_OF_LIVE_TOKENS: usize = 10;
const TOKENS_PER_USER: usize = 1_000;

/// The other tokens of the large database: 1,000 users with 1,000 each.
const OTHER_USERS: usize = 1_000;

const VERIFY: &str = "/api/v1alpha/verify";
const TOKEN: &str = "/api/v1alpha/token";

/// Runs the parts that the arguments name, by default all.
fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, part) in [("verification", verification as fn()), ("databases", databases)] {
        if named.is_empty() || named.iter().any(|wanted| wanted == name) {
            part();
        }
    }
}

/// The result of one run of `wrk` against a process.
struct Load {
    requests_per_second: f64,
    /// CPU time of the process for each request, user and system.
    cpu_microseconds: f64,
}

/// A process under load, and its address.
struct Target<'a> {
    name: &'static str,
    url: String,
    path: &'static str,
    process: &'a Process,
    loads: Vec<Load>,
}

fn verification() {
    let redis = RedisServer::start();
    let collector = Collector::start();
    let leased = unobserved(&redis, &[]);
    let keys = leased.keys_file.to_str().unwrap();
    let unleased = unobserved(&redis, &[("MAYFLY_LEASE", "0"), ("MAYFLY_JWT_KEYS_FILE", keys)]);
    let observed = unobserved(
        &redis,
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
    let tokens = directory.path().join("tokens");
    eprintln!("issuing {} tokens …", USERS_OF_LIVE_TOKENS * TOKENS_PER_USER);
    issue_live_tokens(&leased, &redis, &tokens);

    let target =
        |name, url: &str, path, process| Target { name, url: url.to_owned(), path, process, loads: Vec::new() };
    let mut targets = [
        target("poem's hello world (the ceiling)", &ceiling_url, "/", &ceiling),
        target("verify, leased", &leased.url, VERIFY, &leased.process),
        target("verify, lease off", &unleased.url, VERIFY, &unleased.process),
        target("verify, leased, metrics on and 1 % traced", &observed.url, VERIFY, &observed.process),
    ];
    for round in 1..=ROUNDS {
        eprintln!("verification, round {round} of {ROUNDS} …");
        for target in &mut targets {
            target.loads.push(load(target, &tokens));
        }
    }

    println!(
        "\nVerification of {} live tokens at random, {CONNECTIONS} connections, \
         medians of {ROUNDS} rounds of {SECONDS} s\n",
        USERS_OF_LIVE_TOKENS * TOKENS_PER_USER
    );
    println!("| | requests/s | of the ceiling | server CPU, µs a request |");
    println!("|---|---|---|---|");
    let ratio = |target: &Target<'_>, to: &Target<'_>| {
        let pairs = target.loads.iter().zip(&to.loads);
        median(pairs.map(|(load, other)| load.requests_per_second / other.requests_per_second))
    };
    for target in &targets {
        println!(
            "| {} | {:.0} | {:.2} | {:.1} |",
            target.name,
            median(target.loads.iter().map(|load| load.requests_per_second)),
            ratio(target, &targets[0]),
            median(target.loads.iter().map(|load| load.cpu_microseconds)),
        );
    }
    println!(
        "\nMetrics and traces leave {:.3} of the requests/s of a leased verification.",
        ratio(&targets[3], &targets[1])
    );
}

/// A service that logs only warnings, with metrics and traces off unless the environment turns them on.
fn unobserved(redis: &RedisServer, environment: &[(&str, &str)]) -> Service {
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_LOG", "warn").env("MAYFLY_METRICS_LISTEN", "off").envs(environment.iter().copied());
    });
    eventually("ready", || (service.client().get("/readyz").send().status == 200).then_some(()));
    service
}

/// Starts the example `ceiling`, and returns its URL.
fn ceiling() -> (Process, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_mayfly")).with_file_name("examples").join("ceiling");
    let mut process = Process::spawn(Command::new(binary).stdout(Stdio::piped()));
    let mut address = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut address).unwrap();
    (process, format!("http://{}", address.trim()))
}

fn issue_live_tokens(service: &Service, redis: &RedisServer, file: &Path) {
    let mut out = fs::File::create(file).unwrap();
    for user in 0..USERS_OF_LIVE_TOKENS {
        let name = format!("live{user}");
        let mut command = Service::command();
        command.env("MAYFLY_REDIS_URL", redis.url()).args(["user", "add", &name, "--password-stdin"]);
        assert!(run(&mut command, "secret").status.success());
        let client = service.client().with_basic(&name, "secret");
        for _ in 0..TOKENS_PER_USER {
            writeln!(out, "{}", client.issue("a token of 20 letter", "1 day").1).unwrap();
        }
    }
}

fn load(target: &Target<'_>, tokens: &Path) -> Load {
    wrk(target, tokens, WARM_UP_SECONDS);
    wrk(target, tokens, SECONDS)
}

fn wrk(target: &Target<'_>, tokens: &Path, seconds: u32) -> Load {
    let before = cpu_time(target.process);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/verify.lua");
    let mut wrk = Command::new("wrk");
    wrk.args([
        &format!("--threads={THREADS}"),
        &format!("--connections={CONNECTIONS}"),
        &format!("--duration={seconds}s"),
        "--script",
        script,
    ]);
    let output = run(wrk.args([&target.url, "--", target.path]).arg(tokens), "");
    let text = String::from_utf8(output.stdout).unwrap();
    let summary = text.lines().find(|line| line.starts_with("requests ")).unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<f64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    let &[requests, microseconds, errors] = &numbers[..] else { panic!("{summary}") };
    assert!(errors == 0.0, "{}: {text}", target.name);
    let cpu = cpu_time(target.process).saturating_sub(before);
    Load { requests_per_second: requests / microseconds * 1e6, cpu_microseconds: cpu.as_secs_f64() * 1e6 / requests }
}

/// What a process has used of the cores so far, of `/proc/PID/stat` (proc(5)), in ticks of 10 ms.
fn cpu_time(process: &Process) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// What a database of a million tokens costs, and what it does not.
fn databases() {
    let small = Database::with_others(1, 100);
    let empty_bytes = small.used_memory();
    let large = Database::with_others(OTHER_USERS, TOKENS_PER_USER);
    let tokens = OTHER_USERS * TOKENS_PER_USER;
    let bytes = large.used_memory() - empty_bytes;
    println!("\nMemory of Redis, index included, {tokens} tokens of {OTHER_USERS} users, 20 letters of description\n");
    println!("| tokens | bytes of Redis a token |\n|---|---|");
    println!("| {tokens} | {} |", bytes / u64::try_from(tokens).unwrap());

    let mut create = [Vec::new(), Vec::new()];
    let mut list = [Vec::new(), Vec::new()];
    let databases = [&small, &large];
    let bench: Vec<Client> =
        databases.iter().map(|database| database.service.client().with_basic("lister", "secret")).collect();
    let body = json!({"jwt_token_description": "a token of 20 letter", "jwt_token_life": "1 day"});
    for database in databases {
        database.add_user("lister");
        database.add_user("creator");
        let lister = database.service.client().with_basic("lister", "secret");
        (0..TOKENS_PER_USER).for_each(|_| drop(lister.issue("a token of 20 letter", "1 day")));
    }
    for round in 0..500 {
        if round % 100 == 0 {
            eprintln!("create and list, {round} of 500 …");
        }
        for (index, database) in databases.into_iter().enumerate() {
            let creator = database.service.client().with_basic("creator", "secret");
            // So that the user's record is leased.
            creator.get(&format!("{TOKEN}?limit=1")).send();
            let begun = Instant::now();
            assert_eq!(creator.post(TOKEN, &body).send().status, 201);
            create[index].push(begun.elapsed().as_secs_f64() * 1e3);
            if round % 5 == 0 {
                bench[index].get(&format!("{TOKEN}?limit=1")).send();
                let begun = Instant::now();
                assert_eq!(bench[index].get(TOKEN).send().status, 200);
                list[index].push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    println!("\nOne client, the login remembered, medians of 500 and 100\n");
    println!("| | among 100 other tokens, ms | among {tokens}, ms | ratio |\n|---|---|---|---|");
    for (name, [few, many]) in [("create", create), ("list 1,000", list)] {
        let (few, many) = (median(few), median(many));
        println!("| {name} | {few:.2} | {many:.2} | {:.2} |", many / few);
    }
}

/// A service on a Redis that holds many other tokens.
struct Database {
    redis: RedisServer,
    service: Service,
}

impl Database {
    fn with_others(users: usize, tokens_each: usize) -> Self {
        let redis = RedisServer::start();
        redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
        eprintln!("storing {} tokens …", users * tokens_each);
        let store =
            RedisStore::new(&RedisOptions { timeout: Duration::from_secs(30), ..RedisOptions::at(&redis.url()) })
                .unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(fill(&store, users, tokens_each));
        let service = unobserved(&redis, &[("MAYFLY_REDIS_TIMEOUT", "30s")]);
        Self { redis, service }
    }

    fn add_user(&self, name: &str) {
        let mut command = Service::command();
        command.env("MAYFLY_REDIS_URL", self.redis.url()).args(["user", "add", name, "--password-stdin"]);
        assert!(run(&mut command, "secret").status.success());
    }

    fn used_memory(&self) -> u64 {
        let info = self.redis.cli(&["INFO", "memory"]);
        info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    }
}

async fn fill(store: &RedisStore, users: usize, tokens_each: usize) {
    let names: Vec<UserName> = (0..users).map(|number| format!("user{number:04}").parse().unwrap()).collect();
    let login_epoch = LoginEpoch::begin();
    for name in &names {
        let user = User {
            name: name.clone(),
            credential: PasswordHash::dummy(HashCost::default()).into(),
            role: Role::User,
            created_at: 1_662_720_135,
            disabled: false,
            login_epoch,
        };
        store.create_user(&Authority::Until((Instant::now() + Duration::from_mins(1)).into()), &user).await.unwrap();
    }
    let tokens = (0..tokens_each).flat_map(|_| &names);
    stream::iter(tokens)
        .for_each_concurrent(256, async |owner| {
            let id = TokenId::random();
            let token = Token {
                id,
                description: "a token of 20 letter".parse().unwrap(),
                life: Life::from_seconds(86_400).unwrap(),
                digest: TokenDigest::of(&id.to_string()),
                attributes: SharedAttributes::default(),
                successor: None,
            };
            assert_eq!(
                store
                    .create_token(NewToken {
                        owner,
                        login: login_epoch,
                        token: &token,
                        quota: usize::MAX,
                        idempotency: None
                    })
                    .await
                    .unwrap(),
                Creation::Created
            );
        })
        .await;
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! What a database of a million tokens costs, and what it does not; how many tokens may be in use at once.

use std::{path::PathBuf, time::Instant};

use serde_json::json;

use crate::{
    TOKEN, VERIFY, median, start,
    support::{Client, RedisServer, Service, run as run_command},
    tokens::Filler,
    unobserved,
    wrk::{CONNECTIONS, Load, Order, Presented, Target},
};

/// The other tokens of the large database: 1,000 users with 1,000 each.
const OTHER_USERS: usize = 1_000;
const TOKENS_PER_USER: usize = 1_000;

/// Tokens in use at once, each with the memory of the cache: the default, and one for all tokens of the database.
const IN_USE: [(usize, &str); 6] = [
    (1_000, "64 MiB"),
    (10_000, "64 MiB"),
    (100_000, "64 MiB"),
    (200_000, "64 MiB"),
    (400_000, "64 MiB"),
    (1_000_000, "160 MiB"),
];
const SECONDS: u32 = 4;

pub fn run() {
    let small = Database::with_others(1, 100);
    let empty_bytes = small.used_memory();
    let large = Database::with_others(OTHER_USERS, TOKENS_PER_USER);
    let tokens = OTHER_USERS * TOKENS_PER_USER;
    let bytes = large.used_memory() - empty_bytes;
    println!("\nMemory of Redis, index included, {tokens} tokens of {OTHER_USERS} users, 20 letters of description\n");
    println!("| tokens | bytes of Redis a token |\n|---|---|");
    println!("| {tokens} | {} |", bytes / u64::try_from(tokens).unwrap());
    create_and_list([&small, &large]);
    start::measure(&format!("on Redis with {tokens} tokens"), Some(&large.redis.url()));
    verify_in_turn(&large);
}

fn create_and_list(databases: [&Database; 2]) {
    let mut create = [Vec::new(), Vec::new()];
    let mut list = [Vec::new(), Vec::new()];
    let listers: Vec<Client> =
        databases.iter().map(|database| database.service.client().with_basic("lister", "secret")).collect();
    let creators: Vec<Client> =
        databases.iter().map(|database| database.service.client().with_basic("creator", "secret")).collect();
    let body = json!({"jwt_token_description": "a token of 20 letter", "jwt_token_life": "1 day"});
    for (database, lister) in databases.iter().zip(&listers) {
        database.add_user("lister");
        database.add_user("creator");
        (0..TOKENS_PER_USER).for_each(|_| drop(lister.issue("a token of 20 letter", "1 day")));
    }
    for round in 0..500 {
        if round % 100 == 0 {
            eprintln!("create and list, {round} of 500 …");
        }
        for index in 0..databases.len() {
            // So that the user's record is leased.
            creators[index].get(&format!("{TOKEN}?limit=1")).send();
            let begun = Instant::now();
            assert_eq!(creators[index].post(TOKEN, &body).send().status, 201);
            create[index].push(begun.elapsed().as_secs_f64() * 1e3);
            if round % 5 == 0 {
                listers[index].get(&format!("{TOKEN}?limit=1")).send();
                let begun = Instant::now();
                assert_eq!(listers[index].get(TOKEN).send().status, 200);
                list[index].push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    println!("\nOne client, the login remembered, medians of 500 and 100\n");
    println!("| | among 100 other tokens, ms | among 1,000,000, ms | ratio |\n|---|---|---|---|");
    for (name, [few, many]) in [("create", create), ("list 1,000", list)] {
        let (few, many) = (median(few), median(many));
        println!("| {name} | {few:.2} | {many:.2} | {:.2} |", many / few);
    }
}

/// Verifies more and more tokens, each in turn, which is the worst order for a cache.
fn verify_in_turn(database: &Database) {
    println!("\nVerification of tokens in turn, {CONNECTIONS} connections, {SECONDS} s each once all are leased\n");
    println!("| tokens in use | cache | service + Redis, µs of CPU a request | of the first | reads a request |");
    println!("|---|---|---|---|---|");
    let cpu = |load: &Load| load.service_microseconds + load.redis_microseconds;
    let mut first = None;
    let keys = database.service.keys_file.to_str().unwrap();
    let environment = |memory| [("MAYFLY_JWT_KEYS_FILE", keys), ("MAYFLY_CACHE_MEMORY", memory)];
    for (count, memory) in IN_USE {
        eprintln!("{count} tokens in use …");
        let service = unobserved(&database.redis.url(), &environment(memory));
        let target = Target {
            name: format!("{count} tokens"),
            url: service.url.clone(),
            path: VERIFY,
            process: &service.process,
            redis: vec![&database.redis],
            tokens: Presented { file: &database.tokens, count, order: Order::InTurn },
            loads: Vec::new(),
        };
        let mut seconds = 2 + u32::try_from(count).unwrap() / 40_000;
        #[expect(clippy::cast_precision_loss, reason = "the count is far below 2^52")]
        while target.load(seconds).requests < count as f64 {
            seconds *= 2;
        }
        let load = target.load(SECONDS);
        let of_first = cpu(&load) / *first.get_or_insert(cpu(&load));
        let Load { service_microseconds, redis_microseconds, reads, .. } = load;
        println!(
            "| {count} | {memory} | {service_microseconds:.1} + {redis_microseconds:.1} | {of_first:.2} | {reads:.4} |"
        );
    }
}

/// A service on a Redis that holds many other tokens.
struct Database {
    redis: RedisServer,
    service: Service,
    /// The file with the JWTs of the other tokens.
    tokens: PathBuf,
    _directory: tempfile::TempDir,
}

impl Database {
    fn with_others(users: usize, tokens_each: usize) -> Self {
        let redis = RedisServer::start();
        redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
        let service = unobserved(&redis.url(), &[("MAYFLY_REDIS_TIMEOUT", "30s")]);
        let directory = tempfile::tempdir().unwrap();
        let tokens = directory.path().join("tokens");
        Filler::new(&redis.url(), &service.keys_file, users).fill(users * tokens_each, &tokens);
        Self { redis, service, tokens, _directory: directory }
    }

    fn add_user(&self, name: &str) {
        let mut command = Service::command();
        command.env("MAYFLY_REDIS_URL", self.redis.url()).args(["user", "add", name, "--password-stdin"]);
        assert!(run_command(&mut command, "secret").status.success());
    }

    fn used_memory(&self) -> u64 {
        self.redis.info("used_memory").parse().unwrap()
    }
}

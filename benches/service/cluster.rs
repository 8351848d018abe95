//! Leased verification in a Cluster of three primaries with a replica each, beside a single Redis.

use crate::{
    VERIFY,
    support::{Cluster, RedisServer},
    tokens::Filler,
    unobserved,
    wrk::{CONNECTIONS, Order, Presented, Target, take_turns},
};

const ROUNDS: usize = 3;
const SECONDS: u32 = 3;

/// The tokens that are verified, and their owners, whose slots are on all primaries.
const TOKENS: usize = 10_000;
const USERS: usize = 400;

pub fn run() {
    let redis = RedisServer::start();
    let cluster = Cluster::start(true);
    let directory = tempfile::tempdir().unwrap();
    let urls = [redis.url(), cluster.url()];
    let services = urls.each_ref().map(|url| unobserved(url, &[]));
    let files = ["standalone", "cluster"].map(|name| directory.path().join(name));
    for ((url, service), file) in urls.iter().zip(&services).zip(&files) {
        Filler::new(url, &service.keys_file, USERS).fill(TOKENS, file);
    }
    let target = |name: &str, index: usize, redis| Target {
        name: name.into(),
        url: services[index].url.clone(),
        path: VERIFY,
        process: &services[index].process,
        redis,
        tokens: Presented { file: &files[index], count: TOKENS, order: Order::Random },
        loads: Vec::new(),
    };
    let mut targets = [
        target("one Redis", 0, vec![&redis]),
        target("3 primaries and 3 replicas", 1, cluster.servers.iter().flatten().collect()),
    ];
    take_turns("cluster", &mut targets, ROUNDS, SECONDS);
    println!(
        "\nVerification of {TOKENS} live tokens, {CONNECTIONS} connections, medians of {ROUNDS} rounds of {SECONDS} s\n"
    );
    println!("| | requests/s | of one Redis | service + Redis, µs of CPU a request | reads a request |");
    println!("|---|---|---|---|---|");
    for target in &targets {
        println!(
            "| {} | {:.0} | {:.2} | {:.1} + {:.1} | {:.4} |",
            target.name,
            target.median(|load| load.requests_per_second),
            target.ratio(&targets[0], |load| load.requests_per_second),
            target.median(|load| load.service_microseconds),
            target.median(|load| load.redis_microseconds),
            target.median(|load| load.reads),
        );
    }
}

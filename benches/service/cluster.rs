//! Leased verification in a Cluster of three primaries with a replica each, beside a single Redis: undisturbed, and
//! while slots and primaries change.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    VERIFY,
    support::{Cluster, RedisServer, eventually, run as run_command},
    tokens::Filler,
    unobserved,
    wrk::{CONNECTIONS, Order, Presented, Target, take_turns},
};

const ROUNDS: usize = 3;
const SECONDS: u32 = 3;

/// How long each target runs beside a change, and when in this time the change begins.
const CHANGE_SECONDS: u32 = 15;
const CHANGE_AFTER: Duration = Duration::from_secs(2);

/// The tokens that are verified, and their owners, whose slots are on all primaries.
const TOKENS: usize = 10_000;
const USERS: usize = 400;

/// The slots that move.
const MOVED_SLOTS: usize = 1_000;

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
    run_beside_changes(&targets, &cluster);
}

/// Changes a Cluster, and returns once it is done.
type Change = fn(&Cluster);

/// Loads both targets in turns for each change of the Cluster, which takes place meanwhile.
fn run_beside_changes([standalone, clustered]: &[Target<'_>; 2], cluster: &Cluster) {
    let changes: [(&str, Change); 3] = [
        ("a replica is promoted by order", promote),
        ("1,000 slots move", move_slots),
        ("a primary is cut off", cut_off),
    ];
    println!("\nThe same for {CHANGE_SECONDS} s in which the Cluster changes once\n");
    println!(
        "| | the change took, s | requests/s | of one Redis | reads a request | failed, % |\n|---|---|---|---|---|---|"
    );
    for (name, change) in changes {
        eprintln!("{name} …");
        let other = standalone.load(CHANGE_SECONDS);
        clustered.load(1);
        let (load, took) = thread::scope(|scope| {
            let changing = scope.spawn(|| {
                thread::sleep(CHANGE_AFTER);
                let begun = Instant::now();
                change(cluster);
                begun.elapsed().as_secs_f64()
            });
            (clustered.load_beside_faults(CHANGE_SECONDS), changing.join().unwrap())
        });
        println!(
            "| {name} | {took:.1} | {:.0} | {:.2} | {:.4} | {:.2} |",
            load.requests_per_second,
            load.requests_per_second / other.requests_per_second,
            load.reads,
            load.failed * 100.0,
        );
        cluster.wait_until_whole();
    }
}

/// A primary, and the replica that it has or had.
fn pair(cluster: &Cluster) -> [usize; 2] {
    let primary = cluster.primary_of("mayfly:{user0000}:user");
    [primary, (primary + 3) % 6]
}

fn promote(cluster: &Cluster) {
    let [_, replica] = pair(cluster);
    cluster.promote(replica);
}

/// Moves slots with their keys from one primary to another, as an operator does.
fn move_slots(cluster: &Cluster) {
    let [from, replica] = pair(cluster);
    let is_other_primary =
        |index: &usize| ![from, replica].contains(index) && cluster.server(*index).info("role") == "master";
    let to = (0..6).find(is_other_primary).expect("there are three primaries");
    let [from, to] = [from, to].map(|index| cluster.server(index));
    let mut command = Command::new("redis-cli");
    command.args(["--cluster", "reshard", &format!("127.0.0.1:{}", from.port), "--cluster-yes"]);
    command.args(["--cluster-from", &from.cli(&["CLUSTER", "MYID"]), "--cluster-to", &to.cli(&["CLUSTER", "MYID"])]);
    let moved = run_command(command.args(["--cluster-slots", &MOVED_SLOTS.to_string()]), "");
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
}

/// Stops a primary until its replica has been promoted.
fn cut_off(cluster: &Cluster) {
    let [primary, replica] = pair(cluster).map(|index| cluster.server(index));
    primary.process.signal(Signal::SIGSTOP);
    eventually("its replica is promoted", || (replica.info("role") == "master").then_some(()));
    primary.process.signal(Signal::SIGCONT);
    eventually("it follows", || (primary.info("role") == "slave").then_some(()));
}

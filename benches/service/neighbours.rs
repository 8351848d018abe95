//! What a user who repeats a request in a loop does to the creates of all others.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;

use crate::{
    ISSUE, TOKEN,
    connection::{Connection, basic, exchange, request},
    runtime,
    support::{Backend, Process, Service},
};

/// The user in a loop has reached the default quota.
const QUOTA: usize = 1_000;
const LOOPS: usize = 16;

/// The others: their number, their connections, and the rate of all creates together.
const OTHERS: usize = 32;
const CONNECTIONS: u32 = 16;
const CREATES_PER_SECOND: u32 = 200;
const SECONDS: u64 = 5;

pub fn run() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_METRICS_LISTEN", "off");
    });
    let others: Vec<String> = (0..OTHERS).map(|number| format!("other{number}")).collect();
    for name in others.iter().map(String::as_str).chain(["full", "poor"]) {
        service.add_user(name, "user");
    }
    let create = |name: &str| request("POST", TOKEN, &basic(name), ISSUE);
    let others: Vec<_> = others.iter().map(|name| create(name)).collect();
    let loops = [
        ("alone", None),
        ("listings of one token", Some(("poor", "GET", "", 200))),
        ("creates that the quota rejects", Some(("full", "POST", ISSUE, 409))),
        ("listings of 1,000 tokens", Some(("full", "GET", "", 200))),
    ];
    let runtime = runtime();
    runtime.block_on(async {
        // Logins are cached from here on.
        exchange(service.address(), &others, 2).await;
        exchange(service.address(), &[create("poor")], 1).await;
        exchange(service.address(), &vec![create("full"); QUOTA], 8).await;
    });
    println!("\nCreates by {OTHERS} users, {CREATES_PER_SECOND} a second, for {SECONDS} s each\n");
    println!("| beside {LOOPS} connections in a loop | p50, ms | p99, ms |\n|---|---|---|");
    for (name, repeated) in loops {
        eprintln!("neighbours: {name} …");
        let _load = repeated.map(|(user, method, body, status)| {
            let request = request(method, TOKEN, &basic(user), body);
            let answer = runtime.block_on(async { Connection::open(service.address()).await.send(&request).await });
            assert_eq!(answer.0, status, "{}", answer.1);
            repeat(&service, user, method, body)
        });
        let latencies = runtime.block_on(create_at_rate(service.address(), &others));
        let quantile = |per_cent: usize| latencies[latencies.len() * per_cent / 100].as_secs_f64() * 1e3;
        println!("| {name} | {:.2} | {:.2} |", quantile(50), quantile(99));
    }
}

/// Repeats a request on [`LOOPS`] connections until the process is dropped.
fn repeat(service: &Service, user: &str, method: &str, body: &str) -> Process {
    let mut wrk = Command::new("wrk");
    wrk.args([
        "--threads=1",
        &format!("--connections={LOOPS}"),
        &format!("--duration={}s", 2 * SECONDS),
        &format!("--header=Authorization: {}", basic(user)),
        "--header=Content-Type: application/json",
        "--script",
        concat!(env!("CARGO_MANIFEST_DIR"), "/benches/service/repeat.lua"),
        &format!("{}{TOKEN}", service.url),
        "--",
        method,
    ]);
    // The summary of wrk is of no use: it counts rejections as errors.
    Process::spawn(wrk.args(Some(body).filter(|body| !body.is_empty())).stdout(Stdio::null()))
}

/// Creates tokens of the users in turn, and returns the latencies in order, each from the time at which it was due.
async fn create_at_rate(address: &str, creates: &[String]) -> Vec<Duration> {
    let (begun, interval) = (tokio::time::Instant::now(), Duration::from_secs(1) * CONNECTIONS / CREATES_PER_SECOND);
    let client = async |number: u32| {
        let mut connection = Connection::open(address).await;
        let (mut latencies, mut due) = (Vec::new(), begun + interval * number / CONNECTIONS);
        let mut user = number as usize;
        while due < begun + Duration::from_secs(SECONDS) {
            tokio::time::sleep_until(due).await;
            let (status, body) = connection.send(&creates[user % creates.len()]).await;
            assert_eq!(status, 201, "{body}");
            latencies.push(due.elapsed());
            due += interval;
            user += CONNECTIONS as usize;
        }
        latencies
    };
    let mut latencies = join_all((0..CONNECTIONS).map(client)).await.concat();
    latencies.sort();
    latencies
}

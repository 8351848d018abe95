//! `make bench`: what a verification costs in the memory of a service, beside asking, what verifiers cost a replica,
//! and what a whole service costs with and without a verifier.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

#[path = "../../tests/support/mod.rs"]
mod support;
mod whole_service;

use std::{
    fs,
    hint::black_box,
    thread::sleep,
    time::{Duration, Instant},
};

use mayfly_verifier::{Credentials, Verifier};
use support::{ADMIN_PASSWORD, Backend, Process, Service};
use tokio::runtime::Runtime;

/// Rounds of each comparison. Tables show the median.
const ROUNDS: usize = 9;

/// Verifications in each round.
const HITS: u32 = 200_000;
const QUESTIONS: u32 = 500;

/// The verifiers that ask one replica for changes, and for how long.
const VERIFIERS: usize = 100;
const SECONDS: u32 = 10;

fn main() {
    whole_service::serve_if_wanted();
    let service = Service::start(Backend::Redis);
    let runtime = Runtime::new().unwrap();
    let credentials = Credentials::basic("admin", ADMIN_PASSWORD);
    let (_, jwt) = service.admin().issue("x", "1h");
    let verifier = runtime.block_on(Verifier::connect(&service.url, credentials.clone())).unwrap();
    runtime.block_on(async {
        // Until the token is renewed.
        while verifier.stats().renewals < 5 {
            verifier.verify(&jwt).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });

    let (mut hits, mut questions) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = verifier.stats();
        let begun = Instant::now();
        runtime.block_on(async {
            for _ in 0..HITS {
                black_box(verifier.verify(black_box(&jwt)).await.unwrap());
            }
        });
        hits.push(begun.elapsed() / HITS);
        assert!(verifier.stats().hits - before.hits > u64::from(HITS) * 99 / 100);

        let admin = service.admin();
        let begun = Instant::now();
        for _ in 0..QUESTIONS {
            assert_eq!(admin.post_form("/oauth2/introspect", &[("token", &*jwt)]).send().status, 200);
        }
        questions.push(begun.elapsed() / QUESTIONS);
    }
    println!("| a verification, JWT of {} bytes | µs, median of {ROUNDS} | lowest |\n|---|---|---|", jwt.len());
    for (name, mut times) in [("in the service's own memory", hits), ("asking over HTTP, one connection", questions)] {
        times.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!("| {name} | {:.3} | {:.3} |", micros(times[ROUNDS / 2]), micros(times[0]));
    }

    let idle = cpu_share(&service, SECONDS);
    let verifiers: Vec<_> = (0..VERIFIERS)
        .map(|_| runtime.block_on(Verifier::connect(&service.url, credentials.clone())).unwrap())
        .collect();
    sleep(Duration::from_secs(2));
    let renewals = || verifiers.iter().map(|verifier| verifier.stats().renewals).sum::<u64>();
    let before = renewals();
    let busy = cpu_share(&service, SECONDS);
    println!("\n| verifiers of one replica | questions/s | CPU of one core, % |\n|---|---|---|");
    println!("| 1 | 10 | {:.1} |", idle * 100.0);
    let rate = (renewals() - before) / u64::from(SECONDS);
    println!("| {VERIFIERS} more | {rate} | {:.1} |", busy * 100.0);
    drop(verifiers);

    whole_service::compare(&service, &jwt);
}

/// The share of one core that the service takes for this long.
fn cpu_share(service: &Service, seconds: u32) -> f64 {
    let before = cpu_seconds(&service.process);
    sleep(Duration::from_secs(seconds.into()));
    (cpu_seconds(&service.process) - before) / f64::from(seconds)
}

/// The CPU time of a process so far.
fn cpu_seconds(process: &Process) -> f64 {
    // Fields 14 and 15 of proc(5)'s stat, in hundredths of a second; the name before them ends with `)`.
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

//! `make soak`: runs for minutes what the tests run for seconds, and prints tables. Arguments choose rows by words of
//! their names: `cargo test --test soak -- rolling none`.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

mod abuse;
mod conformance;
mod failover;
mod nemesis;
mod replicas;
mod revocation;
mod slow_redis;
mod split_brain;
mod support;
mod verifiers;

use std::{
    env,
    time::{Duration, Instant},
};

use abuse::{Rounds, Row};
use slow_redis::Slowness;
use support::{Backend, Losses, PacedClients, Version};

fn main() {
    if verifiers::process::is_verifier() {
        return verifiers::process::serve_lines();
    }
    if is_wanted("revocation") {
        let begun = Instant::now();
        let seed = fastrand::u64(..);
        println!("revoking at random on three replicas, with seed {seed} …");
        let report = revocation::revoke_at_random(64, 10_000, seed);
        println!("| revocations | verifications | accepted after the answer | seconds |");
        println!("|---|---|---|---|");
        println!(
            "| {} | {} | {} | {} |\n",
            report.revocations,
            report.verifications,
            report.violations,
            begun.elapsed().as_secs()
        );
        assert_eq!(report.violations, 0);
    }

    if is_wanted("verifiers") {
        verifiers_beside_faults();
    }
    if is_wanted("nemesis") {
        nemesis();
    }
    if is_wanted("split brain") {
        split_brains();
    }
    if is_wanted("slow Redis") {
        slow_redis();
    }

    if is_wanted("rolling") {
        let begun = Instant::now();
        let (requests, failures) = replicas::restart_rolling(20);
        println!("| rolling restarts | requests | failed | seconds |\n|---|---|---|---|");
        println!("| 20 | {requests} | {} | {} |\n", failures.len(), begun.elapsed().as_secs());
        assert!(failures.is_empty(), "{failures:?}");
    }

    if is_wanted("schemathesis") {
        let attempt = conformance::Attempt { examples: 200, seed: fastrand::u32(..) };
        println!("schemathesis with seed {} …", attempt.seed);
        println!("| schemathesis tries all operations | test cases | failures | seconds |\n|---|---|---|---|");
        type Try = fn(&conformance::Attempt) -> usize;
        let tries: [(&str, Try); 3] = [
            ("as an administrator", |attempt| attempt.as_admin(Backend::Memory)),
            ("as an administrator, on Redis", |attempt| attempt.as_admin(Backend::Redis)),
            ("as a user, on Redis", conformance::Attempt::as_user),
        ];
        for (who, attempt_as) in tries {
            let begun = Instant::now();
            let cases = attempt_as(&attempt);
            println!("| {who} | {cases} | 0 | {} |", begun.elapsed().as_secs());
        }
        println!();
    }

    if is_wanted("crowd") {
        println!("{} rounds of {} s in turns, medians", ROUNDS, ROUND.as_secs());
        let (rows, refused) = abuse::beside_slow_clients(10_000, 2_000, rounds());
        println!("{}", Row::HEAD);
        for row in rows {
            println!("{row}");
        }
        println!("{refused} slow requests were answered with 408\n");
    }

    if is_wanted("flood") {
        println!("{} rounds of {} s in turns, medians", ROUNDS, ROUND.as_secs());
        let (rows, answers) = abuse::beside_login_flood(rounds());
        println!("{}", Row::HEAD);
        for row in rows {
            println!("{row}");
        }
        println!("answers to the logins, a second, by status (0: not sent): {answers:?}\n");
    }

    println!("| while clients create and revoke | times | created | revoked | unanswered | lost | undone | seconds |");
    println!("|---|---|---|---|---|---|---|---|");
    let losses = [
        repeat("replica killed", 200, failover::kill_the_service),
        repeat("Redis killed, appendfsync always", 50, failover::kill_redis),
        repeat("primary of 2 replicas killed, waiting for both", 20, |times| failover::fail_over(times, "2")),
    ];
    // These may lose changes: the rows show how many.
    repeat("primary of 2 replicas killed, waiting for one", 20, |times| failover::fail_over(times, "1"));
    repeat("primary of 2 replicas killed, waiting for none", 20, |times| failover::fail_over(times, "0"));
    assert!(losses.iter().flatten().all(|losses| (losses.lost, losses.undone) == (0, 0)));
}

/// Revokes tokens beside verifiers in other processes: without faults, and in rounds with faults. `MAYFLY_REVOCATIONS`
/// replaces the number with faults.
fn verifiers_beside_faults() {
    let wanted: u64 = env::var("MAYFLY_REVOCATIONS").map_or(10_000, |number| number.parse().unwrap());
    for (name, rounds, revocations, with_faults) in [
        ("without faults", 1, 500.min(wanted), false),
        ("with faults", wanted.div_ceil(1_000), 1_000.min(wanted), true),
    ] {
        let (begun, mut all) = (Instant::now(), verifiers::Report::default());
        for _ in 0..rounds {
            let seed = fastrand::u64(..);
            let report = verifiers::revoke_beside_verifiers(32, revocations, with_faults, seed);
            assert!(report.violations.is_empty(), "{report}\nwith seed {seed}: {:#?}", report.violations);
            all.add(report);
        }
        println!("Verifiers in Rust and Python, {name}, {} s:\n\n{all}", begun.elapsed().as_secs());
    }
}

/// How long the nemesis runs on each version of Redis.
const NEMESIS: Duration = Duration::from_mins(5);

/// How long the clients of each slow Redis run.
const SLOW: Duration = Duration::from_secs(30);

/// The number and length of the rounds in each row about good clients.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(5);

/// Makes links and Redis fail while users and attackers send changes, and checks each answer against the history.
fn nemesis() {
    println!("| nemesis, {} s each | {} | seed |", NEMESIS.as_secs(), nemesis::Report::HEAD);
    println!("|---|---|---|---|---|---|---|---|---|");
    let reports = [Version::Redis8_2, Version::Valkey8_0].map(|version| {
        let report = nemesis::run(version, NEMESIS, fastrand::u64(..));
        println!("| {version:?} | {report} | {} |", report.seed);
        report
    });
    println!();
    let violations: Vec<_> = reports.iter().flat_map(|report| &report.violations).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Cuts off the primary with one replica of the service, and measures how long that one accepts revoked tokens.
fn split_brains() {
    println!(
        "| split brain, the primary cut off | times | accepted after the answer, s | margin, s | answered within, s |"
    );
    println!("|---|---|---|---|---|");
    let row = |name: &str, report: &split_brain::Report| {
        let times = [report.accepted_after, report.margin.unwrap_or_default(), report.answered_after];
        let [late, margin, answered] = times.map(|time| time.as_secs_f64());
        println!("| {name} | {} | {late:.1} | {margin:.1} | {answered:.1} |", report.splits);
    };
    // These settings may accept revoked tokens: the row shows for how long.
    row("max-lag 5, down-after 1 s", &split_brain::split(3, &split_brain::Settings::with("5", "1000")));
    let shipped = split_brain::split(20, &split_brain::Settings::shipped());
    row("as in deploy/sentinel", &shipped);
    println!();
    assert_eq!(shipped.accepted_after, Duration::ZERO);
}

/// Counts the changes that are refused while Redis answers late.
fn slow_redis() {
    println!("| slow Redis, {} s each | {} |\n|---|---|---|---|---|---|", SLOW.as_secs(), slow_redis::Report::HEAD);
    let ms = Duration::from_millis;
    let rows = [
        ("fsync of 50 ms", Slowness::Disk(ms(50))),
        ("fsync of 100 ms", Slowness::Disk(ms(100))),
        ("fsync of 300 ms", Slowness::Disk(ms(300))),
        ("300 ms of pause a second", Slowness::Pauses(ms(300))),
    ];
    for (name, slowness) in rows {
        println!("| {name} | {} |", slow_redis::try_all(slowness, SLOW));
    }
    println!();
}

fn rounds() -> Rounds {
    Rounds { count: ROUNDS, clients: PacedClients { clients: 16, requests_per_second: 500, duration: ROUND } }
}

fn is_wanted(row: &str) -> bool {
    let mut words = env::args().skip(1).peekable();
    words.peek().is_none() || words.any(|word| row.contains(&word))
}

/// Runs an attempt this many times if its row is wanted, and prints the row.
fn repeat(row: &str, times: usize, attempt: impl Fn(usize) -> Losses) -> Option<Losses> {
    is_wanted(row).then(|| {
        let begun = Instant::now();
        let losses = attempt(times);
        println!("| {row} | {times} | {losses} | {} |", begun.elapsed().as_secs());
        losses
    })
}

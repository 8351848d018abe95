//! The promise, in other processes: once a revocation was answered, no verifier accepts the token again.
//!
//! Three replicas share a Redis that fails over. Verifiers in Rust and Python, each in a process of its own, reach them
//! through a load balancer that sends each request to another replica, and through a proxy on each link. Meanwhile
//! links stall, delay and break, Redis fails over, replicas are killed, and verifiers are stopped and go on.

mod fleet;
pub mod process;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, ScopedJoinHandle, sleep},
    time::{Duration, Instant},
};

use fastrand::Rng;

use self::{
    fleet::{Fault, Fleet, REPLICAS, VERIFIERS},
    process::Outcome,
};
use crate::support::{Sentinel, Service, eventually};

/// Counts of outcomes.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    leased: u64,
    asked: u64,
    rejected: u64,
    unavailable: u64,
}

impl Counts {
    fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Leased => &mut self.leased,
            Outcome::Asked => &mut self.asked,
            Outcome::Rejected => &mut self.rejected,
            Outcome::Unavailable(_) => &mut self.unavailable,
        } += 1;
    }

    fn all(self) -> u64 {
        self.leased + self.asked + self.rejected + self.unavailable
    }
}

/// What verifiers said.
#[derive(Debug, Default)]
pub struct Report {
    pub revocations: u64,
    /// By fault, and by whether the verifier asks through the load balancer.
    pub counts: [[Counts; 2]; Fault::ALL.len()],
    /// Why verifications were neither accepted nor rejected, and how often.
    pub unavailable: BTreeMap<String, u64>,
    /// Verifications that began after the revocation was answered, and accepted the token.
    pub violations: Vec<String>,
}

impl Report {
    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for Counts { leased, asked, rejected, unavailable } in self.counts.iter().flatten() {
            total.leased += leased;
            total.asked += asked;
            total.rejected += rejected;
            total.unavailable += unavailable;
        }
        total
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: Self) {
        self.revocations += other.revocations;
        for (counts, more) in self.counts.as_flattened_mut().iter_mut().zip(other.counts.as_flattened()) {
            counts.leased += more.leased;
            counts.asked += more.asked;
            counts.rejected += more.rejected;
            counts.unavailable += more.unavailable;
        }
        for (why, count) in other.unavailable {
            *self.unavailable.entry(why).or_default() += count;
        }
        self.violations.extend(other.violations);
    }
}

/// Tables.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| revocations | verifications | accepted after the answer |\n|---|---|---|")?;
        writeln!(f, "| {} | {} | {} |\n", self.revocations, self.total().all(), self.violations.len())?;
        writeln!(f, "| fault | verifiers ask | verifications | answered, % | from memory | asked | unavailable |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for ((_, fault), by_path) in Fault::ALL.iter().zip(&self.counts) {
            for (path, counts) in ["one replica", "three, through nginx"].iter().zip(by_path) {
                let Counts { leased, asked, rejected, unavailable } = *counts;
                let (all, asked) = (counts.all(), asked + rejected);
                if all == 0 {
                    continue;
                }
                #[expect(clippy::cast_precision_loss, reason = "for a table")]
                let answered = (leased + asked) as f64 * 100.0 / all as f64;
                writeln!(f, "| {fault} | {path} | {all} | {answered:.1} | {leased} | {asked} | {unavailable} |")?;
            }
        }
        writeln!(f, "\n| unavailable, because | times |\n|---|---|")?;
        for (why, count) in &self.unavailable {
            writeln!(f, "| {why} | {count} |")?;
        }
        Ok(())
    }
}

struct Token {
    id: String,
    jwt: String,
    ended: AtomicBool,
}

/// One run.
struct Run {
    fleet: Fleet,
    revocations: AtomicU64,
    is_done: AtomicBool,
    report: Mutex<Report>,
}

/// Runs this many workers until they have revoked at least this many tokens, without faults or with each of them.
pub fn revoke_beside_verifiers(workers: usize, revocations: u64, with_faults: bool, seed: u64) -> Report {
    let mut sentinel = Sentinel::start(1, 3);
    let run = Run {
        fleet: Fleet::start(&sentinel),
        revocations: AtomicU64::new(0),
        is_done: AtomicBool::new(false),
        report: Mutex::default(),
    };
    thread::scope(|scope| {
        scopeguard::defer! { run.is_done.store(true, SeqCst) }
        let worker = |number| {
            let (run, rng) = (&run, Rng::with_seed(seed ^ number));
            scope.spawn(move || run.work(rng))
        };
        let workers: Vec<_> = (0..workers as u64).map(worker).collect();
        let mut rng = Rng::with_seed(!seed);
        // A worker that has finished before has panicked.
        while run.revocations.load(SeqCst) < revocations && !workers.iter().any(ScopedJoinHandle::is_finished) {
            if with_faults {
                run.fleet.fail(&mut sentinel, &mut rng);
            }
            sleep(Duration::from_millis(10));
        }
    });
    run.expect_leases();
    Report { revocations: run.revocations.into_inner(), ..run.report.into_inner().unwrap() }
}

impl Run {
    fn verify(&self, verifier: usize, token: &Token) {
        let (ended, before) = (token.ended.load(SeqCst), self.fleet.fault());
        let outcome = self.fleet.verifiers[verifier].verify(&token.jwt);
        let fault = if before == 0 { self.fleet.fault() } else { before };
        let mut report = self.report.lock().unwrap();
        report.counts[fault][usize::from(verifier + 1 < VERIFIERS.len())].count(&outcome);
        if ended && outcome.is_accepted() {
            let kind = VERIFIERS[verifier];
            report.violations.push(format!("{kind:?} {verifier}, {outcome:?}, with {:?}", Fault::ALL[fault].0));
        }
        if let Outcome::Unavailable(why) = outcome {
            *report.unavailable.entry(why).or_default() += 1;
        }
    }

    /// Sends a request to some replica, not through a proxy, until it has one of these statuses.
    fn send(&self, rng: &mut Rng, statuses: [u16; 2], send: impl Fn(&Service) -> Option<u16>) {
        eventually("a replica does it", || {
            let replica = self.fleet.replicas[rng.usize(..REPLICAS)].read().unwrap();
            send(replica.as_ref()?).filter(|status| statuses.contains(status))
        });
    }

    fn issue(&self, rng: &mut Rng) -> Token {
        let body = serde_json::json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
        let issued = Mutex::new(None);
        self.send(rng, [201, 201], |replica| {
            let answer = replica.admin().post("/api/v1alpha/token", &body).try_send().ok()?;
            *issued.lock().unwrap() = (answer.status == 201).then(|| answer.json());
            Some(answer.status)
        });
        let issued = issued.into_inner().unwrap().unwrap();
        let field = |name: &str| issued[name].as_str().unwrap().to_owned();
        Token { id: field("jwt_token_id"), jwt: field("jwt_token"), ended: AtomicBool::new(false) }
    }

    fn revoke(&self, rng: &mut Rng, token: &Token) {
        // 404: a repetition of one that was not answered.
        self.send(rng, [200, 404], |replica| {
            let path = format!("/api/v1alpha/token/{}", token.id);
            replica.admin().delete(&path).try_send().ok().map(|answer| answer.status)
        });
        token.ended.store(true, SeqCst);
        self.revocations.fetch_add(1, SeqCst);
    }

    /// Issues tokens, has them verified for a while, and revokes them.
    fn work(&self, mut rng: Rng) {
        while !self.is_done.load(SeqCst) {
            let token = self.issue(&mut rng);
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                let mut verifying = rng.fork();
                let (token, until, is_over) = (&token, Duration::from_millis(rng.u64(..800)), &is_over);
                // Also if the revocation panics.
                scopeguard::defer! { is_over.store(true, SeqCst) }
                scope.spawn(move || {
                    while !is_over.load(SeqCst) {
                        self.verify(verifying.usize(..VERIFIERS.len()), token);
                        sleep(Duration::from_millis(verifying.u64(..10)));
                    }
                });
                let begun = Instant::now();
                while begun.elapsed() < until {
                    self.verify(rng.usize(..VERIFIERS.len()), token);
                    sleep(Duration::from_millis(rng.u64(..10)));
                }
                self.revoke(&mut rng, token);
                for verifier in (0..VERIFIERS.len()).cycle().take(2 * VERIFIERS.len()) {
                    self.verify(verifier, token);
                }
            });
        }
    }

    /// Without faults, each verifier accepts tokens from memory again.
    fn expect_leases(&self) {
        let token = self.issue(&mut Rng::new());
        for verifier in &self.fleet.verifiers {
            let mut in_turn = 0;
            eventually("leases are renewed", || {
                let is_leased = verifier.verify(&token.jwt) == Outcome::Leased;
                in_turn = if is_leased { in_turn + 1 } else { 0 };
                (in_turn == 100).then_some(())
            });
        }
    }
}

/// The same with 10,000 revocations is part of `make soak`.
#[test]
fn no_verifier_accepts_a_token_after_its_revocation_is_answered() {
    let seed = fastrand::u64(..);
    let report = revoke_beside_verifiers(6, 60, true, seed);
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}\nwith seed {seed}: {:#?}", report.violations);
    let Counts { leased, unavailable, .. } = report.total();
    assert!(report.revocations >= 60 && leased > 200 && unavailable < report.total().all() / 2, "{report}");
}

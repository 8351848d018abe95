//! Verifications by `wrk`, and what each of them costs.

use std::{path::Path, process::Command};

use crate::{
    cpu_microseconds, median,
    support::{Process, RedisServer, run},
};

/// Threads and connections of `wrk`. With one thread, `wrk` is the bottleneck: a fifth of two cores idled.
const THREADS: u32 = 2;
pub const CONNECTIONS: u32 = 64;

/// The tokens that `wrk` sends.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// A file with a JWT a line.
    pub file: &'a Path,
    /// How many of its lines are used.
    pub count: usize,
    pub order: Order,
}

#[derive(Clone, Copy)]
pub enum Order {
    Random,
    InTurn,
}

/// A service under load, with the servers of its Redis.
pub struct Target<'a> {
    pub name: String,
    pub url: String,
    pub path: &'static str,
    pub process: &'a Process,
    pub redis: Vec<&'a RedisServer>,
    pub tokens: Presented<'a>,
    pub loads: Vec<Load>,
}

/// The result of one run of `wrk` against a target.
#[derive(Clone, Copy)]
pub struct Load {
    pub requests: f64,
    pub requests_per_second: f64,
    /// CPU time of the service for each request, user and system.
    pub service_microseconds: f64,
    /// CPU time of all servers of its Redis for each request.
    pub redis_microseconds: f64,
    /// Reads of a token in Redis for each request.
    pub reads: f64,
    /// How many requests failed for each one that was answered.
    pub failed: f64,
}

impl Target<'_> {
    /// Sends requests for this long. Each response must be a success.
    pub fn load(&self, seconds: u32) -> Load {
        let load = self.load_beside_faults(seconds);
        assert!(load.failed == 0.0, "{}: {} of the requests failed", self.name, load.failed);
        load
    }

    /// Sends requests for this long, of which some may fail.
    pub fn load_beside_faults(&self, seconds: u32) -> Load {
        let before = (self.cpu(), self.reads());
        let order = match self.tokens.order {
            Order::Random => "random",
            Order::InTurn => "in-turn",
        };
        let mut wrk = Command::new("wrk");
        wrk.args([
            &format!("--threads={THREADS}"),
            &format!("--connections={CONNECTIONS}"),
            &format!("--duration={seconds}s"),
            "--script",
            concat!(env!("CARGO_MANIFEST_DIR"), "/benches/service/verify.lua"),
            &self.url,
            "--",
            self.path,
        ]);
        let output = run(wrk.arg(self.tokens.file).args([&self.tokens.count.to_string(), order]), "");
        let text = String::from_utf8(output.stdout).unwrap();
        let summary = text.lines().find(|line| line.starts_with("requests ")).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<f64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        let &[requests, microseconds, errors] = &numbers[..] else { panic!("{summary}") };
        let after = (self.cpu(), self.reads());
        Load {
            requests,
            requests_per_second: requests / microseconds * 1e6,
            service_microseconds: (after.0[0] - before.0[0]) / requests,
            redis_microseconds: (after.0[1] - before.0[1]) / requests,
            reads: (after.1 - before.1) / requests,
            failed: errors / requests,
        }
    }

    /// CPU time in µs so far of the service, and of all servers of its Redis.
    fn cpu(&self) -> [f64; 2] {
        let redis = self.redis.iter().map(|server| &server.process);
        [cpu_microseconds([self.process]), cpu_microseconds(redis)]
    }

    /// Counts the reads of tokens in Redis so far.
    fn reads(&self) -> f64 {
        let calls = |server: &&RedisServer| -> f64 {
            let statistics = server.cli(&["INFO", "commandstats"]);
            let calls = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_getex:calls="));
            calls.map_or(0.0, |calls| calls.split(',').next().unwrap().parse().unwrap())
        };
        self.redis.iter().map(calls).sum()
    }

    pub fn median(&self, part: fn(&Load) -> f64) -> f64 {
        median(self.loads.iter().map(part))
    }

    /// The median of the ratios to another target in the same round.
    pub fn ratio(&self, other: &Self, part: fn(&Load) -> f64) -> f64 {
        median(self.loads.iter().zip(&other.loads).map(|(load, other)| part(load) / part(other)))
    }
}

/// Loads the targets in turns, each after a run that is not measured, so that leases exist.
pub fn take_turns(what: &str, targets: &mut [Target<'_>], rounds: usize, seconds: u32) {
    for round in 1..=rounds {
        eprintln!("{what}, round {round} of {rounds} …");
        for target in &mut *targets {
            target.load(1);
            let load = target.load(seconds);
            target.loads.push(load);
        }
    }
}

//! `make bench`: measures requests/s, CPU time and memory, and prints tables.
//!
//! All targets take turns on one machine, so compare ratios and medians. Load comes over loopback: client, service and
//! Redis share the cores.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

mod cluster;
mod comparison;
mod connection;
mod databases;
mod idle;
mod logins;
mod neighbours;
mod start;
#[path = "../../tests/support/mod.rs"]
mod support;
mod tokens;
mod verification;
mod wrk;

use std::time::Duration;

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use support::{Process, Service};

const VERIFY: &str = "/api/v1alpha/verify";
const TOKEN: &str = "/api/v1alpha/token";

/// A request for a token.
const ISSUE: &str = r#"{"jwt_token_description":"a token of 20 letter","jwt_token_life":"1 day"}"#;

/// Runs the parts that the arguments name, by default all.
fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [(&str, fn()); 9] = [
        ("comparison", comparison::run),
        ("verification", verification::run),
        ("demands", verification::run_demands),
        ("databases", databases::run),
        ("cluster", cluster::run),
        ("idle", idle::run),
        ("start", start::run),
        ("neighbours", neighbours::run),
        ("logins", logins::run),
    ];
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|wanted| wanted == name) {
            part();
        }
    }
}

/// A service that logs only warnings, with metrics and traces off unless the environment turns them on.
fn unobserved(redis_url: &str, environment: &[(&str, &str)]) -> Service {
    let service = Service::launch(Some(redis_url), |command| {
        command.env("MAYFLY_LOG", "warn").env("MAYFLY_METRICS_LISTEN", "off").envs(environment.iter().copied());
    });
    service.wait_until_ready();
    service
}

/// CPU time of these processes so far in µs, user and system (clock_getcpuclockid(3)).
fn cpu_microseconds<'a>(processes: impl IntoIterator<Item = &'a Process>) -> f64 {
    processes.into_iter().map(|process| cpu_time(process).as_secs_f64() * 1e6).sum()
}

fn cpu_time(process: &Process) -> Duration {
    let pid = Pid::from_raw(process.id().try_into().unwrap());
    clock_gettime(clock_getcpuclockid(pid).unwrap()).unwrap().into()
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The runtime of a part's own clients.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

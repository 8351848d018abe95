//! Requests that are rejected while Redis is slow.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Answer, RedisServer, Service, free_port, run};

const CLIENTS: usize = 8;
const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// The kinds of a slow Redis.
#[derive(Debug, Clone, Copy)]
pub enum Slowness {
    /// Each write, and all commands after it, waits this long for the disk (`appendfsync always`).
    Disk(Duration),
    /// Redis is paused for this long in each second.
    Pauses(Duration),
}

/// The number of requests of one kind, and of those rejected with 503.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub sent: u32,
    pub refused: u32,
}

#[derive(Debug, Default)]
pub struct Report(BTreeMap<&'static str, Count>);

impl Report {
    pub const HEAD: &str = "created, refused | revoked, refused | passwords changed, refused | \
        users changed, refused | users added, refused";
}

/// A row of a table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = ["create", "revoke", "password", "change", "add"].map(|kind| {
            let Count { sent, refused } = self.0.get(kind).copied().unwrap_or_default();
            format!("{sent}, {refused}")
        });
        f.write_str(&cells.join(" | "))
    }
}

/// Runs clients that create and revoke tokens and change users for this time.
pub fn try_all(slowness: Slowness, duration: Duration) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let redis = match slowness {
        Slowness::Disk(time) => start_on_slow_disk(directory.path(), time),
        Slowness::Pauses(_) => RedisServer::start(),
    };
    let service = Service::launch(Some(&redis.url()), |_| {});
    service.wait_until_ready();
    for number in 0..CLIENTS {
        service.admin().add_user(&format!("user{number}"), "user");
    }
    fs::write(directory.path().join("slow"), "").unwrap();
    let end = Instant::now() + duration;
    let reports: Vec<Report> = thread::scope(|scope| {
        if let Slowness::Pauses(time) = slowness {
            let redis = &redis;
            scope.spawn(move || {
                while Instant::now() < end {
                    redis.cli(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "ALL"]);
                    thread::sleep(Duration::from_secs(1));
                }
            });
        }
        let client = |number| {
            let service = &service;
            scope.spawn(move || work(service, &format!("user{number}"), end))
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut all = Report::default();
    for (kind, Count { sent, refused }) in reports.into_iter().flat_map(|report| report.0) {
        let count = all.0.entry(kind).or_default();
        count.sent += sent;
        count.refused += refused;
    }
    all
}

fn work(service: &Service, user: &str, end: Instant) -> Report {
    let mut report = Report::default();
    let own = service.client().with_basic(user, "secret");
    let mut note = |kind, answer: Answer| {
        let count = report.0.entry(kind).or_default();
        count.sent += 1;
        count.refused += u32::from(answer.status == 503);
        assert!([200, 201, 404, 503].contains(&answer.status), "{answer:?}");
        answer
    };
    let (admin, token) = (service.admin(), json!({"jwt_token_description": "x", "jwt_token_life": "1h"}));
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        let answer = note("create", own.post(TOKEN, &token).send());
        if answer.status == 201 {
            let id = answer.json()["jwt_token_id"].as_str().unwrap().to_owned();
            note("revoke", own.delete(&format!("{TOKEN}/{id}")).send());
        }
        // With the same password, so that the login stays valid.
        note("password", own.put(&format!("{USER}/{user}/password"), &json!({"password": "secret"})).send());
        note("change", admin.patch(&format!("{USER}/{user}"), &json!({"disabled": false})).send());
        let body = json!({"username": format!("{user}.{number}"), "role": "user", "password": "secret"});
        note("add", admin.post(USER, &body).send());
    }
    report
}

/// Starts a Redis that writes to disk before it answers. The disk is slow once the file `slow` exists.
fn start_on_slow_disk(directory: &std::path::Path, time: Duration) -> RedisServer {
    let (library, program) = (directory.join("slow_disk.so"), directory.join("redis-server"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/slow_disk.c");
    let output = run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source), "");
    assert!(output.status.success(), "{output:?}");
    let script = format!(
        "#!/bin/sh\nSLOW_DISK={} SLOW_DISK_MS={} LD_PRELOAD={} exec redis-server \"$@\"\n",
        directory.join("slow").display(),
        time.as_millis(),
        library.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    RedisServer::start_program(program.into(), free_port(), &["--appendfsync", "always"])
}

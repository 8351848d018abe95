//! A primary that is cut off from its replicas and sentinels, together with one replica of the service.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use crate::support::{Proxy, Sentinel, Service, Version, eventually};

const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

/// Time for which the service on the primary's side must reject a token without interruption to count as stopped.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// The settings that decide when a primary stops to answer.
pub struct Settings {
    /// Arguments for each server.
    redis: Vec<String>,
    /// Lines for each sentinel.
    sentinel: String,
}

impl Settings {
    /// Returns the settings in `deploy/sentinel`.
    pub fn shipped() -> Self {
        let read = |file: &str| {
            let path = format!("{}/deploy/sentinel/{file}", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(path).unwrap();
            let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let argument = |line: String| {
            let (name, value) = line.split_once(' ').expect("a name and a value");
            [format!("--{name}"), value.to_owned()]
        };
        // The addresses are those of the test.
        let sentinel = read("sentinel.conf").into_iter().filter(|line| !line.starts_with("sentinel monitor "));
        Self {
            redis: read("redis.conf").into_iter().flat_map(argument).collect(),
            sentinel: sentinel.map(|line| line + "\n").collect(),
        }
    }

    /// Returns the settings with another lag and another time.
    pub fn with(max_lag: &str, down_after: &str) -> Self {
        let mut settings = Self::shipped();
        settings.redis.extend(["--min-replicas-max-lag".to_owned(), max_lag.to_owned()]);
        settings.sentinel = settings.sentinel + "sentinel down-after-milliseconds tokens " + down_after + "\n";
        settings
    }
}

/// The measurements of several splits.
#[derive(Debug, Default)]
pub struct Report {
    pub splits: u32,
    /// The longest time for which a cut-off primary accepted a token after its deletion was answered.
    pub accepted_after: Duration,
    /// The shortest time between the end of acceptance and the answer.
    pub margin: Option<Duration>,
    /// The longest time until the deletion was answered.
    pub answered_after: Duration,
}

/// Cuts the primary off this often: its links to all others carry nothing, or are closed first.
pub fn split(times: u32, settings: &Settings) -> Report {
    let arguments: Vec<_> = settings.redis.iter().map(String::as_str).collect();
    // Repeated, since a failover soon after another one is rejected.
    let sentinel_settings = format!("{}sentinel failover-timeout tokens 1000\n", settings.sentinel);
    let sentinel = Sentinel::start_with(Version::Redis7_0, 2, 3, &arguments, &sentinel_settings, true);
    let beside_primary = Proxy::to(sentinel.primary().unwrap().port);
    let far = Service::launch(Some(&sentinel.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1");
    });
    far.wait_until_ready();
    let near = Service::launch(Some(&format!("redis://127.0.0.1:{}", beside_primary.port)), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &far.keys_file);
    });
    let mut report = Report { splits: times, ..Report::default() };
    for number in 0..times {
        let primary = sentinel.index_of_primary();
        beside_primary.redirect(sentinel.primary().unwrap().port);
        let (id, jwt) = eventually("a token is created", || {
            let body = serde_json::json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
            let answer = far.admin().post(TOKEN, &body).send();
            let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
            (answer.status == 201).then(|| (field("jwt_token_id"), field("jwt_token")))
        });
        let verify = || near.client().with_bearer(&jwt).get(VERIFY).send().status;
        eventually("the near service accepts it", || (verify() == 200).then_some(()));

        let (over, accepted_at) = (AtomicBool::default(), Mutex::new(Instant::now()));
        let (cut_at, answered_at) = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let asked_at = Instant::now();
                    if verify() == 200 {
                        *accepted_at.lock().unwrap() = asked_at;
                    }
                    sleep(Duration::from_millis(2));
                }
            });
            let cut_at = Instant::now();
            sentinel.links[primary].blackhole(true);
            if number % 2 == 1 {
                sentinel.links[primary].cut();
            }
            eventually("the deletion is answered", || {
                let answer = far.admin().delete(&format!("{TOKEN}/{id}")).send();
                [200, 404].contains(&answer.status).then_some(())
            });
            let answered_at = Instant::now();
            let accepted_at = || *accepted_at.lock().unwrap();
            eventually("the near service refuses it", || {
                (accepted_at().max(answered_at).elapsed() > FORGOTTEN).then_some(())
            });
            over.store(true, SeqCst);
            (cut_at, answered_at)
        });
        let accepted_at = accepted_at.into_inner().unwrap();
        report.accepted_after = report.accepted_after.max(accepted_at.saturating_duration_since(answered_at));
        let margin = answered_at.saturating_duration_since(accepted_at);
        report.margin = Some(report.margin.map_or(margin, |least| least.min(margin)));
        report.answered_after = report.answered_after.max(answered_at - cut_at);
        sentinel.links[primary].blackhole(false);
        sentinel.wait_until_whole();
    }
    report
}

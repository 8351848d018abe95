//! The CPU of each operation beside that of a service as a team would write it in a day (`benches/baseline`), and
//! revocations by the thousand.
//!
//! Both have a Redis of their own. Without Go, the baseline is left out.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    ISSUE, TOKEN, VERIFY,
    connection::{basic, exchange, request},
    cpu_microseconds, median, runtime,
    support::{Backend, Process, RedisServer, Service},
};

/// Rounds of each operation. The table shows the median.
const ROUNDS: usize = 3;

/// Requests of one round, and the connections that send them. A revocation waits for a lease, so many are under way.
const VERIFICATIONS: usize = 60_000;
const CREATES: usize = 10_000;
const LISTS: usize = 2_000;
const REVOCATIONS: usize = 4_000;
const CONNECTIONS: usize = 64;
const WAITING_CONNECTIONS: usize = 1_000;

/// The tokens that are verified, those of the user whose tokens are listed, and those that one request revokes.
const LIVE_TOKENS: usize = 10_000;
const LISTED_TOKENS: usize = 100;
const LEAKED_TOKENS: usize = 10_000;

/// A service with its Redis.
struct Contestant {
    name: &'static str,
    running: Running,
    address: String,
    tokens: &'static str,
    verify: &'static str,
    issue: &'static str,
    id: &'static str,
    jwt: &'static str,
    /// The JWTs of [`LIVE_TOKENS`].
    live: Vec<String>,
}

enum Running {
    Mayfly(Service),
    Baseline(Process, RedisServer),
}

/// CPU in µs of one request: of the service, and of its Redis.
type Cost = [f64; 2];

/// Measures an operation of a service.
type Measure = fn(&Contestant, &Runtime) -> Cost;

pub fn run() {
    let runtime = runtime();
    let mut contestants = vec![mayfly()];
    match baseline() {
        Some(baseline) => contestants.push(baseline),
        None => println!("\nThe baseline is left out: no Go, or Go cannot build it."),
    }
    for contestant in &mut contestants {
        let issued = runtime.block_on(contestant.issue("live", LIVE_TOKENS));
        contestant.live = issued.into_iter().map(|(_, jwt)| jwt).collect();
        runtime.block_on(contestant.issue("lister", LISTED_TOKENS));
        runtime.block_on(contestant.issue("creator", 1));
    }
    println!("\nCPU of a request, µs of the service + µs of Redis, medians of {ROUNDS} rounds\n");
    let names: Vec<_> = contestants.iter().map(|contestant| contestant.name).collect();
    println!("| | {} | ratio |", names.join(" | "));
    println!("|---|{}---|", "---|".repeat(names.len()));
    let rows: [(&str, Measure); 4] = [
        ("verify, 10,000 tokens in use", Contestant::measure_verifications),
        ("create", Contestant::measure_creates),
        ("list 100", Contestant::measure_lists),
        ("revoke", Contestant::measure_revocations),
    ];
    for (row, measure) in rows {
        let mut costs = vec![Vec::new(); contestants.len()];
        for round in 0..ROUNDS {
            eprintln!("{row}, round {} of {ROUNDS} …", round + 1);
            for (contestant, costs) in contestants.iter().zip(&mut costs) {
                costs.push(measure(contestant, &runtime));
            }
        }
        let cells = costs.iter().map(|costs| {
            let [service, redis] = [0, 1].map(|part| median(costs.iter().map(|cost| cost[part])));
            format!("{service:.1} + {redis:.1}")
        });
        let pairs = costs[0].iter().zip(&costs[costs.len() - 1]);
        let ratio = median(pairs.map(|(ours, others)| (ours[0] + ours[1]) / (others[0] + others[1])));
        println!("| {row} | {} | {ratio:.2} |", cells.collect::<Vec<_>>().join(" | "));
    }
    measure_revocation_by_ids(&contestants[0], &runtime);
}

fn mayfly() -> Contestant {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_METRICS_LISTEN", "off").env("MAYFLY_TOKEN_QUOTA", "100000");
    });
    for name in ["live", "lister", "creator", "revoker"] {
        service.add_user(name, "user");
    }
    Contestant {
        name: "Mayfly",
        address: service.address().to_owned(),
        running: Running::Mayfly(service),
        tokens: TOKEN,
        verify: VERIFY,
        issue: ISSUE,
        id: "jwt_token_id",
        jwt: "jwt_token",
        live: Vec::new(),
    }
}

/// The service in `benches/baseline`, if Go can build it.
fn baseline() -> Option<Contestant> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/baseline");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("baseline");
    eprintln!("building the baseline …");
    let built = Command::new("go").args(["build", "-o"]).arg(&binary).arg(".").current_dir(source).status();
    if !built.is_ok_and(|status| status.success()) {
        return None;
    }
    let redis = RedisServer::start();
    let mut command = Command::new(binary);
    let mut process = Process::spawn(command.arg(format!("127.0.0.1:{}", redis.port)).stdout(Stdio::piped()));
    let mut address = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut address).unwrap();
    Some(Contestant {
        name: "a day's work in Go",
        running: Running::Baseline(process, redis),
        address: address.trim().to_owned(),
        tokens: "/token",
        verify: "/verify",
        issue: r#"{"description":"a token of 20 letter","life":86400}"#,
        id: "id",
        jwt: "token",
        live: Vec::new(),
    })
}

impl Contestant {
    /// Issues tokens, and returns their ids and JWTs.
    async fn issue(&self, user: &str, count: usize) -> Vec<(String, String)> {
        let requests = vec![request("POST", self.tokens, &basic(user), self.issue); count];
        let answers = exchange(&self.address, &requests, CONNECTIONS).await;
        let field = |answer: &str, name| -> Option<String> {
            Some(serde_json::from_str::<Value>(answer).ok()?.get(name)?.as_str()?.to_owned())
        };
        answers.iter().map(|answer| (field(answer, self.id).unwrap(), field(answer, self.jwt).unwrap())).collect()
    }

    fn measure_verifications(&self, runtime: &Runtime) -> Cost {
        let random = (0..VERIFICATIONS).map(|_| &self.live[fastrand::usize(..self.live.len())]);
        let requests: Vec<_> = random.map(|jwt| request("GET", self.verify, &format!("Bearer {jwt}"), "")).collect();
        self.cost(runtime, &requests, CONNECTIONS)
    }

    fn measure_creates(&self, runtime: &Runtime) -> Cost {
        let requests = vec![request("POST", self.tokens, &basic("creator"), self.issue); CREATES];
        self.cost(runtime, &requests, CONNECTIONS)
    }

    fn measure_lists(&self, runtime: &Runtime) -> Cost {
        let requests = vec![request("GET", self.tokens, &basic("lister"), ""); LISTS];
        self.cost(runtime, &requests, CONNECTIONS)
    }

    fn measure_revocations(&self, runtime: &Runtime) -> Cost {
        let issued = runtime.block_on(self.issue("revoker", REVOCATIONS));
        let path = |id: &str| format!("{}/{id}", self.tokens);
        let requests: Vec<_> =
            issued.iter().map(|(id, _)| request("DELETE", &path(id), &basic("revoker"), "")).collect();
        self.cost(runtime, &requests, WAITING_CONNECTIONS)
    }

    fn cost(&self, runtime: &Runtime, requests: &[String], connections: usize) -> Cost {
        // So that leases exist.
        let is_repeatable = requests[0].starts_with("GET");
        if is_repeatable {
            runtime.block_on(exchange(&self.address, &requests[..requests.len() / 6], connections));
        }
        let before = self.processes().map(|process| cpu_microseconds([process]));
        runtime.block_on(exchange(&self.address, requests, connections));
        let after = self.processes().map(|process| cpu_microseconds([process]));
        #[expect(clippy::cast_precision_loss, reason = "the count is far below 2^52")]
        let count = requests.len() as f64;
        [0, 1].map(|index| (after[index] - before[index]) / count)
    }

    /// The service and its Redis.
    fn processes(&self) -> [&Process; 2] {
        match &self.running {
            Running::Mayfly(service) => [&service.process, &service.redis.as_ref().unwrap().process],
            Running::Baseline(process, redis) => [process, &redis.process],
        }
    }
}

/// Revokes [`LEAKED_TOKENS`] by one request, and prints the time.
fn measure_revocation_by_ids(mayfly: &Contestant, runtime: &Runtime) {
    let issued = runtime.block_on(mayfly.issue("revoker", LEAKED_TOKENS));
    let ids: Vec<_> = issued.into_iter().map(|(id, _)| id).collect();
    let body = json!({ "jwt_token_ids": ids }).to_string();
    let request = request("POST", &format!("{TOKEN}/revoke"), &basic("revoker"), &body);
    let begun = Instant::now();
    let answers = runtime.block_on(exchange(&mayfly.address, &[request], 1));
    let milliseconds = begun.elapsed().as_millis();
    let answer: Value = serde_json::from_str(&answers[0]).unwrap();
    assert_eq!(answer["jwt_tokens_deleted"], LEAKED_TOKENS, "{answer}");
    println!("\n{LEAKED_TOKENS} tokens revoked by one request: {milliseconds} ms, in which leases expire.");
}

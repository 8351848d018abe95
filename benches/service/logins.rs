//! The CPU of a create by each login: a user's password, an issuer's JWT that was checked before, and a new JWT each
//! time. All three create tokens of users who exist.

use std::fs;

use crate::{
    ISSUE, TOKEN,
    connection::{basic, exchange, request},
    cpu_microseconds, median, runtime,
    support::{
        Backend, Service,
        issuer::{IssuerKey, LocalIssuer},
    },
};

/// Rounds of each login. The table shows the median.
const ROUNDS: usize = 5;

/// Requests of one round, and the connections that send them.
const CREATES: usize = 4_000;
const CONNECTIONS: usize = 64;

/// The authorizations of the requests of a round.
type Authorizations<'a> = &'a dyn Fn(usize) -> Vec<String>;

pub fn run() {
    let (runtime, directory) = (runtime(), tempfile::tempdir().unwrap());
    let keys = ["ES256", "RS256"].map(|alg| IssuerKey::new(alg, alg));
    let issuer = LocalIssuer::start(&keys.each_ref());
    let file = directory.path().join("issuers.toml");
    fs::write(&file, issuer.entry("user = \"ci\"")).unwrap();
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_METRICS_LISTEN", "off").env("MAYFLY_TOKEN_QUOTA", "100000");
        command.env("MAYFLY_LOG", "warn").env("MAYFLY_ISSUERS_FILE", &file);
    });
    service.add_user("creator", "user");
    let jwt = |key: usize, number: usize| {
        let mut claims = issuer.claims();
        claims["jti"] = number.into();
        format!("Bearer {}", keys[key].sign(&claims))
    };
    let same = |key: usize| vec![jwt(key, 0); CREATES];
    let new = |key: usize, round: usize| (1..=CREATES).map(|number| jwt(key, round * CREATES + number)).collect();
    let logins: [(&str, Authorizations<'_>); 4] = [
        ("a password, checked before", &|_| vec![basic("creator"); CREATES]),
        ("a JWT (ES256), checked before", &|_| same(0)),
        ("a new JWT each time (ES256)", &|round| new(0, round)),
        ("a new JWT each time (RS256)", &|round| new(1, round)),
    ];
    let redis = service.redis.as_ref().unwrap();
    let cpu = || [cpu_microseconds([&service.process]), cpu_microseconds([&redis.process])];
    let mut costs = vec![Vec::new(); logins.len()];
    for round in 0..=ROUNDS {
        eprintln!("creates, round {round} of {ROUNDS} …");
        for ((_, authorizations), costs) in logins.iter().zip(&mut costs) {
            let requests = authorizations(round);
            let requests: Vec<_> = requests.iter().map(|login| request("POST", TOKEN, login, ISSUE)).collect();
            let before = cpu();
            runtime.block_on(exchange(service.address(), &requests, CONNECTIONS));
            let after = cpu();
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let per_create = [0, 1].map(|part| (after[part] - before[part]) / CREATES as f64);
            // The first round creates the user, fetches keys and hashes passwords.
            if round > 0 {
                costs.push(per_create);
            }
        }
    }
    println!("\nCPU of a create by its login, µs, medians of {ROUNDS} rounds\n");
    println!("| login | service | Redis |");
    println!("|---|---|---|");
    for ((login, _), costs) in logins.iter().zip(&costs) {
        let [service, redis] = [0, 1].map(|part| median(costs.iter().map(|cost: &[f64; 2]| cost[part])));
        println!("| {login} | {service:.1} | {redis:.1} |");
    }
}

//! `make bench`: measures whether the time of a failed login reveals which users exist.
//!
//! Logins are sent in pairs, over HTTP on Redis: one of the kind that is compared, and one with the wrong password of a
//! known user. Their order is drawn for each pair, so that other work of the machine affects both alike. Each login has
//! a user and a client address of its own, because repeated failures are delayed.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use mayfly::{
    domain::{
        password::{HashCost, PasswordHash},
        user::{LoginEpoch, Role, User},
    },
    store::{
        Authority, Store,
        redis::{RedisOptions, RedisStore},
    },
};
use support::{Backend, Service};

/// Pairs of each kind, unless an argument gives another number.
const PAIRS: usize = 400;

/// The first number of users that only the comparison of like with like uses.
const SPARE: usize = 100_000;

/// Bootstrap samples for the interval of a difference.
const SAMPLES: usize = 1_000;

/// The costs of a hash: the default, and the least, beside which other differences show.
const COSTS: [&str; 2] = ["m=19456,t=2,p=1", "m=8,t=1,p=1"];

const PASSWORD: &str = "correct horse battery staple";
const WRONG: &str = "correct horse battery stable";

/// A kind of failed login. Its user's name depends on the number of the pair.
struct Failure {
    kind: &'static str,
    name: fn(usize) -> String,
    password: &'static str,
}

/// The reference of all comparisons.
const WRONG_PASSWORD: Failure = Failure { kind: "wrong password", name: known, password: WRONG };

const OTHERS: [Failure; 5] = [
    Failure { kind: "wrong password (nothing to find)", name: |pair| known(pair + SPARE), password: WRONG },
    Failure { kind: "unknown user", name: |pair| format!("unknown-{pair:06}"), password: WRONG },
    Failure { kind: "disabled user, right password", name: disabled, password: PASSWORD },
    Failure { kind: "disabled user, wrong password", name: disabled, password: WRONG },
    Failure { kind: "no name that a user may have", name: |pair| format!("{pair:065}"), password: WRONG },
];

fn known(pair: usize) -> String {
    format!("account-{pair:06}")
}

fn disabled(pair: usize) -> String {
    format!("retired-{pair:06}")
}

fn main() {
    let pairs = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(PAIRS);
    println!("\nFailed logins in {pairs} pairs, one of each with the wrong password of a user\n");
    println!("| cost of a hash | the other | median, ms | wrong password, ms | ratio | difference, µs (95 %) | AUC |");
    println!("|---|---|---|---|---|---|---|");
    for cost in COSTS {
        let service = service(cost, pairs);
        for other in OTHERS {
            compare(&service, cost, &other, pairs);
        }
    }
    println!(
        "\nAUC: how often the other takes longer. Chance alone gives 0.5 ± {:.3} in 95 of 100 runs.",
        chance(pairs)
    );
}

/// A service with all users of the pairs.
fn service(cost: &str, pairs: usize) -> Service {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_PASSWORD_COST", cost).env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    });
    let store = RedisStore::new(&RedisOptions::at(&service.redis.as_ref().unwrap().url())).unwrap();
    let password_hash = PasswordHash::of(&PASSWORD.parse().unwrap(), cost.parse::<HashCost>().unwrap());
    let users =
        (0..pairs).flat_map(|pair| [(known(pair), false), (known(pair + SPARE), false), (disabled(pair), true)]);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for (name, disabled) in users {
            let (name, credential) = (name.parse().unwrap(), password_hash.clone().into());
            let login_epoch = LoginEpoch::begin();
            let user = User { name, credential, role: Role::User, created_at: 0, disabled, login_epoch };
            assert!(
                store
                    .create_user(&Authority::Until((Instant::now() + Duration::from_mins(1)).into()), &user)
                    .await
                    .unwrap()
            );
        }
    });
    service
}

/// Measures one kind of failure against the reference, and prints a row.
fn compare(service: &Service, cost: &str, other: &Failure, pairs: usize) {
    eprintln!("{cost}: {} …", other.kind);
    let (mut theirs, mut reference) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let mut turns = [(other, &mut theirs), (&WRONG_PASSWORD, &mut reference)];
        fastrand::shuffle(&mut turns);
        for (failure, times) in turns {
            times.push(failure.time(service, pair));
        }
    }
    let (median, usual) = (median(&theirs), self::median(&reference));
    let (least, most) = difference(&theirs, &reference);
    println!(
        "| {cost} | {} | {:.3} | {:.3} | {:.3} | {:.0} ({least:.0} to {most:.0}) | {:.3} |",
        other.kind,
        median * 1e3,
        usual * 1e3,
        median / usual,
        (median - usual) * 1e6,
        area(&theirs, &reference),
    );
}

impl Failure {
    /// Logs in, and returns the time to the answer in seconds.
    fn time(&self, service: &Service, pair: usize) -> f64 {
        let client = service.client().with_basic(&(self.name)(pair), self.password);
        let [.., a, b, c] = fastrand::u32(..).to_be_bytes();
        let request = client.get("/api/v1alpha/token").header("x-forwarded-for", &format!("10.{a}.{b}.{c}"));
        let begun = Instant::now();
        let answer = request.send();
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(answer.status, 401, "{answer:?}");
        seconds
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The 95 % bootstrap interval of the difference of the medians, in microseconds.
fn difference(theirs: &[f64], reference: &[f64]) -> (f64, f64) {
    let mut differences: Vec<_> = (0..SAMPLES)
        .map(|_| {
            let sample: Vec<_> = theirs.iter().map(|_| fastrand::usize(..theirs.len())).collect();
            let of = |times: &[f64]| median(&sample.iter().map(|pair| times[*pair]).collect::<Vec<_>>());
            (of(theirs) - of(reference)) * 1e6
        })
        .collect();
    differences.sort_unstable_by(f64::total_cmp);
    (differences[SAMPLES / 40], differences[SAMPLES - 1 - SAMPLES / 40])
}

/// The AUC (Mann-Whitney): the probability that one of `theirs` is longer than one of `reference`.
#[expect(clippy::cast_precision_loss, reason = "the counts are far below 2^52")]
fn area(theirs: &[f64], reference: &[f64]) -> f64 {
    let mut reference = reference.to_vec();
    reference.sort_unstable_by(f64::total_cmp);
    let shorter: usize = theirs.iter().map(|time| reference.partition_point(|other| other < time)).sum();
    shorter as f64 / (theirs.len() * reference.len()) as f64
}

/// The half width of the 95 % interval of an AUC of 0.5, where there is no difference (normal approximation).
#[expect(clippy::cast_precision_loss, reason = "the counts are far below 2^52")]
fn chance(pairs: usize) -> f64 {
    let pairs = pairs as f64;
    1.96 * ((2.0 * pairs + 1.0) / (12.0 * pairs * pairs)).sqrt()
}

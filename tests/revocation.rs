//! The promise: once a deletion was answered, no replica accepts the token again.
//!
//! Three replicas share one Redis. Workers act at random: they issue, verify, rotate and revoke tokens in every way,
//! change passwords, and disable and remove users. Meanwhile other clients verify all tokens without a pause, so that
//! leases are held and reads are in flight at every moment. No worker waits for a fixed time.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use fastrand::Rng;
use mayfly::store::leased::LEASE;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Client, Proxy, RedisServer, Service, eventually, run as run_command};

const REPLICAS: usize = 3;
const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";
const USER: &str = "/api/v1alpha/user";

/// The number of tokens, live and revoked, that are verified without a pause.
const WATCHED: usize = 64;

/// A minimal cost of password hashes, which this test does not measure.
const CHEAP: &str = "m=8,t=1,p=1";

/// Counts of requests, and of wrong responses.
#[derive(Debug, Default)]
pub struct Report {
    /// Tokens whose revocation was answered.
    pub revocations: u64,
    /// Verifications.
    pub verifications: u64,
    /// Verifications that were told that the token is live.
    pub accepted: u64,
    /// Verifications that began after the revocation was answered, and were told that the token is live.
    pub violations: u64,
}

struct Token {
    id: String,
    jwt: String,
    /// Set as soon as the revocation was answered.
    ended: AtomicBool,
}

struct Fleet {
    redis: RedisServer,
    replicas: Vec<Service>,
    watched: RwLock<Vec<Arc<Token>>>,
    wanted: u64,
    revocations: AtomicU64,
    verifications: AtomicU64,
    accepted: AtomicU64,
    violations: AtomicU64,
}

/// Replicas of the service, which share a Redis and the keys.
fn start_replicas(redis: &RedisServer, count: usize) -> Vec<Service> {
    let mut replicas: Vec<Service> = Vec::new();
    for _ in 0..count {
        let keys = replicas.first().map(|first: &Service| first.keys_file.clone());
        replicas.push(Service::launch(Some(&redis.url()), |command| {
            // Longer than any request takes on a busy machine.
            command.env("MAYFLY_REDIS_TIMEOUT", "10s");
            command.env("MAYFLY_LOG", "warn").env("MAYFLY_PASSWORD_COST", CHEAP);
            if let Some(keys) = keys {
                command.env("MAYFLY_JWT_KEYS_FILE", keys);
            }
        }));
    }
    for replica in &replicas {
        eventually("ready", || (replica.client().get("/readyz").send().status == 200).then_some(()));
    }
    replicas
}

/// Runs this many workers until they have revoked at least this many tokens.
pub fn revoke_at_random(workers: usize, revocations: u64, seed: u64) -> Report {
    let redis = RedisServer::start();
    let replicas = start_replicas(&redis, REPLICAS);
    let fleet = Fleet {
        redis,
        replicas,
        watched: RwLock::default(),
        wanted: revocations,
        revocations: AtomicU64::new(0),
        verifications: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        violations: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        for number in 0..workers {
            let fleet = &fleet;
            scope.spawn(move || Worker::new(fleet, number, seed).work());
        }
        for number in 0..2 {
            let (fleet, mut rng) = (&fleet, Rng::with_seed(seed ^ (1 << 32) ^ number));
            scope.spawn(move || {
                while !fleet.is_done() {
                    fleet.verify_something(&mut rng);
                }
            });
        }
    });
    Report {
        revocations: fleet.revocations.into_inner(),
        verifications: fleet.verifications.into_inner(),
        accepted: fleet.accepted.into_inner(),
        violations: fleet.violations.into_inner(),
    }
}

impl Fleet {
    fn is_done(&self) -> bool {
        self.revocations.load(Ordering::SeqCst) >= self.wanted
    }

    fn client(&self, rng: &mut Rng) -> Client {
        self.replicas[rng.usize(..self.replicas.len())].client()
    }

    fn watch(&self, token: &Arc<Token>, rng: &mut Rng) {
        let mut watched = self.watched.write().unwrap();
        if watched.len() < WATCHED {
            watched.push(Arc::clone(token));
        } else {
            let index = rng.usize(..watched.len());
            watched[index] = Arc::clone(token);
        }
    }

    fn verify_something(&self, rng: &mut Rng) {
        let token = rng.choice(&*self.watched.read().unwrap()).cloned();
        match token {
            Some(token) => drop(self.verify(&self.client(rng), &token)),
            None => thread::yield_now(),
        }
    }

    /// Verifies a token, and returns whether the token is live.
    fn verify(&self, client: &Client, token: &Token) -> bool {
        let ended = token.ended.load(Ordering::SeqCst);
        let status = client.with_bearer(&token.jwt).get(VERIFY).send().status;
        assert!([200, 401].contains(&status), "{status}");
        self.verifications.fetch_add(1, Ordering::SeqCst);
        self.accepted.fetch_add(u64::from(status == 200), Ordering::SeqCst);
        if ended && status == 200 {
            self.violations.fetch_add(1, Ordering::SeqCst);
        }
        status == 200
    }

    /// Records an answered revocation, and verifies the token at every replica.
    fn ended(&self, token: &Token) {
        token.ended.store(true, Ordering::SeqCst);
        self.revocations.fetch_add(1, Ordering::SeqCst);
        for replica in &self.replicas {
            self.verify(&replica.client(), token);
        }
    }
}

/// A user and the clients that act for the user.
struct Worker<'a> {
    fleet: &'a Fleet,
    rng: Rng,
    name: String,
    /// The number of password changes.
    passwords: u32,
    live: Vec<Arc<Token>>,
}

impl<'a> Worker<'a> {
    fn new(fleet: &'a Fleet, number: usize, seed: u64) -> Self {
        let mut worker = Self {
            fleet,
            rng: Rng::with_seed(seed.wrapping_add(number as u64)),
            name: format!("worker{number}"),
            passwords: 0,
            live: Vec::new(),
        };
        worker.add_user();
        worker
    }

    fn work(mut self) {
        while !self.fleet.is_done() {
            match self.rng.u32(..100) {
                0..30 => self.issue(),
                30..60 => self.fleet.verify_something(&mut self.rng),
                60..85 => self.revoke(),
                85..92 => self.rotate(),
                92..94 => self.revoke_all(),
                94 => self.remove_user(),
                95 => self.disable(),
                96 => self.change_password(),
                _ => (0..self.rng.u32(..1000)).for_each(|_| thread::yield_now()),
            }
        }
    }

    fn basic(&mut self) -> Client {
        self.fleet.client(&mut self.rng).with_basic(&self.name, &self.password())
    }

    fn password(&self) -> String {
        format!("secret{}", self.passwords)
    }

    /// Returns a client that logs in as an administrator.
    fn admin(&mut self) -> Client {
        self.fleet.client(&mut self.rng).with_basic("admin", ADMIN_PASSWORD)
    }

    fn user_command(&self, arguments: &[&str], input: &str) {
        let mut command = Service::command();
        command
            .env("MAYFLY_REDIS_URL", self.fleet.redis.url())
            .env("MAYFLY_PASSWORD_COST", CHEAP)
            .arg("user")
            .args(arguments);
        let output = run_command(&mut command, input);
        assert!(output.status.success(), "{output:?}");
    }

    fn add_user(&mut self) {
        self.user_command(&["add", &self.name, "--password-stdin"], &self.password());
        self.log_in();
    }

    /// Each replica hashes a new password once.
    fn log_in(&self) {
        for replica in &self.fleet.replicas {
            let client = replica.client().with_basic(&self.name, &self.password());
            eventually("it logs in", || (client.get(TOKEN).send().status == 200).then_some(()));
        }
    }

    fn keep(&mut self, id: String, jwt: String) {
        let token = Arc::new(Token { id, jwt, ended: AtomicBool::new(false) });
        self.fleet.watch(&token, &mut self.rng);
        self.live.push(token);
    }

    fn issue(&mut self) {
        let (id, jwt) = self.basic().issue("x", "1h");
        self.keep(id, jwt);
    }

    fn take(&mut self) -> Option<Arc<Token>> {
        (!self.live.is_empty()).then(|| self.live.swap_remove(self.rng.usize(..self.live.len())))
    }

    fn revoke(&mut self) {
        let Some(token) = self.take() else { return };
        // Begins a lease on some replica. Only this worker revokes the tokens of this user.
        let client = self.fleet.client(&mut self.rng);
        assert!(self.fleet.verify(&client, &token), "a live token is accepted");
        let client = self.fleet.client(&mut self.rng);
        let answer = match self.rng.u32(..3) {
            0 => self.basic().delete(&format!("{TOKEN}/{}", token.id)),
            1 => client.with_bearer(&token.jwt).delete("/api/v1alpha/token/self"),
            _ => client.post_form("/oauth2/revoke", &[("token", &token.jwt)]),
        };
        assert_eq!(answer.send().status, 200);
        self.fleet.ended(&token);
    }

    fn rotate(&mut self) {
        let Some(token) = self.take() else { return };
        let at_once = self.rng.bool();
        let body = if at_once { json!({}) } else { json!({"overlap": "1h"}) };
        let answer = self.basic().post(&format!("{TOKEN}/{}/rotate", token.id), &body).send();
        if answer.status == 409 {
            // The token was rotated before, and is still live.
            self.live.push(token);
            return;
        }
        assert_eq!(answer.status, 201, "{answer:?}");
        let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        self.keep(field("jwt_token_id"), field("jwt_token"));
        if at_once {
            self.fleet.ended(&token);
        } else {
            self.live.push(token);
        }
    }

    fn revoke_all(&mut self) {
        assert_eq!(
            self.basic().delete("/api/v1alpha/token?all=true").send().json()["jwt_tokens_deleted"],
            self.live.len()
        );
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
    }

    fn remove_user(&mut self) {
        if self.rng.bool() {
            self.user_command(&["remove", &self.name], "");
        } else {
            let path = format!("{USER}/{}", self.name);
            assert_eq!(self.admin().delete(&path).send().json()["jwt_tokens_deleted"], self.live.len());
        }
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
        self.add_user();
    }

    fn disable(&mut self) {
        let path = format!("{USER}/{}", self.name);
        assert_eq!(self.admin().patch(&path, &json!({"disabled": true})).send().status, 200);
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
        assert_eq!(self.admin().patch(&path, &json!({"disabled": false})).send().status, 200);
        self.log_in();
    }

    fn change_password(&mut self) {
        let old = self.basic();
        self.passwords += 1;
        let body = json!({"password": self.password(), "revoke_tokens": true});
        let path = format!("{USER}/{}/password", self.name);
        assert_eq!(old.put(&path, &body).send().json()["jwt_tokens_deleted"], self.live.len());
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
        self.log_in();
    }
}

/// The same with more workers and a hundred times the revocations is part of `make soak`.
#[test]
fn no_replica_accepts_a_token_after_its_revocation_is_answered() {
    let seed = fastrand::u64(..);
    let report = revoke_at_random(16, 200, seed);
    assert_eq!(report.violations, 0, "{report:?} with seed {seed}");
    assert!(report.revocations >= 200 && report.accepted > 500, "{report:?}");
}

/// A replica that no longer receives invalidations renews no lease.
#[test]
fn a_replica_without_invalidations_accepts_no_revoked_token() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port);
    let knowing = Service::launch(Some(&redis.url()), |_| {});
    let blind = Service::launch(Some(&format!("redis://127.0.0.1:{}", proxy.port)), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &knowing.keys_file).env("MAYFLY_REDIS_TIMEOUT", "600ms");
    });
    knowing.wait_until_ready();
    blind.wait_until_ready();
    for _ in 0..10 {
        let (id, jwt) = knowing.admin().issue("x", "1h");
        let verify = || blind.client().with_bearer(&jwt).get(VERIFY).send().status;
        let begun = Instant::now();
        eventually("it holds a renewed lease while it receives nothing", || {
            proxy.blackhole(false);
            let is_renewed = verify() == 200 && begun.elapsed() > 2 * LEASE;
            proxy.blackhole(is_renewed);
            // On a busy machine the lease may have lapsed meanwhile.
            (is_renewed && verify() == 200).then_some(())
        });
        assert_eq!(knowing.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
        assert_eq!(verify(), 503);
        proxy.blackhole(false);
        eventually("it hears again", || (verify() == 401).then_some(()));
    }
}

/// A change that ends a user's logins and tokens, and the status of the user's requests from then on.
#[rstest]
#[case::disabled("PATCH", "", json!({"disabled": true}), 401)]
#[case::removed("DELETE", "", json!({}), 401)]
#[case::another_password("PUT", "/password", json!({"password": "second", "revoke_tokens": true}), 401)]
#[case::demoted("PATCH", "", json!({"role": "user"}), 403)]
fn every_replica_applies_a_removal_before_it_is_answered(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: Value,
    #[case] refused_with: u16,
) {
    const ROUNDS: usize = 5;
    let redis = RedisServer::start();
    let replicas = start_replicas(&redis, 2);
    let [first, second] = &replicas[..] else { unreachable!("there are two") };
    let admin = first.admin();
    for round in 0..ROUNDS {
        let name = format!("alice{round}");
        let of_alice = format!("{USER}/{name}");
        admin.add_user(&name, "admin");
        let alice = || second.client().with_basic(&name, "secret");
        let (_, jwt) = alice().issue("x", "1h");
        let verify = |jwt: &str| second.client().with_bearer(jwt).get(VERIFY).send().status;
        let answered = AtomicBool::new(false);
        let issued = thread::scope(|scope| {
            // The old password and the token are in constant use, so that the second replica has leases on both.
            let uses: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let (client, mut issued) = (alice(), Vec::new());
                        while !answered.load(Ordering::SeqCst) {
                            assert!([200, 401].contains(&verify(&jwt)));
                            // One rejected login is enough: more would be throttled.
                            if client.get(USER).send().status != 200 {
                                break;
                            }
                            let token = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
                            // On a new connection: the server closes one whose body was not read.
                            let answer = alice().post(TOKEN, &token).send();
                            issued.extend(answer.json()["jwt_token"].as_str().map(str::to_owned));
                        }
                        issued
                    })
                })
                .collect();
            eventually("they do", || (alice().get(USER).send().status == 200).then_some(()));
            let answer = admin.request(method, &format!("{of_alice}{path}")).json(&body).send();
            let (listed, verified) = (alice().get(USER).send(), verify(&jwt));
            answered.store(true, Ordering::SeqCst);
            assert_eq!(answer.status, 200, "{answer:?}");
            listed.problem(refused_with);
            assert_eq!(verified, if refused_with == 403 { 200 } else { 401 });
            uses.into_iter().flat_map(|uses| uses.join().unwrap()).collect::<Vec<_>>()
        });
        // A login that was in flight created no token.
        if refused_with == 401 {
            for jwt in &issued {
                assert_eq!(verify(jwt), 401);
            }
        }
        admin.delete(&of_alice).send();
    }
}

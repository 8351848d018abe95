//! The promise: once a deletion was answered, no replica accepts the token again.
//!
//! Three replicas share one Redis. Workers do what clients do, at random: they issue, verify, revoke in each of the ways
//! there are, rotate, and remove their user, while others verify whatever there is without a pause, so that leases are held
//! and reads are under way at each moment. Nobody waits by the clock.

use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use fastrand::Rng;
use serde_json::json;

use crate::support::{Client, RedisServer, Service, eventually, run as run_command};

const REPLICAS: usize = 3;
const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

/// How many tokens, dead ones among them, are verified without a pause.
const WATCHED: usize = 64;

/// What was done, and what should not have been.
#[derive(Debug, Default)]
pub struct Report {
    /// Tokens ended by an answered request.
    pub revocations: u64,
    /// Requests that asked whether a token is live.
    pub verifications: u64,
    /// Those that were told that it does.
    pub accepted: u64,
    /// Those that began after the token's end was answered, and were told that it lives.
    pub violations: u64,
}

struct Token {
    id: String,
    jwt: String,
    /// Set as soon as its end was answered.
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

/// Has so many workers revoke at least so many tokens.
pub fn revoke_at_random(workers: usize, revocations: u64, seed: u64) -> Report {
    let redis = RedisServer::start();
    let mut replicas: Vec<Service> = Vec::new();
    for _ in 0..REPLICAS {
        let keys = replicas.first().map(|first: &Service| first.keys_file.clone());
        replicas.push(Service::launch(Some(&redis.url()), |command| {
            command.env("MAYFLY_LOG", "warn");
            if let Some(keys) = keys {
                command.env("MAYFLY_JWT_KEYS_FILE", keys);
            }
        }));
    }
    for replica in &replicas {
        eventually("ready", || (replica.client().get("/readyz").send().status == 200).then_some(()));
    }
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

    /// Asks whether a token is live, and returns the answer.
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

    /// Takes note of an answered end, and asks every replica.
    fn ended(&self, token: &Token) {
        token.ended.store(true, Ordering::SeqCst);
        self.revocations.fetch_add(1, Ordering::SeqCst);
        for replica in &self.replicas {
            self.verify(&replica.client(), token);
        }
    }
}

/// A user, and who acts for that user.
struct Worker<'a> {
    fleet: &'a Fleet,
    rng: Rng,
    name: String,
    live: Vec<Arc<Token>>,
}

/// Hashes of passwords take a core each: they are made one after the other.
static ADDING_USERS: Mutex<()> = Mutex::new(());

impl<'a> Worker<'a> {
    fn new(fleet: &'a Fleet, number: usize, seed: u64) -> Self {
        let mut worker = Self {
            fleet,
            rng: Rng::with_seed(seed.wrapping_add(number as u64)),
            name: format!("worker{number}"),
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
                _ => (0..self.rng.u32(..1000)).for_each(|_| thread::yield_now()),
            }
        }
    }

    fn basic(&mut self) -> Client {
        self.fleet.client(&mut self.rng).with_basic(&self.name, "secret")
    }

    fn user_command(&self, arguments: &[&str], input: &str) {
        let mut command = Service::command();
        command.env("MAYFLY_REDIS_URL", self.fleet.redis.url()).arg("user").args(arguments);
        let output = run_command(&mut command, input);
        assert!(output.status.success(), "{output:?}");
    }

    fn add_user(&mut self) {
        let _one_at_a_time = ADDING_USERS.lock().unwrap();
        self.user_command(&["add", &self.name, "--password-stdin"], "secret");
        // Each replica hashes the new password once.
        for replica in &self.fleet.replicas {
            let client = replica.client().with_basic(&self.name, "secret");
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
        // So that a lease begins somewhere just now. Nobody else ends the tokens of this user.
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
            // It was rotated before, and lives on.
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
        assert_eq!(self.basic().delete(TOKEN).send().json()["jwt_tokens_deleted"], self.live.len());
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
    }

    fn remove_user(&mut self) {
        self.user_command(&["remove", &self.name], "");
        self.live.drain(..).for_each(|token| self.fleet.ended(&token));
        self.add_user();
    }
}

/// The same with more workers and a hundred times the revocations is part of `make soak`.
#[test]
fn no_replica_accepts_a_token_whose_deletion_was_answered() {
    let seed = fastrand::u64(..);
    let report = revoke_at_random(16, 200, seed);
    assert_eq!(report.violations, 0, "{report:?} with seed {seed}");
    assert!(report.revocations >= 200 && report.accepted > 500, "{report:?}");
}

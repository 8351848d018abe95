//! Redis servers that stand in for one another: Sentinel and Cluster.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Client, Cluster, Sentinel, Service, eventually};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";

/// What clients of the service remember of their tokens.
#[derive(Default)]
struct Journal {
    /// Ids and JWTs of tokens whose creation was acknowledged.
    live: Vec<(String, String)>,
    /// JWTs whose revocation was acknowledged.
    revoked: Vec<String>,
    /// Answers of 503.
    unavailable: usize,
}

/// Clients that create and revoke tokens until they are told to stop, and note what was acknowledged.
struct Load {
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(admin: &Client, clients: usize) -> Self {
        let (journal, stop) = (Arc::<Mutex<Journal>>::default(), Arc::<AtomicBool>::default());
        let clients = (0..clients)
            .map(|_| {
                let (admin, journal, stop) = (admin.clone(), Arc::clone(&journal), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        create_and_revoke(&admin, &journal, &stop);
                    }
                })
            })
            .collect();
        Self { journal, stop, clients }
    }

    fn stop(self) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        Arc::into_inner(self.journal).unwrap().into_inner().unwrap()
    }

    fn acknowledged(&self) -> usize {
        self.journal.lock().unwrap().revoked.len()
    }
}

/// Creates two tokens and revokes one of them, repeating the revocation until it is acknowledged.
fn create_and_revoke(admin: &Client, journal: &Mutex<Journal>, stop: &AtomicBool) {
    let create = || {
        let answer = admin.post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})).send();
        if answer.status == 503 {
            journal.lock().unwrap().unavailable += 1;
            thread::sleep(Duration::from_millis(20));
            return None;
        }
        assert_eq!(answer.status, 201, "{answer:?}");
        let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        Some((field("jwt_token_id"), field("jwt_token")))
    };
    if let Some(token) = create() {
        journal.lock().unwrap().live.push(token);
    }
    let Some((id, jwt)) = create() else { return };
    loop {
        match admin.delete(&format!("{TOKEN}/{id}")).send().status {
            // Gone at the second try is gone, too.
            200 | 404 => return journal.lock().unwrap().revoked.push(jwt),
            503 if stop.load(Ordering::Relaxed) => return,
            503 => journal.lock().unwrap().unavailable += 1,
            status => panic!("{status}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many acknowledged tokens are lost, and how many acknowledged revocations are undone.
fn count_losses(client: &Client, journal: &Journal) -> (usize, usize) {
    let status = |jwt: &str| {
        eventually("there is an answer", || {
            Some(client.with_bearer(jwt).get(SELF).send().status).filter(|status| *status != 503)
        })
    };
    let lost = journal.live.iter().filter(|(_, jwt)| status(jwt) != 200).count();
    let undone = journal.revoked.iter().filter(|jwt| status(jwt) != 401).count();
    (lost, undone)
}

fn launch(url: &str, wait_replicas: &str) -> Service {
    let service = Service::launch(Some(url), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", wait_replicas).env("MAYFLY_TOKEN_QUOTA", "100000");
    });
    service.wait_until_ready();
    service
}

#[test]
fn what_was_acknowledged_survives_a_failover() {
    let mut sentinel = Sentinel::start(2, 3);
    let service = launch(&sentinel.url(), "1");
    let load = Load::start(&service.admin(), 4);
    for _ in 0..2 {
        let before = load.acknowledged();
        eventually("the load goes on", || (load.acknowledged() > before + 10).then_some(()));
        sentinel.fail_over();
    }
    let before = load.acknowledged();
    eventually("it works with the new primary", || (load.acknowledged() > before + 10).then_some(()));
    let journal = load.stop();
    assert!(journal.revoked.len() > 30 && journal.live.len() > 30);
    assert_eq!(count_losses(&service.client(), &journal), (0, 0), "lost, undone");
}

#[test]
fn a_primary_that_was_deposed_in_its_sleep_answers_nothing_old() {
    let sentinel = Sentinel::start(1, 1);
    let [first, second] = [(), ()].map(|()| launch(&sentinel.url(), "1"));
    let keys = first.keys_file.clone();
    drop(second);
    let second = Service::launch(Some(&sentinel.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", keys);
    });
    second.wait_until_ready();
    let (id, jwt) = first.admin().issue("x", "1h");
    let verify = || second.client().with_bearer(&jwt).get(SELF).send().status;
    assert_eq!(verify(), 200);

    let deposed = sentinel.primary().unwrap();
    deposed.process.signal(Signal::SIGSTOP);
    eventually("another is promoted", || (sentinel.primary_port() != deposed.port).then_some(()));
    // Without its replica, which sleeps, the new primary can have no acknowledgement.
    first.admin().delete(&format!("{TOKEN}/{id}")).send().problem(503);
    // The second service may have held on to the old primary.
    deposed.process.signal(Signal::SIGCONT);
    let acknowledged = || [200, 404].contains(&first.admin().delete(&format!("{TOKEN}/{id}")).send().status);
    eventually("the revocation is acknowledged", || acknowledged().then_some(()));
    for _ in 0..50 {
        assert!([401, 503].contains(&verify()));
    }
    eventually("the second service follows", || (verify() == 401).then_some(()));
}

#[test]
fn a_cluster_goes_on_when_a_primary_dies_and_a_slot_moves() {
    let mut cluster = Cluster::start(true);
    let service = launch(&cluster.url(), "1");
    // Keys of one user live in one slot.
    let key = "mayfly:{admin}:user";
    let load = Load::start(&service.admin(), 2);
    let goes_on = |what: &str| {
        let before = load.acknowledged();
        eventually(what, || (load.acknowledged() > before + 10).then_some(()));
    };
    goes_on("it works");
    cluster.move_slot_of(key);
    goes_on("it works with the slot elsewhere");
    let killed = cluster.primary_of(key);
    let stopped = cluster.servers[killed].take().unwrap().stop();
    // The one that is promoted has no replica now, so it can acknowledge no write. But it answers.
    let (_, jwt) = load.journal.lock().unwrap().live.last().unwrap().clone();
    let verify = || service.client().with_bearer(&jwt).get(SELF).send().status;
    eventually("another answers", || (verify() == 200).then_some(()));
    cluster.servers[killed] = Some(stopped.start_again());
    cluster.wait_until_whole();
    goes_on("it works with the cluster whole");
    let journal = load.stop();
    assert_eq!(count_losses(&service.client(), &journal), (0, 0), "lost, undone");
}

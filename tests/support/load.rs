//! Clients that record acknowledged creations and revocations.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use serde_json::json;

use super::{Client, eventually};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";

/// Pause before a repeated request.
const PAUSE: Duration = Duration::from_millis(20);

/// The records of all clients.
#[derive(Default)]
struct Journal {
    /// JWTs whose creation was acknowledged, and which were not revoked.
    live: Vec<String>,
    /// JWTs whose revocation was acknowledged.
    revoked: Vec<String>,
    /// Requests without an answer, or answered with 503.
    unanswered: usize,
}

/// Clients that create and revoke tokens until they are told to stop.
pub struct Load {
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

/// The acknowledged changes that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    pub created: usize,
    pub revoked: usize,
    pub unanswered: usize,
    /// Acknowledged tokens that do not exist.
    pub lost: usize,
    /// Tokens that exist after their acknowledged revocation.
    pub undone: usize,
}

impl Load {
    pub fn start(admin: &Client, clients: usize) -> Self {
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

    /// Waits until this many more revocations were acknowledged.
    pub fn wait_for(&self, revocations: usize) {
        let acknowledged = || self.journal.lock().unwrap().revoked.len();
        let before = acknowledged();
        eventually("the load goes on", || (acknowledged() >= before + revocations).then_some(()));
    }

    /// Returns a live JWT.
    pub fn live(&self) -> String {
        self.journal.lock().unwrap().live.last().unwrap().clone()
    }

    /// Stops the clients, and checks every acknowledged change.
    pub fn stop(self, client: &Client) -> Losses {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        let journal = self.journal.lock().unwrap();
        let status = |jwt: &str| {
            let ask = || client.with_bearer(jwt).get(SELF).try_send().ok().map(|answer| answer.status);
            eventually("there is an answer", || ask().filter(|status| *status != 503))
        };
        Losses {
            created: journal.live.len() + journal.revoked.len(),
            revoked: journal.revoked.len(),
            unanswered: journal.unanswered,
            lost: journal.live.iter().filter(|jwt| status(jwt) != 200).count(),
            undone: journal.revoked.iter().filter(|jwt| status(jwt) != 401).count(),
        }
    }
}

/// A row of a table.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, revoked, unanswered, lost, undone } = self;
        write!(f, "{created} | {revoked} | {unanswered} | {lost} | {undone}")
    }
}

/// Creates two tokens and revokes one of them, repeating the revocation until it is acknowledged.
fn create_and_revoke(admin: &Client, journal: &Mutex<Journal>, stop: &AtomicBool) {
    let unanswered = || {
        journal.lock().unwrap().unanswered += 1;
        sleep(PAUSE);
    };
    let create = || match admin.post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})).try_send() {
        Ok(answer) if answer.status == 201 => {
            let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
            Some((field("jwt_token_id"), field("jwt_token")))
        }
        Ok(answer) if answer.status != 503 => panic!("{answer:?}"),
        _ => {
            unanswered();
            None
        }
    };
    if let Some((_, jwt)) = create() {
        journal.lock().unwrap().live.push(jwt);
    }
    let Some((id, jwt)) = create() else { return };
    loop {
        match admin.delete(&format!("{TOKEN}/{id}")).try_send() {
            // The first attempt may have revoked the token without an acknowledgement.
            Ok(answer) if [200, 404].contains(&answer.status) => return journal.lock().unwrap().revoked.push(jwt),
            Ok(answer) if answer.status != 503 => panic!("{answer:?}"),
            _ if stop.load(Ordering::Relaxed) => return,
            _ => unanswered(),
        }
    }
}

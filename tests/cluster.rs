//! Leases in a Redis Cluster whose slots move and whose primaries are replaced.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use fastrand::Rng;
use mayfly::store::leased::LEASE;

use crate::support::{Client, Cluster, Service, Version, eventually};

const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

/// How many verifications of a token were not answered from a lease.
fn misses(service: &Service) -> u64 {
    let page = Client::new(&service.metrics_url).get("").send().text;
    let is_miss = |line: &&str| {
        line.starts_with("mayfly_lease_lookups_total{") && line.contains("\"token\"") && line.contains("\"miss\"")
    };
    page.lines().find(is_miss).map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

struct Issued {
    id: String,
    jwt: String,
    is_revoked: AtomicBool,
}

/// Slots move between the primaries and to a new one, and a primary is replaced, while tokens of several users are
/// verified without a pause and revoked one after the other.
#[test]
fn no_replica_accepts_a_token_after_its_revocation_is_answered_in_a_cluster() {
    const USERS: usize = 4;
    const TOKENS: usize = 40;
    // Primaries are replaced only by order, also on a busy machine.
    let mut cluster = Cluster::start_version(Version::Redis7_0, true, &["--cluster-node-timeout", "15000"]);
    let new = cluster.add_primary();
    let launch = |keys: Option<&Service>| {
        let service = Service::launch(Some(&cluster.url()), |command| {
            command.env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1");
            if let Some(Service { keys_file, .. }) = keys {
                command.env("MAYFLY_JWT_KEYS_FILE", keys_file);
            }
        });
        service.wait_until_ready();
        service
    };
    let first = launch(None);
    let services = [launch(Some(&first)), first];
    let names: Vec<_> = (0..USERS).map(|number| format!("user{number}")).collect();
    for name in &names {
        services[0].admin().add_user(name, "user");
    }
    let issue = |number: usize| {
        let (id, jwt) = services[0].client().with_basic(&names[number % USERS], "secret").issue("x", "1h");
        Issued { id, jwt, is_revoked: AtomicBool::default() }
    };
    let tokens: Vec<_> = (0..TOKENS).map(issue).collect();
    let verify = |service: &Service, token: &Issued| service.client().with_bearer(&token.jwt).get(VERIFY).send().status;
    for service in &services {
        let mut begun = (misses(service), Instant::now());
        // Without renewals, each token is read once a lease. On a busy machine, one may lapse now and then.
        eventually("leases are renewed for two of their lives", || {
            let answers = tokens.iter().map(|token| verify(service, token)).collect::<Vec<_>>();
            assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
            let misses = misses(service);
            if misses > begun.0 {
                begun = (misses, Instant::now());
            }
            (begun.1.elapsed() > 2 * LEASE).then_some(())
        });
    }

    let [accepted, disturbed] = [(); 2].map(|()| AtomicU64::default());
    let (over, violations) = (AtomicBool::default(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 0..3 {
            let (tokens, services, over, accepted, violations) = (&tokens, &services, &over, &accepted, &violations);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(number);
                while !over.load(SeqCst) {
                    let (token, service) = (rng.choice(tokens).unwrap(), rng.usize(..2));
                    let was_revoked = token.is_revoked.load(SeqCst);
                    if verify(&services[service], token) == 200 {
                        accepted.fetch_add(1, SeqCst);
                        if was_revoked {
                            violations.lock().unwrap().push((service, &token.id));
                        }
                    }
                }
            });
        }
        let disturbing = scope.spawn(|| {
            let key = |number: usize| format!("mayfly:{{user{number}}}:user");
            cluster.move_slot_of(&key(0));
            // A primary without slots is not watched until then.
            cluster.move_slot(&key(0), new);
            while !over.load(SeqCst) {
                for number in 1..USERS {
                    cluster.move_slot_of(&key(number));
                }
                let old = cluster.primary_of(&key(1));
                for promoted in [(old + 3) % 6, old] {
                    cluster.promote(promoted);
                }
                disturbed.fetch_add(1, SeqCst);
            }
        });
        for (number, token) in tokens.iter().enumerate() {
            let owner = services[0].client().with_basic(&names[number % USERS], "secret");
            let path = format!("{TOKEN}/{}", token.id);
            // 503 while slots and primaries change.
            eventually("it is revoked", || [200, 404].contains(&owner.delete(&path).send().status).then_some(()));
            token.is_revoked.store(true, SeqCst);
        }
        eventually("there was trouble enough", || {
            (disturbed.load(SeqCst) >= 1 || disturbing.is_finished()).then_some(())
        });
        over.store(true, SeqCst);
        disturbing.join().unwrap();
    });
    assert!(violations.lock().unwrap().is_empty(), "{:?}", violations.lock().unwrap());
    assert!(accepted.load(SeqCst) > 100, "{accepted:?}");
}

//! An acknowledged change is on the configured number of Redis replicas, even if another connection had written the
//! change.

use std::thread;

use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Draft, RedisServer, Service, Version, eventually, free_port};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// A primary, a replica of it, and two replicas of the service that wait for the replica of Redis.
struct Scene {
    primary: RedisServer,
    replica: RedisServer,
    services: [Service; 2],
}

impl Scene {
    fn start(version: Version) -> Self {
        Self::start_with(version, &[])
    }

    /// Starts replicas of the service with these settings.
    fn start_with(version: Version, settings: &[(&str, &str)]) -> Self {
        let primary = RedisServer::start_version(version, &["--repl-diskless-sync-delay", "0"]);
        let replica_of = format!("127.0.0.1 {}", primary.port);
        let replica = RedisServer::start_version_on_port(version, free_port(), &["--replicaof", &replica_of]);
        eventually("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
        let launch = |keys: Option<&Service>| {
            let service = Service::launch(Some(&primary.url()), |command| {
                command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1").env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1");
                command.envs(settings.iter().copied());
                if let Some(first) = keys {
                    command.env("MAYFLY_JWT_KEYS_FILE", &first.keys_file);
                }
            });
            service.wait_until_ready();
            service
        };
        let first = launch(None);
        let second = launch(Some(&first));
        Self { primary, replica, services: [first, second] }
    }
}

/// A request that removes a right, a token or a user.
#[derive(Debug, Clone, Copy)]
enum Revocation {
    Token,
    PresentedToken,
    AllTokens,
    Rotation,
    Password,
    Disabling,
    Demotion,
    Removal,
}

/// The user of a removal, with a live token.
struct Victim {
    name: String,
    id: String,
    jwt: String,
}

impl Revocation {
    const ALL: [Self; 8] = [
        Self::Token,
        Self::PresentedToken,
        Self::AllTokens,
        Self::Rotation,
        Self::Password,
        Self::Disabling,
        Self::Demotion,
        Self::Removal,
    ];

    fn request(self, service: &Service, victim: &Victim) -> Draft {
        let Victim { name, id, jwt } = victim;
        let (user, admin) = (service.client().with_basic(name, "secret"), service.admin());
        match self {
            Self::Token => user.delete(&format!("{TOKEN}/{id}")),
            Self::PresentedToken => service.client().post_form("/oauth2/revoke", &[("token", jwt)]),
            Self::AllTokens => user.delete(&format!("{TOKEN}?all=true")),
            Self::Rotation => user.post(&format!("{TOKEN}/{id}/rotate"), &json!({})),
            Self::Password => {
                admin.put(&format!("{USER}/{name}/password"), &json!({"password": "second", "revoke_tokens": true}))
            }
            Self::Disabling => admin.patch(&format!("{USER}/{name}"), &json!({"disabled": true})),
            Self::Demotion => admin.patch(&format!("{USER}/{name}"), &json!({"role": "user"})),
            Self::Removal => admin.delete(&format!("{USER}/{name}")),
        }
    }

    /// Returns what a node of Redis still has of the removed record.
    fn remaining(self, redis: &RedisServer, victim: &Victim) -> Value {
        let key = |rest: &str| format!("mayfly:{{{}}}:{rest}", victim.name);
        match self {
            Self::Demotion => json!(redis.cli(&["HGET", &key("user"), "role"]) == "admin"),
            _ => json!(redis.cli(&["EXISTS", &key(&format!("token:{}", victim.id))]) == "1"),
        }
    }
}

/// WAIT waits for the last write of its own connection since Redis 7.2, and for all that was written before.
#[rstest]
fn a_repeated_revocation_is_answered_after_its_replication(
    #[values(Version::Redis7_0, Version::Redis8_2, Version::Valkey8_0, Version::Valkey9_1)] version: Version,
) {
    let scene = Scene::start(version);
    let [first, second] = &scene.services;
    let victims = Revocation::ALL.map(|revocation| {
        let name = format!("{revocation:?}");
        first.admin().add_user(&name, "admin");
        let (id, jwt) = first.client().with_basic(&name, "secret").issue("x", "1h");
        second.client().with_basic(&name, "secret").issue("another, so that the other service knows the login", "1h");
        Victim { name, id, jwt }
    });
    scene.replica.process.signal(Signal::SIGSTOP);
    let cases = || Revocation::ALL.iter().zip(&victims);
    let at_once = |service: &Service| -> Vec<(String, u16)> {
        thread::scope(|scope| {
            let send = |(revocation, victim): (&Revocation, &Victim)| {
                (format!("{revocation:?}"), revocation.request(service, victim).send().status)
            };
            let requests: Vec<_> = cases().map(|case| scope.spawn(move || send(case))).collect();
            requests.into_iter().map(|request| request.join().unwrap()).collect()
        })
    };
    for service in [first, second, second, first] {
        let answered: Vec<_> = at_once(service).into_iter().filter(|(_, status)| *status != 503).collect();
        assert_eq!(answered, [], "nothing is replicated");
    }
    scene.replica.process.signal(Signal::SIGCONT);
    for (revocation, victim) in cases() {
        eventually("it is answered", || (revocation.request(second, victim).send().status != 503).then_some(()));
        assert_eq!(
            revocation.remaining(&scene.replica, victim),
            json!(false),
            "{revocation:?} is answered, not replicated"
        );
        assert_eq!(revocation.remaining(&scene.primary, victim), json!(false), "{revocation:?}");
    }
}

/// A request for a token, or for the successor of the token with this id, with an Idempotency-Key.
fn keyed_request(service: &Service, rotated: Option<&str>) -> Draft {
    let request = match rotated {
        Some(id) => service.admin().post(&format!("{TOKEN}/{id}/rotate"), &json!({})),
        None => service.admin().post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})),
    };
    request.header("Idempotency-Key", "8e03978e-40d5-43e8-bc93-6894a57f9324")
}

#[rstest]
fn a_repeated_request_gets_its_token_once_the_token_is_replicated(
    #[values(Version::Redis7_0, Version::Redis8_2, Version::Valkey8_0, Version::Valkey9_1)] version: Version,
    #[values(false, true)] rotates: bool,
) {
    let scene = Scene::start(version);
    let [first, second] = &scene.services;
    let (old, _) = first.admin().issue("old", "1h");
    second.admin().issue("another, so that the other service knows the login", "1h");
    let rotated = rotates.then_some(&*old);
    let ids = || second.admin().get(TOKEN).send().json()["jwt_tokens"].as_object().unwrap().len();
    let before = ids();
    scene.replica.process.signal(Signal::SIGSTOP);
    for service in [first, second, second, first] {
        keyed_request(service, rotated).send().problem(503);
    }
    scene.replica.process.signal(Signal::SIGCONT);
    let repeated = eventually("it is answered", || {
        let answer = keyed_request(second, rotated).send();
        (answer.status != 503).then_some(answer)
    });
    assert_eq!(repeated.status, 201, "{repeated:?}");
    let id = repeated.json()["jwt_token_id"].as_str().unwrap().to_owned();
    assert_eq!(
        scene.replica.cli(&["EXISTS", &format!("mayfly:{{admin}}:token:{id}")]),
        "1",
        "answered, not replicated"
    );
    assert_eq!(keyed_request(first, rotated).send().text, repeated.text);
    assert_eq!(ids(), before + usize::from(!rotates));
}

#[rstest]
fn a_replica_that_is_killed_between_write_and_answer_leaves_the_jwt_to_another(#[values(false, true)] rotates: bool) {
    // The write waits for the replica of Redis until the service is killed.
    let settings = [("MAYFLY_REDIS_TIMEOUT", "60s"), ("MAYFLY_REDIS_WAIT_TIMEOUT", "50s")];
    let mut scene = Scene::start_with(Version::Redis7_0, &settings);
    let (old, _) = scene.services[0].admin().issue("old", "1h");
    let rotated = rotates.then_some(&*old);
    let ids = |service: &Service| -> Vec<String> {
        service.admin().get(TOKEN).send().json()["jwt_tokens"].as_object().unwrap().keys().cloned().collect()
    };
    let before = ids(&scene.services[1]);
    scene.replica.process.signal(Signal::SIGSTOP);
    let lost = keyed_request(&scene.services[0], rotated);
    let lost = thread::spawn(move || lost.try_send().map(|answer| answer.status));
    let written = || ids(&scene.services[1]).into_iter().find(|id| !before.contains(id));
    let id = eventually("the write is in Redis", written);
    scene.services[0].process.signal(Signal::SIGKILL);
    scene.services[0].process.wait();
    assert!(lost.join().unwrap().is_err(), "it was answered");
    scene.replica.process.signal(Signal::SIGCONT);

    let service = &scene.services[1];
    let answer = keyed_request(service, rotated).send();
    assert_eq!((answer.status, &answer.json()["jwt_token_id"]), (201, &json!(id)), "{answer:?}");
    let jwt = answer.json()["jwt_token"].as_str().unwrap().to_owned();
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
    assert_eq!(ids(service).len(), before.len() + usize::from(!rotates));
}

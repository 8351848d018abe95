//! Guessing passwords is slow, and does not lock users out.

use std::{
    io::{Read, Write},
    iter,
    net::{IpAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use mayfly::{
    domain::{
        password::{HashCost, Password},
        throttle::{AttemptScope, ClientAndUser, PER_CLIENT_AND_USER, PER_USER},
        user::{Role, User},
    },
    service::{
        hashing::{Hashing, Lane},
        login::{Login, LoginError},
    },
    store::{
        Authority, Store,
        leased::{LEASE, LeasedStore},
        redis::RedisStore,
    },
};
use rstest::rstest;
use serde_json::json;

use crate::support::{
    ADMIN_PASSWORD, Answer, Backend, Draft, Log, RedisServer, Service, SteppingClock, eventually, patient_options,
};

const TOKEN: &str = "/api/v1alpha/token";

fn try_password(service: &Service, user: &str, password: &str) -> Answer {
    service.client().with_basic(user, password).get(TOKEN).send()
}

/// Tries a password from this address, as reported by the load balancer.
fn try_from(service: &Service, address: &str, user: &str, password: &str) -> Answer {
    service.client().with_basic(user, password).get(TOKEN).header("x-forwarded-for", address).send()
}

#[track_caller]
fn assert_too_early(answer: &Answer) {
    assert!(answer.problem(429).starts_with("Too many failed logins."));
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(answer.header("www-authenticate"), "", "a browser would ask for another password");
}

fn behind_a_load_balancer(backend: Backend) -> Service {
    Service::start_with(backend, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.0/8");
    })
}

/// Guesses until the delay is long enough for the rest of the test.
#[track_caller]
fn guess_until_too_early(guess: impl Fn(u32) -> Answer) {
    let long = |answer: &Answer| answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 2);
    for number in 0..5 * PER_CLIENT_AND_USER.free_failures {
        let answer = guess(number);
        if answer.status == 429 && long(&answer) {
            return assert_too_early(&answer);
        }
        assert!([401, 429].contains(&answer.status), "{answer:?}");
    }
    panic!("one can guess for ever");
}

#[test]
fn failed_logins_are_counted_across_replicas() {
    let redis = RedisServer::start();
    let replicas = [(); 2].map(|()| {
        Service::launch(Some(&redis.url()), |command| {
            command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
        })
    });
    replicas.iter().for_each(Service::wait_until_ready);
    // More than the free failures in all, but fewer on each replica.
    let strangers: Vec<_> =
        (0..PER_USER.free_failures * 3 / 2).map(|stranger| format!("198.51.100.{stranger}")).collect();
    // An unknown name is treated like a known one.
    for user in ["admin", "nobody"] {
        for (index, stranger) in strangers.iter().enumerate() {
            try_from(&replicas[index % 2], stranger, user, "a guess").problem(401);
        }
        let last = strangers.len() - 1;
        let (stranger, other) = (&strangers[last], &replicas[(last + 1) % 2]);
        let before = other.hashes();
        assert_too_early(&try_from(other, stranger, user, ADMIN_PASSWORD));
        let introspect = other.client().with_basic(user, "x").post_form("/oauth2/introspect", &[("token", "x")]);
        assert_too_early(&introspect.header("x-forwarded-for", stranger).send());
        assert_eq!(other.hashes(), before, "nobody looked at the password");
    }
    let keys = redis.cli(&["KEYS", "mayfly:throttle:*"]);
    assert!(!keys.is_empty() && !keys.contains("admin") && !keys.contains("nobody"), "{keys}");
    for key in keys.lines() {
        // -1: it never expires; -2: it has expired since it was listed.
        assert_ne!(redis.cli(&["TTL", key]), "-1", "{key}");
    }
}

#[test]
fn a_login_after_the_delay_succeeds_and_resets_the_count() {
    let service = Service::start(Backend::Redis);
    guess_until_too_early(|guess| try_password(&service, "admin", &format!("guess {guess}")));
    eventually("it is let in", || (try_password(&service, "admin", ADMIN_PASSWORD).status == 200).then_some(()));
    for _ in 1..PER_CLIENT_AND_USER.free_failures {
        try_password(&service, "admin", "a typo").problem(401);
    }
    assert_eq!(try_password(&service, "admin", ADMIN_PASSWORD).status, 200);
}

#[rstest]
fn concurrent_failed_logins_are_each_counted(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let before = service.hashes();
    let guesses = thread::scope(|scope| {
        let guess = |guess: usize| {
            let service = &service;
            scope.spawn(move || try_password(service, "admin", &format!("guess {guess}")).status)
        };
        let threads: Vec<_> = (0..40).map(guess).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let looked_at = guesses.iter().filter(|status| **status == 401).count();
    assert_eq!(looked_at, PER_CLIENT_AND_USER.free_failures as usize, "{guesses:?}");
    assert_eq!(service.hashes() - before, u64::from(PER_CLIENT_AND_USER.free_failures));
}

#[rstest]
fn failed_logins_of_other_clients_do_not_lock_a_user_out(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = behind_a_load_balancer(backend);
    let (home, hotel) = ("192.0.2.1", "2001:db8::1");
    assert_eq!(try_from(&service, home, "admin", ADMIN_PASSWORD).status, 200);
    // Enough failures for the longest delay.
    let strangers: Vec<_> = (0..2 * PER_USER.free_failures).map(|stranger| format!("198.51.100.{stranger}")).collect();
    for stranger in &strangers {
        try_from(&service, stranger, "admin", "a guess").problem(401);
    }
    for stranger in &strangers[strangers.len() - 2..] {
        assert_too_early(&try_from(&service, stranger, "admin", "another guess"));
        assert_too_early(&try_from(&service, stranger, "admin", ADMIN_PASSWORD));
    }

    assert_eq!(try_from(&service, hotel, "admin", ADMIN_PASSWORD).status, 200);
    try_from(&service, home, "admin", "a typo").problem(401);
    assert_eq!(try_from(&service, home, "admin", ADMIN_PASSWORD).status, 200);
}

#[test]
fn a_cached_login_reveals_nothing_to_other_clients_at_its_address() {
    let service = Service::start(Backend::Memory);
    let before = service.hashes();
    for _ in 0..10 {
        assert_eq!(try_password(&service, "admin", ADMIN_PASSWORD).status, 200);
    }
    assert_eq!(service.hashes(), before + 1, "it is remembered");
    guess_until_too_early(|guess| try_password(&service, "admin", &format!("guess {guess}")));
    // During the delay, the right password is rejected like a wrong one.
    assert_too_early(&try_password(&service, "admin", ADMIN_PASSWORD));
}

#[test]
fn a_login_is_cached_for_its_own_address_only() {
    let service = behind_a_load_balancer(Backend::Memory);
    assert_eq!(try_from(&service, "192.0.2.1", "admin", ADMIN_PASSWORD).status, 200);
    guess_until_too_early(|guess| try_from(&service, "198.51.100.1", "admin", &format!("guess {guess}")));
    assert_too_early(&try_from(&service, "198.51.100.1", "admin", ADMIN_PASSWORD));
}

#[test]
fn a_token_is_never_throttled() {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    guess_until_too_early(|guess| try_password(&service, "admin", &format!("guess {guess}")));
    for path in ["/api/v1alpha/verify", "/api/v1alpha/token/self"] {
        assert_eq!(service.client().with_bearer(&jwt).get(path).send().status, 200);
    }
}

#[rstest]
#[case("x-forwarded-for", "")]
#[case("forwarded", "for=")]
fn forwarded_headers_of_an_untrusted_peer_are_ignored(#[case] header: &'static str, #[case] prefix: &str) {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    guess_until_too_early(|guess| {
        let request = service.client().with_basic("admin", &format!("guess {guess}")).get(TOKEN);
        request.header(header, &format!("{prefix}192.0.2.{guess}")).send()
    });
    let warnings = || log.lines().into_iter().filter(|line| line["level"] == "WARN").collect::<Vec<_>>();
    let warning = eventually("it warns", || warnings().first().cloned());
    assert!(warning["message"].as_str().unwrap().contains("MAYFLY_TRUSTED_PROXIES"), "{warning}");
    eventually("the last try is logged", || log.text().contains("\"throttled\"").then_some(()));
    assert_eq!(warnings().len(), 1, "{:?}", warnings());
    assert!(!log.text().contains("192.0.2."), "{}", log.text());
}

#[test]
fn the_log_has_the_client_address_from_the_load_balancer() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8").stderr(log.stdio());
    });
    try_from(&service, "198.51.100.1, 192.0.2.1, 10.1.2.3", "admin", "a guess").problem(401);
    let line = eventually("the event", || log.lines().into_iter().find(|line| line["message"] == "login.failed"));
    assert_eq!(line["span"]["client"], "192.0.2.1", "{line}");
}

#[rstest]
fn concurrent_equal_logins_cost_one_hash(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let all = |password: &str| -> (Vec<u16>, u64) {
        let before = service.hashes();
        let statuses = thread::scope(|scope| {
            let log_in = || scope.spawn(|| try_password(&service, "admin", password).status);
            let threads: Vec<_> = (0..100).map(|_| log_in()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (statuses, service.hashes() - before)
    };
    assert_eq!(all(ADMIN_PASSWORD), (vec![200; 100], 1));
    // A wrong password is not cached: the next attempt costs another hash.
    let (statuses, hashes) = all("a typo");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    assert!((1..=u64::from(PER_CLIENT_AND_USER.free_failures)).contains(&hashes), "{hashes} for {statuses:?}");
}

#[test]
fn a_full_redis_allows_logins_and_delays_guesses() {
    let service = behind_a_load_balancer(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, _) = service.admin().issue("x", "1h");
    guess_until_too_early(|guess| try_from(&service, "198.51.100.1", "admin", &format!("guess {guess}")));
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = redis.cli(&["DBSIZE"]);
    assert_too_early(&try_from(&service, "198.51.100.1", "admin", "another guess"));
    guess_until_too_early(|guess| try_from(&service, "198.51.100.2", "admin", &format!("guess {guess}")));
    for stranger in 3..20 {
        try_from(&service, &format!("198.51.100.{stranger}"), "nobody", "a guess").problem(401);
    }
    assert_eq!(redis.cli(&["DBSIZE"]), before);
    let revoke = service.admin().delete(&format!("{TOKEN}/{id}")).header("x-forwarded-for", "192.0.2.1");
    assert_eq!(revoke.send().status, 200);
}

#[tokio::test]
async fn known_users_have_hashing_slots_of_their_own_and_rejected_logins_are_not_counted() {
    let redis = RedisServer::start();
    let hashing = Arc::new(Hashing::new(HashCost::default()));
    let options = patient_options(&redis.url());
    let store = Arc::new(RedisStore::new(&options).unwrap());
    let login = Login::new(Arc::new(LeasedStore::new(Arc::clone(&store) as _, LEASE)), Arc::clone(&hashing));
    let password: Password = "secret".parse().unwrap();
    let alice = User::new("alice".parse().unwrap(), Role::User, hashing.hash(password.clone()).await.unwrap(), 0);
    assert!(
        store
            .create_user(&Authority::Until(tokio::time::Instant::now() + Duration::from_mins(1)), &alice)
            .await
            .unwrap()
    );
    let [home, hotel] =
        [1, 2].map(|host| ClientAndUser { user: alice.name.clone(), client: IpAddr::from([192, 0, 2, host]).into() });
    store.login_succeeded(&home, alice.login_epoch, AttemptScope::AllCounters).await.unwrap();
    let strangers: Vec<_> = iter::from_fn(|| hashing.take_slot(Lane::AnyClient)).collect();
    for _ in 0..2 * PER_CLIENT_AND_USER.free_failures {
        assert!(matches!(login.log_in(&hotel, std::slice::from_ref(&password)).await, Err(LoginError::Busy(_))));
    }
    let counts = redis.cli(&["KEYS", "mayfly:throttle:*"]);
    assert_eq!(counts.lines().count(), 1, "that she is known at home: {counts}");
    assert_eq!(login.log_in(&home, std::slice::from_ref(&password)).await.unwrap().name, alice.name);
    drop(strangers);
    assert_eq!(login.log_in(&hotel, std::slice::from_ref(&password)).await.unwrap().name, alice.name);
}

/// Wrong logins from 100 networks in different sites, beside 30 users that have recently logged in at another replica.
#[test]
fn logins_of_known_users_are_hashed_before_others() {
    let redis = RedisServer::start();
    let [here, elsewhere] = [(); 2].map(|()| {
        Service::launch(Some(&redis.url()), |command| {
            // A busy machine must not cause timeouts here.
            command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").env("MAYFLY_REDIS_TIMEOUT", "20s");
        })
    });
    [&here, &elsewhere].into_iter().for_each(Service::wait_until_ready);
    let users: Vec<_> = (1..=30).map(|user| (format!("user{user}"), format!("192.0.2.{user}"))).collect();
    for (user, address) in &users {
        elsewhere.admin().add_user(user, "user");
        assert_eq!(try_from(&elsewhere, address, user, "secret").status, 200);
    }
    let (stop, full) = (AtomicBool::new(false), AtomicBool::new(false));
    let statuses: Vec<_> = thread::scope(|scope| {
        for stranger in 0..100 {
            let (here, stop, full) = (&here, &stop, &full);
            scope.spawn(move || {
                for guess in (0..2_000).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let address = format!("2001:db8:{stranger:x}:{:x}::1", 7 * stranger);
                    let answer = try_from(here, &address, &format!("nobody-{stranger}-{guess}"), "a guess");
                    if answer.status == 503 {
                        full.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("strangers take all places", || full.load(Ordering::Relaxed).then_some(()));
        let known: Vec<_> = users
            .iter()
            .map(|(user, address)| scope.spawn(|| try_from(&here, address, user, "secret").status))
            .collect();
        let statuses = known.into_iter().map(|thread| thread.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        statuses
    });
    assert_eq!(statuses, [200; 30]);
}

#[test]
fn a_free_failure_costs_nothing_when_the_clock_of_redis_steps() {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let service = Service::launch(Some(&redis.url()), |_| {});
    service.wait_until_ready();
    try_password(&service, "admin", "a typo").problem(401);
    clock.set(-1_200_000);
    assert_eq!(try_password(&service, "admin", ADMIN_PASSWORD).status, 200);
}

#[test]
fn a_new_password_clears_the_delay_of_its_user() {
    let service = behind_a_load_balancer(Backend::Redis);
    let admin = |request: Draft| request.header("x-forwarded-for", "192.0.2.9").send();
    let alice = json!({"username": "alice", "password": "first"});
    assert_eq!(admin(service.admin().post("/api/v1alpha/user", &alice)).status, 201);
    guess_until_too_early(|guess| try_from(&service, "192.0.2.1", "alice", &format!("guess {guess}")));
    assert_too_early(&try_from(&service, "192.0.2.1", "alice", "first"));
    let password = service.admin().put("/api/v1alpha/user/alice/password", &json!({"password": "second"}));
    assert_eq!(admin(password).status, 200);
    assert_eq!(try_from(&service, "192.0.2.1", "alice", "second").status, 200);
}

#[test]
fn a_login_beside_constant_password_changes_fails_after_three_hashes() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    let redis = service.redis.as_ref().unwrap();
    let hash = redis.cli(&["HGET", "mayfly:{admin}:user", "password"]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
            for change in (0..30_000).take_while(|_| !stop.load(Ordering::Relaxed)) {
                // A different record of the same password each time: `keyid` is ignored.
                let hash = hash.replace("p=1", &format!("p=1,keyid={change:08}"));
                let command = format!("HSET mayfly:{{admin}}:user password {hash}\r\n");
                connection.write_all(command.as_bytes()).unwrap();
                assert!(connection.read(&mut [0; 16]).unwrap() > 0);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let before = service.hashes();
        let answer = try_password(&service, "admin", ADMIN_PASSWORD);
        stop.store(true, Ordering::Relaxed);
        assert!(answer.problem(503).contains("Too many logins"));
        assert_eq!(service.hashes() - before, 3);
    });
    assert_eq!(try_password(&service, "admin", ADMIN_PASSWORD).status, 200);
}

#[test]
fn an_error_of_redis_is_not_counted_as_a_failed_login() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let hash = redis.cli(&["HGET", "mayfly:{admin}:user", "password"]);
    redis.cli(&["HSET", "mayfly:{admin}:user", "password", "no hash"]);
    for _ in 0..2 * PER_CLIENT_AND_USER.free_failures {
        try_password(&service, "admin", ADMIN_PASSWORD).problem(503);
    }
    assert_eq!(redis.cli(&["KEYS", "mayfly:throttle:*"]), "");
    redis.cli(&["HSET", "mayfly:{admin}:user", "password", &hash]);
    assert_eq!(try_password(&service, "admin", ADMIN_PASSWORD).status, 200);
}

#[test]
fn no_login_passes_while_redis_is_away() {
    let mut service = Service::start(Backend::Redis);
    try_password(&service, "admin", "a guess").problem(401);
    let before = service.hashes();
    drop(service.redis.take());
    let answer = try_password(&service, "admin", ADMIN_PASSWORD);
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(service.hashes(), before);
}

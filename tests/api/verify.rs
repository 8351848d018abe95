//! `/api/v1alpha/verify`: forward-auth.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rstest::rstest;

use crate::support::{ADMIN_PASSWORD, Backend, Service, eventually};

const VERIFY: &str = "/api/v1alpha/verify";

#[rstest]
fn a_live_token_is_accepted_for_every_method_and_path(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let (id, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
        for path in [
            VERIFY,
            "//api/v1alpha/verify",
            "/api//v1alpha/verify//x",
            "/api/v1alpha/verify/",
            "/api/v1alpha/verify/orders/7?x=1",
            "/api/v1alpha/verify/a%2Fb/",
        ] {
            let answer = bearer.request(method, path).send();
            assert_eq!((answer.status, &*answer.text), (200, ""), "{method} {path}");
            assert_eq!(answer.header("x-auth-user"), "admin");
            assert_eq!(answer.header("x-auth-token-id"), id);
            assert!((3590..=3600).contains(&answer.header("x-auth-expires-in").parse().unwrap()));
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
}

#[test]
fn without_a_token_the_challenge_asks_for_one_and_for_no_password() {
    let service = Service::start(Backend::Memory);
    for request in [service.client().get(VERIFY), service.client().get(VERIFY).header("authorization", "Negotiate x")] {
        let answer = request.send();
        answer.problem(401);
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, [r#"Bearer realm="mayfly""#]);
    }
    let answer = service.client().with_bearer("x").get(VERIFY).send();
    answer.problem(401);
    assert!(answer.header("www-authenticate").starts_with(r#"Bearer realm="mayfly", error="invalid_token""#));
}

#[test]
fn a_token_is_taken_as_a_basic_password_with_any_name_and_a_password_never_is() {
    let service = Service::start(Backend::Memory);
    let (id, jwt) = service.admin().issue("x", "1h");
    for name in ["admin", "x-token", "", "not a user's name"] {
        let answer = service.client().with_basic(name, &jwt).get(VERIFY).send();
        assert_eq!(answer.status, 200);
        assert_eq!((answer.header("x-auth-user"), answer.header("x-auth-token-id")), ("admin", &*id));
    }
    let hashes = service.hashes();
    for (name, password) in [("admin", ADMIN_PASSWORD), (&jwt, ""), ("admin", ""), ("admin", &format!("{jwt}x"))] {
        service.client().with_basic(name, password).get(VERIFY).send().problem(401);
    }
    assert_eq!(service.hashes(), hashes, "a password was looked at");
    // Elsewhere, a token is no password.
    for path in ["/api/v1alpha/token", "/api/v1alpha/token/self"] {
        service.client().with_basic("admin", &jwt).get(path).send().problem(401);
    }
}

#[rstest]
fn a_revoked_token_is_rejected_from_the_next_request_on(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
    #[values("0", "250ms")] lease: &str,
) {
    let service = Service::start_with(backend, |command| {
        command.env("MAYFLY_LEASE", lease);
    });
    let admin = service.admin();
    for _ in 0..3 {
        let (id, jwt) = admin.issue("x", "1h");
        let bearer = service.client().with_bearer(&jwt);
        assert_eq!(bearer.get(VERIFY).send().status, 200);
        assert_eq!(admin.delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
        bearer.get(VERIFY).send().problem(401);
    }
}

#[rstest]
fn an_expired_token_is_rejected(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let begun = Instant::now();
    let (_, jwt) = service.admin().issue("short", "1s");
    let bearer = service.client().with_bearer(&jwt);
    let statuses = &mut BTreeSet::new();
    eventually("the token is rejected", || {
        let status = bearer.get(VERIFY).send().status;
        statuses.insert(status);
        (status == 401).then_some(())
    });
    // The token lives its whole life (in Redis' milliseconds), though `exp` is cut to the second.
    assert!(begun.elapsed() >= Duration::from_millis(998), "it lived for {:?}", begun.elapsed());
    bearer.get(VERIFY).send().problem(401);
    assert!(statuses.iter().all(|status| [200, 401].contains(status)), "{statuses:?}");
}

/// The number of reads of a token from Redis while it is verified at least this often, for at least this time.
fn reads(lease: &str, verifications: usize, time: Duration) -> u32 {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", lease);
    });
    let redis = service.redis.as_ref().unwrap();
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    let verify = |verifications: usize, time: Duration| {
        let begun = Instant::now();
        for verified in 0.. {
            if verified >= verifications && begun.elapsed() >= time {
                break;
            }
            assert_eq!(bearer.get(VERIFY).send().status, 200);
        }
    };
    // The invalidation that the creation causes may end the first lease.
    verify(1, Duration::from_millis(300));
    redis.cli(&["CONFIG", "RESETSTAT"]);
    verify(verifications, time);
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_getex:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn a_token_in_use_is_read_once_and_without_a_lease_for_each_request() {
    assert_eq!(reads("0", 10, Duration::ZERO), 10);
    // Where the machine stalls for most of a lease, another read is right.
    eventually("a token in use is not read again", || (reads("250ms", 50, Duration::from_secs(1)) == 0).then_some(()));
}

#[rstest]
#[case::deleted("DEL TOKEN")]
#[case::shortened("PEXPIRE TOKEN 1")]
#[case::rewritten("SET TOKEN {} KEEPTTL")]
#[case::renamed("RENAME TOKEN other")]
#[case::flushed("FLUSHALL")]
#[case::deleted_without_an_invalidation("CLIENT KILL TYPE normal; DEL TOKEN")]
fn a_change_by_others_in_redis_takes_effect_after_a_lease(#[case] commands: &str) {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    // Longer than a lease, so that the lease is renewed.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(bearer.get(VERIFY).send().status, 200);
    }
    let key = format!("mayfly:{{admin}}:token:{id}");
    for command in commands.split("; ") {
        redis.cli(&command.replace("TOKEN", &key).split(' ').collect::<Vec<_>>());
    }
    let done = Instant::now();
    eventually("the token is rejected", || (bearer.get(VERIFY).send().status != 200).then_some(()));
    // The renewals of a lease end after 30 s at the latest; an invalidation ends it at once.
    assert!(done.elapsed() < Duration::from_secs(5), "{:?}", done.elapsed());
}

#[test]
fn without_redis_no_token_is_accepted_after_the_lease() {
    let mut service = Service::start(Backend::Redis);
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    drop(service.redis.take());
    let answer = eventually("the lease is over", || {
        let answer = bearer.get(VERIFY).send();
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 503).then_some(answer)
    });
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), "1");
}

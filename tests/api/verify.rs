//! `/api/v1alpha/verify`: forward-auth.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rstest::rstest;

use crate::support::{ADMIN_PASSWORD, Backend, Service, eventually};

const VERIFY: &str = "/api/v1alpha/verify";

#[rstest]
fn a_live_token_is_let_through_whatever_the_method_and_path(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
) {
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
fn who_presents_no_token_is_asked_for_one_and_for_no_password() {
    let service = Service::start(Backend::Memory);
    for request in [
        service.client().get(VERIFY),
        service.client().with_basic("admin", ADMIN_PASSWORD).get(VERIFY),
        service.client().get(VERIFY).header("authorization", "Basic ???"),
        service.client().get(VERIFY).header("authorization", "Negotiate x"),
    ] {
        let answer = request.send();
        answer.problem(401);
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, [r#"Bearer realm="mayfly""#]);
    }
    let answer = service.client().with_bearer("x").get(VERIFY).send();
    answer.problem(401);
    assert!(answer.header("www-authenticate").starts_with(r#"Bearer realm="mayfly", error="invalid_token""#));
}

#[rstest]
fn a_revoked_token_is_refused_on_the_very_next_request(
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
fn a_token_that_dies_by_itself_is_refused(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let begun = Instant::now();
    let (_, jwt) = service.admin().issue("short", "1s");
    let bearer = service.client().with_bearer(&jwt);
    let statuses = &mut BTreeSet::new();
    eventually("it is refused", || {
        let status = bearer.get(VERIFY).send().status;
        statuses.insert(status);
        (status == 401).then_some(())
    });
    // Not as soon as its `exp` begins, which is cut to the second. (Redis counts in milliseconds.)
    assert!(begun.elapsed() >= Duration::from_millis(998), "it lived for {:?}", begun.elapsed());
    bearer.get(VERIFY).send().problem(401);
    assert!(statuses.iter().all(|status| [200, 401].contains(status)), "{statuses:?}");
}

/// How often a service asks Redis for a token that is in use, while it verifies it so often at least, for so long.
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
    // Redis tells of its creation, which ends a lease that was read before the replica asked what changed.
    verify(1, Duration::from_millis(300));
    redis.cli(&["CONFIG", "RESETSTAT"]);
    verify(verifications, time);
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_getex:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn redis_is_not_asked_for_a_token_in_use_or_once_a_request() {
    assert_eq!(reads("0", 10, Duration::ZERO), 10);
    // On a machine that stalls for most of a lease, another read is right.
    eventually("a token in use is not read again", || (reads("250ms", 50, Duration::from_secs(1)) == 0).then_some(()));
}

#[rstest]
#[case::deleted("DEL TOKEN")]
#[case::shortened("PEXPIRE TOKEN 1")]
#[case::rewritten("SET TOKEN {} KEEPTTL")]
#[case::renamed("RENAME TOKEN other")]
#[case::flushed("FLUSHALL")]
#[case::deleted_while_nobody_is_told("CLIENT KILL TYPE normal; DEL TOKEN")]
fn what_is_done_behind_its_back_is_seen_after_a_lease(#[case] commands: &str) {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let (id, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    // For longer than a lease, so that it is renewed.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(bearer.get(VERIFY).send().status, 200);
    }
    let key = format!("mayfly:{{admin}}:token:{id}");
    for command in commands.split("; ") {
        redis.cli(&command.replace("TOKEN", &key).split(' ').collect::<Vec<_>>());
    }
    let done = Instant::now();
    eventually("it is refused", || (bearer.get(VERIFY).send().status != 200).then_some(()));
    // A lease without a renewal would go on for half a minute.
    assert!(done.elapsed() < Duration::from_secs(5), "{:?}", done.elapsed());
}

#[test]
fn without_redis_nobody_is_let_through_once_the_lease_is_over() {
    let mut service = Service::start(Backend::Redis);
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    drop(service.redis.take());
    let answer = eventually("it is in doubt", || {
        let answer = bearer.get(VERIFY).send();
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 503).then_some(answer)
    });
    answer.problem(503);
    assert_eq!(answer.header("retry-after"), "1");
}

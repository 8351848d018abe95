//! Clocks that differ or step: replicas agree by the clock of Redis.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use mayfly::{
    domain::{
        password::{HashCost, PasswordHash},
        user::{Role, User, UserUpdate},
    },
    store::{Authority, RevokingWrites, Store, leased::LEASE, redis::RedisStore},
};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{RedisServer, Service, SteppingClock, eventually, patient_options};

const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

const MINUTES: i64 = 60_000;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(jwt: &str) -> Value {
    let payload = jwt.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn replicas_with_different_clocks_agree_on_every_token() {
    let redis = RedisServer::start();
    let first = Service::launch(Some(&redis.url()), |_| {});
    first.wait_until_ready();
    let with_offset = |offset_ms: i64| {
        let clock = SteppingClock::new();
        clock.set(offset_ms);
        let service = Service::launch(Some(&redis.url()), |command| {
            clock.set_for(command);
            command.env("MAYFLY_JWT_KEYS_FILE", &first.keys_file);
        });
        service.wait_until_ready();
        (service, clock)
    };
    let (behind, _behind_clock) = with_offset(-70_000);
    let (ahead, _ahead_clock) = with_offset(30 * MINUTES);
    let replicas = [&first, &behind, &ahead];
    for issuing in replicas {
        let begun = now();
        let (_, jwt) = issuing.admin().issue("x", "10 minutes");
        let issued_at = claims(&jwt)["iat"].as_u64().unwrap();
        assert!((begun - 1..=now() + 1).contains(&issued_at), "{issued_at} is not the time of Redis");
        for verifying in replicas {
            let answer = verifying.client().with_bearer(&jwt).get(VERIFY).send();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    for (replica, warnings) in [(&first, 0), (&behind, 1), (&ahead, 1)] {
        let warned = || {
            let ready = replica.client().get("/readyz").send().json();
            let warnings = ready["warnings"].as_array().unwrap();
            warnings.iter().filter(|warning| warning.as_str().unwrap().contains("clocks")).count()
        };
        eventually("it warns of its clock", || (warned() == warnings).then_some(()));
    }
}

#[test]
fn the_remaining_life_never_exceeds_exp_when_redis_clock_steps_back() {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let service = Service::launch(Some(&redis.url()), |_| {});
    service.wait_until_ready();
    let (id, jwt) = service.admin().issue("x", "10 minutes");
    let expires_at = claims(&jwt)["exp"].as_u64().unwrap();
    clock.set(-20 * MINUTES);
    // Once from the cache, and once from Redis.
    let mut asked = 0;
    eventually("it was read again", || {
        let answer = service.client().with_bearer(&jwt).get(VERIFY).send();
        assert_eq!(answer.status, 200);
        let expires_in: u64 = answer.header("x-auth-expires-in").parse().unwrap();
        assert!(now() + expires_in <= expires_at + 1, "{expires_in}");
        asked += 1;
        (asked == 20).then_some(())
    });
    let details = service.admin().get(&format!("{TOKEN}/{id}")).send().json();
    assert!(details["jwt_token_life_remaining"].as_f64().unwrap() <= 600.0, "{details}");
}

/// A key expires by the clock of Redis: once that was set, no lease on what was read before is renewed.
#[tokio::test]
async fn a_watch_reports_everything_as_changed_when_redis_clock_steps() {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let mut watch = store.watch().await.unwrap().unwrap();
    assert!(!watch.changes().await.unwrap().everything);
    for offset_ms in [20 * MINUTES, 0, -1_000] {
        clock.set(offset_ms);
        assert!(watch.changes().await.unwrap().everything, "{offset_ms}");
        assert!(!watch.changes().await.unwrap().everything);
    }
}

#[tokio::test]
async fn a_write_is_repeated_with_a_new_deadline_after_redis_clock_steps() {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let alice = User::new("alice".parse().unwrap(), Role::User, PasswordHash::dummy(HashCost::default()), 0);
    store.create_user(&Authority::Until(Instant::now() + Duration::from_mins(1)), &alice).await.unwrap();
    let enable = UserUpdate { role: None, disabled: Some(false) };
    let refusals = || {
        let errors = redis.cli(&["INFO", "errorstats"]);
        errors
            .lines()
            .find_map(|line| line.strip_prefix("errorstat_TOOLATE:count=")?.trim_end().parse().ok())
            .unwrap_or(0)
    };
    let mut refused = 0;
    for offset_ms in [-10 * MINUTES, 20 * MINUTES, 0] {
        // The replica dates its first attempt by the clock as it was.
        store.health().await.unwrap();
        clock.set(offset_ms);
        store.update_user(&Authority::Until(Instant::now() + LEASE * 20), &alice.name, enable).await.unwrap();
        refused += 1;
        assert_eq!(refusals(), refused, "{offset_ms}");
    }
}

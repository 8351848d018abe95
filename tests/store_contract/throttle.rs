//! How often somebody may try passwords.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use mayfly::{
    domain::{
        throttle::{
            AttemptScope, LoginAttempt, MAX_DELAY, PER_CLIENT, PER_CLIENT_AND_USER, PER_SITE, PER_USER, Reservation,
        },
        user::LoginEpoch,
    },
    store::redis::{RedisOptions, RedisStore},
};
use rstest::rstest;
use tokio::time::sleep;

use super::{Fixture, Kind, epoch};
use crate::support::{RedisServer, SteppingClock, eventually};

fn attempt(user: &str, address: &str) -> LoginAttempt {
    LoginAttempt { user: user.parse().unwrap(), client: address.parse::<IpAddr>().unwrap().into() }
}

impl Fixture {
    /// A store in this Redis, which outlives it.
    fn on(redis: &RedisServer) -> Self {
        // Longer than any operation takes on the slowest machine.
        let options = RedisOptions { timeout: Duration::from_secs(20), ..RedisOptions::at(&redis.url()) };
        Self { store: Arc::new(RedisStore::new(&options).unwrap()), _servers: Box::new(()) }
    }

    async fn reserve_attempt(&self, attempt: &LoginAttempt) -> Reservation {
        self.store.reserve_attempt(attempt, Some(epoch())).await.unwrap()
    }

    async fn admits(&self, attempt: &LoginAttempt) -> bool {
        matches!(self.reserve_attempt(attempt).await, Reservation::Reserved(_))
    }

    /// Logs in, where that is let through.
    async fn log_in(&self, attempt: &LoginAttempt) {
        let Reservation::Reserved(scope) = self.reserve_attempt(attempt).await else {
            panic!("{attempt:?} has to wait")
        };
        self.store.login_succeeded(attempt, epoch(), scope).await.unwrap();
    }

    /// What it has to wait, and where that is nothing, it fails.
    async fn remaining(&self, attempt: &LoginAttempt) -> Duration {
        match self.reserve_attempt(attempt).await {
            Reservation::RetryAfter(remaining) => remaining,
            Reservation::Reserved(_) => Duration::ZERO,
        }
    }

    /// Tries until it is let through, and says how often it was not.
    async fn wait_and_admit(&self, attempt: &LoginAttempt) -> usize {
        let mut refused = 0;
        while let Reservation::RetryAfter(remaining) = self.reserve_attempt(attempt).await {
            assert!(remaining > Duration::ZERO);
            refused += 1;
            sleep(remaining).await;
        }
        refused
    }

    /// Fails so often as this user, each time from another address.
    async fn fail_from_everywhere(&self, user: &str, failures: u32) {
        for address in 0..failures {
            assert!(self.admits(&attempt(user, &format!("198.51.100.{address}"))).await);
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_client_has_free_tries_and_then_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = attempt("alice", "192.0.2.1");
    // Whether she exists, it does not ask. However many come at once, each is counted before the next.
    let tries = join_all((0..50).map(|_| fixture.reserve_attempt(&alice))).await;
    let refused: Vec<_> =
        tries.into_iter().filter(|admission| !matches!(admission, Reservation::Reserved(_))).collect();
    assert_eq!(50 - refused.len(), PER_CLIENT_AND_USER.free_failures as usize);
    for admission in refused {
        let Reservation::RetryAfter(remaining) = admission else { unreachable!() };
        assert!(remaining > Duration::ZERO && remaining <= PER_CLIENT_AND_USER.first_delay, "{remaining:?}");
    }
    // Others are not slowed, nor is she elsewhere. What was refused was not counted, what is let through is.
    assert!(fixture.admits(&attempt("bob", "192.0.2.1")).await && fixture.admits(&attempt("alice", "192.0.2.2")).await);
    assert!(fixture.wait_and_admit(&alice).await > 0);
    let Reservation::RetryAfter(remaining) = fixture.reserve_attempt(&alice).await else { panic!("another at once") };
    assert!(remaining <= PER_CLIENT_AND_USER.first_delay * 2, "{remaining:?}");
}

#[rstest]
#[tokio::test]
async fn strangers_keep_nobody_out(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let fixture = Fixture::new(kind);
    let (home, hotel) = (attempt("alice", "192.0.2.1"), attempt("alice", "192.0.2.2"));
    fixture.log_in(&home).await;
    fixture.fail_from_everywhere("alice", PER_USER.free_failures).await;
    assert!(!fixture.admits(&attempt("alice", "198.51.100.0")).await, "the second try of a stranger");
    // A client that has not failed for her has one try, wherever it is. Where she is known, only her own failures count.
    assert!(fixture.admits(&hotel).await);
    // Then one each time that it waited as long as it was told.
    assert_eq!(fixture.wait_and_admit(&hotel).await, 1);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&home).await);
    }
    assert!(!fixture.admits(&home).await);
    assert!(fixture.admits(&attempt("bob", "198.51.100.0")).await);
}

#[rstest]
#[tokio::test]
async fn a_client_that_tries_many_users_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let office = "2001:db8:1:2::7";
    let alice = attempt("alice", office);
    fixture.log_in(&alice).await;
    for user in 0..PER_CLIENT.free_failures {
        // Any address of the network is the same client.
        let user = attempt(&format!("user{user}"), &format!("2001:db8:1:2::{user:x}"));
        assert!(fixture.admits(&user).await);
    }
    assert!(!fixture.admits(&attempt("carol", office)).await);
    assert!(fixture.admits(&attempt("carol", "2001:db8:1:3::7")).await);
    assert!(fixture.admits(&alice).await, "she is known there");
}

#[rstest]
#[tokio::test]
async fn a_site_that_tries_from_many_networks_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = attempt("alice", "2001:db8:1:0::7");
    fixture.log_in(&alice).await;
    let from_everywhere = (0..2 * PER_SITE.free_failures)
        .map(|network| attempt(&format!("user{network}"), &format!("2001:db8:1:{network:x}::1")));
    let mut refused = 0;
    for attempt in from_everywhere {
        refused += u32::from(!fixture.admits(&attempt).await);
    }
    assert!(refused > 0 && refused <= PER_SITE.free_failures, "{refused}");
    assert!(fixture.admits(&attempt("carol", "2001:db8:2::1")).await, "another site");
    assert!(fixture.admits(&alice).await, "she is known there");
}

#[rstest]
#[tokio::test]
async fn another_password_has_no_failures_yet(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let admit = async |attempt: &LoginAttempt, epoch: LoginEpoch| {
        let admission = fixture.store.reserve_attempt(attempt, Some(epoch)).await.unwrap();
        matches!(admission, Reservation::Reserved(_))
    };
    let (old, new) = (LoginEpoch::begin(), LoginEpoch::begin());
    let (home, office) = (attempt("alice", "192.0.2.1"), attempt("alice", "192.0.2.2"));
    for stranger in 0..PER_USER.free_failures {
        assert!(admit(&attempt("alice", &format!("198.51.100.{stranger}")), old).await);
    }
    for client in [&home, &office] {
        while admit(client, old).await {}
        assert!(admit(client, new).await && !admit(client, old).await);
    }
    // What a client did at all users, it did.
    for user in 0..2 * PER_CLIENT.free_failures {
        admit(&attempt(&format!("user{user}"), "192.0.2.1"), old).await;
    }
    assert!(!admit(&home, LoginEpoch::begin()).await);
    assert!(admit(&office, LoginEpoch::begin()).await);
}

#[rstest]
#[tokio::test]
async fn a_user_is_known_where_a_login_succeeded(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let (home, hotel) = (attempt("alice", "192.0.2.1"), attempt("alice", "192.0.2.2"));
    assert!(fixture.admits(&home).await && !fixture.store.is_known_client(&home).await.unwrap());
    fixture.log_in(&home).await;
    assert!(fixture.store.is_known_client(&home).await.unwrap());
    assert!(!fixture.store.is_known_client(&hotel).await.unwrap());
    assert!(!fixture.store.is_known_client(&attempt("bob", "192.0.2.1")).await.unwrap());
}

#[rstest]
#[tokio::test]
async fn what_was_no_failure_is_taken_back(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = attempt("alice", "192.0.2.1");
    // A login forgets the failures at this client, and no others; but where she is known, only those were counted.
    for scope in [AttemptScope::AllCounters, AttemptScope::KnownClient] {
        for _ in 0..PER_CLIENT_AND_USER.free_failures {
            assert_eq!(fixture.reserve_attempt(&alice).await, Reservation::Reserved(scope));
        }
        assert!(!fixture.admits(&alice).await);
        fixture.store.login_succeeded(&alice, epoch(), scope).await.unwrap();
    }
    // Whoever logs in is let in as often as they like.
    for _ in 0..PER_CLIENT.free_failures + PER_USER.free_failures {
        fixture.log_in(&alice).await;
    }
    fixture.fail_from_everywhere("alice", PER_USER.free_failures - (PER_CLIENT_AND_USER.free_failures - 1)).await;
    assert!(!fixture.admits(&attempt("alice", "198.51.100.0")).await);
    // One that was under way when another made her known is taken back as it was counted.
    let [bob, other] = ["192.0.2.1", "192.0.2.2"].map(|address| attempt("bob", address));
    let tries = [fixture.reserve_attempt(&bob).await, fixture.reserve_attempt(&bob).await];
    assert_eq!(tries, [Reservation::Reserved(AttemptScope::AllCounters); 2]);
    for _ in tries {
        fixture.store.login_succeeded(&bob, epoch(), AttemptScope::AllCounters).await.unwrap();
    }
    fixture.fail_from_everywhere("bob", PER_USER.free_failures - 2).await;
    assert!(fixture.admits(&other).await && fixture.admits(&other).await && !fixture.admits(&other).await);
}

#[rstest]
#[tokio::test]
async fn logins_of_a_known_user_keep_no_count_alive(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let [alice, mallory] = ["alice", "mallory"].map(|user| attempt(user, "192.0.2.1"));
    fixture.log_in(&alice).await;
    // The last failure is the one that delays are counted from, and when a count is forgotten.
    for user in 0..PER_CLIENT.free_failures {
        assert!(fixture.admits(&attempt(&format!("user{user}"), "192.0.2.1")).await);
    }
    let before = fixture.remaining(&mallory).await;
    assert!(before > Duration::ZERO);
    sleep(before / 2).await;
    fixture.log_in(&alice).await;
    let after = fixture.remaining(&mallory).await;
    assert!(after < before * 3 / 4, "{before:?}, and half of it later {after:?}");
}

#[tokio::test]
async fn a_full_redis_lets_log_in_and_is_filled_by_nobody() {
    let redis = RedisServer::start();
    let fixture = Fixture::on(&redis);
    let [alice, bob] = ["192.0.2.1", "192.0.2.2"].map(|address| attempt("alice", address));
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&alice).await);
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = redis.cli(&["DBSIZE"]);
    // What was counted before is weighed, and what comes now is counted here.
    assert!(!fixture.admits(&alice).await);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert_eq!(fixture.reserve_attempt(&bob).await, Reservation::Reserved(AttemptScope::ThisReplica));
    }
    assert!(!fixture.admits(&bob).await);
    fixture.fail_from_everywhere("carol", PER_USER.free_failures).await;
    assert!(!fixture.admits(&attempt("carol", "198.51.100.0")).await, "the second try of a stranger");
    // Whoever logs in is let in as often as they like.
    let dave = attempt("dave", "192.0.2.3");
    for _ in 0..2 * PER_CLIENT.free_failures {
        fixture.log_in(&dave).await;
    }
    assert_eq!(redis.cli(&["DBSIZE"]), before);
    // A login forgets what was counted in Redis, too.
    fixture.store.login_succeeded(&alice, epoch(), AttemptScope::ThisReplica).await.unwrap();
    assert!(fixture.admits(&alice).await);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(fixture.reserve_attempt(&dave).await, Reservation::Reserved(AttemptScope::AllCounters));
}

/// Whatever the clock of Redis does, a failure that is free costs nothing, and one that is not, its delay at most.
#[rstest]
#[case::back(-1_200_000)]
#[case::back_by_less_than_a_delay(-30_000)]
#[case::forward(1_200_000)]
#[tokio::test]
async fn a_clock_that_steps_keeps_nobody_waiting(#[case] step_ms: i64) {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let fixture = Fixture::on(&redis);
    let [alice, bob] = ["alice", "bob"].map(|user| attempt(user, "192.0.2.1"));
    assert!(fixture.admits(&alice).await);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&bob).await);
    }
    fixture.fail_from_everywhere("carol", 2 * PER_USER.free_failures).await;
    clock.set(step_ms);
    assert_eq!(fixture.remaining(&alice).await, Duration::ZERO);
    let carol = attempt("carol", "198.51.100.0");
    for (attempt, longest) in [(&bob, PER_CLIENT_AND_USER.first_delay), (&carol, MAX_DELAY)] {
        let remaining = fixture.remaining(attempt).await;
        assert!(remaining <= longest, "{remaining:?} for {attempt:?}");
        if step_ms < 0 {
            assert!(remaining > Duration::ZERO, "a step is no way to guess on");
        }
    }
    // It passes on the clock as it is now.
    assert!(fixture.wait_and_admit(&bob).await <= 2);
}

/// A thousand failures a second from everywhere, for ten minutes, take less than 32 MiB: here on a scale of one to ten, on
/// a clock that goes as fast as they are counted.
#[tokio::test]
async fn failures_from_everywhere_do_not_fill_redis() {
    const FAILURES_PER_SECOND: u32 = 100;
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &["--appendfsync", "no"]);
    let fixture = Fixture::on(&redis);
    let used_memory = || redis.info("used_memory").parse::<u64>().unwrap();
    let fail = async |number: u32| {
        // Half of them over IPv6, each in a site of its own, and each as somebody else.
        let [a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let address =
            if number.is_multiple_of(2) { format!("{a}.{b}.{c}.{d}") } else { format!("2001:{a:x}{b:x}:{c:x}{d:x}::") };
        fixture.admits(&attempt(&format!("user{number}"), &address)).await
    };
    fail(0).await;
    let before = used_memory();
    for second in 0..600 {
        clock.set(i64::from(second) * 1000);
        let first = second * FAILURES_PER_SECOND;
        let admitted = join_all((first..first + FAILURES_PER_SECOND).map(fail)).await;
        assert!(admitted.into_iter().all(|admitted| admitted));
    }
    // Redis drops what is over when it comes to it.
    eventually("they fit", || (used_memory().saturating_sub(before) < (32 << 20) / 10).then_some(()));
}

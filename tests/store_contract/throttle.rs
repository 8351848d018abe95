//! The delays after failed logins.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use mayfly::{
    domain::{
        throttle::{
            AttemptScope, ClientAndUser, MAX_DELAY, PER_CLIENT, PER_CLIENT_AND_USER, PER_SITE, PER_USER, Reservation,
        },
        user::LoginEpoch,
    },
    store::redis::RedisStore,
};
use rstest::rstest;
use tokio::time::sleep;

use super::{Fixture, Kind, epoch};
use crate::support::{RedisServer, SteppingClock, eventually, patient_options};

fn pair(user: &str, address: &str) -> ClientAndUser {
    ClientAndUser { user: user.parse().unwrap(), client: address.parse::<IpAddr>().unwrap().into() }
}

impl Fixture {
    /// A store in this Redis, which outlives the store.
    fn on(redis: &RedisServer) -> Self {
        // Longer than any operation takes on the slowest machine.
        let options = patient_options(&redis.url());
        Self { store: Arc::new(RedisStore::new(&options).unwrap()), _servers: Box::new(()) }
    }

    async fn reserve_attempt(&self, pair: &ClientAndUser) -> Reservation {
        self.store.reserve_attempt(pair, Some(epoch())).await.unwrap()
    }

    async fn admits(&self, pair: &ClientAndUser) -> bool {
        matches!(self.reserve_attempt(pair).await, Reservation::Reserved(_))
    }

    /// Logs in with the right password.
    async fn log_in(&self, pair: &ClientAndUser) {
        let Reservation::Reserved(scope) = self.reserve_attempt(pair).await else { panic!("{pair:?} has to wait") };
        self.store.login_succeeded(pair, epoch(), scope).await.unwrap();
    }

    /// The delay before this attempt is allowed; if there is none, it is made and fails.
    async fn remaining(&self, pair: &ClientAndUser) -> Duration {
        match self.reserve_attempt(pair).await {
            Reservation::RetryAfter(remaining) => remaining,
            Reservation::Reserved(_) => Duration::ZERO,
        }
    }

    /// Waits until this attempt is allowed, and returns how often it was rejected.
    async fn wait_and_admit(&self, pair: &ClientAndUser) -> usize {
        let mut refused = 0;
        while let Reservation::RetryAfter(remaining) = self.reserve_attempt(pair).await {
            assert!(remaining > Duration::ZERO);
            refused += 1;
            sleep(remaining).await;
        }
        refused
    }

    /// Fails this many times as this user, each time from another address.
    async fn fail_from_everywhere(&self, user: &str, failures: u32) {
        for address in 0..failures {
            assert!(self.admits(&pair(user, &format!("198.51.100.{address}"))).await);
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_client_has_free_attempts_and_then_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = pair("alice", "192.0.2.1");
    // Unknown users count, too. Of many attempts at once, each is counted before the next.
    let tries = join_all((0..50).map(|_| fixture.reserve_attempt(&alice))).await;
    let refused: Vec<_> =
        tries.into_iter().filter(|admission| !matches!(admission, Reservation::Reserved(_))).collect();
    assert_eq!(50 - refused.len(), PER_CLIENT_AND_USER.free_failures as usize);
    for admission in refused {
        let Reservation::RetryAfter(remaining) = admission else { unreachable!() };
        assert!(remaining > Duration::ZERO && remaining <= PER_CLIENT_AND_USER.first_delay, "{remaining:?}");
    }
    // Other users and other clients are not delayed. Rejected attempts are not counted; allowed ones are.
    assert!(fixture.admits(&pair("bob", "192.0.2.1")).await && fixture.admits(&pair("alice", "192.0.2.2")).await);
    assert!(fixture.wait_and_admit(&alice).await > 0);
    let Reservation::RetryAfter(remaining) = fixture.reserve_attempt(&alice).await else { panic!("another at once") };
    assert!(remaining <= PER_CLIENT_AND_USER.first_delay * 2, "{remaining:?}");
}

#[rstest]
#[tokio::test]
async fn failures_of_other_clients_lock_no_user_out(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let (home, hotel) = (pair("alice", "192.0.2.1"), pair("alice", "192.0.2.2"));
    fixture.log_in(&home).await;
    fixture.fail_from_everywhere("alice", PER_USER.free_failures).await;
    assert!(!fixture.admits(&pair("alice", "198.51.100.0")).await, "the second attempt of an unknown client");
    // Each client without a failure has one attempt. A known client is delayed by its own failures only.
    assert!(fixture.admits(&hotel).await);
    // Then it has one each time that it has waited.
    assert_eq!(fixture.wait_and_admit(&hotel).await, 1);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&home).await);
    }
    assert!(!fixture.admits(&home).await);
    assert!(fixture.admits(&pair("bob", "198.51.100.0")).await);
}

#[rstest]
#[tokio::test]
async fn a_client_that_tries_many_users_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let office = "2001:db8:1:2::7";
    let alice = pair("alice", office);
    fixture.log_in(&alice).await;
    for user in 0..PER_CLIENT.free_failures {
        // Any address of the network is the same client.
        let user = pair(&format!("user{user}"), &format!("2001:db8:1:2::{user:x}"));
        assert!(fixture.admits(&user).await);
    }
    assert!(!fixture.admits(&pair("carol", office)).await);
    assert!(fixture.admits(&pair("carol", "2001:db8:1:3::7")).await);
    assert!(fixture.admits(&alice).await, "she is known at this client");
}

#[rstest]
#[tokio::test]
async fn a_site_that_tries_from_many_networks_waits(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = pair("alice", "2001:db8:1:0::7");
    fixture.log_in(&alice).await;
    let from_everywhere = (0..2 * PER_SITE.free_failures)
        .map(|network| pair(&format!("user{network}"), &format!("2001:db8:1:{network:x}::1")));
    let mut refused = 0;
    for pair in from_everywhere {
        refused += u32::from(!fixture.admits(&pair).await);
    }
    assert!(refused > 0 && refused <= PER_SITE.free_failures, "{refused}");
    assert!(fixture.admits(&pair("carol", "2001:db8:2::1")).await, "another site");
    assert!(fixture.admits(&alice).await, "she is known at this client");
}

#[rstest]
#[tokio::test]
async fn a_new_password_starts_the_counters_of_its_user_at_zero(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let admit = async |pair: &ClientAndUser, epoch: LoginEpoch| {
        let admission = fixture.store.reserve_attempt(pair, Some(epoch)).await.unwrap();
        matches!(admission, Reservation::Reserved(_))
    };
    let (old, new) = (LoginEpoch::begin(), LoginEpoch::begin());
    let (home, office) = (pair("alice", "192.0.2.1"), pair("alice", "192.0.2.2"));
    for stranger in 0..PER_USER.free_failures {
        assert!(admit(&pair("alice", &format!("198.51.100.{stranger}")), old).await);
    }
    for client in [&home, &office] {
        while admit(client, old).await {}
        assert!(admit(client, new).await && !admit(client, old).await);
    }
    // The failures of the client at all users stay.
    for user in 0..2 * PER_CLIENT.free_failures {
        admit(&pair(&format!("user{user}"), "192.0.2.1"), old).await;
    }
    assert!(!admit(&home, LoginEpoch::begin()).await);
    assert!(admit(&office, LoginEpoch::begin()).await);
}

#[rstest]
#[tokio::test]
async fn a_login_makes_its_client_known(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let (home, hotel) = (pair("alice", "192.0.2.1"), pair("alice", "192.0.2.2"));
    assert!(fixture.admits(&home).await && !fixture.store.is_known_client(&home).await.unwrap());
    fixture.log_in(&home).await;
    assert!(fixture.store.is_known_client(&home).await.unwrap());
    assert!(!fixture.store.is_known_client(&hotel).await.unwrap());
    assert!(!fixture.store.is_known_client(&pair("bob", "192.0.2.1")).await.unwrap());
}

#[rstest]
#[tokio::test]
async fn an_attempt_that_succeeds_is_removed_from_its_counters(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = pair("alice", "192.0.2.1");
    // A login resets the counter of client and user, and no other; at a known client, no other was counted.
    for scope in [AttemptScope::AllCounters, AttemptScope::KnownClient] {
        for _ in 0..PER_CLIENT_AND_USER.free_failures {
            assert_eq!(fixture.reserve_attempt(&alice).await, Reservation::Reserved(scope));
        }
        assert!(!fixture.admits(&alice).await);
        fixture.store.login_succeeded(&alice, epoch(), scope).await.unwrap();
    }
    // Logins with the right password are not limited.
    for _ in 0..PER_CLIENT.free_failures + PER_USER.free_failures {
        fixture.log_in(&alice).await;
    }
    fixture.fail_from_everywhere("alice", PER_USER.free_failures - (PER_CLIENT_AND_USER.free_failures - 1)).await;
    assert!(!fixture.admits(&pair("alice", "198.51.100.0")).await);
    // An attempt that was counted before another made the client known is removed from the counters that it was counted
    // in.
    let [bob, other] = ["192.0.2.1", "192.0.2.2"].map(|address| pair("bob", address));
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
async fn logins_at_a_known_client_keep_no_counter_from_expiring(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let [alice, mallory] = ["alice", "mallory"].map(|user| pair(user, "192.0.2.1"));
    fixture.log_in(&alice).await;
    // Delays and retention begin at the last failure.
    for user in 0..PER_CLIENT.free_failures {
        assert!(fixture.admits(&pair(&format!("user{user}"), "192.0.2.1")).await);
    }
    let before = fixture.remaining(&mallory).await;
    assert!(before > Duration::ZERO);
    sleep(before / 2).await;
    fixture.log_in(&alice).await;
    let after = fixture.remaining(&mallory).await;
    assert!(after < before * 3 / 4, "{before:?}, and half of it later {after:?}");
}

#[tokio::test]
async fn a_full_redis_allows_logins_and_gets_no_new_counters() {
    let redis = RedisServer::start();
    let fixture = Fixture::on(&redis);
    let [alice, bob] = ["192.0.2.1", "192.0.2.2"].map(|address| pair("alice", address));
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&alice).await);
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = redis.cli(&["DBSIZE"]);
    // Counters in Redis still apply; new failures are counted by this replica.
    assert!(!fixture.admits(&alice).await);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert_eq!(fixture.reserve_attempt(&bob).await, Reservation::Reserved(AttemptScope::ThisReplica));
    }
    assert!(!fixture.admits(&bob).await);
    fixture.fail_from_everywhere("carol", PER_USER.free_failures).await;
    assert!(!fixture.admits(&pair("carol", "198.51.100.0")).await, "the second attempt of an unknown client");
    // Logins with the right password are not limited.
    let dave = pair("dave", "192.0.2.3");
    for _ in 0..2 * PER_CLIENT.free_failures {
        fixture.log_in(&dave).await;
    }
    assert_eq!(redis.cli(&["DBSIZE"]), before);
    // A login resets the counter in Redis, too.
    fixture.store.login_succeeded(&alice, epoch(), AttemptScope::ThisReplica).await.unwrap();
    assert!(fixture.admits(&alice).await);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(fixture.reserve_attempt(&dave).await, Reservation::Reserved(AttemptScope::AllCounters));
}

/// After a step of Redis' clock, free failures still cost no delay, and no delay is longer than its maximum.
#[rstest]
#[case::back(-1_200_000)]
#[case::back_by_less_than_a_delay(-30_000)]
#[case::forward(1_200_000)]
#[tokio::test]
async fn a_step_of_the_clock_lengthens_no_delay(#[case] step_ms: i64) {
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &[]);
    let fixture = Fixture::on(&redis);
    let [alice, bob] = ["alice", "bob"].map(|user| pair(user, "192.0.2.1"));
    assert!(fixture.admits(&alice).await);
    for _ in 0..PER_CLIENT_AND_USER.free_failures {
        assert!(fixture.admits(&bob).await);
    }
    fixture.fail_from_everywhere("carol", 2 * PER_USER.free_failures).await;
    clock.set(step_ms);
    assert_eq!(fixture.remaining(&alice).await, Duration::ZERO);
    let carol = pair("carol", "198.51.100.0");
    for (pair, longest) in [(&bob, PER_CLIENT_AND_USER.first_delay), (&carol, MAX_DELAY)] {
        let remaining = fixture.remaining(pair).await;
        assert!(remaining <= longest, "{remaining:?} for {pair:?}");
        if step_ms < 0 {
            assert!(remaining > Duration::ZERO, "a step does not end a delay");
        }
    }
    // The delay passes on the stepped clock.
    assert!(fixture.wait_and_admit(&bob).await <= 2);
}

/// 1,000 failures a second from random addresses for 10 minutes take less than 32 MiB. Here it is a tenth of the
/// failures and of the memory, on a clock that advances as fast as they are counted.
#[tokio::test]
async fn failures_from_everywhere_do_not_fill_redis() {
    const FAILURES_PER_SECOND: u32 = 100;
    let clock = Arc::new(SteppingClock::new());
    let redis = RedisServer::start_with_clock(&clock, &["--appendfsync", "no"]);
    let fixture = Fixture::on(&redis);
    let used_memory = || redis.info("used_memory").parse::<u64>().unwrap();
    let fail = async |number: u32| {
        // Half of them over IPv6, each in a site of its own, and each as another user.
        let [a, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let address =
            if number.is_multiple_of(2) { format!("{a}.{b}.{c}.{d}") } else { format!("2001:{a:x}{b:x}:{c:x}{d:x}::") };
        fixture.admits(&pair(&format!("user{number}"), &address)).await
    };
    fail(0).await;
    let before = used_memory();
    for second in 0..600 {
        clock.set(i64::from(second) * 1000);
        let first = second * FAILURES_PER_SECOND;
        let admitted = join_all((first..first + FAILURES_PER_SECOND).map(fail)).await;
        assert!(admitted.into_iter().all(|admitted| admitted));
    }
    // Redis deletes expired keys a while later.
    eventually("they fit", || (used_memory().saturating_sub(before) < (32 << 20) / 10).then_some(()));
}

//! A cache of values read from the store, each under a lease.

use std::{hash::Hash, sync::Arc};

use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::leases::{Lease, Leases};
use crate::{
    single_flight::SingleFlight,
    store::StoreResult,
    telemetry::{events::LeaseKind, metrics},
};

/// The most values in one cache.
const CAPACITY: usize = 65_536;

/// Values by key. A value whose lease has lapsed stays until it is evicted; values that are used again are evicted
/// last. Absence is not cached, so that a token is found as soon as it is created.
pub(super) struct LeasedCache<K, V> {
    kind: LeaseKind,
    leases: Arc<Leases>,
    /// When a value expires by itself, which ends its lease; `None`: never.
    expires_at: fn(&V) -> Option<Instant>,
    values: Arc<Cache<K, (V, Lease)>>,
    /// The reads under way, which concurrent callers share.
    reads: SingleFlight<K, StoreResult<Option<V>>>,
}

/// A value from the cache.
pub struct Cached<V> {
    /// The value as it was last read.
    pub value: V,
    /// Whether the lease holds: the value may be used without a read.
    pub is_leased: bool,
}

impl<K, V> LeasedCache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(kind: LeaseKind, leases: &Arc<Leases>, expires_at: fn(&V) -> Option<Instant>) -> Self {
        let (leases, values) = (Arc::clone(leases), Arc::new(Cache::new(CAPACITY)));
        // A read that was sent a lease ago is not shared: a write may have been answered since, which it may not see.
        let reads = SingleFlight::new(leases.duration);
        Self { kind, leases, expires_at, values, reads }
    }

    /// The cached value, whether or not its lease holds.
    pub(super) fn get(&self, key: &K) -> Option<Cached<V>> {
        let (value, lease) = self.values.get(key)?;
        let is_leased = self.leases.holds(&lease);
        if is_leased {
            metrics::lease_lookup(self.kind, true);
        }
        Some(Cached { value, is_leased })
    }

    /// Runs `read` and caches the value found; concurrent callers share one read. A change of `subject` ends the lease.
    pub(super) async fn read(
        &self,
        key: K,
        subject: &impl Hash,
        read: impl Future<Output = StoreResult<Option<V>>> + Send + 'static,
    ) -> StoreResult<Option<V>> {
        let start = || {
            let (values, key, expires_at) = (Arc::clone(&self.values), key.clone(), self.expires_at);
            let lease = self.leases.begin(subject);
            async move {
                let found = read.await?;
                if let Some(value) = &found {
                    let lease = expires_at(value).map_or(lease, |end| lease.ending_by(end));
                    values.insert(key, (value.clone(), lease));
                }
                Ok(found)
            }
        };
        if self.leases.duration.is_zero() {
            return start().await;
        }
        metrics::lease_lookup(self.kind, false);
        self.reads.run(key.clone(), start).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::{
        sync::Notify,
        task::yield_now,
        time::{advance, pause, sleep},
    };

    use super::*;
    use crate::{
        domain::token::TokenId,
        store::{
            Changes, StoreError,
            leased::{LEASE, leases::MAX_AGE},
        },
    };

    /// A cache of numbers under the ids of tokens, and how many reads there were.
    struct Fixture {
        leases: Arc<Leases>,
        cache: Arc<LeasedCache<TokenId, usize>>,
        reads: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new(lease: Duration) -> Self {
            Self::with_expiry(lease, |_| None)
        }

        fn with_expiry(lease: Duration, expires_at: fn(&usize) -> Option<Instant>) -> Self {
            let leases = Arc::new(Leases::new(lease));
            let cache = Arc::new(LeasedCache::new(LeaseKind::Token, &leases, expires_at));
            Self { leases, cache, reads: Arc::default() }
        }

        /// Ids whose leases do not depend on each other.
        fn ids<const N: usize>(&self) -> [TokenId; N] {
            loop {
                let ids = [(); N].map(|()| TokenId::random());
                let indices = ids.map(|id| self.leases.version_index(&id));
                if (1..N).all(|i| !indices[..i].contains(&indices[i])) {
                    return ids;
                }
            }
        }

        fn leased(&self, id: TokenId) -> Option<usize> {
            self.cache.get(&id).filter(|cached| cached.is_leased).map(|cached| cached.value)
        }

        /// Reads the number of reads before this one.
        async fn count(&self, id: TokenId) -> Option<usize> {
            let reads = Arc::clone(&self.reads);
            let read = async move { Ok(Some(reads.fetch_add(1, Ordering::Relaxed))) };
            self.cache.read(id, &id, read).await.unwrap()
        }

        fn renew(&self, tokens: &[TokenId]) {
            let changes = Changes { tokens: tokens.iter().copied().collect(), ..Changes::default() };
            self.leases.renew(Instant::now(), &changes);
        }
    }

    #[tokio::test]
    async fn a_value_is_leased_from_when_its_read_was_sent_and_stays_without_a_lease() {
        pause();
        let fixture = Fixture::new(LEASE);
        let [id] = fixture.ids();
        let slow = async {
            sleep(LEASE / 2).await;
            Ok(Some(7))
        };
        assert_eq!(fixture.cache.read(id, &id, slow).await.unwrap(), Some(7));
        assert_eq!(fixture.leased(id), Some(7));
        advance((LEASE / 2).saturating_sub(Duration::from_millis(2))).await;
        assert_eq!(fixture.leased(id), Some(7));
        advance(Duration::from_millis(2)).await;
        assert_eq!(fixture.leased(id), None);
        assert_eq!(fixture.cache.get(&id).unwrap().value, 7);
    }

    #[tokio::test]
    async fn callers_share_a_read_that_was_sent_less_than_a_lease_ago() {
        pause();
        let (fixture, go) = (Arc::new(Fixture::new(LEASE)), Arc::new(Notify::new()));
        let [id] = fixture.ids();
        let begin = || {
            let (fixture, go) = (Arc::clone(&fixture), Arc::clone(&go));
            tokio::spawn(async move {
                let reads = Arc::clone(&fixture.reads);
                let read = async move {
                    go.notified().await;
                    Ok(Some(reads.fetch_add(1, Ordering::Relaxed)))
                };
                fixture.cache.read(id, &id, read).await.unwrap()
            })
        };
        let first = begin();
        yield_now().await;
        let second = begin();
        yield_now().await;
        first.abort();
        advance(LEASE).await;
        let third = begin();
        yield_now().await;
        go.notify_waiters();
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (Some(0), Some(1)));
        assert_eq!(fixture.leased(id), Some(1));
    }

    #[tokio::test]
    async fn absence_failure_and_expired_values_are_not_leased() {
        pause();
        let fixture = Fixture::with_expiry(LEASE, |_| Some(Instant::now() + Duration::from_millis(10)));
        let [id] = fixture.ids();
        assert_eq!(fixture.cache.read(id, &id, async { Ok(None) }).await.unwrap(), None);
        fixture.cache.read(id, &id, async { Err(StoreError::Timeout) }).await.unwrap_err();
        assert_eq!(fixture.leased(id), None);
        assert_eq!(fixture.count(id).await, Some(0));
        assert_eq!(fixture.leased(id), Some(0));
        advance(Duration::from_millis(10)).await;
        assert_eq!(fixture.leased(id), None);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_values_in_use_outlast_a_scan() {
        pause();
        let fixture = Fixture::new(LEASE);
        let in_use: [TokenId; 100] = fixture.ids();
        for round in 0..3 {
            for id in in_use {
                assert_eq!(fixture.cache.get(&id).is_some(), round > 0);
                fixture.count(id).await;
            }
        }
        for _ in 0..CAPACITY * 2 {
            fixture.count(TokenId::random()).await;
        }
        assert!(fixture.cache.values.len() <= CAPACITY, "{}", fixture.cache.values.len());
        assert!(in_use.iter().all(|id| fixture.cache.get(id).is_some()));
        let [last] = fixture.ids();
        fixture.count(last).await;
        assert!(fixture.leased(last).is_some());
    }

    #[tokio::test]
    async fn without_leases_every_read_asks_the_store() {
        let fixture = Fixture::new(Duration::ZERO);
        let [id] = fixture.ids();
        assert_eq!(fixture.count(id).await, Some(0));
        assert_eq!(fixture.count(id).await, Some(1));
        assert_eq!(fixture.leased(id), None);
        assert!(fixture.cache.get(&id).is_some());
    }

    #[tokio::test]
    async fn a_watch_renews_reads_sent_since_it_began_until_their_subject_changes() {
        pause();
        let fixture = Fixture::new(LEASE);
        let [before, first, changed, second] = fixture.ids();
        fixture.count(before).await;
        fixture.leases.end_all();
        for id in [first, changed, second] {
            fixture.count(id).await;
        }
        for _ in 0..5 {
            advance(LEASE / 2).await;
            fixture.renew(&[changed]);
        }
        assert_eq!((fixture.leased(before), fixture.leased(changed)), (None, None));
        assert_eq!((fixture.leased(first), fixture.leased(second)), (Some(1), Some(3)));

        // Another watch begins, which knows of no change in between.
        fixture.leases.end_all();
        fixture.renew(&[]);
        assert_eq!(fixture.leased(first), None);
        fixture.count(first).await;
        advance(LEASE.saturating_sub(Duration::from_millis(1))).await;
        fixture.leases.renew(Instant::now() - LEASE / 2, &Changes::default());
        assert_eq!(fixture.leased(first), Some(4));
        // The renewal counts from when the store was asked.
        advance(LEASE / 2).await;
        assert_eq!(fixture.leased(first), None);

        fixture.count(first).await;
        fixture.leases.renew(Instant::now(), &Changes { everything: true, ..Changes::default() });
        assert_eq!(fixture.leased(first), None);
    }

    #[tokio::test]
    async fn a_change_ends_the_lease_of_a_read_under_way() {
        pause();
        let fixture = Fixture::new(LEASE);
        let [id] = fixture.ids();
        let read = async {
            sleep(LEASE / 2).await;
            Ok(Some(1))
        };
        let reading = fixture.cache.read(id, &id, read);
        let changing = async {
            sleep(LEASE / 4).await;
            fixture.renew(&[id]);
        };
        assert_eq!(tokio::join!(reading, changing).0.unwrap(), Some(1));
        assert_eq!(fixture.leased(id), None);
        fixture.renew(&[]);
        assert_eq!(fixture.leased(id), None);
    }

    #[tokio::test]
    async fn a_renewed_value_is_read_again_at_its_maximum_age_and_ends_when_it_expires() {
        pause();
        // 0 expires, and any other number does not.
        let fixture = Fixture::with_expiry(LEASE, |number| (*number == 0).then(|| Instant::now() + LEASE * 3 / 2));
        let [expiring, other] = fixture.ids();
        fixture.count(expiring).await;
        fixture.count(other).await;
        let (begun, step) = (Instant::now(), Duration::from_millis(5));
        let mut lasted = [Duration::ZERO; 2];
        while begun.elapsed() < MAX_AGE * 2 {
            fixture.renew(&[]);
            for (lasted, id) in lasted.iter_mut().zip([expiring, other]) {
                if fixture.leased(id).is_some() {
                    *lasted = begun.elapsed() + step;
                }
            }
            advance(step).await;
        }
        assert_eq!(lasted, [LEASE * 3 / 2, MAX_AGE]);
    }
}

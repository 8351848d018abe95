//! A cache of values read from the store, each under a lease.

use std::{hash::Hash, sync::Arc};

use foldhash::quality::RandomState;
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use tokio::time::Instant;

use super::leases::{Lease, Leases, Moment};
use crate::{
    single_flight::SingleFlight,
    store::StoreResult,
    telemetry::{events::LeaseKind, metrics},
};

/// The part of a cache for values that were used again: a flood of values that are used once takes the rest at most. In
/// a cache that is too small for all values in use, no part is better than another.
const HOT_PART: f64 = 0.8;

/// The number of evicted keys that are remembered, as a part of all values: a value that comes back is not taken for
/// one of a flood. Each costs the memory of a value's key.
const GHOST_PART: f64 = 0.05;

/// A value that can be cached.
pub(super) trait Cacheable: Clone + Send + Sync + 'static {
    /// The key that the value is looked up by.
    type Key: Hash + Eq + Clone + Send + Sync + 'static;
    /// What the value depends on: a change of it ends the lease.
    type Subject: Hash;
    /// The kind of value, for metrics.
    const KIND: LeaseKind;

    /// The subject of the value with this key.
    fn subject<'a>(&'a self, key: &'a Self::Key) -> &'a Self::Subject;

    /// When the value expires by itself; `None`: never.
    fn expires_at(&self) -> Option<Moment>;

    /// The memory that the value takes with all that belongs to its entry. It never changes.
    fn bytes(&self) -> usize;
}

/// Values by key. A value whose lease has lapsed stays until it is evicted; values that are used again are evicted
/// last. Absence is not cached: a token is found as soon as it is created, and tokens that were never issued evict
/// none.
pub(super) struct LeasedCache<V: Cacheable> {
    leases: Arc<Leases>,
    values: Arc<Values<V>>,
    /// The reads under way, which concurrent callers share.
    reads: SingleFlight<V::Key, StoreResult<Option<Cached<V>>>>,
}

type Values<V> = Cache<<V as Cacheable>::Key, (V, Lease), Bytes, RandomState>;

/// A value from the cache, or one that was just read.
#[derive(Debug, Clone)]
pub struct Cached<V> {
    /// The value as it was last read.
    pub value: V,
    /// As of when the value is known to be true; `None`: the lease has lapsed, and the value must be read again.
    pub confirmed_at: Option<Instant>,
}

impl<V> Cached<V> {
    /// Whether the lease holds: the value may be used without a read.
    pub fn is_leased(&self) -> bool {
        self.confirmed_at.is_some()
    }
}

/// The weight of a value: its bytes.
#[derive(Clone)]
struct Bytes;

impl<V: Cacheable> Weighter<V::Key, (V, Lease)> for Bytes {
    fn weight(&self, _: &V::Key, (value, _): &(V, Lease)) -> u64 {
        value.bytes() as u64
    }
}

impl<V: Cacheable> LeasedCache<V> {
    /// A cache of this many bytes, with about this many values.
    pub(super) fn new(leases: &Arc<Leases>, bytes: usize, values: usize) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(values)
            .weight_capacity(bytes as u64)
            .hot_allocation(HOT_PART)
            .ghost_allocation(GHOST_PART)
            .build()
            .expect("all needed options are set");
        let cache = Cache::with_options(options, Bytes, RandomState::default(), DefaultLifecycle::default());
        // Address space, so that a shard is never copied to grow. Memory is used as values come.
        cache.reserve(values);
        // A read that was sent a lease ago is not shared: a write may have been answered since, which it may not see.
        let reads = SingleFlight::new(leases.duration);
        Self { leases: Arc::clone(leases), values: Arc::new(cache), reads }
    }

    /// The cached value, whether or not its lease holds.
    pub(super) fn get(&self, key: &V::Key) -> Option<Cached<V>> {
        let (value, lease) = self.values.get(key)?;
        let confirmed_at = self.leases.confirmed_at(lease, value.subject(key), value.expires_at());
        if confirmed_at.is_some() {
            metrics::lease_lookup(V::KIND, true);
        }
        Some(Cached { value, confirmed_at })
    }

    /// Runs `read` and caches the value found; concurrent callers share one read. A change of `subject` ends the lease.
    pub(super) async fn read(
        &self,
        key: V::Key,
        subject: &V::Subject,
        read: impl Future<Output = StoreResult<Option<V>>> + Send + 'static,
    ) -> StoreResult<Option<Cached<V>>> {
        let start = || {
            let (values, key) = (Arc::clone(&self.values), key.clone());
            let (lease, sent) = (self.leases.begin(subject), Instant::now());
            async move {
                let found = read.await?;
                if let Some(value) = &found {
                    values.insert(key, (value.clone(), lease));
                }
                Ok(found.map(|value| Cached { value, confirmed_at: Some(sent) }))
            }
        };
        if self.leases.duration.is_zero() {
            return start().await;
        }
        metrics::lease_lookup(V::KIND, false);
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

    /// The values that the caches of these tests hold.
    const CAPACITY: usize = 10_000;

    /// The longest time by which a lease ends early, because the moment of its read is rounded.
    const ROUNDING: Duration = Duration::from_millis(5);

    /// A number, and when it expires.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Number(usize, Option<Moment>);

    impl Cacheable for Number {
        type Key = TokenId;
        type Subject = TokenId;
        const KIND: LeaseKind = LeaseKind::Token;

        fn subject<'a>(&'a self, id: &'a TokenId) -> &'a TokenId {
            id
        }

        fn expires_at(&self) -> Option<Moment> {
            self.1
        }

        fn bytes(&self) -> usize {
            1
        }
    }

    /// A cache of numbers under the ids of tokens, and how many reads there were.
    struct Fixture {
        leases: Arc<Leases>,
        cache: Arc<LeasedCache<Number>>,
        reads: Arc<AtomicUsize>,
        /// The life of a number that is read now; `None`: it never expires.
        life: fn(usize) -> Option<Duration>,
    }

    impl Fixture {
        fn new(lease: Duration) -> Self {
            Self::with_life(lease, |_| None)
        }

        fn with_life(lease: Duration, life: fn(usize) -> Option<Duration>) -> Self {
            let leases = Arc::new(Leases::new(lease, CAPACITY));
            let cache = Arc::new(LeasedCache::new(&leases, CAPACITY, CAPACITY));
            Self { leases, cache, reads: Arc::default(), life }
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
            self.cache.get(&id).filter(Cached::is_leased).map(|cached| cached.value.0)
        }

        /// Reads the number of reads before this one.
        async fn count(&self, id: TokenId) -> Option<usize> {
            let number = self.reads.fetch_add(1, Ordering::Relaxed);
            let expires_at = (self.life)(number).map(|life| self.leases.moment(Instant::now() + life));
            self.read(id, async move { Ok(Some(Number(number, expires_at))) }).await
        }

        async fn read(
            &self,
            id: TokenId,
            read: impl Future<Output = StoreResult<Option<Number>>> + Send + 'static,
        ) -> Option<usize> {
            self.cache.read(id, &id, read).await.unwrap().map(|number| number.value.0)
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
            Ok(Some(Number(7, None)))
        };
        assert_eq!(fixture.read(id, slow).await, Some(7));
        assert_eq!(fixture.leased(id), Some(7));
        advance((LEASE / 2).saturating_sub(ROUNDING)).await;
        assert_eq!(fixture.leased(id), Some(7));
        advance(ROUNDING).await;
        assert_eq!(fixture.leased(id), None);
        assert_eq!(fixture.cache.get(&id).unwrap().value, Number(7, None));
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
                    Ok(Some(Number(reads.fetch_add(1, Ordering::Relaxed), None)))
                };
                fixture.read(id, read).await
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
        let fixture = Fixture::with_life(LEASE, |_| Some(Duration::from_millis(10)));
        let [id] = fixture.ids();
        assert_eq!(fixture.read(id, async { Ok(None) }).await, None);
        fixture.cache.read(id, &id, async { Err(StoreError::Timeout) }).await.unwrap_err();
        assert_eq!(fixture.leased(id), None);
        assert_eq!(fixture.count(id).await, Some(0));
        assert_eq!(fixture.leased(id), Some(0));
        advance(Duration::from_millis(10)).await;
        assert_eq!(fixture.leased(id), None);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_values_in_use_outlast_a_scan() {
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
        let flood = || fixture.read(TokenId::random(), async { Ok(None) });
        for _ in 0..CAPACITY * 2 {
            assert_eq!(flood().await, None);
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
        advance(LEASE.saturating_sub(ROUNDING)).await;
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
            Ok(Some(Number(1, None)))
        };
        let reading = fixture.read(id, read);
        let changing = async {
            sleep(LEASE / 4).await;
            fixture.renew(&[id]);
        };
        assert_eq!(tokio::join!(reading, changing).0, Some(1));
        assert_eq!(fixture.leased(id), None);
        fixture.renew(&[]);
        assert_eq!(fixture.leased(id), None);
    }

    #[tokio::test]
    async fn a_renewed_value_is_read_again_at_its_maximum_age_and_before_it_expires() {
        const LIFE: Duration = Duration::from_secs(6);
        pause();
        // 0 expires, and any other number does not.
        let fixture = Fixture::with_life(LEASE, |number| (number == 0).then_some(LIFE));
        let [expiring, other] = fixture.ids();
        fixture.count(expiring).await;
        fixture.count(other).await;
        let (begun, step) = (Instant::now(), Duration::from_millis(100));
        let mut lasted = [Duration::ZERO; 2];
        while begun.elapsed() < MAX_AGE + LIFE {
            fixture.renew(&[]);
            for (lasted, id) in lasted.iter_mut().zip([expiring, other]) {
                if fixture.leased(id).is_some() {
                    *lasted = begun.elapsed() + step;
                }
            }
            advance(step).await;
        }
        // The clock of the store may run faster by a fifth.
        assert_eq!(lasted, [LIFE * 5 / 6, MAX_AGE]);
    }

    /// The part of the lookups that find a value, after the cache had time to adapt. `pick`: the next value to look up.
    async fn hit_rate(
        fixture: &Fixture,
        ids: &[TokenId],
        lookups: usize,
        pick: impl Fn(&mut fastrand::Rng) -> usize,
    ) -> f64 {
        let (mut rng, mut hits) = (fastrand::Rng::with_seed(7), 0);
        for number in 0..2 * lookups {
            let id = ids[pick(&mut rng)];
            if fixture.cache.get(&id).is_some() {
                hits += usize::from(number >= lookups);
            } else {
                fixture.count(id).await;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "the counts are small")]
        let rate = hits as f64 / lookups as f64;
        rate
    }

    #[tokio::test]
    async fn the_hit_rate_is_what_the_capacity_explains() {
        let fixture = Fixture::new(LEASE);
        let ids: Vec<_> = (0..2 * CAPACITY).map(|_| TokenId::random()).collect();
        for in_use in [CAPACITY * 9 / 10, CAPACITY * 5 / 4, 2 * CAPACITY] {
            let rate = hit_rate(&fixture, &ids[..in_use], 10 * CAPACITY, |rng| rng.usize(..in_use)).await;
            #[expect(clippy::cast_precision_loss, reason = "the counts are small")]
            let explained = (CAPACITY as f64 / in_use as f64).min(1.0);
            assert!(rate > explained - 0.02, "{rate} of {in_use} in use, {explained} explained");
        }
        // Other tokens come into use: the cache follows.
        let others: Vec<_> = (0..CAPACITY * 9 / 10).map(|_| TokenId::random()).collect();
        let rate = hit_rate(&fixture, &others, 10 * CAPACITY, |rng| rng.usize(..others.len())).await;
        assert!(rate > 0.95, "{rate}");
    }
}

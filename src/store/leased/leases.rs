//! The table of leases.

use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasher, Hash},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::quality::RandomState;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::Instant;

use crate::{
    store::StoreError,
    telemetry::metrics::{self, Leased},
};

/// At most so many reads are kept; further ones are asked for each time. A token takes some 400 bytes here.
const CAPACITY: usize = 65_536;

/// Locks, each for its part of the keys.
const SHARDS: usize = 16;

/// A read under way, which whoever awaits it drives: it ends although the one who began it went away.
type Read<V> = Shared<BoxFuture<'static, Result<Option<V>, StoreError>>>;

/// What was read, by key, each for as long as its lease. Absence is not kept: a token that was just created is there.
pub(super) struct Leases<K, V> {
    kind: Leased,
    lease: Duration,
    /// When a value ends by itself, which no lease on it outlives.
    ends_at: fn(&V) -> Option<Instant>,
    hasher: RandomState,
    shards: [Mutex<Shard<K, V>>; SHARDS],
}

struct Shard<K, V> {
    leases: HashMap<K, Lease<V>, RandomState>,
    /// When the lapsed ones were last thrown out, which is not worth doing more often than once a lease.
    swept_at: Instant,
}

/// A read, and until when those who come may use it.
struct Lease<V> {
    until: Instant,
    state: State<V>,
}

enum State<V> {
    Reading(Read<V>),
    Held {
        value: V,
        /// When the read of it was sent, or the last one that found just the same.
        compared_at: Instant,
        /// When it was last used again.
        used_at: Option<Instant>,
    },
}

/// A lease that is in use and lapses soon.
pub(super) struct Due<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    pub(super) compared_at: Instant,
    until: Instant,
}

/// What a read for the sake of a lease found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It is there, as whatever it may be.
    Lives,
    /// It is there, and the same.
    Unchanged,
    /// It is another, or gone.
    Gone,
}

impl<K, V> Leases<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(kind: Leased, lease: Duration, ends_at: fn(&V) -> Option<Instant>) -> Arc<Self> {
        let shard = || Mutex::new(Shard { leases: HashMap::default(), swept_at: Instant::now() });
        Arc::new(Self {
            kind,
            lease,
            ends_at,
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| shard()),
        })
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // Each change of the map is one call, so that a panic has spoilt nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held of this key now.
    pub(super) fn recall(&self, key: &K) -> Option<V> {
        if self.lease.is_zero() {
            return None;
        }
        let now = Instant::now();
        match self.shard(key).leases.get_mut(key)? {
            Lease { until, state: State::Held { value, used_at, .. } } if now < *until => {
                *used_at = Some(now);
                metrics::lease_lookup(self.kind, true);
                Some(value.clone())
            }
            _ => None,
        }
    }

    /// What is held of this key, or what a read of it finds: the one under way, if its lease holds, else `read`.
    pub(super) async fn read(
        self: &Arc<Self>,
        key: K,
        read: impl Future<Output = Result<Option<V>, StoreError>> + Send + 'static,
    ) -> Result<Option<V>, StoreError> {
        if self.lease.is_zero() {
            return read.await;
        }
        let reading = {
            let mut shard = self.shard(&key);
            let sent = Instant::now();
            match shard.leases.get(&key).filter(|lease| sent < lease.until).map(|lease| &lease.state) {
                Some(State::Held { value, .. }) => {
                    metrics::lease_lookup(self.kind, true);
                    return Ok(Some(value.clone()));
                }
                Some(State::Reading(reading)) => reading.clone(),
                None => {
                    let (leases, settled) = (Arc::clone(self), key.clone());
                    let reading = async move {
                        let found = read.await;
                        leases.settle(&settled, sent, found.as_ref().ok().and_then(Option::as_ref));
                        found
                    };
                    let reading = reading.boxed().shared();
                    shard.admit(key, sent, self.lease, &reading);
                    reading
                }
            }
        };
        metrics::lease_lookup(self.kind, false);
        reading.await
    }

    /// Holds what the read that was sent at this moment found, unless its lease was ended meanwhile.
    fn settle(&self, key: &K, sent: Instant, found: Option<&V>) {
        let mut shard = self.shard(key);
        if let hash_map::Entry::Occupied(mut entry) = shard.leases.entry(key.clone())
            && entry.get().until == sent + self.lease
        {
            match found {
                Some(value) => {
                    let state = State::Held { value: value.clone(), compared_at: sent, used_at: None };
                    entry.insert(Lease { until: self.until(sent, value), state });
                }
                None => drop(entry.remove()),
            }
        }
    }

    /// Until when what a read found may be used that was sent at this moment.
    fn until(&self, sent: Instant, value: &V) -> Instant {
        let lapses_at = sent + self.lease;
        (self.ends_at)(value).map_or(lapses_at, |ends_at| lapses_at.min(ends_at))
    }

    /// The leases that lapse within `horizon` and were used again in the last `memory`.
    pub(super) fn due(&self, horizon: Duration, memory: Duration) -> Vec<Due<K, V>> {
        let mut due = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // What has lapsed is thrown out on the way.
            shard.leases.retain(|_, lease| now < lease.until);
            due.extend(shard.leases.iter().filter_map(|(key, Lease { until, state })| match state {
                State::Held { value, compared_at, used_at: Some(used_at) }
                    if *until <= now + horizon && now <= *used_at + memory =>
                {
                    Some(Due { key: key.clone(), value: value.clone(), compared_at: *compared_at, until: *until })
                }
                _ => None,
            }));
        }
        due
    }

    /// Renews a lease by a read that was sent at this moment, or ends it, as the read found; unless another read took its
    /// place meanwhile.
    pub(super) fn renew(&self, due: &Due<K, V>, sent: Instant, renewal: Renewal) {
        let mut shard = self.shard(&due.key);
        let Some(lease) = shard.leases.get_mut(&due.key).filter(|lease| lease.until == due.until) else { return };
        match renewal {
            Renewal::Gone => drop(shard.leases.remove(&due.key)),
            Renewal::Lives => lease.until = self.until(sent, &due.value),
            Renewal::Unchanged => {
                lease.until = self.until(sent, &due.value);
                if let State::Held { compared_at, .. } = &mut lease.state {
                    *compared_at = sent;
                }
            }
        }
    }
}

impl<K: Hash + Eq, V: Clone> Shard<K, V> {
    /// Lets others join this read, if there is room.
    fn admit(&mut self, key: K, sent: Instant, lease: Duration, reading: &Read<V>) {
        if self.leases.len() >= CAPACITY / SHARDS && sent >= self.swept_at + lease {
            self.leases.retain(|_, lease| sent < lease.until);
            self.swept_at = sent;
        }
        if self.leases.len() < CAPACITY / SHARDS {
            self.leases.insert(key, Lease { until: sent + lease, state: State::Reading(reading.clone()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        sync::Notify,
        time::{advance, pause, sleep},
    };

    use super::*;
    use crate::store::leased::LEASE;

    type Counted = Leases<u32, usize>;

    fn leases() -> Arc<Counted> {
        Leases::new(Leased::Token, LEASE, |_| None)
    }

    /// Reads how many reads there were.
    async fn count(leases: &Arc<Counted>, key: u32, reads: &Arc<AtomicUsize>) -> Option<usize> {
        let reads = Arc::clone(reads);
        leases.read(key, async move { Ok(Some(reads.fetch_add(1, Ordering::Relaxed))) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_read_is_used_again_for_one_lease_from_when_it_was_sent() {
        pause();
        let leases = leases();
        let slow = {
            let leases = Arc::clone(&leases);
            async move {
                let read = async {
                    sleep(LEASE / 2).await;
                    Ok(Some(7))
                };
                leases.read(0, read).await
            }
        };
        assert_eq!(slow.await.unwrap(), Some(7));
        assert_eq!(leases.recall(&0), Some(7));
        advance((LEASE / 2).saturating_sub(Duration::from_millis(2))).await;
        assert_eq!(leases.recall(&0), Some(7));
        advance(Duration::from_millis(2)).await;
        assert_eq!(leases.recall(&0), None);
    }

    #[tokio::test]
    async fn one_read_serves_all_who_come_while_it_is_under_way() {
        pause();
        let (leases, reads, go) = (leases(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let begin = |go: Arc<Notify>| {
            let (leases, reads) = (Arc::clone(&leases), Arc::clone(&reads));
            tokio::spawn(async move {
                let read = async move {
                    go.notified().await;
                    Ok(Some(reads.fetch_add(1, Ordering::Relaxed)))
                };
                leases.read(0, read).await.unwrap()
            })
        };
        let first = begin(Arc::clone(&go));
        tokio::task::yield_now().await;
        let second = begin(Arc::clone(&go));
        tokio::task::yield_now().await;
        // The one who began it goes away; and whoever comes after a lease asks anew.
        first.abort();
        advance(LEASE).await;
        let third = begin(Arc::clone(&go));
        tokio::task::yield_now().await;
        go.notify_waiters();
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (Some(0), Some(1)));
        assert_eq!(leases.recall(&0), Some(1), "the later read is held");
    }

    #[tokio::test]
    async fn absence_failure_and_the_dead_are_not_held() {
        pause();
        let leases =
            Leases::<u32, usize>::new(Leased::Token, LEASE, |_| Some(Instant::now() + Duration::from_millis(10)));
        assert_eq!(leases.read(0, async { Ok(None) }).await.unwrap(), None);
        leases.read(0, async { Err(StoreError::Timeout) }).await.unwrap_err();
        assert_eq!(leases.recall(&0), None);
        assert_eq!(leases.read(0, async { Ok(Some(1)) }).await.unwrap(), Some(1));
        advance(Duration::from_millis(10)).await;
        assert_eq!(leases.recall(&0), None, "a lease outlives no life");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        pause();
        let (leases, reads) = (leases(), Arc::new(AtomicUsize::new(0)));
        let held = || leases.shards.iter().map(|shard| shard.lock().unwrap().leases.len()).sum::<usize>();
        let more = u32::try_from(CAPACITY).unwrap() + 10_000;
        for key in 0..more {
            count(&leases, key, &reads).await;
        }
        assert!(held() <= CAPACITY && held() > CAPACITY / 2, "{}", held());
        advance(LEASE).await;
        for key in more..more + 1000 {
            count(&leases, key, &reads).await;
        }
        assert!(held() < CAPACITY / 2, "{}", held());
    }

    #[tokio::test]
    async fn without_a_lease_the_store_is_asked_each_time() {
        let (leases, reads) = (Leases::new(Leased::Token, Duration::ZERO, |_| None), Arc::new(AtomicUsize::new(0)));
        assert_eq!(count(&leases, 0, &reads).await, Some(0));
        assert_eq!(count(&leases, 0, &reads).await, Some(1));
        assert_eq!(leases.recall(&0), None);
    }

    #[tokio::test]
    async fn only_what_is_used_is_renewed_and_only_if_it_is_the_same() {
        pause();
        let (leases, memory) = (leases(), Duration::from_secs(1));
        for key in 0..3 {
            leases.read(key, async { Ok(Some(7)) }).await.unwrap();
        }
        for key in 1..3 {
            assert_eq!(leases.recall(&key), Some(7));
        }
        assert_eq!(leases.due(LEASE / 2, memory).len(), 0, "none lapses soon");
        advance(LEASE / 2).await;
        let due = leases.due(LEASE / 2, memory);
        assert_eq!(due.iter().map(|due| due.key).collect::<std::collections::BTreeSet<_>>(), [1, 2].into());
        let sent = Instant::now();
        for due in &due {
            leases.renew(due, sent, if due.key == 1 { Renewal::Unchanged } else { Renewal::Gone });
        }
        assert_eq!(leases.recall(&2), None, "it is another, or gone");
        advance(LEASE.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!((leases.recall(&0), leases.recall(&1)), (None, Some(7)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(leases.recall(&1), None);
        assert_eq!(leases.due(LEASE, Duration::ZERO).len(), 0, "nobody used it lately");
    }

    #[tokio::test]
    async fn a_renewal_does_not_outlive_the_end_nor_what_took_its_place() {
        pause();
        let leases = Leases::<u32, Instant>::new(Leased::Token, LEASE, |ends_at| Some(*ends_at));
        let ends_at = Instant::now() + LEASE * 3 / 2;
        leases.read(0, async move { Ok(Some(ends_at)) }).await.unwrap();
        leases.recall(&0).unwrap();
        let due = leases.due(LEASE, LEASE).remove(0);
        advance(LEASE / 2).await;
        leases.renew(&due, Instant::now(), Renewal::Lives);
        leases.renew(&due, Instant::now() + LEASE * 10, Renewal::Lives);
        advance(LEASE.saturating_sub(Duration::from_millis(1))).await;
        assert!(leases.recall(&0).is_some());
        advance(Duration::from_millis(1)).await;
        assert_eq!(leases.recall(&0), None);
    }
}

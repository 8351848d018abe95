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
    telemetry::{events::LeaseKind, metrics},
};

/// At most so many reads are kept; further ones are asked for each time. A token takes some 450 bytes here, and the owner's name.
const CAPACITY: usize = 65_536;

/// Locks, each for its part of the keys.
const SHARDS: usize = 16;

/// For how long what was read may be used without another read, whatever a watch says: by then this process' clock, which NTP
/// steers by 0.05 % at the most, may be 15 ms behind the store's on the life of a token.
const LONGEST: Duration = Duration::from_secs(30);

/// How often what has lapsed is thrown out.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What nobody used for so long, give or take [`USE_RESOLUTION`], makes room for others where there is none.
const UNUSED: Duration = Duration::from_secs(1);

/// How exactly it is known when something was used. What is seldom written stays in the caches of all cores.
const USE_RESOLUTION: Duration = Duration::from_millis(250);

/// A read under way, which whoever awaits it drives: it ends although the one who began it went away.
type Read<V> = Shared<BoxFuture<'static, Result<Option<V>, StoreError>>>;

/// What was read, by key, each for as long as its lease. Absence is not kept: a token that was just created is there.
///
/// A change names its subject `S`, of which there may be several keys.
pub(super) struct Leases<K, S, V> {
    kind: LeaseKind,
    lease: Duration,
    /// When a value ends by itself, which no lease on it outlives.
    ends_at: fn(&V) -> Option<Instant>,
    hasher: RandomState,
    shards: [Mutex<Shard<K, S, V>>; SHARDS],
}

struct Shard<K, S, V> {
    leases: HashMap<K, Lease<S, V>, RandomState>,
    renewal: Option<Renewal>,
    swept_at: Instant,
}

/// Renews all leases on what was read while a watch was on.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    /// The number of the watch.
    watch: u64,
    until: Instant,
}

/// A read, and how long those who come may use it.
struct Lease<S, V> {
    subject: S,
    /// When the read was sent.
    sent: Instant,
    /// Until when it may be used in any case.
    until: Instant,
    /// Until when it may be used if it is renewed.
    ends_at: Instant,
    /// The watch that was on when it was sent.
    watch: Option<u64>,
    state: State<V>,
}

enum State<V> {
    Reading(Read<V>),
    Held { value: V, used_at: Instant },
}

impl<S, V> Lease<S, V> {
    fn holds(&self, now: Instant, renewal: Option<Renewal>) -> bool {
        let is_renewed = || {
            renewal.is_some_and(|renewal| self.watch == Some(renewal.watch) && now < renewal.until.min(self.ends_at))
        };
        now < self.until || (matches!(self.state, State::Held { .. }) && is_renewed())
    }

    fn is_unused(&self, now: Instant) -> bool {
        matches!(self.state, State::Held { used_at, .. } if used_at + UNUSED <= now)
    }
}

impl<K, S, V> Leases<K, S, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    S: Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(kind: LeaseKind, lease: Duration, ends_at: fn(&V) -> Option<Instant>) -> Arc<Self> {
        let shard = || Mutex::new(Shard { leases: HashMap::default(), renewal: None, swept_at: Instant::now() });
        Arc::new(Self {
            kind,
            lease,
            ends_at,
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| shard()),
        })
    }

    /// Whether nothing is leased.
    pub(super) fn is_off(&self) -> bool {
        self.lease.is_zero()
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, S, V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // Each change of the map is one call, so that a panic has spoilt nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held of this key now.
    pub(super) fn recall(&self, key: &K) -> Option<V> {
        if self.is_off() {
            return None;
        }
        let now = Instant::now();
        let value = self.shard(key).recall(key, now)?;
        metrics::lease_lookup(self.kind, true);
        Some(value)
    }

    /// What is held of this key, or what a read of it finds: the one under way, if its lease holds, else `read`.
    pub(super) async fn read(
        self: &Arc<Self>,
        key: K,
        subject: S,
        read: impl Future<Output = Result<Option<V>, StoreError>> + Send + 'static,
    ) -> Result<Option<V>, StoreError> {
        if self.is_off() {
            return read.await;
        }
        let reading = {
            let mut shard = self.shard(&key);
            let sent = Instant::now();
            if let Some(value) = shard.recall(&key, sent) {
                metrics::lease_lookup(self.kind, true);
                return Ok(Some(value));
            }
            let under_way = shard.leases.get(&key).filter(|lease| sent < lease.until).map(|lease| &lease.state);
            if let Some(State::Reading(reading)) = under_way {
                reading.clone()
            } else {
                let (leases, settled) = (Arc::clone(self), key.clone());
                let reading = async move {
                    let found = read.await;
                    leases.settle(&settled, sent, found.as_ref().ok().and_then(Option::as_ref));
                    found
                };
                let reading = reading.boxed().shared();
                let (until, watch) = (sent + self.lease, shard.renewal.map(|renewal| renewal.watch));
                let state = State::Reading(reading.clone());
                shard.admit(key, Lease { subject, sent, until, ends_at: sent + LONGEST, watch, state });
                reading
            }
        };
        metrics::lease_lookup(self.kind, false);
        reading.await
    }

    /// Holds what the read that was sent at this moment found, unless its lease was ended meanwhile.
    fn settle(&self, key: &K, sent: Instant, found: Option<&V>) {
        let mut shard = self.shard(key);
        if let hash_map::Entry::Occupied(mut entry) = shard.leases.entry(key.clone())
            && entry.get().sent == sent
        {
            match found {
                Some(value) => {
                    let lease = entry.get_mut();
                    if let Some(ends_at) = (self.ends_at)(value) {
                        lease.ends_at = lease.ends_at.min(ends_at);
                        lease.until = lease.until.min(ends_at);
                    }
                    lease.state = State::Held { value: value.clone(), used_at: sent };
                }
                None => drop(entry.remove()),
            }
        }
    }

    /// Ends the leases on what changed, and renews all others whose reads were sent while the watch of this number was on: nothing
    /// else has changed in the store up to this moment.
    pub(super) fn renew(&self, watch: u64, unchanged_at: Instant, changed: Option<&dyn Fn(&S) -> bool>) {
        let renewal = Some(Renewal { watch, until: unchanged_at + self.lease });
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(changed) = changed {
                // One that is being read ends, too: it may have been sent before the change.
                shard.leases.retain(|_, lease| !changed(&lease.subject));
            }
            shard.renewal = renewal;
            shard.sweep(Instant::now(), SWEEP_INTERVAL);
        }
    }

    /// Throws out what has lapsed, at times.
    pub(super) fn sweep(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).sweep(Instant::now(), SWEEP_INTERVAL);
        }
    }
}

impl<K: Hash + Eq, S, V: Clone> Shard<K, S, V> {
    fn recall(&mut self, key: &K, now: Instant) -> Option<V> {
        let lease = self.leases.get_mut(key).filter(|lease| lease.holds(now, self.renewal))?;
        let State::Held { value, used_at } = &mut lease.state else { return None };
        if now >= *used_at + USE_RESOLUTION {
            *used_at = now;
        }
        Some(value.clone())
    }

    /// Lets others use this read, if there is room.
    fn admit(&mut self, key: K, lease: Lease<S, V>) {
        if self.leases.len() >= CAPACITY / SHARDS {
            self.sweep(lease.sent, lease.until - lease.sent);
        }
        if self.leases.len() < CAPACITY / SHARDS {
            self.leases.insert(key, lease);
        }
    }

    /// Throws out what has lapsed, and what is unused where there is no room, unless that was done within `interval`.
    fn sweep(&mut self, now: Instant, interval: Duration) {
        if now < self.swept_at + interval {
            return;
        }
        self.swept_at = now;
        let (renewal, is_full) = (self.renewal, self.leases.len() >= CAPACITY / SHARDS);
        self.leases.retain(|_, lease| lease.holds(now, renewal) && !(is_full && lease.is_unused(now)));
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

    type Counted = Leases<u32, u32, usize>;

    fn leases() -> Arc<Counted> {
        Leases::new(LeaseKind::Token, LEASE, |_| None)
    }

    /// Reads how many reads there were.
    async fn count(leases: &Arc<Counted>, key: u32, reads: &Arc<AtomicUsize>) -> Option<usize> {
        let reads = Arc::clone(reads);
        leases.read(key, key, async move { Ok(Some(reads.fetch_add(1, Ordering::Relaxed))) }).await.unwrap()
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
                leases.read(0, 0, read).await
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
                leases.read(0, 0, read).await.unwrap()
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
        let leases = Leases::<u32, u32, usize>::new(LeaseKind::Token, LEASE, |_| {
            Some(Instant::now() + Duration::from_millis(10))
        });
        assert_eq!(leases.read(0, 0, async { Ok(None) }).await.unwrap(), None);
        leases.read(0, 0, async { Err(StoreError::Timeout) }).await.unwrap_err();
        assert_eq!(leases.recall(&0), None);
        assert_eq!(leases.read(0, 0, async { Ok(Some(1)) }).await.unwrap(), Some(1));
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
        let (leases, reads) = (Leases::new(LeaseKind::Token, Duration::ZERO, |_| None), Arc::new(AtomicUsize::new(0)));
        assert_eq!(count(&leases, 0, &reads).await, Some(0));
        assert_eq!(count(&leases, 0, &reads).await, Some(1));
        assert_eq!(leases.recall(&0), None);
    }

    /// Nothing changed.
    const NOTHING: Option<&dyn Fn(&u32) -> bool> = None;

    #[tokio::test]
    async fn a_watch_renews_what_was_read_while_it_was_on_until_it_changes() {
        pause();
        let (leases, reads) = (leases(), Arc::new(AtomicUsize::new(0)));
        count(&leases, 0, &reads).await;
        leases.renew(7, Instant::now(), NOTHING);
        for key in 1..4 {
            count(&leases, key, &reads).await;
        }
        for _ in 0..5 {
            advance(LEASE / 2).await;
            leases.renew(7, Instant::now(), Some(&|subject: &u32| *subject == 2));
        }
        assert_eq!(leases.recall(&0), None, "it was read before");
        assert_eq!(leases.recall(&2), None, "it changed");
        assert_eq!((leases.recall(&1), leases.recall(&3)), (Some(1), Some(3)));
        // The watch ended, and another began.
        leases.renew(8, Instant::now(), NOTHING);
        assert_eq!(leases.recall(&1), None, "nobody knows what changed in between");
        count(&leases, 1, &reads).await;
        advance(LEASE.saturating_sub(Duration::from_millis(1))).await;
        leases.renew(8, Instant::now() - LEASE / 2, NOTHING);
        assert_eq!(leases.recall(&1), Some(4));
        advance(LEASE / 2).await;
        assert_eq!(leases.recall(&1), None, "the question was asked half a lease before its answer");
    }

    #[tokio::test]
    async fn what_changes_while_it_is_read_is_not_held() {
        pause();
        let leases = leases();
        leases.renew(7, Instant::now(), NOTHING);
        let read = async {
            sleep(LEASE / 2).await;
            Ok(Some(1))
        };
        let reading = leases.read(0, 0, read);
        let changing = async {
            sleep(LEASE / 4).await;
            leases.renew(7, Instant::now(), Some(&|_: &u32| true));
        };
        assert_eq!(tokio::join!(reading, changing).0.unwrap(), Some(1));
        assert_eq!(leases.recall(&0), None);
    }

    #[tokio::test]
    async fn what_is_renewed_is_read_again_at_times_and_outlives_no_life() {
        pause();
        let leases = Leases::<u32, u32, Option<Instant>>::new(LeaseKind::Token, LEASE, |ends_at| *ends_at);
        leases.renew(7, Instant::now(), NOTHING);
        let ends_at = Instant::now() + LEASE * 3 / 2;
        leases.read(0, 0, async move { Ok(Some(Some(ends_at))) }).await.unwrap();
        leases.read(1, 1, async { Ok(Some(None)) }).await.unwrap();
        let begun = Instant::now();
        let step = Duration::from_millis(5);
        let (mut mortal, mut other) = (Duration::ZERO, Duration::ZERO);
        while begun.elapsed() < LONGEST * 2 {
            leases.renew(7, Instant::now(), NOTHING);
            if leases.recall(&0).is_some() {
                mortal = begun.elapsed() + step;
            }
            if leases.recall(&1).is_some() {
                other = begun.elapsed() + step;
            }
            advance(step).await;
        }
        assert_eq!((mortal, other), (LEASE * 3 / 2, LONGEST));
    }

    #[tokio::test]
    async fn what_nobody_uses_makes_room() {
        pause();
        let (leases, reads) = (leases(), Arc::new(AtomicUsize::new(0)));
        leases.renew(7, Instant::now(), NOTHING);
        let full = u32::try_from(CAPACITY * 2).unwrap();
        for key in 0..full {
            count(&leases, key, &reads).await;
        }
        advance(UNUSED).await;
        leases.renew(7, Instant::now(), NOTHING);
        assert_eq!(leases.shards.iter().map(|shard| shard.lock().unwrap().leases.len()).sum::<usize>(), 0);
        count(&leases, full, &reads).await;
        assert!(leases.recall(&full).is_some());
    }
}

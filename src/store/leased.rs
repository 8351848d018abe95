//! Leased reads: strict revocation at memory speed.
//!
//! What was read from the store may be used again for at most one [`LEASE`], counted on this process' monotonic clock from
//! the moment at which the read was *sent*. Whoever ends a token or changes a user writes to the store first and then waits
//! out one lease before answering. So each copy read before the write has lapsed, on every replica, by the time the answer
//! leaves: caching costs the rare deletion a quarter of a second and costs revocation nothing. There is no channel of
//! invalidations that could lose one.
//!
//! Two things follow. A replica with leases switched off waits all the same, since another may have them on. And what is
//! changed in Redis behind the service's back takes up to one lease to be seen.

use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::{Instant, sleep};

use super::{
    Creation, Listing, LiveToken, Page, PasswordHash, Rotation, Store, StoreError, Token, TokenDigest, TokenId, User,
    UserName,
};

/// For how long a read may be used again. All replicas wait it out after a write, so that it is no setting.
pub const LEASE: Duration = Duration::from_millis(250);

/// What a write waits: the lease, and a margin for clocks that run apart, which is wide. NTP steers a clock by 0.05 % at
/// the most, an eighth of a millisecond in a lease.
const WAIT: Duration = LEASE.saturating_add(Duration::from_millis(1));

/// At most so many reads are kept, tokens and users each; further ones are asked for each time. A token takes some 400
/// bytes here.
const CAPACITY: usize = 65_536;

/// Locks, each for its part of the keys.
const SHARDS: usize = 16;

/// A store whose reads are leased.
///
/// The operations of [`Store`] that this trait has in common with all others always ask the store behind it, but for
/// [`Store::find_user`]. What is made fast is the question of the hot path: whose is this JWT?
pub struct LeasedStore {
    store: Arc<dyn Store>,
    tokens: Arc<Leases<TokenDigest, Arc<Presented>>>,
    users: Arc<Leases<UserName, User>>,
}

/// A token that lived when it was asked for by a JWT of its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Whose it is.
    pub owner: UserName,
    /// What the store said.
    pub live: LiveToken,
    /// When the store was asked.
    pub asked_at: Instant,
}

impl Presented {
    /// What is left of its life now.
    pub fn remaining(&self) -> Duration {
        self.live.remaining.saturating_sub(self.asked_at.elapsed())
    }
}

impl LeasedStore {
    /// Leases reads of `store` for `lease`; zero asks it each time.
    ///
    /// # Panics
    /// Where the lease is longer than [`LEASE`], which other replicas do not wait for.
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let tokens = Leases::new(lease, |presented: &Arc<Presented>| presented.live.remaining);
        Self { store, tokens, users: Leases::new(lease, |_| Duration::MAX) }
    }

    /// The token whose JWT has this digest, if a lease on it holds.
    pub fn recall_token(&self, digest: TokenDigest) -> Option<Arc<Presented>> {
        self.tokens.recall(&digest)
    }

    /// The live token of this owner whose JWT has this digest, under a lease.
    pub async fn find_presented(
        &self,
        owner: UserName,
        id: TokenId,
        digest: TokenDigest,
    ) -> Result<Option<Arc<Presented>>, StoreError> {
        let store = Arc::clone(&self.store);
        let read = async move {
            let asked_at = Instant::now();
            let live = store.find_token(&owner, id).await?.filter(|live| live.token.digest == digest);
            Ok(live.map(|live| Arc::new(Presented { owner, live, asked_at })))
        };
        self.tokens.read(digest, read).await
    }

    /// Lets all leases on tokens lapse now, as when a key is no longer trusted.
    pub fn forget_tokens(&self) {
        self.tokens.forget();
    }
}

/// Every copy read before this was called has lapsed when it returns.
async fn wait_out_leases() {
    sleep(WAIT).await;
}

#[async_trait]
impl Store for LeasedStore {
    async fn create_token(&self, owner: &UserName, token: &Token, quota: usize) -> Result<Creation, StoreError> {
        self.store.create_token(owner, token, quota).await
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> Result<Option<LiveToken>, StoreError> {
        self.store.find_token(owner, id).await
    }

    async fn list_tokens(&self, owner: &UserName, page: Page) -> Result<Option<Listing>, StoreError> {
        self.store.list_tokens(owner, page).await
    }

    // A deletion that finds nothing waits, too: the one that did the work may have been told that it failed.

    async fn revoke_token(&self, owner: &UserName, id: TokenId) -> Result<bool, StoreError> {
        let revoked = self.store.revoke_token(owner, id).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn revoke_presented(&self, owner: &UserName, id: TokenId, digest: TokenDigest) -> Result<bool, StoreError> {
        let revoked = self.store.revoke_presented(owner, id, digest).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn revoke_tokens(&self, owner: &UserName) -> Result<u64, StoreError> {
        let revoked = self.store.revoke_tokens(owner).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn rotate_token(
        &self,
        owner: &UserName,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> Result<Rotation, StoreError> {
        let rotation = self.store.rotate_token(owner, token, successor, overlap, quota).await?;
        if rotation == Rotation::Rotated {
            wait_out_leases().await;
        }
        Ok(rotation)
    }

    async fn create_user(&self, user: &User) -> Result<bool, StoreError> {
        self.store.create_user(user).await
    }

    async fn find_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        let read = async move { store.find_user(&owned).await };
        self.users.read(name.clone(), read).await
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        self.store.has_users().await
    }

    async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        self.store.list_users().await
    }

    async fn set_password(&self, name: &UserName, hash: &PasswordHash) -> Result<bool, StoreError> {
        let changed = self.store.set_password(name, hash).await?;
        wait_out_leases().await;
        Ok(changed)
    }

    async fn remove_user(&self, name: &UserName) -> Result<bool, StoreError> {
        let removed = self.store.remove_user(name).await?;
        wait_out_leases().await;
        Ok(removed)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }
}

/// A read under way, which whoever awaits it drives: it ends although the one who began it went away.
type Read<V> = Shared<BoxFuture<'static, Result<Option<V>, StoreError>>>;

/// What was read, by key, each for as long as its lease. Absence is not kept: a token that was just created is there.
struct Leases<K, V> {
    lease: Duration,
    /// How long a value lives in all from the read on.
    life: fn(&V) -> Duration,
    hasher: RandomState,
    shards: [Mutex<Shard<K, V>>; SHARDS],
}

struct Shard<K, V> {
    leases: HashMap<K, Lease<V>>,
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
    Held(V),
}

impl<K, V> Leases<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn new(lease: Duration, life: fn(&V) -> Duration) -> Arc<Self> {
        let shard = || Mutex::new(Shard { leases: HashMap::new(), swept_at: Instant::now() });
        Arc::new(Self { lease, life, hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) })
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // Each change of the map is one call, so that a panic has spoilt nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held of this key now.
    fn recall(&self, key: &K) -> Option<V> {
        if self.lease.is_zero() {
            return None;
        }
        match self.shard(key).leases.get(key)? {
            Lease { until, state: State::Held(value) } if Instant::now() < *until => Some(value.clone()),
            _ => None,
        }
    }

    /// What is held of this key, or what a read of it finds: the one under way, if its lease holds, else `read`.
    async fn read(
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
                Some(State::Held(value)) => return Ok(Some(value.clone())),
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
                    let until = sent + self.lease.min((self.life)(value));
                    entry.insert(Lease { until, state: State::Held(value.clone()) });
                }
                None => drop(entry.remove()),
            }
        }
    }

    fn forget(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).leases.clear();
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
        time::{advance, pause},
    };

    use super::*;

    type Counted = Leases<u32, usize>;

    fn leases() -> Arc<Counted> {
        Leases::new(LEASE, |_| Duration::MAX)
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
        let leases = Leases::<u32, usize>::new(LEASE, |_| Duration::from_millis(10));
        assert_eq!(leases.read(0, async { Ok(None) }).await.unwrap(), None);
        leases.read(0, async { Err(StoreError::Timeout) }).await.unwrap_err();
        assert_eq!(leases.recall(&0), None);
        assert_eq!(leases.read(0, async { Ok(Some(1)) }).await.unwrap(), Some(1));
        advance(Duration::from_millis(10)).await;
        assert_eq!(leases.recall(&0), None, "a lease outlives no life");
    }

    #[tokio::test]
    async fn what_is_forgotten_stays_so_though_a_read_is_under_way() {
        let leases = leases();
        let read = {
            let forget = Arc::clone(&leases);
            async move {
                forget.forget();
                Ok(Some(1))
            }
        };
        assert_eq!(leases.read(0, read).await.unwrap(), Some(1));
        assert_eq!(leases.recall(&0), None);
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
        let (leases, reads) = (Leases::new(Duration::ZERO, |_| Duration::MAX), Arc::new(AtomicUsize::new(0)));
        assert_eq!(count(&leases, 0, &reads).await, Some(0));
        assert_eq!(count(&leases, 0, &reads).await, Some(1));
        assert_eq!(leases.recall(&0), None);
    }
}

//! Leased reads: strict revocation at the speed of memory.
//!
//! **The bound.** A value from the store may be used for one lease, at most [`LEASE`], after its read or the last
//! renewal of its lease was *sent*, on this process' monotonic clock. A write that takes something away waits longer
//! than that before it returns. So when the write is answered, the leases of all earlier reads of what it changed have
//! expired, on all replicas. No notification has to arrive for that.
//!
//! **The renewal.** A store with a [`Watch`] is asked about 20 times a second for all changes since the last answer.
//! The answer counts as a new read of every unchanged value, sent when the question was: it renews their leases, for up
//! to ten minutes after the read. If a report of changes is lost, so is the answer that would renew leases: all leases
//! expire.
//!
//! A replica without leases (`MAYFLY_LEASE=0`) waits after writes, too, as others may have leases. A change in Redis by
//! other means than this service takes up to one lease to be seen.

use std::{mem, ops::Deref, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

pub use self::{cache::Cached, changes::ChangesSince};
use self::{
    cache::{Cacheable, LeasedCache},
    changes::ChangeLog,
    leases::{Leases, Moment},
    owners::Owners,
};
use super::{RevokingWrites, Store, StoreError, StoreResult, User, UserName, Watch};
use crate::{
    domain::{
        attributes::SharedAttributes,
        token::{LiveToken, SharedToken, TokenDigest, TokenId},
    },
    telemetry::events::LeaseKind,
};

mod cache;
mod changes;
mod leases;
mod owners;

/// The longest lease: how long a value may be used after its read or the last renewal was sent. `MAYFLY_LEASE` may be
/// shorter, and never longer, since all writes wait for this time.
pub const LEASE: Duration = Duration::from_millis(250);

/// How long a write waits: the longest lease, and a fifth for clocks that run apart, as chrony slews each by up to
/// 83,333 ppm (`maxslewrate`). Not covered: a machine that is paused during a lease, if its clock stands still.
const WRITE_WAIT: Duration = LEASE.saturating_add(Duration::from_millis(50));

/// The pause between an answer of a watch and the next question.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(50);

/// The pause before a watch is begun again: it failed, could not begin, or the store has none.
const WATCH_RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The least memory of the cache of tokens, in bytes: 6,898 tokens.
pub const MIN_CACHE_MEMORY: usize = 1 << 20;

/// The memory that a cached token without attributes takes, in bytes. By measurement: 88 for its place, 7 for the table
/// of places, 48 for its content, and up to 5 for the versions. A name that no other cached token shares takes up to
/// 150 more.
const TOKEN_BYTES: usize = 152;

/// The most users in the cache.
const MAX_USERS: usize = 65_536;

/// A store behind a cache of tokens, by the digest of their JWT, and of users, by name.
///
/// [`LeasedStore::write`] is the only way to writes that take something away.
pub struct LeasedStore {
    store: Arc<dyn RevokingWrites>,
    leases: Arc<Leases>,
    tokens: LeasedCache<CachedToken>,
    users: LeasedCache<User>,
    owners: Owners,
    changes: ChangeLog,
}

/// An [`ActiveToken`] in fewer bytes.
#[derive(Clone)]
struct CachedToken {
    signed: SharedToken,
    attributes: SharedAttributes,
    expires_at: Moment,
}

impl Cacheable for CachedToken {
    type Key = TokenDigest;
    type Subject = TokenId;
    const KIND: LeaseKind = LeaseKind::Token;

    fn subject<'a>(&'a self, _: &'a TokenDigest) -> &'a TokenId {
        &self.signed.id
    }

    fn expires_at(&self) -> Option<Moment> {
        Some(self.expires_at)
    }

    fn bytes(&self) -> usize {
        TOKEN_BYTES + self.attributes.heap_bytes()
    }
}

impl Cacheable for User {
    type Key = UserName;
    type Subject = UserName;
    const KIND: LeaseKind = LeaseKind::User;

    fn subject<'a>(&'a self, name: &'a UserName) -> &'a UserName {
        name
    }

    fn expires_at(&self) -> Option<Moment> {
        None
    }

    /// Users are limited by their number.
    fn bytes(&self) -> usize {
        1
    }
}

/// A token that was live when the store was asked.
#[derive(Debug, Clone)]
pub struct ActiveToken {
    /// The content of its JWT.
    pub signed: SharedToken,
    /// What it may be used for, for which services, and from where: of its record, which is bound to the JWT.
    pub attributes: SharedAttributes,
    /// When it expires, by this process' clock: the end of the life that it had left by the store's clock, counted from
    /// when the read was sent. So never later than in the store, if both clocks run alike.
    expires_at: Instant,
    /// As of when it is known to be live.
    confirmed_at: Instant,
}

impl ActiveToken {
    /// The rest of its life, by this process' clock.
    pub fn remaining(&self) -> Duration {
        self.expires_at.saturating_duration_since(Instant::now())
    }

    /// The time since it was known to be live.
    pub fn age(&self) -> Duration {
        self.confirmed_at.elapsed()
    }
}

impl LeasedStore {
    /// Caches reads of `store` for `lease`. With a lease of zero, every read asks the store.
    ///
    /// # Panics
    /// If `lease` is longer than [`LEASE`]: writes of other replicas would not wait for it.
    pub fn new(store: Arc<dyn RevokingWrites>, lease: Duration) -> Self {
        Self::with_cache_memory(store, lease, MIN_CACHE_MEMORY)
    }

    /// The same with this many bytes for cached tokens, at least [`MIN_CACHE_MEMORY`].
    ///
    /// # Panics
    /// As [`LeasedStore::new`].
    pub fn with_cache_memory(store: Arc<dyn RevokingWrites>, lease: Duration, bytes: usize) -> Self {
        assert!(lease <= LEASE, "writes wait for no lease longer than {LEASE:?}");
        let max_tokens = bytes / TOKEN_BYTES;
        // So a change ends the lease of less than one other token: of 0.8 where the cache is full by default.
        let leases = Arc::new(Leases::new(lease, max_tokens));
        let tokens = LeasedCache::new(&leases, bytes, max_tokens);
        let users = LeasedCache::new(&leases, MAX_USERS, MAX_USERS);
        Self { store, leases, tokens, users, owners: Owners::new(max_tokens), changes: ChangeLog::new() }
    }

    /// The cached token of this JWT. After the lease, the token must be read again, but its signature need not be
    /// checked again.
    pub fn cached_token(&self, digest: &TokenDigest) -> Option<Cached<ActiveToken>> {
        Some(self.active(self.tokens.get(digest)?))
    }

    /// This name as other cached tokens of the user share it.
    pub fn shared_owner(&self, name: UserName) -> Arc<UserName> {
        self.owners.share(name)
    }

    /// Reads the live token of this JWT from the store, and caches it.
    pub async fn find_active_token(
        &self,
        digest: TokenDigest,
        signed: SharedToken,
    ) -> StoreResult<Option<ActiveToken>> {
        let (store, leases, id) = (Arc::clone(&self.store), Arc::clone(&self.leases), signed.id);
        let read = async move {
            let sent = Instant::now();
            let live = store.find_token(&signed.owner, id).await?.filter(|live| live.token.digest == digest);
            let cached = |LiveToken { token, remaining }| CachedToken {
                signed,
                attributes: token.attributes,
                expires_at: leases.moment(sent + remaining),
            };
            Ok(live.map(cached))
        };
        Ok(self.tokens.read(digest, &id, read).await?.map(|token| self.active(token).value))
    }

    fn active(&self, Cached { value, confirmed_at }: Cached<CachedToken>) -> Cached<ActiveToken> {
        let CachedToken { signed, attributes, expires_at } = value;
        let expires_at = self.leases.instant(expires_at);
        // A token without a lease is not answered with.
        let known_at = confirmed_at.unwrap_or_else(|| self.leases.instant(Moment::START));
        Cached { value: ActiveToken { signed, attributes, expires_at, confirmed_at: known_at }, confirmed_at }
    }

    /// A user, disabled or not, from the cache if the lease holds, or else from the store.
    pub async fn cached_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        if let Some(Cached { value, confirmed_at: Some(_) }) = self.users.get(name) {
            return Ok(Some(value));
        }
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        self.users
            .read(name.clone(), name, async move { store.find_user(&owned).await })
            .await
            .map(|read| read.map(|read| read.value))
    }

    /// Runs a write, and returns its result once the leases of all copies that were read before it have expired, on all
    /// replicas. An error is returned at once.
    ///
    /// A write that finds nothing to do waits, too: an earlier one may have done it and been answered with an error.
    pub async fn write<'a, T>(
        &'a self,
        write: impl FnOnce(&'a dyn RevokingWrites) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = write(&*self.store).await?;
        sleep(WRITE_WAIT).await;
        Ok(result)
    }

    /// The tokens that have changed since this cursor ([`ChangeLog::since`]).
    pub fn changes_since(&self, cursor: Option<&str>, keys: u32) -> Option<ChangesSince> {
        self.changes.since(cursor, keys)
    }

    /// Renews the leases on unchanged values, for ever. If the store has no watch, a value is read again after its
    /// lease.
    pub async fn keep_leases(&self) {
        if self.leases.duration.is_zero() {
            return;
        }
        // So that an outage is logged once, and its end once.
        let mut is_logged_as_renewed = true;
        loop {
            let ended = match self.store.watch().await {
                Ok(Some(watch)) => Some(self.renew_leases(watch, &mut is_logged_as_renewed).await),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = ended
                && mem::take(&mut is_logged_as_renewed)
            {
                tracing::warn!(%error, "leases are not renewed: reads are repeated after {:?}", self.leases.duration);
            }
            sleep(WATCH_RETRY_PAUSE).await;
        }
    }

    /// Renews leases until the watch fails, and returns the watch's error.
    async fn renew_leases(&self, mut watch: Box<dyn Watch>, is_logged_as_renewed: &mut bool) -> StoreError {
        self.leases.end_all();
        let mut recorder = self.changes.begin();
        loop {
            let asked_at = Instant::now();
            let changes = match watch.changes().await {
                Ok(changes) => changes,
                Err(error) => return error,
            };
            recorder.record(asked_at, &changes);
            self.leases.renew(asked_at, &changes);
            if !mem::replace(is_logged_as_renewed, true) {
                tracing::info!("leases are renewed again");
            }
            sleep(RENEWAL_INTERVAL).await;
        }
    }
}

/// All other operations go to the store directly: reads that are not cached, and writes that take nothing away.
impl Deref for LeasedStore {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::pause;

    use super::*;
    use crate::{
        domain::{
            password::{HashCost, PasswordHash},
            token::{SignedToken, TokenId},
            user::{Role, UserUpdate},
        },
        store::{Authority, UserChange, memory::MemoryStore},
    };

    /// [`TOKEN_BYTES`] counts on it.
    #[test]
    fn a_cached_token_is_small() {
        let count = size_of::<usize>();
        assert!(size_of::<SignedToken>() + count <= 48, "{}", size_of::<SignedToken>());
        assert!(size_of::<(CachedToken, leases::Lease)>() <= 32, "{}", size_of::<(CachedToken, leases::Lease)>());
    }

    #[tokio::test]
    async fn a_write_returns_once_every_earlier_read_has_lapsed_even_if_it_changes_nothing() {
        pause();
        let store = LeasedStore::new(Arc::new(MemoryStore::default()), LEASE);
        let by = Authority::Until(Instant::now() + Duration::from_hours(1));
        let alice = User::new("alice".parse().unwrap(), Role::User, PasswordHash::dummy(HashCost::default()), 0);
        assert!(store.create_user(&by, &alice).await.unwrap());
        assert!(!store.cached_user(&alice.name).await.unwrap().unwrap().disabled);

        let begun = Instant::now();
        let update = UserUpdate { role: None, disabled: Some(true) };
        let changed = store.write(|store| store.update_user(&by, &alice.name, update)).await.unwrap();
        assert!(matches!(changed, UserChange::Done(_)) && begun.elapsed() > LEASE);
        assert!(store.cached_user(&alice.name).await.unwrap().unwrap().disabled);

        let begun = Instant::now();
        assert!(!store.write(|store| store.revoke_token(&by, &alice.name, TokenId::random())).await.unwrap());
        assert!(begun.elapsed() > LEASE);
    }
}

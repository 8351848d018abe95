//! Leased reads: strict revocation at the speed of memory.
//!
//! **The bound.** A value that was read from the store may be used for one [`LEASE`] after the read was *sent*, on this
//! process' monotonic clock. A write that takes something away waits longer than a lease before it returns. So every
//! copy that was read before the write has lapsed, on all replicas, when the write is answered. No notification has to
//! arrive for that.
//!
//! **The renewal.** A store with a [`Watch`] is asked 20 times a second for all changes since the last answer. The
//! answer is as good as a new read of every unchanged value, sent when the question was: it renews their leases. A
//! change that is lost is lost with its answer, so that nothing is renewed and all leases lapse.
//!
//! A replica without leases (`MAYFLY_LEASE=0`) waits after writes, too, as others may have leases. A change in Redis by
//! other means than this service takes up to one lease to be seen.

use std::{mem, ops::Deref, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

pub use self::cache::Cached;
use self::{cache::LeasedCache, leases::Leases};
use super::{Store, StoreError, StoreResult, StrictWrites, User, UserName, Watch};
use crate::{
    domain::token::{SignedToken, TokenDigest},
    telemetry::events::LeaseKind,
};

mod cache;
mod leases;

/// How long a read may be used. It is not configurable: the writes of all replicas wait for it.
pub const LEASE: Duration = Duration::from_millis(250);

/// How long a write waits: a lease, and a fifth for clocks that run apart, as chrony slews one by up to 83,333 ppm
/// (`maxslewrate`). Not covered: the rest of a lease in which a hypervisor pauses the machine, which no clock shows.
const WRITE_WAIT: Duration = LEASE.saturating_add(Duration::from_millis(50));

/// Pause between two questions to a watch.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(50);

/// Pause after a watch failed, or could not begin.
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// A store behind a cache of tokens, by the digest of their JWT, and of users, by name.
///
/// [`LeasedStore::write`] is the only way to writes that take something away.
pub struct LeasedStore {
    store: Arc<dyn StrictWrites>,
    leases: Arc<Leases>,
    tokens: LeasedCache<TokenDigest, ActiveToken>,
    users: LeasedCache<UserName, User>,
}

/// A token that was live when the store was asked.
#[derive(Debug, Clone)]
pub struct ActiveToken {
    /// The content of its JWT.
    pub signed: Arc<SignedToken>,
    /// When it expires, by the store's clock.
    expires_at: Instant,
}

impl ActiveToken {
    /// The rest of its life, by the store's clock.
    pub fn remaining(&self) -> Duration {
        self.expires_at.saturating_duration_since(Instant::now())
    }
}

impl LeasedStore {
    /// Caches reads of `store` for `lease`. With a lease of zero, every read asks the store.
    ///
    /// # Panics
    /// If `lease` is longer than [`LEASE`], for which the writes of other replicas wait.
    pub fn new(store: Arc<dyn StrictWrites>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let leases = Arc::new(Leases::new(lease));
        let tokens = LeasedCache::new(LeaseKind::Token, &leases, |token: &ActiveToken| Some(token.expires_at));
        let users = LeasedCache::new(LeaseKind::User, &leases, |_| None);
        Self { store, leases, tokens, users }
    }

    /// The cached token of this JWT. If its lease has lapsed, its signature is still verified.
    pub fn cached_token(&self, digest: &TokenDigest) -> Option<Cached<ActiveToken>> {
        self.tokens.get(digest)
    }

    /// Reads the live token of this JWT from the store, and caches it.
    pub async fn find_active_token(
        &self,
        digest: TokenDigest,
        signed: Arc<SignedToken>,
    ) -> StoreResult<Option<ActiveToken>> {
        let (store, id) = (Arc::clone(&self.store), signed.id);
        let read = async move {
            let sent = Instant::now();
            let live = store.find_token(&signed.owner, id).await?.filter(|live| live.token.digest == digest);
            Ok(live.map(|live| ActiveToken { signed, expires_at: sent + live.remaining }))
        };
        self.tokens.read(digest, &id, read).await
    }

    /// A user, disabled or not, from the cache or else from the store.
    pub async fn cached_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        if let Some(Cached { value, is_leased: true }) = self.users.get(name) {
            return Ok(Some(value));
        }
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        self.users.read(name.clone(), name, async move { store.find_user(&owned).await }).await
    }

    /// Runs a write, and returns its result once all copies that were read before it have lapsed, on all replicas.
    ///
    /// A write that finds nothing to do waits, too: an earlier one may have done it and been answered with an error.
    pub async fn write<'a, T>(
        &'a self,
        write: impl FnOnce(&'a dyn StrictWrites) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = write(&*self.store).await?;
        sleep(WRITE_WAIT).await;
        Ok(result)
    }

    /// Renews the leases on unchanged values, for ever. Without a watch, a value is read again after its lease.
    pub async fn keep_leases(&self) {
        if self.leases.duration.is_zero() {
            return;
        }
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
                tracing::warn!(%error, "leases are not renewed: what is verified is asked for again after {LEASE:?}");
            }
            sleep(WATCH_PAUSE).await;
        }
    }

    /// Renews leases until the watch fails, and returns its error.
    async fn renew_leases(&self, mut watch: Box<dyn Watch>, is_logged_as_renewed: &mut bool) -> StoreError {
        self.leases.end_all();
        loop {
            let asked_at = Instant::now();
            let changes = match watch.changes().await {
                Ok(changes) => changes,
                Err(error) => return error,
            };
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
            token::TokenId,
            user::{LoginEpoch, Role, UserUpdate},
        },
        store::{Authority, UserChange, memory::MemoryStore},
    };

    #[tokio::test]
    async fn a_write_returns_once_every_earlier_read_has_lapsed_even_if_it_changes_nothing() {
        pause();
        let store = LeasedStore::new(Arc::new(MemoryStore::default()), LEASE);
        let by = Authority::Until(Instant::now() + Duration::from_hours(1));
        let alice = User {
            name: "alice".parse().unwrap(),
            role: Role::User,
            password_hash: PasswordHash::dummy(HashCost::default()),
            disabled: false,
            login_epoch: LoginEpoch::begin(),
            created_at: 0,
        };
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

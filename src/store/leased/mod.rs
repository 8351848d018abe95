//! Leased reads: strict revocation at memory speed.
//!
//! What was read from the store may be used again for at most one [`LEASE`], counted on this process' monotonic clock from
//! the moment at which the read was *sent*. Whoever ends a token or changes a user writes to the store first and then waits
//! out one lease, and a margin for clocks, before answering. So each copy read before the write has lapsed, on every replica,
//! by the time the answer leaves: caching costs the rare deletion 300 ms and costs revocation nothing.
//!
//! A store that tells what changed ([`super::Watch`]) is asked for that several times a lease. Its answer is as good as to read
//! again each value that it does not name: their leases begin anew at the moment at which the question was sent. So a token
//! in use costs the store nothing, however many there are, and no more is believed than what an answer proves: where a change
//! is lost, so is the answer, and all leases lapse.
//!
//! Two things follow. A replica with leases switched off waits all the same, since another may have them on. And what is
//! done in Redis behind the service's back takes up to one lease to be seen.

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

/// For how long a read may be used again. All replicas wait it out after a write, so that it is no setting.
pub const LEASE: Duration = Duration::from_millis(250);

/// What a write waits: the lease, and a fifth for clocks that run apart. chrony slews a clock by up to 83,333 ppm
/// (`maxslewrate`), one up and the other down. A machine that is suspended, or paused by its hypervisor, in the middle of a
/// lease has no clock that shows it: for what is left of that lease, it goes by what it knew.
const WAIT: Duration = LEASE.saturating_add(Duration::from_millis(50));

/// How often the store is asked what changed, which renews all leases on what did not.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(50);

/// How long nothing is renewed after a watch that ended, or could not begin.
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// A store with a cache in front: of tokens by the digest of their JWT, and of users by name.
///
/// [`LeasedStore::write`] is the only way to the writes that leases depend on.
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
    /// The rest of its life.
    pub fn remaining(&self) -> Duration {
        self.expires_at.saturating_duration_since(Instant::now())
    }
}

impl LeasedStore {
    /// Leases reads of `store` for `lease`; zero asks the store each time.
    ///
    /// # Panics
    /// If the lease is longer than [`LEASE`], which is as long as the writes of other replicas wait.
    pub fn new(store: Arc<dyn StrictWrites>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let leases = Arc::new(Leases::new(lease));
        let tokens = LeasedCache::new(LeaseKind::Token, &leases, |token: &ActiveToken| Some(token.expires_at));
        let users = LeasedCache::new(LeaseKind::User, &leases, |_| None);
        Self { store, leases, tokens, users }
    }

    /// The token of this JWT from the cache. Without a lease, its signature is still verified.
    pub fn cached_token(&self, digest: &TokenDigest) -> Option<Cached<ActiveToken>> {
        self.tokens.get(digest)
    }

    /// The live token of this JWT from the store. It is cached.
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

    /// A user, disabled or not, from the cache or the store.
    pub async fn cached_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        if let Some(Cached { value, is_leased: true }) = self.users.get(name) {
            return Ok(Some(value));
        }
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        self.users.read(name.clone(), name, async move { store.find_user(&owned).await }).await
    }

    /// Runs a write, and returns its result once every copy that was read before the write has lapsed, on all replicas.
    ///
    /// A write that finds nothing to do waits, too: the one that did it may have been answered with an error.
    pub async fn write<'a, T>(
        &'a self,
        write: impl FnOnce(&'a dyn StrictWrites) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = write(&*self.store).await?;
        sleep(WAIT).await;
        Ok(result)
    }

    /// Renews all leases on unchanged values, for ever. Without a watch, each value is read again once its lease has lapsed.
    pub async fn keep_leases(&self) {
        if self.leases.are_off() {
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

    /// Renews leases until the watch fails.
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

/// Everything else goes to the store itself: reads without a lease, and writes that take nothing away.
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

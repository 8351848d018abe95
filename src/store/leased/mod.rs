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

use self::leases::Leases;
use super::{Changes, LiveToken, Store, StoreError, StrictWrites, TokenId, User, UserName, Watch};
use crate::{
    domain::token::{PresentedJwt, SignedToken},
    telemetry::events::LeaseKind,
};

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

/// A store whose reads are leased.
///
/// Two questions are answered under a lease: whose is this JWT ([`LeasedStore::find_presented`]), and what of this user
/// ([`LeasedStore::cached_user`])? All other operations ask the store behind it each time.
pub struct LeasedStore {
    store: Arc<dyn StrictWrites>,
    tokens: Arc<Leases<PresentedJwt, TokenId, Presented>>,
    users: Arc<Leases<UserName, UserName, User>>,
}

/// A token that was presented and lived when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// What its JWT says.
    pub signed: SignedToken,
    /// What was left of its life, by the store's clock.
    remaining: Duration,
    /// When the store was asked.
    asked_at: Instant,
}

impl Presented {
    /// What is left of its life now.
    pub fn remaining(&self) -> Duration {
        self.remaining.saturating_sub(self.asked_at.elapsed())
    }

    fn ends_at(&self) -> Option<Instant> {
        self.asked_at.checked_add(self.remaining)
    }
}

impl LeasedStore {
    /// Leases reads of `store` for `lease`; zero asks it each time.
    ///
    /// # Panics
    /// Where the lease is longer than [`LEASE`], which other replicas do not wait for.
    pub fn new(store: Arc<dyn StrictWrites>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let tokens = Leases::new(LeaseKind::Token, lease, Presented::ends_at);
        Self { store, tokens, users: Leases::new(LeaseKind::User, lease, |_| None) }
    }

    /// The token of this JWT, if a lease on it holds.
    pub fn recall_token(&self, jwt: &PresentedJwt) -> Option<Presented> {
        self.tokens.recall(jwt)
    }

    /// The live token that this JWT was issued for, which says this, under a lease.
    pub async fn find_presented(
        &self,
        jwt: PresentedJwt,
        signed: SignedToken,
    ) -> Result<Option<Presented>, StoreError> {
        let (store, id) = (Arc::clone(&self.store), signed.id);
        let read = async move {
            let asked_at = Instant::now();
            let live = store.find_token(&signed.owner, signed.id).await?;
            let live = live.filter(|live| live.token.digest == jwt.digest);
            Ok(live.map(|LiveToken { remaining, .. }| Presented { signed, remaining, asked_at }))
        };
        self.tokens.read(jwt, id, read).await
    }

    /// A user, disabled or not, under a lease.
    pub async fn cached_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        let read = async move { store.find_user(&owned).await };
        self.users.read(name.clone(), name.clone(), read).await
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

    /// Renews leases before they lapse, for ever: all on what did not change, with one question to the store.
    ///
    /// A store that tells of no changes is asked for each value anew once its lease has lapsed.
    pub async fn keep_leases(&self) {
        if self.tokens.is_off() {
            return;
        }
        let mut is_told = true;
        for watch in 0.. {
            let ended = match self.store.watch().await {
                Ok(Some(changes)) => self.renew_leases(watch, changes, &mut is_told).await,
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = ended
                && mem::take(&mut is_told)
            {
                tracing::warn!(%error, "leases are not renewed: what is verified is asked for again after {LEASE:?}");
            }
            self.tokens.sweep();
            self.users.sweep();
            sleep(WATCH_PAUSE).await;
        }
    }

    /// Renews leases by the watch of this number, until it ends. `is_told`: whether the log says that they are renewed.
    async fn renew_leases(&self, number: u64, mut watch: Box<dyn Watch>, is_told: &mut bool) -> Option<StoreError> {
        loop {
            let asked_at = Instant::now();
            let changes = match watch.changes().await {
                Ok(changes) => changes,
                Err(error) => return Some(error),
            };
            if !mem::replace(is_told, true) {
                tracing::info!("leases are renewed again");
            }
            let Changes { everything, tokens, users } = &changes;
            let token = |id: &TokenId| *everything || tokens.contains(id);
            let user = |name: &UserName| *everything || users.contains(name);
            self.tokens.renew(number, asked_at, (*everything || !tokens.is_empty()).then_some(&token));
            self.users.renew(number, asked_at, (*everything || !users.is_empty()).then_some(&user));
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

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

use std::{mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use self::leases::Leases;
use super::{
    AttemptScope, Authority, Changes, Creation, Health, Listing, LiveToken, LoginAttempt, LoginEpoch, Page,
    PasswordHash, Reservation, Rotation, Store, StoreError, Token, TokenDigest, TokenId, UpdatedUser, User, UserChange,
    UserName, UserUpdate, Watch,
};
use crate::{
    domain::token::{PresentedJwt, SignedToken},
    telemetry::metrics::Leased,
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
/// ([`Store::find_user`])? All other operations ask the store behind it each time.
pub struct LeasedStore {
    store: Arc<dyn Store>,
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
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let tokens = Leases::new(Leased::Token, lease, Presented::ends_at);
        Self { store, tokens, users: Leases::new(Leased::User, lease, |_| None) }
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

    /// A user, disabled or not, asked for without a lease: so that it takes as long for one whom a lease would find and for one
    /// who does not exist.
    pub async fn ask_for_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.store.find_user(name).await
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

/// Every copy read before this was called has lapsed when it returns.
async fn wait_out_leases() {
    sleep(WAIT).await;
}

#[async_trait]
impl Store for LeasedStore {
    async fn create_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        quota: usize,
    ) -> Result<Creation, StoreError> {
        self.store.create_token(owner, login, token, quota).await
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> Result<Option<LiveToken>, StoreError> {
        self.store.find_token(owner, id).await
    }

    async fn list_tokens(&self, owner: &UserName, page: Page) -> Result<Option<Listing<LiveToken>>, StoreError> {
        self.store.list_tokens(owner, page).await
    }

    // A deletion that finds nothing waits, too: the one that did the work may have been told that it failed.

    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> Result<bool, StoreError> {
        let revoked = self.store.revoke_token(by, owner, id).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        is_ours: bool,
    ) -> Result<bool, StoreError> {
        let revoked = self.store.revoke_presented(owner, id, digest, is_ours).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn confirm(&self, owner: &UserName) -> Result<(), StoreError> {
        self.store.confirm(owner).await?;
        wait_out_leases().await;
        Ok(())
    }

    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> Result<u64, StoreError> {
        let revoked = self.store.revoke_tokens(by, owner).await?;
        wait_out_leases().await;
        Ok(revoked)
    }

    async fn rotate_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> Result<Rotation, StoreError> {
        let rotation = self.store.rotate_token(owner, login, token, successor, overlap, quota).await?;
        if rotation == Rotation::Rotated {
            wait_out_leases().await;
        }
        Ok(rotation)
    }

    async fn create_user(&self, by: &Authority, user: &User) -> Result<bool, StoreError> {
        self.store.create_user(by, user).await
    }

    async fn find_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        let read = async move { store.find_user(&owned).await };
        self.users.read(name.clone(), name.clone(), read).await
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        self.store.has_users().await
    }

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> Result<Listing<User>, StoreError> {
        self.store.list_users(after, limit).await
    }

    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> Result<UserChange<UpdatedUser>, StoreError> {
        let change = self.store.update_user(by, name, update).await?;
        wait_out_leases().await;
        Ok(change)
    }

    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> Result<Option<u64>, StoreError> {
        let changed = self.store.set_password(by, name, hash, revoke_tokens).await?;
        wait_out_leases().await;
        Ok(changed)
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> Result<bool, StoreError> {
        let replaced = self.store.replace_hash(name, old, new).await?;
        // Who still goes by the old one lets in whom the new one lets in, but only after hashing.
        wait_out_leases().await;
        Ok(replaced)
    }

    async fn remove_user(&self, by: &Authority, name: &UserName) -> Result<UserChange<u64>, StoreError> {
        let removed = self.store.remove_user(by, name).await?;
        wait_out_leases().await;
        Ok(removed)
    }

    async fn reserve_attempt(
        &self,
        attempt: &LoginAttempt,
        epoch: Option<LoginEpoch>,
    ) -> Result<Reservation, StoreError> {
        self.store.reserve_attempt(attempt, epoch).await
    }

    async fn login_succeeded(
        &self,
        attempt: &LoginAttempt,
        epoch: LoginEpoch,
        scope: AttemptScope,
    ) -> Result<(), StoreError> {
        self.store.login_succeeded(attempt, epoch, scope).await
    }

    async fn is_known_client(&self, attempt: &LoginAttempt) -> Result<bool, StoreError> {
        self.store.is_known_client(attempt).await
    }

    async fn watch(&self) -> Result<Option<Box<dyn Watch>>, StoreError> {
        self.store.watch().await
    }

    fn time(&self) -> Option<Duration> {
        self.store.time()
    }

    async fn check(&self) -> Result<Health, StoreError> {
        self.store.check().await
    }
}

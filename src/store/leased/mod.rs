//! Leased reads: strict revocation at memory speed.
//!
//! What was read from the store may be used again for at most one [`LEASE`], counted on this process' monotonic clock from
//! the moment at which the read was *sent*. Whoever ends a token or changes a user writes to the store first and then waits
//! out one lease before answering. So each copy read before the write has lapsed, on every replica, by the time the answer
//! leaves: caching costs the rare deletion a quarter of a second and costs revocation nothing. There is no channel of
//! invalidations that could lose one.
//!
//! Two things follow. A replica with leases switched off waits all the same, since another may have them on. And what is
//! deleted in Redis behind the service's back takes up to one lease to be seen, what is changed there up to a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use self::leases::{Due, Leases, Renewal};
use super::{
    Admission, CountedAs, Creation, Listing, LiveToken, LoginAttempt, LoginEpoch, Page, PasswordHash, Rotation, Store,
    StoreError, Token, TokenDigest, TokenId, UpdatedUser, User, UserChange, UserListing, UserName, UserUpdate, Warning,
};
use crate::{domain::token::SignedToken, telemetry::metrics::Leased};

mod leases;

/// For how long a read may be used again. All replicas wait it out after a write, so that it is no setting.
pub const LEASE: Duration = Duration::from_millis(250);

/// What a write waits: the lease, and a margin for clocks that run apart, which is wide. NTP steers a clock by 0.05 % at
/// the most, an eighth of a millisecond in a lease. A machine that is suspended, or paused by its hypervisor, in the middle
/// of a lease has no clock that shows it: for what is left of that lease, it goes by what it knew.
const WAIT: Duration = LEASE.saturating_add(Duration::from_millis(1));

/// How often leases in use are renewed that would lapse before the next time but one. What is left of a lease then is time
/// enough for the read.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(50);

/// For how long a lease is renewed that nobody uses.
const RENEWAL_MEMORY: Duration = Duration::from_secs(1);

/// For how long after a look at its record a token's lease is renewed for the key's being there alone, which is the cheaper
/// question. A rotated token lives on for a second at least; by then, each lease that knows nothing of it has lapsed, and so
/// it has when the rotation is answered.
const COMPARISON_MEMORY: Duration = Duration::from_millis(700);
const _: () = assert!(COMPARISON_MEMORY.as_millis() + LEASE.as_millis() < 1000);

/// At most so many tokens are asked for in one command, which keeps no other waiting in Redis for long.
const RENEWED_AT_ONCE: usize = 256;

/// A store whose reads are leased.
///
/// Two questions are answered under a lease: whose is this JWT ([`LeasedStore::find_presented`]), and what of this user
/// ([`Store::find_user`])? All other operations ask the store behind it each time.
pub struct LeasedStore {
    store: Arc<dyn Store>,
    /// By the version of the keys, too: what one verified is unknown to the next.
    tokens: Arc<Leases<(u64, TokenDigest), Arc<Presented>>>,
    users: Arc<Leases<UserName, User>>,
}

type DueToken = Due<(u64, TokenDigest), Arc<Presented>>;

/// A token that was presented and lived when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// What its JWT says.
    pub signed: SignedToken,
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

    fn ends_at(&self) -> Option<Instant> {
        self.asked_at.checked_add(self.live.remaining)
    }
}

impl LeasedStore {
    /// Leases reads of `store` for `lease`; zero asks it each time.
    ///
    /// # Panics
    /// Where the lease is longer than [`LEASE`], which other replicas do not wait for.
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        assert!(lease <= LEASE, "no replica waits longer than {LEASE:?}");
        let tokens = Leases::new(Leased::Token, lease, |presented: &Arc<Presented>| presented.ends_at());
        Self { store, tokens, users: Leases::new(Leased::User, lease, |_| None) }
    }

    /// The token whose JWT has this digest, if a lease on it holds and this version of the keys verified it.
    pub fn recall_token(&self, digest: TokenDigest, key_generation: u64) -> Option<Arc<Presented>> {
        self.tokens.recall(&(key_generation, digest))
    }

    /// The live token that this JWT was issued for, under a lease.
    pub async fn find_presented(&self, signed: SignedToken) -> Result<Option<Arc<Presented>>, StoreError> {
        let (store, key) = (Arc::clone(&self.store), (signed.key_generation, signed.digest));
        let read = async move {
            let asked_at = Instant::now();
            let live = store.find_token(&signed.owner, signed.id).await?;
            let live = live.filter(|live| live.token.digest == signed.digest);
            Ok(live.map(|live| Arc::new(Presented { signed, live, asked_at })))
        };
        self.tokens.read(key, read).await
    }

    /// A user, disabled or not, asked for without a lease: so that it takes as long for one whom a lease would find and for one
    /// who does not exist.
    pub async fn ask_for_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.store.find_user(name).await
    }

    /// Renews the leases on tokens in use before they lapse, for ever: many with one command, so that nobody waits for a
    /// read of a token that is used again and again, and Redis answers a fraction of the requests.
    pub async fn keep_leases(&self) {
        loop {
            sleep(RENEWAL_INTERVAL).await;
            self.renew_leases().await;
        }
    }

    async fn renew_leases(&self) {
        let due = self.tokens.due(RENEWAL_INTERVAL * 2, RENEWAL_MEMORY);
        let mut by_owner = HashMap::<_, Vec<_>>::new();
        for lease in &due {
            by_owner.entry(&lease.value.signed.owner).or_default().push(lease);
        }
        let parts = by_owner
            .iter()
            .flat_map(|(owner, leases)| leases.chunks(RENEWED_AT_ONCE).map(move |part| self.renew(owner, part)));
        join_all(parts).await;
    }

    async fn renew(&self, owner: &UserName, leases: &[&DueToken]) {
        let now = Instant::now();
        let (mut aged, young): (Vec<&DueToken>, Vec<&DueToken>) =
            leases.iter().partition(|lease| lease.compared_at + COMPARISON_MEMORY <= now);
        let ids: Vec<_> = young.iter().map(|lease| lease.value.signed.id).collect();
        // What nobody can tell lapses, and is asked for by whoever needs it.
        let Ok(all_live) = self.store.all_live(owner, &ids).await else { return };
        if all_live {
            for lease in young {
                self.tokens.renew(lease, now, Renewal::Lives);
            }
        } else {
            aged.extend(young);
        }
        let tokens: Vec<_> = aged.iter().map(|lease| &lease.value.live.token).collect();
        let now = Instant::now();
        let Ok(unchanged) = self.store.are_unchanged(owner, &tokens).await else { return };
        for (lease, unchanged) in aged.iter().zip(unchanged) {
            self.tokens.renew(lease, now, if unchanged { Renewal::Unchanged } else { Renewal::Gone });
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

    async fn all_live(&self, owner: &UserName, ids: &[TokenId]) -> Result<bool, StoreError> {
        self.store.all_live(owner, ids).await
    }

    async fn are_unchanged(&self, owner: &UserName, tokens: &[&Token]) -> Result<Vec<bool>, StoreError> {
        self.store.are_unchanged(owner, tokens).await
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
            if !overlap.is_zero() {
                // By then, no lease goes by the record from before.
                sleep(COMPARISON_MEMORY).await;
            }
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

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> Result<UserListing, StoreError> {
        self.store.list_users(after, limit).await
    }

    async fn update_user(&self, name: &UserName, update: UserUpdate) -> Result<UserChange<UpdatedUser>, StoreError> {
        let change = self.store.update_user(name, update).await?;
        wait_out_leases().await;
        Ok(change)
    }

    async fn set_password(
        &self,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> Result<Option<u64>, StoreError> {
        let changed = self.store.set_password(name, hash, revoke_tokens).await?;
        wait_out_leases().await;
        Ok(changed)
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> Result<bool, StoreError> {
        let replaced = self.store.replace_hash(name, old, new).await?;
        // Who still goes by the old one lets in whom the new one lets in, but only after hashing.
        wait_out_leases().await;
        Ok(replaced)
    }

    async fn remove_user(&self, name: &UserName) -> Result<UserChange<u64>, StoreError> {
        let removed = self.store.remove_user(name).await?;
        wait_out_leases().await;
        Ok(removed)
    }

    async fn admit_login(&self, attempt: &LoginAttempt) -> Result<Admission, StoreError> {
        self.store.admit_login(attempt).await
    }

    async fn excuse_login(
        &self,
        attempt: &LoginAttempt,
        counted: CountedAs,
        succeeded: bool,
    ) -> Result<(), StoreError> {
        self.store.excuse_login(attempt, counted, succeeded).await
    }

    async fn check(&self) -> Result<Vec<Warning>, StoreError> {
        self.store.check().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{pause, timeout};

    use super::*;
    use crate::{
        domain::{life::Life, password::HashCost, user::Role},
        store::memory::MemoryStore,
    };

    /// A token of a user, of whose presentation a lease is kept in use.
    struct InUse {
        store: Arc<LeasedStore>,
        owner: UserName,
        token: Token,
        signed: SignedToken,
    }

    impl InUse {
        async fn new() -> Self {
            let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), LEASE));
            let owner: UserName = "alice".parse().unwrap();
            let password_hash = PasswordHash::dummy(HashCost::default());
            let user = User {
                name: owner.clone(),
                password_hash,
                role: Role::User,
                created_at: 0,
                disabled: false,
                login_epoch: LoginEpoch::begin(),
            };
            store.create_user(&user).await.unwrap();
            let token = new_token();
            store.create_token(&owner, user.login_epoch, &token, 2).await.unwrap();
            let (id, digest) = (token.id, token.digest);
            let signed =
                SignedToken { owner: owner.clone(), id, issued_at: 0, expires_at: 3600, digest, key_generation: 0 };
            store.find_presented(signed.clone()).await.unwrap().unwrap();
            Self { store, owner, token, signed }
        }

        /// Uses the lease again and again, until none holds; for how long.
        async fn use_up(&self) -> Duration {
            let begun = Instant::now();
            let keeping = self.store.keep_leases();
            let using = async {
                while self.store.recall_token(self.signed.digest, 0).is_some() {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = keeping => unreachable!("it goes on for ever"),
                () = using => begun.elapsed(),
            }
        }
    }

    fn new_token() -> Token {
        let id = TokenId::random();
        Token {
            id,
            description: "one".parse().unwrap(),
            life: Life::from_seconds(3600).unwrap(),
            digest: TokenDigest::of(&id.to_string()),
            successor: None,
        }
    }

    #[tokio::test]
    async fn a_lease_in_use_is_kept_while_its_token_lives_and_no_longer() {
        pause();
        let lease = InUse::new().await;
        timeout(Duration::from_mins(1), lease.use_up()).await.unwrap_err();
        lease.store.store.revoke_token(&lease.owner, lease.token.id).await.unwrap();
        assert!(lease.use_up().await <= LEASE);
    }

    #[tokio::test]
    async fn no_lease_on_a_rotated_token_goes_by_the_life_that_it_had() {
        pause();
        for unlucky in 0..20 {
            let lease = InUse::new().await;
            timeout(Duration::from_millis(1000 + 50 * unlucky), lease.use_up()).await.unwrap_err();
            let overlap = Duration::from_secs(1);
            let (store, rotated) = (&lease.store.store, &lease.token);
            store.rotate_token(&lease.owner, rotated, &new_token(), overlap, 2).await.unwrap();
            assert!(lease.use_up().await < overlap);
            let known = lease.store.find_presented(lease.signed.clone()).await.unwrap().unwrap();
            assert!(known.remaining() < overlap);
        }
    }
}

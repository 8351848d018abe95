//! The embedded store: all users and tokens in the memory of this process, to try the service without Redis.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{
    AttemptScope, Authority, Changes, ClientAndUser, Creation, Health, InspectedToken, Listing, LiveToken, LoginEpoch,
    NewToken, PageRequest, PasswordHash, Repetition, Reservation, RevokingWrites, Rotation, Store, StoreError,
    StoreResult, Token, TokenDigest, TokenId, TokenUse, UpdatedUser, User, UserChange, UserName, UserUpdate, Watch,
    account_keys::AccountKeys, account_tokens::AccountTokens, throttle::Throttle,
};
use crate::domain::{idempotency::IdempotencyKey, user::Credential};

/// The most tokens that a list reads before it lets go of the lock.
const TOKENS_PER_LOCK: usize = 1000;

type Accounts = BTreeMap<UserName, Account>;

/// Accounts behind one lock, and failed logins behind another. No operation waits while it holds a lock.
#[derive(Debug, Default)]
pub struct MemoryStore {
    accounts: Mutex<Accounts>,
    throttle: Mutex<Throttle>,
    watched: Arc<Mutex<Watched>>,
}

/// The changes that the current watch has not reported yet. Locked while the accounts are, so that no change is visible
/// before it is recorded.
#[derive(Debug, Default)]
struct Watched {
    /// The number of the current watch; zero: none has begun, and nothing is recorded.
    watch: u64,
    changes: Changes,
}

/// A watch for changes of a [`MemoryStore`]. Tokens that expire are not reported: who has read one knows when.
struct MemoryWatch {
    number: u64,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Debug)]
struct Account {
    user: User,
    tokens: AccountTokens,
    keys: AccountKeys,
}

impl Account {
    fn new(user: &User) -> Self {
        Self { user: user.clone(), tokens: AccountTokens::default(), keys: AccountKeys::default() }
    }

    /// The token that was issued for this Idempotency-Key. `None`: the key is unused.
    fn repetition(&self, key: &IdempotencyKey, now: Instant) -> Option<Repetition> {
        let issuance = self.keys.find(key, now)?.clone();
        let token = self.tokens.find(issuance.token_id, now).map(|live| live.token);
        Some(Repetition { issuance, token })
    }

    /// Adds a token, and the record of the Idempotency-Key that it was created for, if there is one.
    fn insert(&mut self, new: &NewToken<'_>, now: Instant) {
        self.tokens.insert(new.token, now);
        if let Some((key, issuance)) = new.idempotency {
            self.keys.insert(key, issuance, new.token.life, now);
        }
    }
}

/// An error, unless this authority allows a write to the account of this name.
fn check_authority(accounts: &Accounts, by: &Authority, name: &UserName) -> StoreResult<()> {
    let (principal, login) = match by {
        Authority::Login(login) => (name, login),
        Authority::Administrator { name, login } => (name, login),
        Authority::Until(until) if Instant::now() <= *until => return Ok(()),
        Authority::Until(_) => return Err(StoreError::TooLate),
    };
    let user = accounts.get(principal).map(|account| &account.user);
    let user = user.filter(|user| !user.disabled && user.login_epoch == *login).ok_or(StoreError::LoginEnded)?;
    match by {
        Authority::Administrator { .. } if !user.role.may_administer() => Err(StoreError::Forbidden),
        _ => Ok(()),
    }
}

/// Whether this user is the only enabled administrator.
fn is_last_admin(accounts: &Accounts, name: &UserName) -> bool {
    let mut admins = accounts.values().map(|account| &account.user).filter(|user| user.is_enabled_admin());
    admins.next().is_some_and(|user| user.name == *name) && admins.next().is_none()
}

impl MemoryStore {
    /// The accounts, locked, if this authority allows a write to the account of this name.
    fn authorized(&self, by: &Authority, name: &UserName) -> StoreResult<MutexGuard<'_, Accounts>> {
        let accounts = self.accounts.lock();
        check_authority(&accounts, by, name)?;
        Ok(accounts)
    }

    /// Records changes for the watch, if there is one. Called while the accounts are locked.
    fn record(&self, tokens: impl IntoIterator<Item = TokenId>, user: Option<&UserName>) {
        let Watched { watch, changes } = &mut *self.watched.lock();
        if *watch > 0 {
            changes.tokens.extend(tokens);
            changes.users.extend(user.cloned());
        }
    }

    /// Revokes a token of this account, and returns whether it was live.
    fn revoke(&self, account: &mut Account, id: TokenId, now: Instant) -> bool {
        self.record([id], None);
        account.tokens.revoke(id, now)
    }

    /// Revokes all tokens of this account, and returns how many were live.
    fn revoke_all(&self, account: &mut Account) -> u64 {
        self.record(account.tokens.ids(), None);
        account.tokens.revoke_all(Instant::now())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_token(&self, new: NewToken<'_>) -> StoreResult<Creation> {
        let mut accounts = self.authorized(&Authority::Login(new.login), new.owner)?;
        let account = accounts.get_mut(new.owner).ok_or(StoreError::LoginEnded)?;
        let now = Instant::now();
        if let Some((key, _)) = new.idempotency {
            if let Some(repetition) = account.repetition(key, now) {
                return Ok(Creation::Repeated(repetition));
            }
            if !account.keys.has_room(now) {
                return Ok(Creation::TooManyKeys);
            }
        }
        if !account.tokens.has_room(new.quota, now) {
            return Ok(Creation::QuotaReached);
        }
        account.insert(&new, now);
        self.record([new.token.id], None);
        Ok(Creation::Created)
    }

    async fn create_first_token(&self, owner: &User, new: NewToken<'_>) -> StoreResult<Option<Creation>> {
        let mut accounts = self.accounts.lock();
        if accounts.contains_key(&owner.name) {
            return Ok(None);
        }
        let mut account = Account::new(owner);
        account.insert(&new, Instant::now());
        accounts.insert(owner.name.clone(), account);
        self.record([new.token.id], Some(&owner.name));
        Ok(Some(Creation::Created))
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>> {
        let accounts = self.accounts.lock();
        Ok(accounts.get(owner).and_then(|account| account.tokens.find(id, Instant::now())))
    }

    async fn inspect_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<InspectedToken>> {
        let accounts = self.accounts.lock();
        Ok(accounts.get(owner).and_then(|account| account.tokens.inspect(id, Instant::now())))
    }

    async fn record_uses(&self, owner: &UserName, uses: &[TokenUse]) -> StoreResult<()> {
        if let Some(account) = self.accounts.lock().get_mut(owner) {
            for used in uses {
                account.tokens.record_use(*used);
            }
        }
        Ok(())
    }

    async fn list_tokens(&self, owner: &UserName, page: PageRequest) -> StoreResult<Option<Listing<InspectedToken>>> {
        // One more, to know whether more follow.
        let wanted = page.limit.unwrap_or(usize::MAX).saturating_add(1);
        let (mut items, mut number, now) = (Vec::new(), u64::MAX, Instant::now());
        if let Some(after) = page.after {
            let accounts = self.accounts.lock();
            let Some(begin) = accounts.get(owner).and_then(|account| account.tokens.number(after, now)) else {
                return Ok(None);
            };
            number = begin;
        }
        while items.len() < wanted {
            let accounts = self.accounts.lock();
            let Some(account) = accounts.get(owner) else { break };
            let (count, before) = ((wanted - items.len()).min(TOKENS_PER_LOCK), number);
            for (older, live) in account.tokens.older_than(before, count, now) {
                number = older;
                items.extend(live);
            }
            if number == before {
                break;
            }
        }
        let more = items.len() == wanted;
        items.truncate(wanted - 1);
        Ok(Some(Listing { items, more }))
    }

    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool> {
        let mut accounts = self.authorized(by, &user.name)?;
        if accounts.contains_key(&user.name) {
            return Ok(false);
        }
        accounts.insert(user.name.clone(), Account::new(user));
        self.record([], Some(&user.name));
        Ok(true)
    }

    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        Ok(self.accounts.lock().get(name).map(|account| account.user.clone()))
    }

    async fn has_users(&self) -> StoreResult<bool> {
        Ok(!self.accounts.lock().is_empty())
    }

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>> {
        let accounts = self.accounts.lock();
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut users = accounts.range::<UserName, _>(range).map(|(_, account)| account.user.clone());
        let items = users.by_ref().take(limit).collect();
        Ok(Listing { items, more: users.next().is_some() })
    }

    async fn reserve_attempt(&self, pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> StoreResult<Reservation> {
        Ok(self.throttle.lock().reserve_attempt(pair, epoch))
    }

    async fn login_succeeded(&self, pair: &ClientAndUser, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()> {
        let mut throttle = self.throttle.lock();
        throttle.refund_attempt(pair, Some(epoch), scope);
        throttle.make_known(pair, epoch);
        Ok(())
    }

    async fn is_known_client(&self, pair: &ClientAndUser) -> StoreResult<bool> {
        Ok(self.throttle.lock().is_known_client(pair))
    }

    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>> {
        let mut watched = self.watched.lock();
        *watched = Watched { watch: watched.watch + 1, changes: Changes::default() };
        Ok(Some(Box::new(MemoryWatch { number: watched.watch, watched: Arc::clone(&self.watched) })))
    }

    fn time(&self) -> Option<Duration> {
        // Tokens expire by this process' clock, which the service uses if the store has no clock of its own.
        None
    }

    async fn health(&self) -> StoreResult<Health> {
        Ok(Health::default())
    }
}

#[async_trait]
impl RevokingWrites for MemoryStore {
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool> {
        let mut accounts = self.authorized(by, owner)?;
        Ok(accounts.get_mut(owner).is_some_and(|account| self.revoke(account, id, Instant::now())))
    }

    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        _is_ours: bool,
    ) -> StoreResult<bool> {
        let (mut accounts, now) = (self.accounts.lock(), Instant::now());
        let Some(account) = accounts.get_mut(owner) else { return Ok(false) };
        let is_presented = account.tokens.find(id, now).is_some_and(|live| live.token.digest == digest);
        Ok(is_presented && self.revoke(account, id, now))
    }

    async fn wait_for_replication(&self, _owner: &UserName) -> StoreResult<()> {
        Ok(())
    }

    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64> {
        Ok(self.authorized(by, owner)?.get_mut(owner).map_or(0, |account| self.revoke_all(account)))
    }

    async fn revoke_listed(
        &self,
        by: &Authority,
        owner: &UserName,
        ids: &HashSet<TokenId>,
    ) -> StoreResult<HashSet<TokenId>> {
        let (mut accounts, now) = (self.authorized(by, owner)?, Instant::now());
        let Some(account) = accounts.get_mut(owner) else { return Ok(HashSet::new()) };
        Ok(ids.iter().copied().filter(|id| self.revoke(account, *id, now)).collect())
    }

    async fn rotate_token(&self, old: &Token, overlap: Duration, new: NewToken<'_>) -> StoreResult<Rotation> {
        let mut accounts = self.authorized(&Authority::Login(new.login), new.owner)?;
        let account = accounts.get_mut(new.owner).ok_or(StoreError::LoginEnded)?;
        let now = Instant::now();
        if let Some((key, _)) = new.idempotency {
            if let Some(repetition) = account.repetition(key, now) {
                return Ok(Rotation::Repeated(repetition));
            }
            if !account.keys.has_room(now) {
                return Ok(Rotation::TooManyKeys);
            }
        }
        let Some(live) = account.tokens.find(old.id, now) else { return Ok(Rotation::NoSuchToken) };
        if live.token.successor.is_some() {
            return Ok(Rotation::AlreadyRotated);
        }
        // Without an overlap, the old token makes room for its successor.
        if overlap.is_zero() {
            self.revoke(account, old.id, now);
        } else if account.tokens.has_room(new.quota, now) {
            account.tokens.replace(old.id, new.token.id, overlap, now);
            self.record([old.id], None);
        } else {
            return Ok(Rotation::QuotaReached);
        }
        account.insert(&new, now);
        self.record([new.token.id], None);
        Ok(Rotation::Rotated)
    }

    async fn find_repetition(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        key: &IdempotencyKey,
    ) -> StoreResult<Option<Repetition>> {
        let accounts = self.authorized(&Authority::Login(login), owner)?;
        Ok(accounts.get(owner).and_then(|account| account.repetition(key, Instant::now())))
    }

    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        let mut accounts = self.authorized(by, name)?;
        if update.ends_administration() && is_last_admin(&accounts, name) {
            return Ok(UserChange::LastAdmin);
        }
        let Some(account) = accounts.get_mut(name) else { return Ok(UserChange::NoSuchUser) };
        let mut tokens_revoked = 0;
        if update.disabled == Some(true) {
            account.user.login_epoch = LoginEpoch::begin();
            tokens_revoked = self.revoke_all(account);
        }
        self.record([], Some(name));
        let user = &mut account.user;
        user.role = update.role.unwrap_or(user.role);
        user.disabled = update.disabled.unwrap_or(user.disabled);
        Ok(UserChange::Done(UpdatedUser { user: user.clone(), tokens_revoked }))
    }

    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<UserChange<u64>> {
        let mut accounts = self.authorized(by, name)?;
        let Some(account) = accounts.get_mut(name) else { return Ok(UserChange::NoSuchUser) };
        let Credential::Password(current) = &mut account.user.credential else { return Ok(UserChange::NoPassword) };
        *current = hash.clone();
        account.user.login_epoch = LoginEpoch::begin();
        self.record([], Some(name));
        Ok(UserChange::Done(if revoke_tokens { self.revoke_all(account) } else { 0 }))
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool> {
        let mut accounts = self.accounts.lock();
        let credential = accounts.get_mut(name).map(|account| &mut account.user.credential);
        match credential {
            Some(Credential::Password(hash)) if hash.expose_secret() == old.expose_secret() => *hash = new.clone(),
            _ => return Ok(false),
        }
        self.record([], Some(name));
        Ok(true)
    }

    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let mut accounts = self.authorized(by, name)?;
        if is_last_admin(&accounts, name) {
            return Ok(UserChange::LastAdmin);
        }
        let Some(mut removed) = accounts.remove(name) else { return Ok(UserChange::NoSuchUser) };
        self.record([], Some(name));
        Ok(UserChange::Done(self.revoke_all(&mut removed)))
    }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn changes(&mut self) -> StoreResult<Changes> {
        let mut watched = self.watched.lock();
        if watched.watch != self.number {
            return Err(StoreError::unavailable("another watch has begun"));
        }
        Ok(mem::take(&mut watched.changes))
    }
}

//! The embedded store: everything in the memory of this process, to try the service without a Redis.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{
    AttemptScope, Authority, Creation, Health, Listing, LiveToken, LoginAttempt, LoginEpoch, Page, PasswordHash,
    Reservation, Rotation, Store, StoreError, StoreResult, StrictWrites, Token, TokenDigest, TokenId, UpdatedUser,
    User, UserChange, UserName, UserUpdate, Watch, throttle::Throttle,
};

/// Users and tokens in one map behind one lock, and failed logins behind another. No operation waits while it holds one.
#[derive(Debug, Default)]
pub struct MemoryStore {
    accounts: Mutex<BTreeMap<UserName, Account>>,
    throttle: Mutex<Throttle>,
}

#[derive(Debug)]
struct Account {
    user: User,
    /// In the order of their creation. The quota bounds it: the dead are dropped before a token is added.
    tokens: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    token: Token,
    dies_at: Instant,
}

impl Entry {
    fn live(&self, now: Instant) -> Option<LiveToken> {
        let remaining = self.dies_at.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(LiveToken { token: self.token.clone(), remaining })
    }
}

impl Account {
    /// Ends all tokens, and says how many lived.
    fn revoke_tokens(&mut self) -> u64 {
        let now = Instant::now();
        self.tokens.drain(..).filter(|entry| entry.live(now).is_some()).map(|_| 1).sum()
    }

    /// Ends all tokens, and those that logins under way would lead to.
    fn end_logins(&mut self) -> u64 {
        self.user.login_epoch = LoginEpoch::begin();
        self.revoke_tokens()
    }
}

/// Checks the authority of a write to the account of this name.
fn check(accounts: &BTreeMap<UserName, Account>, by: &Authority, name: &UserName) -> StoreResult<()> {
    let (asker, login) = match by {
        Authority::Login(login) => (name, login),
        Authority::Administrator { name, login } => (name, login),
        Authority::Until(until) if Instant::now() <= *until => return Ok(()),
        Authority::Until(_) => return Err(StoreError::TooLate),
    };
    let user = accounts.get(asker).map(|account| &account.user);
    let user = user.filter(|user| !user.disabled && user.login_epoch == *login).ok_or(StoreError::LoginEnded)?;
    match by {
        Authority::Administrator { .. } if !user.role.may_administer() => Err(StoreError::Forbidden),
        _ => Ok(()),
    }
}

/// The account of this name, for a write to it; `None`: there is none.
fn account<'a>(
    accounts: &'a mut BTreeMap<UserName, Account>,
    by: &Authority,
    name: &UserName,
) -> StoreResult<Option<&'a mut Account>> {
    check(accounts, by, name)?;
    Ok(accounts.get_mut(name))
}

/// Whether nobody but this user is an enabled administrator, and this user is one.
fn is_last_admin(accounts: &BTreeMap<UserName, Account>, name: &UserName) -> bool {
    let mut admins = accounts.values().map(|account| &account.user).filter(|user| user.administers());
    admins.next().is_some_and(|user| user.name == *name) && admins.next().is_none()
}

impl MemoryStore {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<UserName, Account>> {
        // No operation leaves the map half changed, so that one which panicked has spoilt nothing.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        quota: usize,
    ) -> StoreResult<Creation> {
        let mut accounts = self.accounts();
        let account = account(&mut accounts, &Authority::Login(login), owner)?.ok_or(StoreError::LoginEnded)?;
        let now = Instant::now();
        account.tokens.retain(|entry| entry.live(now).is_some());
        if account.tokens.len() >= quota {
            return Ok(Creation::QuotaReached);
        }
        account.tokens.push(Entry { token: token.clone(), dies_at: now + token.life.duration() });
        Ok(Creation::Created)
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>> {
        let accounts = self.accounts();
        let entry = accounts.get(owner).and_then(|account| account.tokens.iter().find(|entry| entry.token.id == id));
        Ok(entry.and_then(|entry| entry.live(Instant::now())))
    }

    async fn list_tokens(&self, owner: &UserName, page: Page) -> StoreResult<Option<Listing<LiveToken>>> {
        let accounts = self.accounts();
        let now = Instant::now();
        let entries = accounts.get(owner).map_or(&[][..], |account| &account.tokens);
        let mut live = entries.iter().rev().filter_map(|entry| entry.live(now));
        if let Some(after) = page.after
            && !live.any(|found| found.token.id == after)
        {
            return Ok(None);
        }
        let tokens = live.by_ref().take(page.limit.unwrap_or(usize::MAX)).collect();
        let more = live.next().is_some();
        Ok(Some(Listing { items: tokens, more }))
    }

    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool> {
        let mut accounts = self.accounts();
        check(&accounts, by, &user.name)?;
        if accounts.contains_key(&user.name) {
            return Ok(false);
        }
        accounts.insert(user.name.clone(), Account { user: user.clone(), tokens: Vec::new() });
        Ok(true)
    }

    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        Ok(self.accounts().get(name).map(|account| account.user.clone()))
    }

    async fn has_users(&self) -> StoreResult<bool> {
        Ok(!self.accounts().is_empty())
    }

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>> {
        let accounts = self.accounts();
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut users = accounts.range::<UserName, _>(behind).map(|(_, account)| account.user.clone());
        let items = users.by_ref().take(limit).collect();
        Ok(Listing { items, more: users.next().is_some() })
    }

    async fn reserve_attempt(&self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> StoreResult<Reservation> {
        Ok(self.throttle().reserve_attempt(attempt, epoch))
    }

    async fn login_succeeded(&self, attempt: &LoginAttempt, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()> {
        let mut throttle = self.throttle();
        throttle.refund_attempt(attempt, Some(epoch), scope);
        throttle.make_known(attempt, epoch);
        Ok(())
    }

    async fn is_known_client(&self, attempt: &LoginAttempt) -> StoreResult<bool> {
        Ok(self.throttle().is_known_client(attempt))
    }

    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>> {
        // To ask costs no more than to be told.
        Ok(None)
    }

    fn time(&self) -> Option<Duration> {
        // A token expires by the clock of this process, which the service falls back to.
        None
    }

    async fn check(&self) -> StoreResult<Health> {
        Ok(Health::default())
    }
}

#[async_trait]
impl StrictWrites for MemoryStore {
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool> {
        let mut accounts = self.accounts();
        let Some(account) = account(&mut accounts, by, owner)? else { return Ok(false) };
        let Some(index) = account.tokens.iter().position(|entry| entry.token.id == id) else { return Ok(false) };
        Ok(account.tokens.remove(index).live(Instant::now()).is_some())
    }

    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        _is_ours: bool,
    ) -> StoreResult<bool> {
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(owner) else { return Ok(false) };
        let presented = |entry: &Entry| entry.token.id == id && entry.token.digest == digest;
        let Some(index) = account.tokens.iter().position(presented) else { return Ok(false) };
        Ok(account.tokens.remove(index).live(Instant::now()).is_some())
    }

    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64> {
        let mut accounts = self.accounts();
        Ok(account(&mut accounts, by, owner)?.map_or(0, Account::revoke_tokens))
    }

    async fn confirm(&self, _owner: &UserName) -> StoreResult<()> {
        Ok(())
    }

    async fn rotate_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> StoreResult<Rotation> {
        let mut accounts = self.accounts();
        let account = account(&mut accounts, &Authority::Login(login), owner)?.ok_or(StoreError::LoginEnded)?;
        let now = Instant::now();
        account.tokens.retain(|entry| entry.live(now).is_some());
        let Some(index) = account.tokens.iter().position(|entry| entry.token.id == token.id) else {
            return Ok(Rotation::NoSuchToken);
        };
        if account.tokens[index].token.successor.is_some() {
            return Ok(Rotation::AlreadyRotated);
        }
        if overlap.is_zero() {
            account.tokens.remove(index);
        } else if account.tokens.len() >= quota {
            return Ok(Rotation::QuotaReached);
        } else {
            let entry = &mut account.tokens[index];
            entry.token.successor = Some(successor.id);
            entry.dies_at = entry.dies_at.min(now + overlap);
        }
        account.tokens.push(Entry { token: successor.clone(), dies_at: now + successor.life.duration() });
        Ok(Rotation::Rotated)
    }

    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        let mut accounts = self.accounts();
        check(&accounts, by, name)?;
        if update.ends_administration() && is_last_admin(&accounts, name) {
            return Ok(UserChange::LastAdmin);
        }
        let Some(account) = accounts.get_mut(name) else { return Ok(UserChange::NoSuchUser) };
        let user = &mut account.user;
        user.role = update.role.unwrap_or(user.role);
        user.disabled = update.disabled.unwrap_or(user.disabled);
        let tokens_revoked = if update.disabled == Some(true) { account.end_logins() } else { 0 };
        Ok(UserChange::Done(UpdatedUser { user: account.user.clone(), tokens_revoked }))
    }

    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<Option<u64>> {
        let mut accounts = self.accounts();
        let Some(account) = account(&mut accounts, by, name)? else { return Ok(None) };
        account.user.password_hash = hash.clone();
        account.user.login_epoch = LoginEpoch::begin();
        Ok(Some(if revoke_tokens { account.revoke_tokens() } else { 0 }))
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool> {
        let mut accounts = self.accounts();
        let account = accounts.get_mut(name);
        let Some(account) = account.filter(|found| found.user.password_hash.expose_secret() == old.expose_secret())
        else {
            return Ok(false);
        };
        account.user.password_hash = new.clone();
        Ok(true)
    }

    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let mut accounts = self.accounts();
        check(&accounts, by, name)?;
        if is_last_admin(&accounts, name) {
            return Ok(UserChange::LastAdmin);
        }
        let removed = accounts.remove(name);
        Ok(removed.map_or(UserChange::NoSuchUser, |mut account| UserChange::Done(account.revoke_tokens())))
    }
}

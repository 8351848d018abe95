//! Where tokens and users are kept: the seam between the use cases and what remembers for them.
//!
//! A method of [`Store`] is one atomic operation of the domain, never a get or a set, so that every backend can make it
//! whole in its own way. `tests/store_contract` holds all of them to the same promises.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::domain::{
    listing::{Listing, Page},
    password::PasswordHash,
    throttle::{AttemptScope, LoginAttempt, Reservation},
    token::{LiveToken, Token, TokenDigest, TokenId},
    user::{LoginEpoch, User, UserName, UserUpdate},
};

pub mod leased;
pub mod memory;
pub mod redis;
mod throttle;

/// Why an operation has no result. Except for [`StoreError::LoginEnded`] and [`StoreError::Forbidden`], the caller may conclude
/// nothing about a token or a user from it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be reached, or refused the work (loading, read-only, out of memory): nothing changed.
    #[error("the store is unavailable: {0}")]
    Refused(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The store hung up in the middle of the operation, or too few replicas acknowledged it: it may have taken place.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A write reached the store after its [`Authority`] had lapsed: nothing changed. It can be repeated.
    #[error("the write reached the store too late")]
    TooLate,
    /// The login on whose strength a user asked for a write has ended: nothing changed. The user was removed or disabled, or
    /// has another password.
    #[error("the login has ended")]
    LoginEnded,
    /// The user who asked for a write is no administrator (any more): nothing changed.
    #[error("the user who asked is no administrator")]
    Forbidden,
    /// It did not answer in time.
    #[error("the store did not answer in time")]
    Timeout,
    /// What it holds is not what was written.
    #[error("the store holds a corrupt {0}")]
    Corrupt(&'static str),
}

impl StoreError {
    /// Whether the operation may have taken place all the same.
    pub fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout | Self::Corrupt(_) => true,
            Self::Refused(_) | Self::TooLate | Self::LoginEnded | Self::Forbidden => false,
        }
    }

    /// The error of an operation of several steps, of which an earlier one took place.
    fn in_the_middle(self) -> Self {
        match self {
            Self::Refused(cause) => Self::Unavailable(cause),
            Self::TooLate | Self::LoginEnded | Self::Forbidden => Self::Timeout,
            unconfirmed => unconfirmed,
        }
    }
}

/// By what right a write runs. The store checks it in the same atomic step as the write, so that a write that was delayed
/// on its way never uses a right that was lost meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The right of users over their own account: it lapses with their login epoch.
    Login(LoginEpoch),
    /// The right of an administrator over all accounts: it lapses with the login epoch and with the role.
    Administrator {
        /// Who it is.
        name: UserName,
        /// The login that the administrator asked with.
        login: LoginEpoch,
    },
    /// A right that lapses at this moment: the operator's, or one that nobody can have lost before.
    Until(Instant),
}

/// What became of a token that was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// The token was stored and is live.
    Created,
    /// Its owner has as many live tokens as allowed. Nothing changed.
    QuotaReached,
}

/// What became of a token that another was to take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The successor is live, and the rotated token lives no longer than the overlap.
    Rotated,
    /// It has a successor already. Nothing changed.
    AlreadyRotated,
    /// Its owner has as many live tokens as allowed. Nothing changed.
    QuotaReached,
    /// The token is not live (any more). Nothing changed.
    NoSuchToken,
}

/// What became of a change that must leave an enabled administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserChange<T> {
    /// It took place.
    Done(T),
    /// There is no such user. Nothing changed.
    NoSuchUser,
    /// It would take the last enabled administrator away. Nothing changed.
    LastAdmin,
}

/// A user who was changed.
#[derive(Debug, Clone)]
pub struct UpdatedUser {
    /// The user as changed.
    pub user: User,
    /// How many tokens ended with it.
    pub tokens_revoked: u64,
}

/// The result of an operation of the store.
pub type StoreResult<T> = Result<T, StoreError>;

/// What is wrong with how the store is set up, and what mends it: a sentence for its operator.
pub type Warning = &'static str;

/// How a store that answers is set up, and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why no request should be sent to this service: the promises do not hold on a store that is set up like this.
    pub fault: Option<Warning>,
    /// What its operator should put right.
    pub warnings: Vec<Warning>,
    /// Whether there ever was an administrator, as far as the store knows; `None`: it does not say.
    pub holds_users: Option<bool>,
}

/// Keeps tokens and users.
///
/// "Not there" is an `Option` or a `bool`; an error means that the store could not tell. A token is gone by itself once
/// its life is over, by the clock of the store and by no other.
#[async_trait]
pub trait Store: Send + Sync {
    /// Creates a token whose life begins now, if its owner has fewer than `quota` live ones and the login has not ended: a
    /// login that is under way while the password is changed creates no token afterwards.
    async fn create_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        quota: usize,
    ) -> StoreResult<Creation>;

    /// A live token of this owner.
    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>>;

    /// The live tokens of this owner. `None`: there is no live token that is `page.after`.
    async fn list_tokens(&self, owner: &UserName, page: Page) -> StoreResult<Option<Listing<LiveToken>>>;

    /// Creates a user. `false`: the name is taken, and nothing changed.
    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool>;

    /// A user, disabled or not.
    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>>;

    /// Whether there is any user.
    async fn has_users(&self) -> StoreResult<bool>;

    /// At most `limit` users, by name, beginning behind `after`, who need not exist.
    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>>;

    /// Counts this login attempt as a failure before its password is verified, unless it comes too early by the rules of
    /// [`crate::domain::throttle`] and the store's clock. `epoch` is that of the user, if the user exists.
    async fn reserve_attempt(&self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> StoreResult<Reservation>;

    /// Removes this attempt from the counters of its scope, resets the client's counter for this user, and makes the
    /// client known to the user.
    async fn login_succeeded(&self, attempt: &LoginAttempt, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()>;

    /// Whether the user logged in from this client in the last [`crate::domain::throttle::KNOWN_CLIENT_TTL`].
    async fn is_known_client(&self, attempt: &LoginAttempt) -> StoreResult<bool>;

    /// Begins to watch for changes, and ends the watch before. `None`: this store tells of none.
    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>>;

    /// The time since the Unix epoch by the store's clock, as far as it is known without asking; `None`: it is not known yet.
    fn time(&self) -> Option<Duration>;

    /// Answers if the store does, and says how it is set up.
    async fn check(&self) -> StoreResult<Health>;
}

/// Writes that take something away: a token, a right, a password.
///
/// A replica may still hold a leased copy of it, so the answer to such a write has to wait until all leases have lapsed. The
/// service can reach these writes only through [`leased::LeasedStore::write`], which waits.
#[async_trait]
pub trait StrictWrites: Store {
    /// Revokes a token. `false`: there was none.
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool>;

    /// Revokes a token for whoever presents its JWT, which has this digest. `false`: there was none. `is_ours`: whether the JWT
    /// is known to be one that was issued here, and may therefore cost more.
    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        is_ours: bool,
    ) -> StoreResult<bool>;

    /// Returns once what was written to this account is where an answer needs it to be: for an answer that rests on what was
    /// read, and says that something is gone.
    async fn confirm(&self, owner: &UserName) -> StoreResult<()>;

    /// Revokes all tokens of this owner, and returns their number.
    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64>;

    /// Creates `successor`, if the login has not ended, and lets `token`, as it was found, live no longer than `overlap`:
    /// where that is zero, it is revoked and leaves its place in the quota.
    async fn rotate_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> StoreResult<Rotation>;

    /// Changes a user; disabling one revokes all of the user's tokens.
    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>>;

    /// Gives a user another password, ends all logins with the old one and, where asked to, revokes all of the user's tokens.
    /// Returns their number; `None`: no such user.
    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<Option<u64>>;

    /// Gives a user, who still has the old hash of the password, a new hash of the same password. `false`: who has not.
    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool>;

    /// Removes a user, revokes all of the user's tokens, and returns their number.
    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>>;
}

/// Tells of what changes in a store: from before [`Store::watch`] answered, and for all reads of the store that were sent since.
#[async_trait]
pub trait Watch: Send {
    /// Everything that changed up to the moment at which this was called, and was not told yet, whoever changed it. An error
    /// ends the watch: nobody knows what changed since the answer before.
    async fn changes(&mut self) -> StoreResult<Changes>;
}

/// What may have changed in a store: it lives no longer, or is another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// All that there was.
    pub everything: bool,
    /// These tokens, whosever they are.
    pub tokens: HashSet<TokenId>,
    /// These users.
    pub users: HashSet<UserName>,
}

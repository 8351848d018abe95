//! The store of tokens and users: the boundary between the use cases and the backends.
//!
//! A method of [`Store`] is one atomic operation of the domain, never a get or a set, so that each backend can make it
//! atomic in its own way. `tests/store_contract` holds all backends to the same promises.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::domain::{
    idempotency::{IdempotencyKey, Issuance},
    listing::{Listing, PageRequest},
    password::PasswordHash,
    throttle::{AttemptScope, ClientAndUser, Reservation},
    token::{InspectedToken, LiveToken, Token, TokenDigest, TokenId, TokenUse},
    user::{LoginEpoch, User, UserName, UserUpdate},
};

mod account_keys;
mod account_tokens;
pub mod leased;
pub mod memory;
pub mod redis;
mod throttle;

/// Why an operation has no result. Only [`StoreError::LoginEnded`] and [`StoreError::Forbidden`] say something about a
/// user; no error says anything about a token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be reached or rejected the operation (loading, read-only, out of memory): nothing changed.
    #[error("the store is unavailable: {0}")]
    Refused(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The connection broke during the operation, or too few replicas of the store acknowledged it: it may have taken
    /// place.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A write reached the store after its [`Authority`] had lapsed: nothing changed. It can be repeated.
    #[error("the write reached the store too late")]
    TooLate,
    /// The login that the write rests on has ended: nothing changed. The user was removed or disabled, or has another
    /// password.
    #[error("the login has ended")]
    LoginEnded,
    /// The user who asked for the write is not an administrator (any more): nothing changed.
    #[error("the user who asked is no administrator")]
    Forbidden,
    /// The store did not answer in time: the operation may have taken place.
    #[error("the store did not answer in time")]
    Timeout,
    /// A record in the store cannot be read.
    #[error("the store holds a corrupt {0}")]
    Corrupt(&'static str),
}

impl StoreError {
    /// Whether the operation may have taken place despite the error.
    pub fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout | Self::Corrupt(_) => true,
            Self::Refused(_) | Self::TooLate | Self::LoginEnded | Self::Forbidden => false,
        }
    }

    /// The error of an operation that may have taken place.
    fn unavailable(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(reason.into().into())
    }

    /// The error of an operation of which this is a later step: an earlier step took place.
    fn into_unconfirmed(self) -> Self {
        match self {
            Self::Refused(cause) => Self::Unavailable(cause),
            Self::TooLate | Self::LoginEnded | Self::Forbidden => Self::Timeout,
            unconfirmed => unconfirmed,
        }
    }
}

/// The result of an operation of the store.
pub type StoreResult<T> = Result<T, StoreError>;

/// The right that a write rests on. The store checks it in the same atomic step as the write, so that a delayed write
/// never uses a right that was lost in the meantime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The right of a user over the user's own account. It lapses when this login epoch ends.
    Login(LoginEpoch),
    /// The right of an administrator over all accounts. It lapses when this login epoch ends, or the role.
    Administrator {
        /// The administrator's name.
        name: UserName,
        /// The login epoch of the administrator when the write was asked for.
        login: LoginEpoch,
    },
    /// The operator's right, or one that cannot be lost before this moment, at which it lapses.
    Until(Instant),
}

/// A token to create.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    /// The user whom the token belongs to.
    pub owner: &'a UserName,
    /// The login epoch of the owner when the token was asked for. If it has ended, no token is created.
    pub login: LoginEpoch,
    /// The token. Its life begins when the store creates it.
    pub token: &'a Token,
    /// The most live tokens that the owner may have.
    pub quota: usize,
    /// The Idempotency-Key of the request, if it has one, and the record to keep for it. The key is the owner's own.
    pub idempotency: Option<(&'a IdempotencyKey, &'a Issuance)>,
}

/// A token that was issued before for the same Idempotency-Key of the same user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repetition {
    /// The record of the first request.
    pub issuance: Issuance,
    /// The token; `None`: it is not live (any more).
    pub token: Option<Token>,
}

/// The result of creating a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// The token was stored and is live.
    Created,
    /// The Idempotency-Key was used before, at the quota or not. Nothing changed.
    Repeated(Repetition),
    /// The owner has as many live tokens as the quota allows. Nothing changed.
    QuotaReached,
    /// The owner has as many Idempotency-Keys as are kept. Nothing changed.
    TooManyKeys,
}

/// The result of rotating a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// The successor is live, and the old token lives no longer than the overlap.
    Rotated,
    /// The Idempotency-Key was used before, at the quota or not. Nothing changed.
    Repeated(Repetition),
    /// The old token has a successor already. Nothing changed.
    AlreadyRotated,
    /// The owner has as many live tokens as the quota allows. Nothing changed.
    QuotaReached,
    /// The owner has as many Idempotency-Keys as are kept. Nothing changed.
    TooManyKeys,
    /// The old token is not live (any more). Nothing changed.
    NoSuchToken,
}

/// The result of a change of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserChange<T> {
    /// The change took place.
    Done(T),
    /// There is no such user. Nothing changed.
    NoSuchUser,
    /// The user logs in without a password, so none can be set. Nothing changed.
    NoPassword,
    /// The change would leave no enabled administrator. Nothing changed.
    LastAdmin,
}

/// A user after a change.
#[derive(Debug, Clone)]
pub struct UpdatedUser {
    /// The user as changed.
    pub user: User,
    /// The number of tokens that the change revoked.
    pub tokens_revoked: u64,
}

/// A fault in the store's setup and its remedy: a sentence for the operator.
pub type Warning = &'static str;

/// The setup of a reachable store, and whether it holds data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why this service is not ready: with this setup of the store, the promises do not hold.
    pub fault: Option<Warning>,
    /// Other faults, with which the service is ready.
    pub warnings: Vec<Warning>,
    /// Whether there ever was an administrator, so whether the store still holds its data; `None`: this store does not
    /// say.
    pub had_admin: Option<bool>,
}

/// Stores tokens and users.
///
/// "Not there" is an `Option` or a `bool`; an error means that the store could not tell. A token expires at the end of
/// its life by the clock of the store, and by no other.
#[async_trait]
pub trait Store: Send + Sync {
    /// Creates a token, unless its owner has reached the quota or used the Idempotency-Key before.
    async fn create_token(&self, new: NewToken<'_>) -> StoreResult<Creation>;

    /// Creates a user together with the user's first token, `new`, whose owner and login epoch are those of `owner`.
    /// `None`: there is a user of this name already, and nothing changed.
    ///
    /// It needs no authority: the user has no rights before. It does not take place after its own answer, so it never
    /// brings back a user whose removal was asked for later.
    async fn create_first_token(&self, owner: &User, new: NewToken<'_>) -> StoreResult<Option<Creation>>;

    /// Finds a live token of this owner.
    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>>;

    /// Finds a live token of this owner, with its last use, which a verification does not need.
    async fn inspect_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<InspectedToken>>;

    /// Lists live tokens of this owner. `None`: `page.after` is not a live token.
    async fn list_tokens(&self, owner: &UserName, page: PageRequest) -> StoreResult<Option<Listing<InspectedToken>>>;

    /// Records uses of this owner's tokens, except of those that are not live. A use before the one that is recorded
    /// changes nothing, so that replicas may record in any order, and twice. No [`Watch`] reports it as a change. It
    /// does not wait for replicas of the store: a lost use takes nothing away.
    async fn record_uses(&self, owner: &UserName, uses: &[TokenUse]) -> StoreResult<()>;

    /// Creates a user. `false`: the name is taken, and nothing changed.
    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool>;

    /// Finds a user, disabled or not.
    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>>;

    /// Whether there is any user.
    async fn has_users(&self) -> StoreResult<bool>;

    /// Lists at most `limit` users by name. They come after the name `after`, which need not exist.
    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>>;

    /// Counts a login attempt of this pair as a failure before its password is verified, unless it comes too early by
    /// the rules of [`crate::domain::throttle`] and the store's clock. `epoch`: the user's login epoch; `None`: no such
    /// user.
    async fn reserve_attempt(&self, pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> StoreResult<Reservation>;

    /// Removes an attempt of this pair from the counters of its scope, resets the client's counter for this user, and
    /// makes the client known to the user.
    async fn login_succeeded(&self, pair: &ClientAndUser, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()>;

    /// Whether the user logged in from this client in the last [`crate::domain::throttle::KNOWN_CLIENT_TTL`].
    async fn is_known_client(&self, pair: &ClientAndUser) -> StoreResult<bool>;

    /// Begins a watch for changes and ends the watch before. `None`: this store reports no changes.
    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>>;

    /// The time since 1970 by the store's clock, from an earlier reading; `None`: there is none yet, or the store has
    /// no clock of its own.
    fn time(&self) -> Option<Duration>;

    /// Asks the store for its setup; an error: the store does not answer.
    async fn health(&self) -> StoreResult<Health>;
}

/// Writes after which [`leased::LeasedStore::write`] waits: they take something away (a token, a right, a password).
///
/// Another replica may still hold a leased copy of it, so the answer to such a write has to wait until all leases have
/// lapsed. The methods here do not wait for that; the service can reach them only through `write`, which does.
#[async_trait]
pub trait RevokingWrites: Store {
    /// Revokes a token. `false`: there was none.
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool>;

    /// Revokes a token for the holder of its JWT, which has this digest. `false`: there was none. `is_ours`: whether
    /// the JWT is known to have been issued here. Holders of other JWTs share fewer connections.
    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        is_ours: bool,
    ) -> StoreResult<bool>;

    /// Returns once as many replicas of the store as configured have all earlier writes to this account: for an answer
    /// that rests on a read and says that something is gone.
    async fn wait_for_replication(&self, owner: &UserName) -> StoreResult<()>;

    /// Revokes all tokens of this owner and returns their number.
    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64>;

    /// Revokes these tokens of this owner, and returns the ids of those that were live. After an error, some may be
    /// revoked.
    async fn revoke_listed(
        &self,
        by: &Authority,
        owner: &UserName,
        ids: &HashSet<TokenId>,
    ) -> StoreResult<HashSet<TokenId>>;

    /// Creates the successor of a token. The old token lives no longer than `overlap`; with none, it is revoked and
    /// does not count towards the quota.
    async fn rotate_token(&self, old: &Token, overlap: Duration, new: NewToken<'_>) -> StoreResult<Rotation>;

    /// Finds the token that was issued for this Idempotency-Key of this user, whose login epoch this is. `None`: the
    /// key is unused. As [`Self::wait_for_replication`], returns once Redis replicas have all earlier writes.
    async fn find_repetition(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        key: &IdempotencyKey,
    ) -> StoreResult<Option<Repetition>>;

    /// Changes a user. Disabling a user revokes all of the user's tokens.
    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>>;

    /// Gives a user who has a password a new one, and ends all logins with the old one. Returns the number of tokens
    /// revoked: all, if `revoke_tokens`.
    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<UserChange<u64>>;

    /// Replaces the hash of a user's password by a new hash of the same password. `false`: the user has another hash
    /// than `old`.
    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool>;

    /// Removes a user, revokes all of the user's tokens, and returns their number.
    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>>;
}

/// Reports changes in a store. It covers all reads of the store that were sent after [`Store::watch`] returned.
#[async_trait]
pub trait Watch: Send {
    /// All changes, by any replica, since the last call (or the beginning of the watch) and before this call. An error
    /// ends the watch: some changes may never be reported.
    async fn changes(&mut self) -> StoreResult<Changes>;
}

/// The tokens and users that may have changed in a store, or no longer exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// All tokens and users.
    pub everything: bool,
    /// These tokens, of any owner.
    pub tokens: HashSet<TokenId>,
    /// These users.
    pub users: HashSet<UserName>,
}

//! Add, list, change and remove users.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{
    Actor, Clock,
    hashing::{Busy, Hashing, Lane},
    run_to_completion,
};
use crate::{
    domain::{
        listing::Listing,
        password::Password,
        user::{Credential, Role, User, UserName, UserUpdate},
    },
    store::{
        Authority, StoreError, UpdatedUser, UserChange,
        leased::{LEASE, LeasedStore},
    },
    telemetry::audit::{self, Outcome, Unconfirmed},
};

/// Adds, lists, changes and removes users.
///
/// A change is in force on all replicas when its method returns: a removed or disabled user cannot log in and has no
/// live token, a former administrator has lost the rights of one, and an old password is wrong.
pub struct Users {
    store: Arc<LeasedStore>,
    clock: Clock,
    hashing: Arc<Hashing>,
    /// Set once an `unconfirmed` event was written for the first administrator, so that retries write no second.
    bootstrap_unconfirmed: AtomicBool,
}

/// The result of [`Users::bootstrap`], which adds the first administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// There were no users, and the administrator was added.
    Created,
    /// There are users, and nothing changed.
    Exists {
        /// Whether there is a user of this name with this password, as far as can be told.
        as_given: bool,
    },
}

/// Why a user was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no user of this name.
    #[error("there is no such user")]
    NoSuchUser,
    /// There is a user of this name already.
    #[error("there is a user of this name already")]
    NameTaken,
    /// The user logs in without a password, so none can be set.
    #[error("the user logs in without a password")]
    NoPassword,
    /// The change would leave no enabled administrator.
    #[error("this is the last enabled administrator: make another one first")]
    LastAdmin,
    /// The queue for password hashes was full. Nothing changed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<T> From<UserChange<T>> for Result<T, UserError> {
    fn from(change: UserChange<T>) -> Self {
        match change {
            UserChange::Done(done) => Ok(done),
            UserChange::NoSuchUser => Err(UserError::NoSuchUser),
            UserChange::NoPassword => Err(UserError::NoPassword),
            UserChange::LastAdmin => Err(UserError::LastAdmin),
        }
    }
}

/// Writes the audit event of a change that took place or may have taken place; none if nothing changed.
fn write_audit_event<T>(change: &Result<T, UserError>, event: impl FnOnce(Outcome<&T>)) {
    match change {
        Ok(done) => event(Ok(done)),
        Err(UserError::Store(StoreError::LoginEnded | StoreError::Forbidden)) => {}
        // One of several steps may have taken place.
        Err(UserError::Store(_)) => event(Err(Unconfirmed)),
        Err(_) => {}
    }
}

impl Users {
    /// Manages the users of `store`.
    pub fn new(store: Arc<LeasedStore>, clock: Clock, hashing: Arc<Hashing>) -> Self {
        Self { store, clock, hashing, bootstrap_unconfirmed: AtomicBool::new(false) }
    }

    /// Adds a user.
    pub async fn add(&self, by: Actor, name: UserName, role: Role, password: Password) -> Result<User, UserError> {
        let user = self.new_user(name, role, password).await?;
        self.store_new(by.admin_authority(), user, false).await
    }

    /// A user with a new hash of this password and a new login epoch, not stored yet.
    async fn new_user(&self, name: UserName, role: Role, password: Password) -> Result<User, UserError> {
        let password_hash = self.hashing.hash(password).await?;
        Ok(User::new(name, role, password_hash, self.clock.unix_seconds()))
    }

    /// Stores a new user. `is_repeated`: an `unconfirmed` event was written already, and no second is written.
    async fn store_new(&self, by: Authority, user: User, is_repeated: bool) -> Result<User, UserError> {
        let store = Arc::clone(&self.store);
        run_to_completion(async move {
            let created = match store.create_user(&by, &user).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(UserError::NameTaken),
                Err(error) => Err(error.into()),
            };
            write_audit_event(&created, |outcome| {
                if !(is_repeated && outcome.is_err()) {
                    audit::user_added(&user, &outcome);
                }
            });
            created.map(|()| user)
        })
        .await
    }

    /// Whether there are users.
    pub async fn has_any(&self) -> Result<bool, StoreError> {
        self.store.has_users().await
    }

    /// Returns a user, disabled or not, from the cache while the lease holds or else from the store.
    pub async fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.store.cached_user(name).await
    }

    /// Lists at most `limit` users by name, starting after the name `after`, which need not exist.
    pub async fn list(&self, after: Option<&UserName>, limit: usize) -> Result<Listing<User>, StoreError> {
        self.store.list_users(after, limit).await
    }

    /// Changes a user, and returns the user as changed. Disabling a user revokes all tokens of the user.
    pub async fn update(&self, by: Actor, name: &UserName, update: UserUpdate) -> Result<UpdatedUser, UserError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        run_to_completion(async move {
            let by = by.admin_authority();
            let changed = store.write(|store| store.update_user(&by, &name, update)).await;
            let changed = changed.map_err(UserError::from).and_then(Result::from);
            write_audit_event(&changed, |outcome| {
                if let Some(role) = update.role {
                    audit::role_changed(&name, role, &outcome);
                }
                match update.disabled {
                    Some(true) => audit::user_disabled(&name, outcome.map(|updated| updated.tokens_revoked)),
                    Some(false) => audit::user_enabled(&name, &outcome),
                    None => {}
                }
            });
            changed
        })
        .await
    }

    /// Sets the password of a user who has one, and returns the number of tokens revoked: all, if `revoke_tokens` is
    /// set.
    pub async fn set_password(
        &self,
        by: Actor,
        name: &UserName,
        password: Password,
        revoke_tokens: bool,
    ) -> Result<u64, UserError> {
        // Such a user may change no other's, and the store would say that the login has ended.
        if by.is_new_user() {
            return Err(UserError::NoPassword);
        }
        let hash = self.hashing.hash(password).await?;
        let (store, name) = (Arc::clone(&self.store), name.clone());
        run_to_completion(async move {
            let by = by.account_authority(&name);
            let changed = store.write(|store| store.set_password(&by, &name, &hash, revoke_tokens)).await;
            let changed = changed.map_err(UserError::from).and_then(Result::from);
            write_audit_event(&changed, |tokens| audit::password_changed(&name, tokens.copied()));
            changed
        })
        .await
    }

    /// Removes a user, revokes all tokens of the user, and returns their number.
    pub async fn remove(&self, by: Actor, name: &UserName) -> Result<u64, UserError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        run_to_completion(async move {
            let by = by.admin_authority();
            let removed = store.write(|store| store.remove_user(&by, &name)).await;
            let removed = removed.map_err(UserError::from).and_then(Result::from);
            write_audit_event(&removed, |tokens| audit::user_removed(&name, tokens.copied()));
            removed
        })
        .await
    }

    /// Whether this is the password of the user. `true` as well if that cannot be told (the store fails, or the queue
    /// for hashes is full): `false` only leads to a log line.
    async fn has_password(&self, name: &UserName, password: Password) -> bool {
        match (self.find(name).await, self.hashing.take_slot(Lane::NewPassword)) {
            (Ok(Some(User { credential: Credential::Password(hash), .. })), Some(slot)) => {
                self.hashing.find_match(slot, hash, vec![password]).await.is_some()
            }
            (Ok(Some(User { credential: Credential::Password(_), .. })), None) | (Err(_), _) => true,
            (Ok(_), _) => false,
        }
    }

    /// Adds the first administrator if there are no users. If there are users, nothing changes: a restart neither
    /// restores an administrator who was removed nor resets the password.
    ///
    /// Call it again after an error: at most one `unconfirmed` event is written, however many calls fail.
    pub async fn bootstrap(&self, name: UserName, password: Password) -> Result<Bootstrap, UserError> {
        if self.has_any().await? {
            let as_given = self.has_password(&name, password).await;
            return Ok(Bootstrap::Exists { as_given });
        }
        let user = self.new_user(name, Role::Admin, password).await?;
        // Asked again, since hashing took its time. If there are no users now, one of this name can only be added and
        // removed later. Such a removal is answered more than a lease after this question, and the write below runs
        // within that lease: it never brings back a user whose removal was answered.
        let asked_at = Instant::now();
        if self.has_any().await? {
            return Ok(Bootstrap::Exists { as_given: true });
        }
        let by = Authority::Until(asked_at + LEASE);
        match self.store_new(by, user, self.bootstrap_unconfirmed.load(Relaxed)).await {
            Ok(_) => Ok(Bootstrap::Created),
            // Another replica was faster, as a rule with the same password.
            Err(UserError::NameTaken) => Ok(Bootstrap::Exists { as_given: true }),
            Err(error) => {
                self.bootstrap_unconfirmed.store(true, Relaxed);
                Err(error)
            }
        }
    }
}

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
        user::{LoginEpoch, Role, User, UserName, UserUpdate},
    },
    store::{
        Authority, StoreError, UpdatedUser, UserChange,
        leased::{LEASE, LeasedStore},
    },
    telemetry::audit::{self, Outcome, Unconfirmed},
};

/// All users.
///
/// What a change takes away is gone on every replica when it returns: a removed or disabled user logs in no more and has no
/// live token, a former administrator has no power, an old password opens nothing.
pub struct Users {
    store: Arc<LeasedStore>,
    clock: Clock,
    hashing: Arc<Hashing>,
    /// Whether an event says already that nobody knows whether there is a first administrator.
    bootstrap_unconfirmed: AtomicBool,
}

/// What became of the first user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// There was nobody, and now there is this administrator.
    Created,
    /// There is somebody, and nothing changed.
    Exists {
        /// Whether the administrator exists as given, with this password.
        as_given: bool,
    },
}

/// Why a user was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is none of this name.
    #[error("there is no such user")]
    NoSuchUser,
    /// There is one of this name already.
    #[error("there is a user of this name already")]
    NameTaken,
    /// Nobody could manage users any more.
    #[error("this is the last enabled administrator: make another one first")]
    LastAdmin,
    /// There are more passwords to hash than can be hashed in good time. Nothing changed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<T> From<UserChange<T>> for Result<T, UserError> {
    fn from(change: UserChange<T>) -> Self {
        match change {
            UserChange::Done(done) => Ok(done),
            UserChange::NoSuchUser => Err(UserError::NoSuchUser),
            UserChange::LastAdmin => Err(UserError::LastAdmin),
        }
    }
}

/// What the event of a change says; `None`: nothing changed, and there is none.
fn outcome<T>(change: &Result<T, UserError>) -> Option<Outcome<&T>> {
    match change {
        Ok(done) => Some(Ok(done)),
        Err(UserError::Store(StoreError::LoginEnded | StoreError::Forbidden)) => None,
        // Of several steps, one may have taken place.
        Err(UserError::Store(_)) => Some(Err(Unconfirmed)),
        Err(_) => None,
    }
}

impl Users {
    /// The users of `store`.
    pub fn new(store: Arc<LeasedStore>, clock: Clock, hashing: Arc<Hashing>) -> Self {
        Self { store, clock, hashing, bootstrap_unconfirmed: AtomicBool::new(false) }
    }

    /// Adds a user.
    pub async fn add(&self, by: Actor, name: UserName, role: Role, password: Password) -> Result<User, UserError> {
        let user = self.new_user(name, role, password).await?;
        self.create(by.admin_authority(), user, false).await
    }

    /// A user who does not exist yet.
    async fn new_user(&self, name: UserName, role: Role, password: Password) -> Result<User, UserError> {
        Ok(User {
            name,
            password_hash: self.hashing.hash(password).await?,
            role,
            created_at: self.clock.unix_seconds(),
            disabled: false,
            login_epoch: LoginEpoch::begin(),
        })
    }

    /// Creates a user. `again`: there is an event already that it is unconfirmed, and is to be no other.
    async fn create(&self, by: Authority, user: User, again: bool) -> Result<User, UserError> {
        let store = Arc::clone(&self.store);
        let creation = async move {
            let created = match store.create_user(&by, &user).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(UserError::NameTaken),
                Err(error) => Err(error.into()),
            };
            match outcome(&created) {
                Some(Err(Unconfirmed)) if again => {}
                Some(outcome) => audit::user_added(&user.name, user.role, &outcome),
                None => {}
            }
            created.map(|()| user)
        };
        run_to_completion(creation).await
    }

    /// Whether there is any user.
    pub async fn any(&self) -> Result<bool, StoreError> {
        self.store.has_users().await
    }

    /// A user, disabled or not.
    pub async fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        self.store.cached_user(name).await
    }

    /// At most `limit` users, by name, beginning behind `after`, who need not exist.
    pub async fn list(&self, after: Option<&UserName>, limit: usize) -> Result<Listing<User>, StoreError> {
        self.store.list_users(after, limit).await
    }

    /// Changes a user, and returns the user as changed. Disabling one revokes all tokens, and it says how many.
    pub async fn update(&self, by: Actor, name: &UserName, update: UserUpdate) -> Result<UpdatedUser, UserError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        let change = async move {
            let by = by.admin_authority();
            let changed = store.write(|store| store.update_user(&by, &name, update)).await;
            let changed = changed.map_err(UserError::from).and_then(Result::from);
            if let Some(outcome) = outcome(&changed) {
                if let Some(role) = update.role {
                    audit::role_changed(&name, role, &outcome);
                }
                match update.disabled {
                    Some(true) => audit::user_disabled(&name, outcome.map(|updated| updated.tokens_revoked)),
                    Some(false) => audit::user_enabled(&name, &outcome),
                    None => {}
                }
            }
            changed
        };
        run_to_completion(change).await
    }

    /// Gives a user another password, and says how many tokens were revoked: all, or, unless asked to, none.
    pub async fn set_password(
        &self,
        by: Actor,
        name: &UserName,
        password: Password,
        revoke_tokens: bool,
    ) -> Result<u64, UserError> {
        let hash = self.hashing.hash(password).await?;
        let (store, name) = (Arc::clone(&self.store), name.clone());
        let change = async move {
            let by = by.account_authority(&name);
            let revoked = store.write(|store| store.set_password(&by, &name, &hash, revoke_tokens)).await;
            let changed = revoked.map_err(UserError::from).and_then(|revoked| revoked.ok_or(UserError::NoSuchUser));
            if let Some(outcome) = outcome(&changed) {
                audit::password_changed(&name, outcome.copied());
            }
            changed
        };
        run_to_completion(change).await
    }

    /// Removes a user and revokes all tokens, and says how many there were.
    pub async fn remove(&self, by: Actor, name: &UserName) -> Result<u64, UserError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        let removal = async move {
            let by = by.admin_authority();
            let removed = store.write(|store| store.remove_user(&by, &name)).await;
            let removed = removed.map_err(UserError::from).and_then(Result::from);
            if let Some(outcome) = outcome(&removed) {
                audit::user_removed(&name, outcome.copied());
            }
            removed
        };
        run_to_completion(removal).await
    }

    /// Whether this is the password of the user. Only an answer for the log: where it cannot be told, it is.
    async fn has_password(&self, name: &UserName, password: Password) -> bool {
        match self.find(name).await {
            Ok(Some(user)) => match self.hashing.slot(Lane::NewPassword) {
                Some(slot) => self.hashing.find_match(slot, user.password_hash, vec![password]).await.is_some(),
                None => true,
            },
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Adds the first administrator where there is no user at all. An installation that has users is left alone, so that
    /// an administrator who was removed or has another password stays so across restarts.
    ///
    /// To be called again where it fails: however often that is, one event says that it is unconfirmed.
    pub async fn bootstrap(&self, name: UserName, password: Password) -> Result<Bootstrap, UserError> {
        if self.any().await? {
            let as_given = self.has_password(&name, password).await;
            return Ok(Bootstrap::Exists { as_given });
        }
        let user = self.new_user(name, Role::Admin, password).await?;
        // Asked once more, for a password is hashed by now. Where there was nobody at this moment, nobody can have been removed
        // before the lease ends, for a removal waits it out: an administrator who was removed does not come back.
        let asked_at = Instant::now();
        if self.any().await? {
            return Ok(Bootstrap::Exists { as_given: true });
        }
        let by = Authority::Until(asked_at + LEASE);
        match self.create(by, user, self.bootstrap_unconfirmed.load(Relaxed)).await {
            Ok(_) => Ok(Bootstrap::Created),
            // Another replica was faster, with the same password as a rule.
            Err(UserError::NameTaken) => Ok(Bootstrap::Exists { as_given: true }),
            Err(error) => {
                self.bootstrap_unconfirmed.store(true, Relaxed);
                Err(error)
            }
        }
    }
}

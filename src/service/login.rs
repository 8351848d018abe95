//! Log in with a name and a password.

use std::sync::Arc;

use super::{
    hashing::{Busy, Hashing},
    remembered_logins::RememberedLogins,
};
use crate::{
    domain::{
        password::{Password, PasswordHash},
        user::{User, UserName},
    },
    store::{Store, StoreError},
    telemetry::{
        audit::{self, LoginFailure},
        logs,
    },
};

/// Checks who somebody is.
pub struct Login {
    store: Arc<dyn Store>,
    hashing: Arc<Hashing>,
    remembered: RememberedLogins,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No such user, a wrong password, or a disabled user. Which of these is nobody's business.
    #[error("wrong user name or password")]
    Refused,
    /// More passwords to check than can be checked in good time.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Login {
    /// Logs users of `store` in, and has their hashes cost what new ones do.
    pub fn new(store: Arc<dyn Store>, hashing: Arc<Hashing>) -> Self {
        Self { store, hashing, remembered: RememberedLogins::new() }
    }

    /// The user with this name, if this is the password. It takes as long for a name that nobody has.
    pub async fn log_in(&self, name: &UserName, password: Password) -> Result<User, LoginError> {
        let user = self.store.find_user(name).await?;
        let hash =
            user.as_ref().map_or_else(|| PasswordHash::dummy(self.hashing.cost()), |user| user.password_hash.clone());
        let login = self.remembered.fingerprint(name, &password, &hash);
        let remembered = self.remembered.contains(&login);
        let matches = remembered || self.hashing.verify(hash, password.clone()).await?;
        let failure = match user {
            Some(user) if matches && !user.disabled => {
                if !remembered {
                    self.remembered.insert(login);
                }
                logs::user(&user.name);
                if user.password_hash.cost() != self.hashing.cost() {
                    self.rehash(&user, password).await;
                }
                return Ok(user);
            }
            Some(_) if matches => LoginFailure::Disabled,
            Some(_) => LoginFailure::WrongPassword,
            None => LoginFailure::UnknownUser,
        };
        audit::login_failed(failure, name);
        Err(LoginError::Refused)
    }

    /// The user with this name, who may log in, for one whose token said who it is.
    pub async fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let user = self.store.find_user(name).await?.filter(|user| !user.disabled);
        if let Some(user) = &user {
            logs::user(&user.name);
        }
        Ok(user)
    }

    /// Gives a user, whose password is known at this moment only, a hash of today's cost. Where that fails, the next login
    /// does it.
    async fn rehash(&self, user: &User, password: Password) {
        let Ok(hash) = self.hashing.hash(password).await else { return };
        if let Err(error) = self.store.replace_hash(&user.name, &user.password_hash, &hash).await {
            tracing::warn!(%error, "a password keeps its old hash");
        }
    }
}

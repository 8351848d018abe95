//! Add, list and remove users, and change their passwords.

use std::sync::Arc;

use super::{
    Clock,
    hashing::{Busy, Hashing},
};
use crate::{
    domain::{
        password::Password,
        user::{Role, User, UserName},
    },
    store::{Store, StoreError},
    telemetry::audit,
};

/// All users.
pub struct Users {
    store: Arc<dyn Store>,
    clock: Clock,
    hashing: Arc<Hashing>,
}

/// What became of the first user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bootstrap {
    /// There was nobody, and now there is this administrator.
    Created,
    /// There is somebody, and nothing changed.
    Exists,
}

/// Why a user did not change, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There are more passwords to hash than can be hashed in good time. Nothing changed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Users {
    /// The users of `store`.
    pub fn new(store: Arc<dyn Store>, clock: Clock, hashing: Arc<Hashing>) -> Self {
        Self { store, clock, hashing }
    }

    /// Adds a user. `false`: the name is taken, and nothing changed.
    pub async fn add(&self, name: UserName, role: Role, password: Password) -> Result<bool, UserError> {
        let password_hash = self.hashing.hash(password).await?;
        let user = User { name, password_hash, role, created_at: self.clock.unix_seconds(), disabled: false };
        let added = self.store.create_user(&user).await?;
        if added {
            audit::user_added(&user.name, user.role);
        }
        Ok(added)
    }

    /// Whether there is any user.
    pub async fn any(&self) -> Result<bool, StoreError> {
        self.store.has_users().await
    }

    /// All users, by name.
    pub async fn list(&self) -> Result<Vec<User>, StoreError> {
        self.store.list_users().await
    }

    /// Gives a user another password. The user's tokens live on. `false`: no such user.
    pub async fn set_password(&self, name: &UserName, password: Password) -> Result<bool, UserError> {
        let hash = self.hashing.hash(password).await?;
        let changed = self.store.set_password(name, &hash).await?;
        if changed {
            audit::password_changed(name);
        }
        Ok(changed)
    }

    /// Removes a user and all of the user's tokens. `false`: no such user.
    pub async fn remove(&self, name: &UserName) -> Result<bool, StoreError> {
        let removed = self.store.remove_user(name).await?;
        if removed {
            audit::user_removed(name);
        }
        Ok(removed)
    }

    /// Adds the first administrator where there is no user at all. An installation that has users is left alone, so that
    /// an administrator who was removed or has another password stays so across restarts.
    pub async fn bootstrap(&self, name: UserName, password: Password) -> Result<Bootstrap, UserError> {
        let created = !self.any().await? && self.add(name, Role::Admin, password).await?;
        Ok(if created { Bootstrap::Created } else { Bootstrap::Exists })
    }
}

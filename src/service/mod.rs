//! The use cases: log in, issue, inspect, list, revoke, verify, and the users behind them.
//!
//! They know the domain and the store's trait, and neither HTTP nor Redis. Each has an error enum of its own, which
//! says what went wrong and not how it is answered.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    domain::user::User,
    store::{Store, StoreError},
};

pub mod followed_files;
pub mod hashing;
pub mod login;
pub mod readiness;
mod remembered_logins;
pub mod signing_keys;
mod single_flight;
pub mod tokens;
pub mod users;

/// A user who logged in a while ago, as of now, if that login still counts. Bodies take their time to arrive, and hashes to
/// be made. What is read is read under a lease, which whoever ends what a user may do waits out.
async fn still_logged_in(store: &dyn Store, user: &User) -> Result<Option<User>, StoreError> {
    let now = store.find_user(&user.name).await?;
    Ok(now.filter(|now| now.login_epoch == user.login_epoch && !now.disabled))
}

/// Where the time of day comes from, as the time since the Unix epoch. It dates a JWT; what ends a token's life is the
/// clock of the store.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Any clock.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Whole seconds since the epoch.
    pub fn unix_seconds(&self) -> u64 {
        (self.0)().as_secs()
    }
}

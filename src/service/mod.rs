//! The use cases: log in, issue, inspect, list, revoke, verify, and the users behind them.
//!
//! They know the domain and the store's trait, and neither HTTP nor Redis. Each has an error enum of its own, which
//! says what went wrong and not how it is answered.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::{
    domain::user::{User, UserName},
    store::{
        Authority, Store, StoreError,
        leased::{LEASE, LeasedStore},
    },
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

/// How long an operator's command may take in all.
const OPERATOR_PATIENCE: Duration = Duration::from_mins(1);

/// How often a write by right of an administrator is tried. One that reached the store too late, for which a busy machine is
/// enough, changed nothing.
const ATTEMPTS: usize = 3;

/// On whose authority something is changed.
#[derive(Debug, Clone)]
pub enum Actor {
    /// The operator, whose right is to reach the store.
    Operator,
    /// A user who logged in.
    User(User),
}

impl Actor {
    /// Changes the account of this name: by right of its user, or of an administrator.
    async fn change<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        store: &LeasedStore,
        name: &UserName,
        write: impl Fn(Authority) -> F,
    ) -> Result<T, StoreError> {
        match self {
            Self::User(user) if user.name == *name => write(Authority::Login(user.login_epoch)).await,
            _ => self.administer(store, |until| write(Authority::Until(until))).await,
        }
    }

    /// Changes something by right of an administrator.
    async fn administer<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        store: &LeasedStore,
        write: impl Fn(Instant) -> F,
    ) -> Result<T, StoreError> {
        for _ in 1..ATTEMPTS {
            match write(self.administers_until(store).await?).await {
                Err(StoreError::TooLate) => {}
                result => return result,
            }
        }
        write(self.administers_until(store).await?).await
    }

    /// Until when an administrator's right holds, as it is asked for anew: bodies take their time to arrive, and passwords to
    /// be hashed. Whoever takes the right away waits out the lease that ends then.
    async fn administers_until(&self, store: &LeasedStore) -> Result<Instant, StoreError> {
        let asked_at = Instant::now();
        let Self::User(actor) = self else { return Ok(asked_at + OPERATOR_PATIENCE) };
        let now = store.ask_for_user(&actor.name).await?;
        if now.is_some_and(|now| now.login_epoch == actor.login_epoch && now.administers()) {
            Ok(asked_at + LEASE)
        } else {
            Err(StoreError::LoginEnded)
        }
    }
}

/// Where the time of day comes from, as the time since the Unix epoch.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The clock of the store, which ends the lives of tokens: replicas whose own clocks differ agree on `iat` and `exp`. As
    /// long as the store has not told it, the clock of this machine.
    pub fn of(store: Arc<LeasedStore>) -> Self {
        let system = Self::system();
        Self::new(move || store.time().unwrap_or_else(|| (system.0)()))
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

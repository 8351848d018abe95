//! The use cases: log in, issue, inspect, list, revoke, verify, and the users behind them.
//!
//! They know the domain and the store's trait, and neither HTTP nor Redis. Each has an error enum of its own, which
//! says what went wrong and not how it is answered.

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::{
    domain::user::{User, UserName},
    store::{Authority, leased::LeasedStore},
    telemetry::traces,
};

pub mod hashing;
pub mod login;
pub mod readiness;
mod remembered_logins;
pub mod signing_keys;
pub mod tokens;
pub mod users;

/// How long an operator's command may take in all.
const OPERATOR_TIMEOUT: Duration = Duration::from_mins(1);

/// On whose authority something is changed.
#[derive(Debug, Clone)]
pub enum Actor {
    /// The operator, whose right is to reach the store.
    Operator,
    /// A user who logged in.
    User(User),
}

impl Actor {
    /// The authority over the account of this name: users have it over their own, administrators over all.
    fn account_authority(&self, name: &UserName) -> Authority {
        match self {
            Self::User(user) if user.name == *name => Authority::Login(user.login_epoch),
            _ => self.admin_authority(),
        }
    }

    /// The authority of an administrator.
    fn admin_authority(&self) -> Authority {
        match self {
            Self::User(User { name, login_epoch, .. }) => {
                Authority::Administrator { name: name.clone(), login: *login_epoch }
            }
            Self::Operator => Authority::Until(Instant::now() + OPERATOR_TIMEOUT),
        }
    }
}

/// Runs `work` to its end, even if the caller goes away: a client that hangs up leaves no change without its audit event.
///
/// # Panics
/// If `work` does.
async fn run_to_completion<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(traces::in_current_context(work)).await {
        Ok(done) => done,
        Err(error) => resume_unwind(error.into_panic()),
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
    pub fn of_store(store: Arc<LeasedStore>) -> Self {
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

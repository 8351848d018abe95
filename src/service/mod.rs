//! The use cases: log in, manage users, and issue, list, revoke and verify tokens.
//!
//! They use the domain and the store's traits, and neither HTTP nor Redis. Their error enums say what failed; `http`
//! decides on the answer.

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

pub use self::caller::{Caller, LoginLimits, ScopeNotAllowed};
use crate::{
    domain::user::UserName,
    store::{Authority, leased::LeasedStore},
    telemetry::traces,
};

mod caller;
pub mod external_login;
pub mod hashing;
pub mod idempotency;
pub mod issuer_keys;
pub mod issuers;
pub mod last_used;
pub mod login;
mod login_cache;
pub mod readiness;
pub mod signing_keys;
pub mod tokens;
pub mod users;
pub mod verifiers;

/// How long a command of the operator has authority to write.
const OPERATOR_TIMEOUT: Duration = Duration::from_mins(1);

/// The user or the operator who asks for a change.
#[derive(Debug, Clone)]
pub enum Actor {
    /// The operator, on the command line. Access to the store gives the operator all rights.
    Operator,
    /// A user who logged in.
    User(Caller),
}

impl Actor {
    /// Whether this is a user whom the store does not have yet: then the user has no tokens, and no rights to write.
    fn is_new_user(&self) -> bool {
        matches!(self, Self::User(user) if user.is_new())
    }

    /// The authority to change this account: users have it over their own, administrators over all.
    fn account_authority(&self, name: &UserName) -> Authority {
        match self {
            Self::User(user) if user.name == *name => Authority::Login(user.login_epoch),
            _ => self.admin_authority(),
        }
    }

    /// The authority of an administrator. Whether a user is one is not checked here: the store checks it with the
    /// write.
    fn admin_authority(&self) -> Authority {
        match self {
            Self::User(user) => Authority::Administrator { name: user.name.clone(), login: user.login_epoch },
            Self::Operator => Authority::Until(Instant::now() + OPERATOR_TIMEOUT),
        }
    }
}

/// Runs `work` to its end, even if the caller is dropped: a client that hangs up leaves no change without its audit
/// event.
///
/// # Panics
/// If `work` does.
async fn run_to_completion<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(traces::in_current_context(work)).await {
        Ok(done) => done,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// A source of the time since 1970 (UTC).
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The clock of this machine; a time before 1970 reads as zero.
    pub fn system() -> Self {
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The clock of the store, by which tokens expire, so that replicas with different clocks agree on `iat` and `exp`.
    /// Until the store's time is known, this machine's clock.
    pub fn of_store(store: Arc<LeasedStore>) -> Self {
        let system = Self::system();
        Self::new(move || store.time().unwrap_or_else(|| (system.0)()))
    }

    /// A clock that calls `now` for the time.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time in whole seconds since 1970.
    pub fn unix_seconds(&self) -> u64 {
        (self.0)().as_secs()
    }
}

//! Log in with a name and a password.

use std::{panic::resume_unwind, sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::remembered_logins::RememberedLogins;
use crate::{
    domain::{
        password::{HashCost, Password, PasswordHash},
        user::{User, UserName},
    },
    store::{Store, StoreError},
    telemetry::{
        self,
        audit::{self, LoginFailure},
        logs, metrics,
    },
};

/// How many logins may wait for each core. At 17 to 30 ms a hash, the last of them waits about a second.
const WAITING_PER_CORE: usize = 32;

/// Checks passwords, as many at once as there are cores.
pub struct Login {
    store: Arc<dyn Store>,
    cost: HashCost,
    remembered: RememberedLogins,
    cores: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No such user, a wrong password, or a disabled user. Which of these is nobody's business.
    #[error("wrong user name or password")]
    Refused,
    /// More passwords to check than can be checked in good time.
    #[error("too many logins at once")]
    Busy,
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Login {
    /// Logs users of `store` in, and has their hashes cost this.
    pub fn new(store: Arc<dyn Store>, cost: HashCost) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            store,
            cost,
            remembered: RememberedLogins::new(),
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores * (1 + WAITING_PER_CORE))),
        }
    }

    /// The user with this name, if this is the password. It takes as long for a name that nobody has.
    pub async fn log_in(&self, name: &UserName, password: Password) -> Result<User, LoginError> {
        let user = self.store.find_user(name).await?;
        let hash = user.as_ref().map_or_else(|| PasswordHash::dummy(self.cost), |user| user.password_hash.clone());
        let login = self.remembered.fingerprint(name, &password, &hash);
        let remembered = self.remembered.contains(&login);
        let matches = remembered || self.verify(hash, password.clone()).await?;
        let failure = match user {
            Some(user) if matches && !user.disabled => {
                if !remembered {
                    self.remembered.insert(login);
                }
                logs::user(&user.name);
                if user.password_hash.cost() != self.cost {
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
        let cost = self.cost;
        let Ok(hash) = self.on_a_core(move || PasswordHash::of(&password, cost)).await else { return };
        if let Err(error) = self.store.replace_hash(&user.name, &user.password_hash, &hash).await {
            tracing::warn!(%error, "a password keeps its old hash");
        }
    }

    async fn verify(&self, hash: PasswordHash, password: Password) -> Result<bool, LoginError> {
        self.on_a_core(move || hash.verify(&password)).await
    }

    /// Hashes when it is its turn.
    async fn on_a_core<T: Send + 'static>(&self, hash: impl FnOnce() -> T + Send + 'static) -> Result<T, LoginError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            metrics::password_hash_refused();
            LoginError::Busy
        })?;
        let waiting = metrics::password_hash_waiting();
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(|_| LoginError::Busy)?;
        drop(waiting);
        // The permits go with the work: it goes on when the client has gone away.
        let work = spawn_blocking(move || {
            let _permits = (place, core);
            hash()
        });
        telemetry::password_hash(work).await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_shutdown) => LoginError::Busy,
        })
    }
}

//! Log in with a user name and a password.

use std::{sync::Arc, time::Duration};

use super::{
    hashing::{Busy, Hashing, Lane, Slot},
    login_cache::{LoginCache, LoginFingerprint},
    run_to_completion,
};
use crate::{
    domain::{
        password::{Password, PasswordHash},
        throttle::{AttemptScope, LoginAttempt, Reservation},
        user::{User, UserName},
    },
    single_flight::SingleFlight,
    store::{StoreError, leased::LeasedStore},
    telemetry::{audit, events::LoginFailure, logs},
};

/// How often a password is checked again because the user changed meanwhile.
const MAX_CHECKS: usize = 3;

/// Authenticates users.
///
/// A login that succeeded a moment ago is compared with the [`LoginCache`]. Any other is throttled by the rules of
/// [`crate::domain::throttle`]; then its password is hashed, once for concurrent attempts that are equal. All this is
/// the same for unknown names: neither the answer nor its time tells which users exist.
pub struct Login {
    store: Arc<LeasedStore>,
    hashing: Arc<Hashing>,
    cache: LoginCache,
    checks: SingleFlight<(LoginAttempt, Vec<LoginFingerprint>), Result<PasswordCheck, LoginError>>,
}

/// The result of checking the passwords of an attempt.
#[derive(Clone, Copy)]
enum PasswordCheck {
    /// One is the user's. The fingerprint is of the password and its stored hash.
    Right(LoginFingerprint),
    Wrong(LoginFailure),
    /// The passwords were not looked at.
    RetryAfter(Duration),
}

/// Why a login failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    /// There is no such user, the password is wrong, or the user is disabled. The caller does not learn which.
    #[error("wrong user name or password")]
    Refused,
    /// The attempt came too early after failed ones. Its password was not looked at.
    #[error("too many failed logins")]
    RetryAfter(Duration),
    /// The queue for password hashes is full.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Login {
    /// Authenticates users of `store`. A hash that is cheaper than new ones is replaced at the next login.
    pub fn new(store: Arc<LeasedStore>, hashing: Arc<Hashing>) -> Arc<Self> {
        let (cache, checks) = (LoginCache::new(), SingleFlight::new(Duration::MAX));
        Arc::new(Self { store, hashing, cache, checks })
    }

    /// Returns the user if one of these passwords is the user's. A client may have encoded it in one of two ways; both
    /// are one attempt, and count as one failure.
    pub async fn log_in(self: &Arc<Self>, attempt: &LoginAttempt, passwords: &[Password]) -> Result<User, LoginError> {
        if self.cache.contains(attempt)
            && let Some((user, logins)) = self.current_user(attempt, passwords).await?
            && self.cache.verify(attempt, &logins)
        {
            logs::add_user_to_span(&user.name);
            return Ok(user);
        }
        for _ in 0..MAX_CHECKS {
            let check = Arc::clone(self).check_once(attempt.clone(), passwords.to_vec());
            let login = match run_to_completion(check).await? {
                PasswordCheck::Right(login) => login,
                PasswordCheck::Wrong(failure) => {
                    audit::login_failed(failure, attempt);
                    return Err(LoginError::Refused);
                }
                PasswordCheck::RetryAfter(remaining) => {
                    audit::login_failed(LoginFailure::Throttled, attempt);
                    return Err(LoginError::RetryAfter(remaining));
                }
            };
            // The check may have begun before this call. It proves nothing if the user has changed since.
            if let Some((user, logins)) = self.current_user(attempt, passwords).await?
                && logins.contains(&login)
            {
                logs::add_user_to_span(&user.name);
                return Ok(user);
            }
        }
        Err(Busy.into())
    }

    /// Returns the user of this name, if enabled, for a caller whose token proved the name.
    pub async fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let user = self.store.cached_user(name).await?.filter(|user| !user.disabled);
        if let Some(user) = &user {
            logs::add_user_to_span(&user.name);
        }
        Ok(user)
    }

    /// The user as stored now, if enabled, and the fingerprint that each of these passwords has if it is the user's.
    async fn current_user(
        &self,
        attempt: &LoginAttempt,
        passwords: &[Password],
    ) -> Result<Option<(User, Vec<LoginFingerprint>)>, StoreError> {
        let user = self.store.cached_user(&attempt.user).await?.filter(|user| !user.disabled);
        Ok(user.map(|user| {
            let login = |password| self.cache.fingerprint(password, Some(&user.password_hash));
            let logins = passwords.iter().map(login).collect();
            (user, logins)
        }))
    }

    /// Checks these passwords, once for all callers at the same time.
    async fn check_once(
        self: Arc<Self>,
        attempt: LoginAttempt,
        passwords: Vec<Password>,
    ) -> Result<PasswordCheck, LoginError> {
        let fingerprints = passwords.iter().map(|password| self.cache.fingerprint(password, None));
        let key = (attempt.clone(), fingerprints.collect());
        let login = Arc::clone(&self);
        self.checks.run(key, || login.check(attempt, passwords)).await
    }

    async fn check(
        self: Arc<Self>,
        attempt: LoginAttempt,
        passwords: Vec<Password>,
    ) -> Result<PasswordCheck, LoginError> {
        let mut slot = self.queue_slot(&attempt).await?;
        // Always asks the store: a cache hit would reveal by its timing that the user exists. Asked before the attempt
        // is counted, so that a store in trouble has counted nothing yet.
        let user = self.store.find_user(&attempt.user).await?;
        let epoch = user.as_ref().map(|user| user.login_epoch);
        let scope = match self.store.reserve_attempt(&attempt, epoch).await? {
            Reservation::Reserved(scope) => scope,
            Reservation::RetryAfter(remaining) => return Ok(PasswordCheck::RetryAfter(remaining)),
        };
        if scope == AttemptScope::KnownClient
            && let Some(known) = self.hashing.slot(Lane::KnownClient)
        {
            slot = known;
        }
        let hash =
            user.as_ref().map_or_else(|| PasswordHash::dummy(self.hashing.cost()), |user| user.password_hash.clone());
        let matching = self.hashing.find_match(slot, hash, passwords).await;
        Ok(match (user, matching) {
            (Some(user), Some(password)) if !user.disabled => {
                if let Err(error) = self.store.login_succeeded(&attempt, user.login_epoch, scope).await {
                    tracing::warn!(%error, "a login stays counted as failed");
                }
                let hash = self.rehash(&user, &password).await.unwrap_or(user.password_hash);
                let login = self.cache.fingerprint(&password, Some(&hash));
                self.cache.insert(attempt, login);
                PasswordCheck::Right(login)
            }
            (Some(_), Some(_)) => PasswordCheck::Wrong(LoginFailure::Disabled),
            (Some(_), None) => PasswordCheck::Wrong(LoginFailure::WrongPassword),
            (None, _) => PasswordCheck::Wrong(LoginFailure::UnknownUser),
        })
    }

    /// Takes a slot in a queue for a core, before the attempt is counted. If the lane for all clients is full, a known
    /// client waits in its own lane.
    async fn queue_slot(&self, attempt: &LoginAttempt) -> Result<Slot, LoginError> {
        if let Some(slot) = self.hashing.slot(Lane::AnyClient) {
            return Ok(slot);
        }
        let is_known = self.store.is_known_client(attempt).await?;
        let slot = if is_known { self.hashing.slot(Lane::KnownClient) } else { None };
        Ok(slot.ok_or_else(Busy::counted)?)
    }

    /// Replaces the stored hash if a new one costs more, and returns the new one. A dearer hash stays, or replicas with
    /// different settings would replace each other's. After a failure, the next login tries again.
    async fn rehash(&self, user: &User, password: &Password) -> Option<PasswordHash> {
        if !user.password_hash.cost().is_cheaper_than(self.hashing.cost()) {
            return None;
        }
        let hash = self.hashing.hash(password.clone()).await.ok()?;
        match self.store.write(|store| store.replace_hash(&user.name, &user.password_hash, &hash)).await {
            Ok(replaced) => replaced.then_some(hash),
            Err(error) => {
                tracing::warn!(%error, "a password keeps its old hash");
                None
            }
        }
    }
}

//! Log in with a name and a password.

use std::{sync::Arc, time::Duration};

use super::{
    hashing::{Busy, Hashing, Lane, Slot},
    remembered_logins::{LoginFingerprint, RememberedLogins},
    run_to_completion,
};
use crate::{
    domain::{
        password::{Password, PasswordHash},
        throttle::{AttemptScope, LoginAttempt, Reservation},
        user::{LoginEpoch, User, UserName},
    },
    single_flight::SingleFlight,
    store::{StoreError, leased::LeasedStore},
    telemetry::{audit, events::LoginFailure, logs},
};

/// How often a login is checked whose user changes meanwhile. Nobody's password does so often.
const CHECKS: usize = 3;

/// Checks who somebody is.
///
/// A login that was right a moment ago is compared with what is remembered of it. Any other is throttled by the rules of
/// [`crate::domain::throttle`], and then its password is hashed; the same one at the same time once. Until that is done,
/// all goes the same way for a name that nobody has: neither the answer nor its time tells which exist.
pub struct Login {
    checks: Arc<Checks>,
}

/// What checks passwords.
struct Checks {
    store: Arc<LeasedStore>,
    hashing: Arc<Hashing>,
    remembered: RememberedLogins,
    under_way: SingleFlight<(LoginAttempt, Vec<LoginFingerprint>), Result<Verdict, LoginError>>,
}

/// What became of a password.
#[derive(Clone, Copy)]
enum Verdict {
    /// It is that of the user, who has this hash of it.
    Right(LoginFingerprint),
    Wrong(LoginFailure),
    /// Nobody looked at it.
    RetryAfter(Duration),
}

/// Why somebody is not let in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    /// No such user, a wrong password, or a disabled user. Which of these is nobody's business.
    #[error("wrong user name or password")]
    Refused,
    /// After too many failures, this try came too early by so much. Nobody looked at the password.
    #[error("too many failed logins")]
    RetryAfter(Duration),
    /// More passwords to check than can be checked in good time.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Login {
    /// Logs users of `store` in, and has their hashes cost no less than new ones do.
    pub fn new(store: Arc<LeasedStore>, hashing: Arc<Hashing>) -> Self {
        let (remembered, under_way) = (RememberedLogins::new(), SingleFlight::new(Duration::MAX));
        Self { checks: Arc::new(Checks { store, hashing, remembered, under_way }) }
    }

    /// The user who tries to log in, if one of these is the password: a client may have written it in one of two ways. They
    /// are one attempt, and count as one failure.
    pub async fn log_in(&self, attempt: &LoginAttempt, passwords: &[Password]) -> Result<User, LoginError> {
        let remembered = &self.checks.remembered;
        if remembered.knows(attempt)
            && let Some((user, logins)) = self.checks.user_of_now(attempt, passwords).await?
            && remembered.recall(attempt, &logins)
        {
            logs::user(&user.name);
            return Ok(user);
        }
        for _ in 0..CHECKS {
            let check = Arc::clone(&self.checks).check_once(attempt.clone(), passwords.to_vec());
            let verified = match run_to_completion(check).await? {
                Verdict::Right(login) => login,
                Verdict::Wrong(failure) => {
                    audit::login_failed(failure, attempt);
                    return Err(LoginError::Refused);
                }
                Verdict::RetryAfter(remaining) => {
                    audit::login_failed(LoginFailure::Throttled, attempt);
                    return Err(LoginError::RetryAfter(remaining));
                }
            };
            // The check may be that of another who came earlier. If the user changed since, it says nothing.
            if let Some((user, logins)) = self.checks.user_of_now(attempt, passwords).await?
                && logins.contains(&verified)
            {
                logs::user(&user.name);
                return Ok(user);
            }
        }
        Err(Busy.into())
    }

    /// The user with this name, who may log in, for one whose token said who it is.
    pub async fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let user = self.checks.store.cached_user(name).await?.filter(|user| !user.disabled);
        if let Some(user) = &user {
            logs::user(&user.name);
        }
        Ok(user)
    }
}

impl Checks {
    /// The user as the store has it now, if enabled, and what the login is recognized by if one of these is the password.
    async fn user_of_now(
        &self,
        attempt: &LoginAttempt,
        passwords: &[Password],
    ) -> Result<Option<(User, Vec<LoginFingerprint>)>, StoreError> {
        let user = self.store.cached_user(&attempt.user).await?.filter(|user| !user.disabled);
        Ok(user.map(|user| {
            let login = |password| self.remembered.fingerprint(password, Some(&user.password_hash));
            let logins = passwords.iter().map(login).collect();
            (user, logins)
        }))
    }

    /// Checks these passwords, once for all callers at the same time.
    async fn check_once(
        self: Arc<Self>,
        attempt: LoginAttempt,
        passwords: Vec<Password>,
    ) -> Result<Verdict, LoginError> {
        let fingerprints = passwords.iter().map(|password| self.remembered.fingerprint(password, None));
        let key = (attempt.clone(), fingerprints.collect());
        let checks = Arc::clone(&self);
        self.under_way.run(key, || checks.check(attempt, passwords)).await
    }

    async fn check(self: Arc<Self>, attempt: LoginAttempt, passwords: Vec<Password>) -> Result<Verdict, LoginError> {
        let mut slot = self.queue_slot(&attempt).await?;
        // Always asks the store: a cache hit would reveal by its timing that the user exists. Asked before the attempt is
        // counted, so that a store in trouble has counted nothing yet.
        let user = self.store.find_user(&attempt.user).await?;
        let epoch = user.as_ref().map(|user| user.login_epoch);
        let scope = match self.store.reserve_attempt(&attempt, epoch).await? {
            Reservation::Reserved(scope) => scope,
            Reservation::RetryAfter(remaining) => return Ok(Verdict::RetryAfter(remaining)),
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
                self.forgive(&attempt, user.login_epoch, scope).await;
                let hash = self.rehash(&user, &password).await;
                let login = self.remembered.fingerprint(&password, Some(hash.as_ref().unwrap_or(&user.password_hash)));
                self.remembered.remember(attempt, login);
                Verdict::Right(login)
            }
            (Some(_), Some(_)) => Verdict::Wrong(LoginFailure::Disabled),
            (Some(_), None) => Verdict::Wrong(LoginFailure::WrongPassword),
            (None, _) => Verdict::Wrong(LoginFailure::UnknownUser),
        })
    }

    /// A slot in a queue for a core, taken before the attempt is counted. If the lane for all clients is full, a known client
    /// waits in its own.
    async fn queue_slot(&self, attempt: &LoginAttempt) -> Result<Slot, LoginError> {
        if let Some(slot) = self.hashing.slot(Lane::AnyClient) {
            return Ok(slot);
        }
        let is_known = self.store.is_known_client(attempt).await?;
        let slot = if is_known { self.hashing.slot(Lane::KnownClient) } else { None };
        Ok(slot.ok_or_else(Busy::counted)?)
    }

    /// Where that fails, the user has a failure more, which is forgotten in minutes.
    async fn forgive(&self, attempt: &LoginAttempt, epoch: LoginEpoch, scope: AttemptScope) {
        if let Err(error) = self.store.login_succeeded(attempt, epoch, scope).await {
            tracing::warn!(%error, "a login stays counted as failed");
        }
    }

    /// Gives a user, whose password is known at this moment only, a hash of today's cost, if the old one is cheaper: one that
    /// is dearer stays, or replicas of two settings would undo each other's work for ever. Where that fails, the next login
    /// does it. Returns the hash that the user has instead now.
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

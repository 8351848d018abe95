//! Log in with a user name and a password.

use std::{sync::Arc, time::Duration};

use super::{
    hashing::{Busy, Hashing, Lane, QueueSlot},
    login_cache::{LoginCache, LoginFingerprint},
    run_to_completion,
};
use crate::{
    domain::{
        password::{Password, PasswordHash},
        throttle::{AttemptScope, ClientAndUser, Reservation},
        user::{User, UserName},
    },
    single_flight::SingleFlight,
    store::{StoreError, leased::LeasedStore},
    telemetry::{
        audit,
        events::{LoginFailure, LoginMethod},
        logs, metrics,
    },
};

/// The most checks of one login: a check is repeated if the user changed meanwhile.
const MAX_CHECKS: usize = 3;

/// Authenticates users.
///
/// An attempt is first compared with the cached login of its client and user ([`LoginCache`]). Any other attempt is
/// throttled by the rules of [`crate::domain::throttle`]; then its password is hashed, once for concurrent attempts
/// that are equal. All this is the same for unknown names and for users without a password, so that neither the answer
/// nor its time tells which users exist, except users whose hash has another cost than new hashes.
pub struct Login {
    store: Arc<LeasedStore>,
    hashing: Arc<Hashing>,
    cache: LoginCache,
    /// The checks under way, by client, user and fingerprints of the passwords.
    checks: SingleFlight<(ClientAndUser, Vec<LoginFingerprint>), Result<PasswordCheck, LoginError>>,
}

/// The result of checking the passwords of an attempt.
#[derive(Clone, Copy)]
enum PasswordCheck {
    /// One of the passwords is right, and the user is enabled. The fingerprint is of this password and its stored hash.
    Accepted(LoginFingerprint),
    /// The user does not exist or is disabled, or no password is right.
    Rejected(LoginFailure),
    /// The attempt came too early after failed ones: the passwords were not compared. It may be repeated after this
    /// time.
    RetryAfter(Duration),
}

/// Why a login failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    /// There is no such user, the password is wrong, or the user is disabled. Clients are not told which.
    #[error("wrong user name or password")]
    Refused,
    /// The attempt came too early after failed ones: its password was not compared. It may be repeated after this time.
    #[error("too many failed logins")]
    RetryAfter(Duration),
    /// The queue for password hashes is full, which the metrics count; or the user changed during each of the checks,
    /// which they do not count.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Login {
    /// Authenticates users of `store`. A hash that is cheaper than new ones is replaced at the next login that is not
    /// answered from the cache.
    pub fn new(store: Arc<LeasedStore>, hashing: Arc<Hashing>) -> Arc<Self> {
        let (cache, checks) = (LoginCache::new(), SingleFlight::new(Duration::MAX));
        Arc::new(Self { store, hashing, cache, checks })
    }

    /// Returns the user if one of these passwords is right. The client may have encoded its password in two ways: then
    /// both candidates are one attempt, and count as one failure. Also writes the user's name into the request's span.
    pub async fn log_in(self: &Arc<Self>, pair: &ClientAndUser, passwords: &[Password]) -> Result<User, LoginError> {
        if let Some((user, _)) = self.cached_login(pair, passwords).await? {
            return Ok(logged_in(user));
        }
        for _ in 0..MAX_CHECKS {
            let check = Arc::clone(self).share_check(pair.clone(), passwords.to_vec());
            let fingerprint = match run_to_completion(check).await? {
                PasswordCheck::Accepted(fingerprint) => fingerprint,
                PasswordCheck::Rejected(failure) => {
                    audit::login_failed(failure, pair, None);
                    return Err(LoginError::Refused);
                }
                PasswordCheck::RetryAfter(remaining) => {
                    audit::login_failed(LoginFailure::Throttled, pair, None);
                    return Err(LoginError::RetryAfter(remaining));
                }
            };
            // The check may have begun before this call. It proves nothing if the user has changed since.
            if let Some((user, fingerprints)) = self.enabled_user(pair, passwords).await?
                && fingerprints.contains(&fingerprint)
            {
                return Ok(logged_in(user));
            }
        }
        Err(Busy.into())
    }

    /// Returns the user of this name, if enabled, for a caller whose token proved the name. Also writes the name into
    /// the request's span.
    pub async fn find_enabled_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let user = self.store.cached_user(name).await?.filter(|user| !user.disabled);
        if let Some(user) = &user {
            logs::add_user_to_span(&user.name);
        }
        Ok(user)
    }

    /// The user, from the cache while the lease holds or else from the store, and the fingerprints of these passwords
    /// with the user's hash. `None`: there is no such user, or the user is disabled or has no password.
    async fn enabled_user(
        &self,
        pair: &ClientAndUser,
        passwords: &[Password],
    ) -> Result<Option<(User, Vec<LoginFingerprint>)>, StoreError> {
        let user = self.store.cached_user(&pair.user).await?.filter(|user| !user.disabled);
        Ok(user.and_then(|user| {
            let hash = user.password_hash()?;
            let fingerprints = passwords.iter().map(|password| self.cache.fingerprint(password, Some(hash))).collect();
            Some((user, fingerprints))
        }))
    }

    /// The user and the fingerprint of the cached login, if one of these passwords is the one of that login. Another
    /// password removes the cached login.
    async fn cached_login(
        &self,
        pair: &ClientAndUser,
        passwords: &[Password],
    ) -> Result<Option<(User, LoginFingerprint)>, StoreError> {
        if !self.cache.contains(pair) {
            return Ok(None);
        }
        let Some((user, fingerprints)) = self.enabled_user(pair, passwords).await? else { return Ok(None) };
        Ok(self.cache.match_or_remove(pair, &fingerprints).map(|fingerprint| (user, fingerprint)))
    }

    /// Checks these passwords. Concurrent callers with the same client, user and passwords share one check.
    async fn share_check(
        self: Arc<Self>,
        pair: ClientAndUser,
        passwords: Vec<Password>,
    ) -> Result<PasswordCheck, LoginError> {
        let fingerprints = passwords.iter().map(|password| self.cache.fingerprint(password, None));
        let key = (pair.clone(), fingerprints.collect());
        let login = Arc::clone(&self);
        self.checks.run(key, || login.check_uncached(pair, passwords)).await
    }

    /// Reserves an attempt and verifies the passwords. If the user is accepted, the attempt no longer counts as failed,
    /// a cheap hash is replaced, and the login is cached.
    async fn check_uncached(
        self: Arc<Self>,
        pair: ClientAndUser,
        passwords: Vec<Password>,
    ) -> Result<PasswordCheck, LoginError> {
        // A check that ended after this caller looked into the cache is not made again.
        if let Some((_, fingerprint)) = self.cached_login(&pair, &passwords).await? {
            return Ok(PasswordCheck::Accepted(fingerprint));
        }
        let mut slot = self.take_slot(&pair).await?;
        // The user is read from the store, never from the cache: a hit would be faster and show that the user exists.
        // It is read before the attempt is counted, so that a store that fails here has counted nothing.
        let user = self.store.find_user(&pair.user).await?;
        let epoch = user.as_ref().map(|user| user.login_epoch);
        let scope = match self.store.reserve_attempt(&pair, epoch).await? {
            Reservation::Reserved(scope) => scope,
            Reservation::RetryAfter(remaining) => return Ok(PasswordCheck::RetryAfter(remaining)),
        };
        // A known client moves to its own lane and frees its slot among all clients.
        if scope == AttemptScope::KnownClient
            && let Some(known) = self.hashing.take_slot(Lane::KnownClient)
        {
            slot = known;
        }
        let stored = user.as_ref().and_then(User::password_hash);
        let hash = stored.cloned().unwrap_or_else(|| PasswordHash::dummy(self.hashing.cost()));
        let matching = self.hashing.find_match(slot, hash.clone(), passwords).await;
        Ok(match (user, matching) {
            (Some(user), _) if user.password_hash().is_none() => PasswordCheck::Rejected(LoginFailure::NoPassword),
            (Some(user), Some(password)) if !user.disabled => {
                if let Err(error) = self.store.login_succeeded(&pair, user.login_epoch, scope).await {
                    tracing::warn!(%error, "a login stays counted as failed");
                }
                let hash = self.upgrade_hash(&user.name, &hash, &password).await.unwrap_or(hash);
                let fingerprint = self.cache.fingerprint(&password, Some(&hash));
                self.cache.insert(pair, fingerprint);
                PasswordCheck::Accepted(fingerprint)
            }
            (Some(_), Some(_)) => PasswordCheck::Rejected(LoginFailure::Disabled),
            (Some(_), None) => PasswordCheck::Rejected(LoginFailure::WrongPassword),
            (None, _) => PasswordCheck::Rejected(LoginFailure::UnknownUser),
        })
    }

    /// Takes a slot in the queue for password hashes, before the attempt is counted. If the lane for all clients is
    /// full, a known client takes a slot in its own lane. Otherwise the login is rejected as busy.
    async fn take_slot(&self, pair: &ClientAndUser) -> Result<QueueSlot, LoginError> {
        if let Some(slot) = self.hashing.take_slot(Lane::AnyClient) {
            return Ok(slot);
        }
        let is_known = self.store.is_known_client(pair).await?;
        let slot = if is_known { self.hashing.take_slot(Lane::KnownClient) } else { None };
        Ok(slot.ok_or_else(Busy::counted)?)
    }

    /// Replaces the stored hash if a new one costs more, and returns the new one. A dearer hash stays: otherwise,
    /// replicas with different settings would replace each other's hashes. After a failure, the next login tries again.
    ///
    /// The login waits for a second hash and for a revoking write (300 ms).
    async fn upgrade_hash(&self, name: &UserName, old: &PasswordHash, password: &Password) -> Option<PasswordHash> {
        if !old.cost().is_cheaper_than(self.hashing.cost()) {
            return None;
        }
        let new = self.hashing.hash(password.clone()).await.ok()?;
        match self.store.write(|store| store.replace_hash(name, old, &new)).await {
            Ok(replaced) => replaced.then_some(new),
            Err(error) => {
                tracing::warn!(%error, "a password keeps its old hash");
                None
            }
        }
    }
}

/// Counts a login that succeeded, and writes the name of its user into the request's span.
fn logged_in(user: User) -> User {
    metrics::logged_in(LoginMethod::Password);
    logs::add_user_to_span(&user.name);
    user
}

#[cfg(test)]
mod tests {
    use std::{iter, net::IpAddr};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        domain::{password::HashCost, user::Role},
        store::{Authority, leased::LEASE, memory::MemoryStore},
    };

    #[tokio::test]
    async fn a_check_that_starts_after_an_equal_one_has_ended_costs_no_hash() {
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), LEASE));
        let hashing = Arc::new(Hashing::new(HashCost::default()));
        let password: Password = "secret".parse().unwrap();
        let alice = User::new("alice".parse().unwrap(), Role::User, hashing.hash(password.clone()).await.unwrap(), 0);
        assert!(store.create_user(&Authority::Until(Instant::now() + LEASE * 20), &alice).await.unwrap());
        let login = Login::new(store, Arc::clone(&hashing));
        let pair = ClientAndUser { user: alice.name, client: IpAddr::from([192, 0, 2, 1]).into() };
        login.log_in(&pair, std::slice::from_ref(&password)).await.unwrap();

        let lanes = [Lane::AnyClient, Lane::KnownClient];
        let taken: Vec<_> =
            lanes.into_iter().flat_map(|lane| iter::from_fn(|| hashing.take_slot(lane)).collect::<Vec<_>>()).collect();
        let check = |password: &str| Arc::clone(&login).share_check(pair.clone(), vec![password.parse().unwrap()]);
        assert!(matches!(check("secret").await, Ok(PasswordCheck::Accepted(_))));
        assert!(matches!(check("a guess").await, Err(LoginError::Busy(_))), "it would be hashed");
        drop(taken);
    }
}

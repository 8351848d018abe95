//! Logins that succeeded a moment ago: a password costs its hash once, and then microseconds.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::domain::{
    password::{Password, PasswordHash},
    throttle::LoginAttempt,
};

/// How long a login is cached.
const TTL: Duration = Duration::from_mins(1);

/// The maximum number of cached logins. Further ones are not cached until some have expired.
const CAPACITY: usize = 10_000;

/// The last login of each user from each client.
///
/// A comparison with the cache is not counted as an attempt. So the first wrong password removes the entry: one login
/// gives one uncounted guess, to clients at the same address.
pub(super) struct LoginCache {
    key: hmac::Key,
    logins: Mutex<HashMap<LoginAttempt, CachedLogin>>,
}

struct CachedLogin {
    fingerprint: LoginFingerprint,
    expires_at: Instant,
}

/// A keyed hash of a password, alone or with the stored hash that it was verified against: a changed password is
/// another login. The key is random and ends with the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoginFingerprint([u8; 32]);

impl LoginCache {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system provides random bytes");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), logins: Mutex::default() }
    }

    pub(super) fn fingerprint(&self, password: &Password, hash: Option<&PasswordHash>) -> LoginFingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [password.expose_secret(), hash.map_or("", |hash| hash.expose_secret())] {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        LoginFingerprint(context.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes"))
    }

    /// Whether a login is cached for this user and client.
    pub(super) fn contains(&self, attempt: &LoginAttempt) -> bool {
        self.logins.lock().get(attempt).is_some_and(CachedLogin::is_live)
    }

    /// Whether one of these is the cached login. If not, the entry is removed.
    pub(super) fn verify(&self, attempt: &LoginAttempt, fingerprints: &[LoginFingerprint]) -> bool {
        let mut logins = self.logins.lock();
        let login = logins.get(attempt).filter(|login| login.is_live());
        let is_match = login.is_some_and(|login| fingerprints.contains(&login.fingerprint));
        if !is_match {
            logins.remove(attempt);
        }
        is_match
    }

    pub(super) fn insert(&self, attempt: LoginAttempt, fingerprint: LoginFingerprint) {
        let mut logins = self.logins.lock();
        if logins.len() >= CAPACITY {
            logins.retain(|_, login| login.is_live());
        }
        if logins.len() < CAPACITY {
            logins.insert(attempt, CachedLogin { fingerprint, expires_at: Instant::now() + TTL });
        }
    }
}

impl CachedLogin {
    fn is_live(&self) -> bool {
        Instant::now() < self.expires_at
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::{advance, pause};

    use super::*;
    use crate::domain::password::HashCost;

    fn attempt(user: &str, address: &str) -> LoginAttempt {
        LoginAttempt { user: user.parse().unwrap(), client: address.parse::<IpAddr>().unwrap().into() }
    }

    #[tokio::test]
    async fn a_login_is_cached_for_a_minute_for_its_user_and_client() {
        pause();
        let cache = LoginCache::new();
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let alice = attempt("alice", "192.0.2.1");
        let login = cache.fingerprint(&password, Some(&hash));
        assert!(!cache.contains(&alice) && !cache.verify(&alice, &[login]));
        cache.insert(alice.clone(), login);
        for other in [attempt("bob", "192.0.2.1"), attempt("alice", "192.0.2.2")] {
            assert!(!cache.contains(&other) && !cache.verify(&other, &[login]));
        }
        assert!(cache.contains(&alice) && cache.verify(&alice, &[cache.fingerprint(&password, Some(&hash))]));
        advance(TTL).await;
        assert!(!cache.contains(&alice) && !cache.verify(&alice, &[login]));
    }

    #[test]
    fn a_wrong_password_removes_the_cached_login() {
        let cache = LoginCache::new();
        let alice = attempt("alice", "192.0.2.1");
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let login = cache.fingerprint(&password, Some(&hash));
        for other in [
            cache.fingerprint(&"secret2".parse().unwrap(), Some(&hash)),
            cache.fingerprint(&password, Some(&PasswordHash::of(&password, HashCost::default()))),
            cache.fingerprint(&password, None),
            LoginCache::new().fingerprint(&password, Some(&hash)),
        ] {
            cache.insert(alice.clone(), login);
            assert!(!cache.verify(&alice, &[other]));
            assert!(!cache.contains(&alice) && !cache.verify(&alice, &[login]));
        }
    }
}

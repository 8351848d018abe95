//! Logins of the last minute. A login that is cached costs microseconds instead of a password hash.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::domain::{
    password::{Password, PasswordHash},
    throttle::ClientAndUser,
};

/// How long a login is cached, however often it is used.
const TTL: Duration = Duration::from_mins(1);

/// The maximum number of cached logins. Further ones are not cached until some have expired.
const CAPACITY: usize = 10_000;

/// The last login of each user from each client network.
///
/// A comparison with the cache is not counted as an attempt. So the first wrong password removes the entry: each login
/// allows one uncounted guess, and only from the same client network.
pub(super) struct LoginCache {
    fingerprint_key: hmac::Key,
    logins: Mutex<HashMap<ClientAndUser, CachedLogin>>,
}

/// A login that succeeded: the fingerprint of its password and stored hash, for [`TTL`].
struct CachedLogin {
    fingerprint: LoginFingerprint,
    expires_at: Instant,
}

/// An HMAC-SHA256 of a password, alone or with the stored hash that it was verified against: once the user has another
/// hash, the fingerprint of the same password is another. The key is random for each [`LoginCache`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoginFingerprint([u8; 32]);

impl LoginCache {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system provides random bytes");
        Self { fingerprint_key: hmac::Key::new(hmac::HMAC_SHA256, &secret), logins: Mutex::default() }
    }

    /// The fingerprint of this password, with this stored hash if there is one.
    pub(super) fn fingerprint(&self, password: &Password, hash: Option<&PasswordHash>) -> LoginFingerprint {
        let mut context = hmac::Context::with_key(&self.fingerprint_key);
        for part in [password.expose_secret(), hash.map_or("", |hash| hash.expose_secret())] {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        LoginFingerprint(context.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes"))
    }

    /// Whether a login of this client and user is cached.
    pub(super) fn contains(&self, pair: &ClientAndUser) -> bool {
        self.logins.lock().get(pair).is_some_and(CachedLogin::is_live)
    }

    /// The fingerprint of the cached login, if it is one of these. If not, the cached login is removed.
    pub(super) fn match_or_remove(
        &self,
        pair: &ClientAndUser,
        fingerprints: &[LoginFingerprint],
    ) -> Option<LoginFingerprint> {
        let mut logins = self.logins.lock();
        let login = logins.get(pair).filter(|login| login.is_live());
        let matching = login.map(|login| login.fingerprint).filter(|fingerprint| fingerprints.contains(fingerprint));
        if matching.is_none() {
            logins.remove(pair);
        }
        matching
    }

    /// Caches this login for a minute. If the cache is full of live logins, it is not cached.
    pub(super) fn insert(&self, pair: ClientAndUser, fingerprint: LoginFingerprint) {
        let mut logins = self.logins.lock();
        if logins.len() >= CAPACITY {
            logins.retain(|_, login| login.is_live());
        }
        if logins.len() < CAPACITY {
            logins.insert(pair, CachedLogin { fingerprint, expires_at: Instant::now() + TTL });
        }
    }
}

impl CachedLogin {
    /// Whether the cached login has not expired.
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

    fn pair(user: &str, address: &str) -> ClientAndUser {
        ClientAndUser { user: user.parse().unwrap(), client: address.parse::<IpAddr>().unwrap().into() }
    }

    #[tokio::test]
    async fn a_login_is_cached_for_a_minute_for_its_user_and_client() {
        pause();
        let cache = LoginCache::new();
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let alice = pair("alice", "192.0.2.1");
        let fingerprint = cache.fingerprint(&password, Some(&hash));
        assert!(!cache.contains(&alice) && cache.match_or_remove(&alice, &[fingerprint]).is_none());
        cache.insert(alice.clone(), fingerprint);
        for other in [pair("bob", "192.0.2.1"), pair("alice", "192.0.2.2")] {
            assert!(!cache.contains(&other) && cache.match_or_remove(&other, &[fingerprint]).is_none());
        }
        let matching = cache.match_or_remove(&alice, &[cache.fingerprint(&password, Some(&hash))]);
        assert!(matching == Some(fingerprint) && cache.contains(&alice));
        advance(TTL).await;
        assert!(!cache.contains(&alice) && cache.match_or_remove(&alice, &[fingerprint]).is_none());
    }

    #[test]
    fn a_wrong_password_removes_the_cached_login() {
        let cache = LoginCache::new();
        let alice = pair("alice", "192.0.2.1");
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let fingerprint = cache.fingerprint(&password, Some(&hash));
        for other in [
            cache.fingerprint(&"secret2".parse().unwrap(), Some(&hash)),
            cache.fingerprint(&password, Some(&PasswordHash::of(&password, HashCost::default()))),
            cache.fingerprint(&password, None),
            LoginCache::new().fingerprint(&password, Some(&hash)),
        ] {
            cache.insert(alice.clone(), fingerprint);
            assert!(cache.match_or_remove(&alice, &[other]).is_none());
            assert!(!cache.contains(&alice) && cache.match_or_remove(&alice, &[fingerprint]).is_none());
        }
    }
}

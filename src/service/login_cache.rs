//! Logins that succeeded a moment ago, so that a password costs its hash once and then microseconds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::domain::{
    password::{Password, PasswordHash},
    throttle::LoginAttempt,
};

/// For how long a login is remembered.
const MEMORY: Duration = Duration::from_mins(1);

/// At most so many are; more are not remembered until some are forgotten.
const CAPACITY: usize = 10_000;

/// The last login of each user at each client.
///
/// What is compared here was not counted as a try. So the first password that is not the remembered one has it forgotten,
/// and one login gives away one guess, to those at the same address.
pub(super) struct RememberedLogins {
    key: hmac::Key,
    logins: Mutex<HashMap<LoginAttempt, Remembered>>,
}

struct Remembered {
    fingerprint: LoginFingerprint,
    until: Instant,
}

/// A password, or one with the stored hash that it matches, as a keyed hash. The key is random and dies with the process;
/// with the stored hash in it, a changed password is another login.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoginFingerprint([u8; 32]);

impl RememberedLogins {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), logins: Mutex::default() }
    }

    /// What a password is recognized by, with the hash that it was verified against or before it was.
    pub(super) fn fingerprint(&self, password: &Password, hash: Option<&PasswordHash>) -> LoginFingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [password.expose_secret(), hash.map_or("", ExposeSecret::expose_secret)] {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        LoginFingerprint(context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes"))
    }

    fn logins(&self) -> MutexGuard<'_, HashMap<LoginAttempt, Remembered>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything to compare a password with.
    pub(super) fn knows(&self, attempt: &LoginAttempt) -> bool {
        self.logins().get(attempt).is_some_and(|login| Instant::now() < login.until)
    }

    /// Whether one of these is the remembered login; another is forgotten.
    pub(super) fn recall(&self, attempt: &LoginAttempt, fingerprints: &[LoginFingerprint]) -> bool {
        let mut logins = self.logins();
        let is_same = logins
            .get(attempt)
            .is_some_and(|login| fingerprints.contains(&login.fingerprint) && Instant::now() < login.until);
        if !is_same {
            logins.remove(attempt);
        }
        is_same
    }

    pub(super) fn remember(&self, attempt: LoginAttempt, fingerprint: LoginFingerprint) {
        let mut logins = self.logins();
        let now = Instant::now();
        if logins.len() >= CAPACITY {
            logins.retain(|_, login| now < login.until);
        }
        if logins.len() < CAPACITY {
            logins.insert(attempt, Remembered { fingerprint, until: now + MEMORY });
        }
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
    async fn a_login_is_remembered_for_a_minute_and_is_no_other() {
        pause();
        let logins = RememberedLogins::new();
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let alice = attempt("alice", "192.0.2.1");
        let login = logins.fingerprint(&password, Some(&hash));
        assert!(!logins.knows(&alice) && !logins.recall(&alice, &[login]));
        logins.remember(alice.clone(), login);
        for other in [attempt("bob", "192.0.2.1"), attempt("alice", "192.0.2.2")] {
            assert!(!logins.knows(&other) && !logins.recall(&other, &[login]));
        }
        assert!(logins.knows(&alice) && logins.recall(&alice, &[logins.fingerprint(&password, Some(&hash))]));
        advance(MEMORY).await;
        assert!(!logins.knows(&alice) && !logins.recall(&alice, &[login]));
    }

    #[test]
    fn one_login_gives_away_one_guess() {
        let logins = RememberedLogins::new();
        let alice = attempt("alice", "192.0.2.1");
        let (password, hash) = ("secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let login = logins.fingerprint(&password, Some(&hash));
        for other in [
            logins.fingerprint(&"secret2".parse().unwrap(), Some(&hash)),
            logins.fingerprint(&password, Some(&PasswordHash::of(&password, HashCost::default()))),
            logins.fingerprint(&password, None),
            RememberedLogins::new().fingerprint(&password, Some(&hash)),
        ] {
            logins.remember(alice.clone(), login);
            assert!(!logins.recall(&alice, &[other]));
            assert!(!logins.knows(&alice) && !logins.recall(&alice, &[login]));
        }
    }
}

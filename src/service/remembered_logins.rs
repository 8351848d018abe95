//! Logins that succeeded a moment ago, so that a password costs its hash once and then microseconds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::domain::{
    password::{Password, PasswordHash},
    user::UserName,
};

/// For how long a login is remembered.
const MEMORY: Duration = Duration::from_mins(1);

/// At most so many are; more are not remembered until some are forgotten.
const CAPACITY: usize = 10_000;

/// Each login as a keyed hash of name, password and stored hash. The key is random and dies with the process; with the
/// stored hash in it, a changed password is another login.
pub(super) struct RememberedLogins {
    key: hmac::Key,
    until: Mutex<HashMap<LoginFingerprint, Instant>>,
}

/// A login that may be remembered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LoginFingerprint([u8; 32]);

impl RememberedLogins {
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), until: Mutex::default() }
    }

    pub(super) fn fingerprint(&self, name: &UserName, password: &Password, hash: &PasswordHash) -> LoginFingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_str(), password.expose_secret(), hash.expose_secret()] {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        LoginFingerprint(context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes"))
    }

    pub(super) fn contains(&self, login: &LoginFingerprint) -> bool {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(login)
            .is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn insert(&self, login: LoginFingerprint) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if until.len() >= CAPACITY {
            until.retain(|_, until| now < *until);
        }
        if until.len() < CAPACITY {
            until.insert(login, now + MEMORY);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::domain::password::HashCost;

    #[tokio::test]
    async fn a_login_is_remembered_for_a_minute_and_is_no_other() {
        pause();
        let logins = RememberedLogins::new();
        let (alice, password, hash) =
            ("alice".parse().unwrap(), "secret".parse().unwrap(), PasswordHash::dummy(HashCost::default()));
        let login = logins.fingerprint(&alice, &password, &hash);
        assert!(!logins.contains(&login));
        logins.insert(login);
        assert!(logins.contains(&logins.fingerprint(&alice, &password, &hash)));
        let other_hash = PasswordHash::of(&password, HashCost::default());
        for other in [
            logins.fingerprint(&"bob".parse().unwrap(), &password, &hash),
            logins.fingerprint(&alice, &"secret2".parse().unwrap(), &hash),
            logins.fingerprint(&alice, &password, &other_hash),
            logins.fingerprint(&"alic".parse().unwrap(), &"esecret".parse().unwrap(), &hash),
            RememberedLogins::new().fingerprint(&alice, &password, &hash),
        ] {
            assert!(!logins.contains(&other));
        }
        advance(MEMORY).await;
        assert!(!logins.contains(&login));
    }
}

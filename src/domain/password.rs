//! Passwords and their argon2id hashes.

use std::{fmt, str::FromStr};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// Memory, in KiB, passes and lanes: the first choice of OWASP's Password Storage Cheat Sheet for argon2id. One
/// verification takes 17 ms on a quiet core.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The hash of a random password that nobody has, with the parameters above: what the password of an unknown user is
/// verified against, so that the time of the answer does not tell which users exist.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bWF5Zmx5LWR1bW15LXNhbHQ$N9jFzzDWEhdpvOWJwPyGLbrQ3nYxHnLPCv3dQXiK6Sg";

/// A password, in a type that cannot be printed. Not empty, and at most [`Password::MAX_BYTES`].
#[derive(Debug, Clone)]
pub struct Password(SecretString);

/// A text is no [`Password`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a password is 1 to {} bytes", Password::MAX_BYTES)]
pub struct PasswordError;

impl Password {
    /// The most bytes in one: argon2 reads all of them.
    pub const MAX_BYTES: usize = 1024;

    /// A password of 144 random bits, in 24 characters that no shell needs quoted.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give.
    pub fn generate() -> Self {
        let mut bytes = [0; 18];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
    }
}

impl FromStr for Password {
    type Err = PasswordError;

    fn from_str(text: &str) -> Result<Self, PasswordError> {
        if (1..=Self::MAX_BYTES).contains(&text.len()) { Ok(Self(text.into())) } else { Err(PasswordError) }
    }
}

impl ExposeSecret<str> for Password {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

/// An argon2id hash as a PHC string, in a type that cannot be printed.
#[derive(Clone)]
pub struct PasswordHash(SecretString);

/// A text is no argon2id PHC string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an argon2id PHC string")]
pub struct PasswordHashError;

impl PasswordHash {
    /// Hashes with a random salt. Takes about 17 ms of a core: keep it off the async runtime.
    ///
    /// # Panics
    /// Where the operating system has no randomness, or no 19 MiB of memory, to give.
    pub fn of(password: &Password) -> Self {
        let hash = argon2()
            .hash_password(password.expose_secret().as_bytes())
            .expect("the parameters are valid, the salt is random");
        Self(hash.to_string().into())
    }

    /// The hash that no password verifies against.
    pub fn dummy() -> Self {
        Self(DUMMY_HASH.into())
    }

    /// Whether this is the password. Takes about 17 ms of a core: keep it off the async runtime.
    pub fn verify(&self, password: &Password) -> bool {
        phc::PasswordHash::new(self.0.expose_secret())
            .is_ok_and(|hash| argon2().verify_password(password.expose_secret().as_bytes(), &hash).is_ok())
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError)?;
        if hash.algorithm.as_str() == "argon2id" { Ok(Self(text.into())) } else { Err(PasswordHashError) }
    }
}

impl ExposeSecret<str> for PasswordHash {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([REDACTED])")
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constant parameters within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_verifies() {
        let password: Password = "correct horse".parse().unwrap();
        let hash = PasswordHash::of(&password);
        assert!(hash.expose_secret().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hash.verify(&password));
        assert!(!hash.verify(&"correct horsf".parse().unwrap()));
        assert!(hash.expose_secret().parse::<PasswordHash>().unwrap().verify(&password));
    }

    #[test]
    fn the_dummy_costs_the_same_and_never_verifies() {
        let hash: PasswordHash = DUMMY_HASH.parse().unwrap();
        assert!(!hash.verify(&Password::generate()));
        let parsed = phc::PasswordHash::new(DUMMY_HASH).unwrap();
        let params = Params::try_from(&parsed).unwrap();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (MEMORY_KIB, PASSES, LANES));
        assert_eq!(params.output_len(), Some(Params::DEFAULT_OUTPUT_LEN));
    }

    #[test]
    fn secrets_are_not_printed() {
        let password = Password::generate();
        let hash = PasswordHash::of(&password);
        let printed = format!("{password:?} {hash:?}");
        assert!(!printed.contains(password.expose_secret()) && !printed.contains("argon2id"), "{printed}");
    }

    #[test]
    fn other_algorithms_are_refused() {
        assert!("$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".parse::<PasswordHash>().is_err());
        assert!("plain".parse::<PasswordHash>().is_err());
    }
}

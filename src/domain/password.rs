//! Passwords and their argon2id hashes.

use std::{fmt, str::FromStr};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// What an argon2id hash costs, written as in its PHC string: `m=19456,t=2,p=1`.
///
/// The default is the first choice of OWASP's Password Storage Cheat Sheet; a verification takes 17 ms on a quiet core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// KiB of memory, up to 1 GiB.
    memory_kib: u32,
    /// Passes over the memory, up to 32.
    passes: u32,
    /// Lanes, up to 16.
    lanes: u32,
}

/// A text is no [`HashCost`], or one that nobody should pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cost is m=KIB,t=PASSES,p=LANES such as m=19456,t=2,p=1, of at most m=1048576,t=32,p=16 and 8 KiB a lane or more"
)]
pub struct HashCostError;

impl HashCost {
    /// Beyond this, a hash that somebody put into the store would be an attack on whoever verifies it.
    const MAX: Self = Self { memory_kib: 1 << 20, passes: 32, lanes: 16 };

    fn check(self) -> Result<Self, HashCostError> {
        let Self { memory_kib, passes, lanes } = Self::MAX;
        let fits = self.memory_kib <= memory_kib && self.passes <= passes && self.lanes <= lanes;
        match Params::new(self.memory_kib, self.passes, self.lanes, None) {
            Ok(_) if fits => Ok(self),
            _ => Err(HashCostError),
        }
    }

    /// The work of computing a hash: KiB of memory that are passed over.
    pub fn kib_passed(self) -> u32 {
        self.memory_kib * self.passes
    }

    /// Whether a hash of this cost is less work than one of the other.
    pub fn is_cheaper_than(self, other: Self) -> bool {
        self.kib_passed() < other.kib_passed()
    }

    fn argon2(self) -> Argon2<'static> {
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, None).expect("a cost that exists is checked");
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    }
}

impl Default for HashCost {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1 }
    }
}

impl FromStr for HashCost {
    type Err = HashCostError;

    fn from_str(text: &str) -> Result<Self, HashCostError> {
        let mut parts = text.split(',');
        let mut number = |name| {
            let part = parts.next().and_then(|part| part.strip_prefix(name)?.parse().ok());
            part.ok_or(HashCostError)
        };
        let cost = Self { memory_kib: number("m=")?, passes: number("t=")?, lanes: number("p=")? };
        if parts.next().is_none() { cost.check() } else { Err(HashCostError) }
    }
}

impl fmt::Display for HashCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory_kib, self.passes, self.lanes)
    }
}

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
    /// Hashes with a random salt, at this cost. Keep it off the async runtime.
    ///
    /// # Panics
    /// Where the operating system has no randomness, or not the memory, to give.
    pub fn of(password: &Password, cost: HashCost) -> Self {
        let hash = cost
            .argon2()
            .hash_password(password.expose_secret().as_bytes())
            .expect("the parameters are valid, the salt is random");
        Self(hash.to_string().into())
    }

    /// The hash of a random password that nobody has: what the password of an unknown user is verified against, so that
    /// the time of the answer does not tell which users exist.
    pub fn dummy(cost: HashCost) -> Self {
        let (salt, hash) = ("bWF5Zmx5LWR1bW15LXNhbHQ", "N9jFzzDWEhdpvOWJwPyGLbrQ3nYxHnLPCv3dQXiK6Sg");
        Self(format!("$argon2id$v=19${cost}${salt}${hash}").into())
    }

    /// Whether this is the password. Takes what the hash costs: keep it off the async runtime.
    pub fn verify(&self, password: &Password) -> bool {
        phc::PasswordHash::new(self.0.expose_secret())
            .is_ok_and(|hash| Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash).is_ok())
    }

    /// What a verification costs.
    ///
    /// # Panics
    /// Not for a hash that exists: it was checked.
    pub fn cost(&self) -> HashCost {
        cost_of(self.0.expose_secret()).expect("a hash that exists is checked")
    }
}

/// The cost of an argon2id PHC string, if it is one that may be paid.
fn cost_of(text: &str) -> Option<HashCost> {
    let hash = phc::PasswordHash::new(text).ok().filter(|hash| hash.algorithm.as_str() == "argon2id")?;
    let params = Params::try_from(&hash).ok()?;
    HashCost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }.check().ok()
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        cost_of(text).map(|_| Self(text.into())).ok_or(PasswordHashError)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that argon2 does.
    const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn only_the_password_verifies() {
        let password: Password = "correct horse".parse().unwrap();
        for cost in [HashCost::default(), CHEAP] {
            let hash = PasswordHash::of(&password, cost);
            assert!(hash.expose_secret().starts_with(&format!("$argon2id$v=19${cost}$")));
            assert_eq!(hash.cost(), cost);
            assert!(hash.verify(&password));
            assert!(!hash.verify(&"correct horsf".parse().unwrap()));
            assert!(hash.expose_secret().parse::<PasswordHash>().unwrap().verify(&password));
        }
        assert_eq!(HashCost::default().to_string(), "m=19456,t=2,p=1");
    }

    #[test]
    fn the_dummy_costs_the_same_and_never_verifies() {
        for cost in [HashCost::default(), CHEAP] {
            let hash: PasswordHash = PasswordHash::dummy(cost).expose_secret().parse().unwrap();
            assert_eq!(hash.cost(), cost);
            assert!(!hash.verify(&Password::generate()));
            let parsed = phc::PasswordHash::new(hash.expose_secret()).unwrap();
            assert_eq!(Params::try_from(&parsed).unwrap().output_len(), Some(Params::DEFAULT_OUTPUT_LEN));
        }
    }

    #[test]
    fn a_cost_is_bounded() {
        assert_eq!("m=8,t=1,p=1".parse(), Ok(CHEAP));
        for bad in [
            "",
            "m=8",
            "t=1,m=8,p=1",
            "m=8,t=1,p=1,x=1",
            "m=7,t=1,p=1",
            "m=8,t=0,p=1",
            "m=8,t=33,p=1",
            "m=2000000,t=1,p=1",
        ] {
            assert_eq!(bad.parse::<HashCost>(), Err(HashCostError), "{bad}");
        }
        let dear = PasswordHash::dummy(CHEAP).expose_secret().replace("m=8", "m=4000000000");
        assert!(dear.parse::<PasswordHash>().is_err());
    }

    #[test]
    fn what_costs_less_is_less_work() {
        let cost = |text: &str| text.parse::<HashCost>().unwrap();
        assert!(CHEAP.is_cheaper_than(HashCost::default()) && !HashCost::default().is_cheaper_than(CHEAP));
        assert!(cost("m=19456,t=1,p=1").is_cheaper_than(HashCost::default()));
        for same in ["m=19456,t=2,p=1", "m=19456,t=2,p=2", "m=38912,t=1,p=1"] {
            assert!(
                !cost(same).is_cheaper_than(HashCost::default()) && !HashCost::default().is_cheaper_than(cost(same))
            );
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let password = Password::generate();
        let hash = PasswordHash::of(&password, CHEAP);
        let printed = format!("{password:?} {hash:?}");
        assert!(!printed.contains(password.expose_secret()) && !printed.contains("argon2id"), "{printed}");
    }

    #[test]
    fn other_algorithms_are_refused() {
        assert!("$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".parse::<PasswordHash>().is_err());
        assert!("plain".parse::<PasswordHash>().is_err());
    }
}

//! Passwords and their argon2id hashes.

use std::{cell::RefCell, str::FromStr};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use derive_more::{Deref, Display};
use secrecy::{ExposeSecret, SecretString};

/// The cost of an argon2id hash, written as in its PHC string: `m=19456,t=2,p=1`.
///
/// The default is the first choice of OWASP's Password Storage Cheat Sheet; a verification takes 17 ms on a quiet core.
#[derive(Debug, Display, Clone, Copy, PartialEq, Eq)]
#[display("m={memory_kib},t={passes},p={parallelism}")]
pub struct HashCost {
    memory_kib: u32,
    passes: u32,
    parallelism: u32,
}

/// The text is not a [`HashCost`], or the cost is beyond [`HashCost::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cost is m=KIB,t=PASSES,p=LANES such as m=19456,t=2,p=1, of at most m=1048576,t=32,p=16 and 8 KiB a lane or more"
)]
pub struct HashCostError;

impl HashCost {
    /// The highest cost of a hash that is verified. A hash of a higher cost in the store would be an attack on the
    /// service.
    const MAX: Self = Self { memory_kib: 1 << 20, passes: 32, parallelism: 16 };

    /// The cost as argon2 takes it. An error if the cost is beyond [`HashCost::MAX`], or argon2 does not allow it.
    fn params(self) -> Result<Params, HashCostError> {
        let Self { memory_kib, passes, parallelism } = Self::MAX;
        let is_allowed = self.memory_kib <= memory_kib && self.passes <= passes && self.parallelism <= parallelism;
        let params = Params::new(self.memory_kib, self.passes, self.parallelism, None);
        params.ok().filter(|_| is_allowed).ok_or(HashCostError)
    }

    /// The work of computing a hash: its memory in KiB, times the passes over it.
    pub fn work_kib(self) -> u32 {
        self.memory_kib * self.passes
    }

    /// Whether a hash of this cost is less work than a hash of the other cost.
    pub fn is_cheaper_than(self, other: Self) -> bool {
        self.work_kib() < other.work_kib()
    }
}

impl Default for HashCost {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, parallelism: 1 }
    }
}

impl TryFrom<Params> for HashCost {
    type Error = HashCostError;

    fn try_from(params: Params) -> Result<Self, HashCostError> {
        let cost = Self { memory_kib: params.m_cost(), passes: params.t_cost(), parallelism: params.p_cost() };
        cost.params().map(|_| cost)
    }
}

impl FromStr for HashCost {
    type Err = HashCostError;

    fn from_str(text: &str) -> Result<Self, HashCostError> {
        let cost = Self::try_from(text.parse::<Params>().map_err(|_| HashCostError)?)?;
        // The parser of `Params` also accepts the parameters in another order, fewer of them, and others.
        if cost.to_string() == text { Ok(cost) } else { Err(HashCostError) }
    }
}

/// A password as presented at a login: 1 to [`Password::MAX_BYTES`] bytes, in a type that cannot be printed.
#[derive(Debug, Deref, Clone)]
pub struct Password(SecretString);

/// The text cannot be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a password is 1 to {} bytes without control characters or byte order marks", Password::MAX_BYTES)]
pub struct PasswordError;

impl Password {
    /// The maximum length, as argon2 reads every byte.
    pub const MAX_BYTES: usize = 1024;

    /// The characters of a password that can be set, as a regular expression of ECMA-262 for the OpenAPI document.
    pub const PATTERN: &str = r"^[^\x00-\x1f\x7f-\x9f\ufeff]*$";

    /// Parses a password that is to be set. Also rejects control characters and byte order marks, which end up in a
    /// password only by accident (`echo`, editors). `parse` accepts them: a user who has such a password can log in.
    pub fn parse_printable(text: &str) -> Result<Self, PasswordError> {
        let is_accident = |c: char| c.is_control() || c == '\u{feff}';
        if text.contains(is_accident) { Err(PasswordError) } else { text.parse() }
    }

    /// Generates a password of 144 random bits: 24 characters that need no quotes in a shell.
    ///
    /// # Panics
    /// If the operating system provides no randomness.
    pub fn generate() -> Self {
        let mut bytes = [0; 18];
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
    }
}

impl FromStr for Password {
    type Err = PasswordError;

    fn from_str(text: &str) -> Result<Self, PasswordError> {
        if (1..=Self::MAX_BYTES).contains(&text.len()) { Ok(Self(text.into())) } else { Err(PasswordError) }
    }
}

/// An argon2id hash as a PHC string (`$argon2id$v=19$m=…$salt$hash`), in a type that cannot be printed.
#[derive(Debug, Deref, Clone)]
pub struct PasswordHash(SecretString);

/// The text is not an argon2id PHC string, or its cost is beyond [`HashCost::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an argon2id PHC string")]
pub struct PasswordHashError;

impl PasswordHash {
    /// Hashes a password with a random salt. Blocks for as long as the cost asks for.
    ///
    /// # Panics
    /// If the operating system provides no randomness, or not the memory.
    pub fn of(password: &Password, cost: HashCost) -> Self {
        let params = cost.params().expect("a cost that exists is valid");
        let salt = phc::Salt::generate();
        let hash = output(password, &salt, Version::V0x13, params.clone(), Params::DEFAULT_OUTPUT_LEN)
            .expect("the parameters are valid, the salt is random");
        let hash = phc::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: (&params).try_into().expect("the parameters are valid"),
            salt: Some(salt),
            hash: Some(hash),
        };
        Self(hash.to_string().into())
    }

    /// A hash of this cost that no known password has. A login with an unknown name is verified against it, so that the
    /// time of the answer does not tell which users exist.
    pub fn dummy(cost: HashCost) -> Self {
        let (salt, hash) = ("bWF5Zmx5LWR1bW15LXNhbHQ", "N9jFzzDWEhdpvOWJwPyGLbrQ3nYxHnLPCv3dQXiK6Sg");
        Self(format!("$argon2id$v=19${cost}${salt}${hash}").into())
    }

    /// Whether this is a hash of this password. Blocks for as long as the cost of the hash asks for.
    pub fn verify(&self, password: &Password) -> bool {
        let Ok(hash) = phc::PasswordHash::new(self.0.expose_secret()) else { return false };
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
        match (version, Params::try_from(&hash), hash.salt, hash.hash) {
            // `Output` is compared in constant time.
            (Ok(version), Ok(params), Some(salt), Some(expected)) => {
                output(password, &salt, version, params, expected.len()) == Some(expected)
            }
            _ => false,
        }
    }

    /// The cost of a verification against this hash.
    ///
    /// # Panics
    /// Never: the cost was checked when the hash was parsed.
    pub fn cost(&self) -> HashCost {
        cost_of(self.0.expose_secret()).expect("a hash that exists is valid")
    }
}

thread_local! {
    /// The memory of the last hash that this thread computed. With new memory for each, which the kernel clears, a hash
    /// took 22 ms of CPU instead of 13.
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// The output of argon2id, of this many bytes; `None`: argon2 does not allow such a salt or length.
fn output(password: &Password, salt: &[u8], version: Version, params: Params, length: usize) -> Option<phc::Output> {
    let mut buffer = [0; phc::Output::MAX_LENGTH];
    let bytes = buffer.get_mut(..length)?;
    MEMORY.with_borrow_mut(|memory| {
        memory.resize(params.block_count(), Block::default());
        // After a hash of a high cost, such as an old user's, the rest is not kept.
        memory.shrink_to_fit();
        let argon2id = Argon2::new(Algorithm::Argon2id, version, params);
        argon2id.hash_password_into_with_memory(password.expose_secret().as_bytes(), salt, bytes, memory).ok()
    })?;
    phc::Output::new(bytes).ok()
}

/// The cost of the hash in this PHC string; `None`: it is no argon2id hash, or its cost is not allowed.
fn cost_of(text: &str) -> Option<HashCost> {
    let hash = phc::PasswordHash::new(text).ok().filter(|hash| hash.algorithm.as_str() == "argon2id")?;
    HashCost::try_from(Params::try_from(&hash).ok()?).ok()
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        cost_of(text).map(|_| Self(text.into())).ok_or(PasswordHashError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lowest cost of argon2.
    const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1, parallelism: 1 };

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

    /// The hash is one of the tests of argon2's reference implementation.
    #[test]
    fn hashes_of_other_implementations_verify() {
        let hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let password = "password".parse().unwrap();
        let verifies = |text: &str| text.parse::<PasswordHash>().is_ok_and(|hash| hash.verify(&password));
        assert!(verifies(hash));
        for (part, other) in [("v=19", "v=16"), ("v=19", "v=1"), ("$c29tZXNhbHQ", "$c29tZXRhc3Q"), ("/4", "/8")] {
            assert!(!verifies(&hash.replace(part, other)), "{other}");
        }
    }

    #[test]
    fn the_dummy_hash_has_the_cost_and_never_verifies() {
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
    fn costs_compare_by_work() {
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
    fn only_new_passwords_must_be_free_of_control_characters() {
        for text in ["abc\n", "a\u{0}b", "next\u{85}line", "\u{feff}abc"] {
            assert!(Password::parse_printable(text).is_err(), "{text:?}");
            assert!(text.parse::<Password>().is_ok(), "{text:?}");
        }
        for text in ["", &"x".repeat(1025)] {
            assert!(Password::parse_printable(text).is_err() && text.parse::<Password>().is_err(), "{text:?}");
        }
        assert!(Password::parse_printable("p:ä ß\"").is_ok());
    }

    #[test]
    fn secrets_are_not_printed() {
        let password = Password::generate();
        let hash = PasswordHash::of(&password, CHEAP);
        let printed = format!("{password:?} {hash:?}");
        assert!(!printed.contains(password.expose_secret()) && !printed.contains("argon2id"), "{printed}");
    }

    #[test]
    fn hashes_of_other_algorithms_are_rejected() {
        assert!("$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".parse::<PasswordHash>().is_err());
        assert!("plain".parse::<PasswordHash>().is_err());
    }
}

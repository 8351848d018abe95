//! The settings of tokens and of the keys that sign them.

use std::{sync::Arc, time::Duration};

use clap::Args;
use secrecy::ExposeSecret;

use super::values::{bytes, duration, file, number, text};
use crate::{
    domain::{
        jwk::Algorithm,
        key_rotation,
        keys::KeySet,
        life::{Life, LifeError},
    },
    service::{Clock, signing_keys::SigningKeys},
    store::leased::{LEASE, MIN_CACHE_MEMORY},
};

/// The settings of tokens and of the keys that sign them.
#[derive(Clone, Args)]
#[command(next_help_heading = "Tokens")]
pub(super) struct TokenSettings {
    /// Set the keys that sign tokens, a JWK Set; `mayfly key generate` makes one
    ///
    /// Its first key signs, and all of them verify. The file is read again when it changes. It is required with Redis.
    /// Without Redis, the default is a new key that is lost when the service stops.
    #[arg(long, env = "MAYFLY_JWT_KEYS_FILE", value_name = "FILE")]
    #[arg(value_parser = file(|path| SigningKeys::open(path).map(Arc::new)))]
    jwt_keys_file: Option<Arc<SigningKeys>>,

    /// Set the issuer of tokens, their claim `iss`, of up to 256 bytes
    #[arg(long, env = "MAYFLY_JWT_ISSUER", value_name = "TEXT", value_parser = text(parse_issuer))]
    pub jwt_issuer: Option<String>,

    /// Set the maximum life of a token, up to 100 years
    #[arg(long, env = "MAYFLY_TOKEN_MAX_LIFE", value_name = "LIFE", default_value = "1 year")]
    #[arg(value_parser = text(parse_max_life))]
    pub token_max_life: Life,

    /// Set the maximum number of live tokens of one user, from 1 to 100000
    #[arg(long, env = "MAYFLY_TOKEN_QUOTA", value_name = "NUMBER", default_value = "1000")]
    #[arg(value_parser = number(1_usize..=100_000))]
    pub token_quota: usize,

    /// Set how long a verified token is accepted again without asking Redis, up to 250ms
    ///
    /// Each revocation waits until this has passed on every replica, so that a revoked token is never accepted. Set 0
    /// to ask Redis each time.
    #[arg(long, env = "MAYFLY_LEASE", value_name = "DURATION", default_value = "250ms")]
    #[arg(value_parser = duration(Duration::ZERO, LEASE))]
    pub lease: Duration,

    /// Set the memory for verified tokens, such as `64 MiB`, from 1 MiB to 64 GiB
    ///
    /// A token takes 152 bytes: 64 MiB hold 440,000 tokens. Tokens that are used least are evicted, and cost Redis a
    /// read when they are used again. Set it to hold all tokens in use.
    #[arg(long, env = "MAYFLY_CACHE_MEMORY", value_name = "SIZE", default_value = "64 MiB")]
    #[arg(value_parser = bytes(MIN_CACHE_MEMORY..=64 << 30))]
    pub cache_memory: usize,
}

impl TokenSettings {
    /// Returns the keys of the file; without a file, unless it is required, a new key.
    pub(super) fn keys(&self, is_required: bool) -> Result<Arc<SigningKeys>, &'static str> {
        match &self.jwt_keys_file {
            Some(keys) => Ok(Arc::clone(keys)),
            None if is_required => {
                Err("missing, and required with Redis: `mayfly key generate --out keys.json` makes one")
            }
            None => {
                let set = key_rotation::generate(Algorithm::Hs256, Clock::system().unix_seconds());
                let set = KeySet::parse(set.expose_secret()).expect("a generated set is valid");
                Ok(Arc::new(SigningKeys::fixed(set)))
            }
        }
    }
}

/// Parses an issuer. A longer one would make tokens longer than the service accepts.
fn parse_issuer(text: &str) -> Result<String, &'static str> {
    if (1..=256).contains(&text.len()) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("an issuer is 1 to 256 bytes without control characters")
    }
}

/// Parses a maximum life. A century at most, so that no time overflows.
fn parse_max_life(text: &str) -> Result<Life, LifeError> {
    Life::parse_up_to(text, Life::from_seconds(36_525 * 86_400)?)
}

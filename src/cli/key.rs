//! `mayfly key`: make the keys that sign tokens.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;

use super::Failure;
use crate::domain::keys;

#[derive(Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a JWK Set with one new HS256 key of 32 random bytes, for `MAYFLY_JWT_KEYS_FILE`
    Generate,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Generate => Ok(io::stdout().write_all(keys::generate().expose_secret().as_bytes())?),
        }
    }
}

//! The settings of passwords and of the first administrator.

use std::path::PathBuf;

use clap::Args;
use secrecy::ExposeSecret;

use super::{
    environment::{ADMIN_PASSWORD, Environment},
    errors::ConfigErrors,
    values::{file, read_secret, secret_line, text},
};
use crate::domain::{
    password::{HashCost, Password},
    user::UserName,
};

/// The settings of passwords.
#[derive(Clone, Args)]
#[command(next_help_heading = "Users")]
pub struct PasswordSettings {
    /// Set the cost of a password's argon2id hash: KiB of memory, passes, lanes
    ///
    /// A login replaces a hash that costs less (memory times passes) than this, and keeps one that costs more. Unknown
    /// names take this cost; users whose hash has another cost can be told apart by timing until they log in again
    /// after it was raised, or get a new password after it was lowered.
    #[arg(long, env = "MAYFLY_PASSWORD_COST", value_name = "COST", default_value_t = HashCost::default())]
    #[arg(value_parser = text(str::parse::<HashCost>))]
    pub password_cost: HashCost,
}

/// The settings of the first administrator.
#[derive(Clone, Args)]
#[command(next_help_heading = "Users")]
pub(super) struct AdminSettings {
    /// Set the name of the first administrator, who is added while there are no users
    #[arg(long, env = "MAYFLY_ADMIN_NAME", value_name = "NAME", default_value = "admin")]
    #[arg(value_parser = text(str::parse::<UserName>))]
    pub admin_name: UserName,

    /// Set the file with the password of the first administrator
    ///
    /// Without it and MAYFLY_ADMIN_PASSWORD, the administrator of the embedded store gets a random password, and none
    /// is added to Redis.
    #[arg(long, env = "MAYFLY_ADMIN_PASSWORD_FILE", value_name = "FILE", value_parser = file(|path| {
        let password = parse_password(read_secret(path)?.expose_secret());
        password.map(|password| AdminPassword::File(password, path.to_owned()))
    }))]
    admin_password_file: Option<AdminPassword>,
}

/// The first administrator.
pub struct AdminConfig {
    /// The name.
    pub name: UserName,
    /// The password.
    pub password: AdminPassword,
}

/// The password of the first administrator, by its source.
#[derive(Clone)]
pub enum AdminPassword {
    /// `MAYFLY_ADMIN_PASSWORD`.
    Variable(Password),
    /// The file of this name.
    File(Password, PathBuf),
    /// Generated for this run, because none is set and the store is embedded.
    Generated(Password),
    /// None is set and the store is Redis: no administrator is added.
    Missing,
}

impl AdminSettings {
    /// Returns the password of the variable or of the file, or for the embedded store a new one.
    pub(super) fn password(
        &self,
        is_embedded: bool,
        environment: &Environment,
        errors: &mut ConfigErrors,
    ) -> AdminPassword {
        let variable = environment.get(ADMIN_PASSWORD).map(|text| {
            let line = text.to_str().ok_or("it is not UTF-8").and_then(secret_line)?;
            parse_password(line).map(AdminPassword::Variable)
        });
        let has_file = self.admin_password_file.is_some() || errors.contains("MAYFLY_ADMIN_PASSWORD_FILE");
        match (variable, &self.admin_password_file) {
            (Some(_), _) if has_file => {
                errors.add_without_flag(ADMIN_PASSWORD, "give this or MAYFLY_ADMIN_PASSWORD_FILE, not both");
            }
            (Some(Err(error)), _) => errors.add_without_flag(ADMIN_PASSWORD, error),
            (Some(Ok(password)), _) => return password,
            (None, Some(password)) => return password.clone(),
            (None, None) if is_embedded => return AdminPassword::Generated(Password::generate()),
            (None, None) => {}
        }
        AdminPassword::Missing
    }
}

fn parse_password(text: &str) -> Result<Password, String> {
    Password::parse_printable(text).map_err(|error| error.to_string())
}

//! The commands that call a service by its public API, one file a command.

pub(super) use self::{
    api::{agent, describe},
    help::USER_HELP,
    login::log_in,
    token::TokenCommand,
    user::{Change, change_user, print_users},
    whoami::WhoamiCommand,
};

mod api;
mod help;
mod login;
mod netrc;
mod show;
mod table;
mod token;
mod user;
mod whoami;

//! `mayfly user`: the users, in Redis and while the service runs, or by the API of a service.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;

use super::{
    client::{self, Change},
    interruptible::{in_thread, until_signal},
    outcome::{Failure, print},
    password_prompt,
};
use crate::{
    config::{ClientSettings, ConfigErrors, PasswordSettings, StoreConfig, StoreSettings, secret_line},
    domain::{
        listing::Listing,
        password::Password,
        user::{self, Role, UserName, UserUpdate},
    },
    service::{
        Actor, Clock,
        hashing::Hashing,
        users::{UserError, Users},
    },
    store::{StoreError, leased::LeasedStore},
    telemetry::{self, logs},
};

#[derive(Args)]
#[command(after_help = client::USER_HELP, after_long_help = client::USER_HELP)]
pub(super) struct UserCommand {
    #[command(flatten)]
    service: ClientSettings,

    #[command(flatten)]
    store: StoreSettings,

    #[command(flatten)]
    passwords: PasswordSettings,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a user
    Add {
        /// 1 to 64 of the characters A-Z a-z 0-9 . _ @ + -, but neither "." nor ".."
        name: UserName,
        /// Set the role: user, introspector (may ask about tokens of others) or admin (may do everything)
        #[arg(long, default_value_t = Role::User)]
        role: Role,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List all users with their roles, states and origins
    List,
    /// Change the role of a user
    Role {
        name: UserName,
        /// user, introspector (may ask about tokens of others) or admin (may do everything)
        role: Role,
    },
    /// Disable a user, and revoke all tokens of that user
    Disable { name: UserName },
    /// Enable a user again
    Enable { name: UserName },
    /// Change the password of a user
    Password {
        name: UserName,
        /// Revoke all tokens of the user, too
        #[arg(long)]
        revoke_tokens: bool,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Remove a user, and revoke all tokens of that user
    Remove { name: UserName },
}

#[derive(Args)]
struct PasswordSource {
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// The number of users that are read at once.
const PAGE_SIZE: usize = 500;

impl UserCommand {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, errors: ConfigErrors) -> Result<(), Failure> {
        if self.service.url.is_some() {
            return until_signal(self.execute_by_api()).await;
        }
        audited(until_signal(self.execute(errors))).await
    }

    /// Leaves the change to a service, which checks the rights of the caller and writes the audit event.
    async fn execute_by_api(self) -> Result<(), Failure> {
        let api = client::log_in(&self.service).await?;
        let (name, change) = match self.action {
            Action::List => return in_thread(move || client::print_users(&api)).await,
            Action::Add { name, role, password } => {
                let password = password.read_password(&name).await?;
                (name, Change::Add(role, password))
            }
            Action::Role { name, role } => (name, Change::Role(role)),
            Action::Disable { name } => (name, Change::Disable),
            Action::Enable { name } => (name, Change::Enable),
            Action::Password { name, revoke_tokens, password } => {
                let new = password.read_password(&name).await?;
                (name, Change::Password { new, revoke_tokens })
            }
            Action::Remove { name } => (name, Change::Remove),
        };
        in_thread(move || client::change_user(&api, &name, &change)).await
    }

    async fn execute(self, mut errors: ConfigErrors) -> Result<(), Failure> {
        let store = self.store.load(&mut errors);
        let store = errors.into_result(Some(store))?;
        if let StoreConfig::Memory = store {
            let reason = "MAYFLY_REDIS_URL (--redis-url) is missing. Users of the embedded store live in the memory of \
                          the service that runs: set MAYFLY_URL (--url) to change them by its API";
            return Err(Failure::Usage(reason.into()));
        }
        // This process has no leases, but its writes wait until those of the service have lapsed.
        let store = LeasedStore::new(store.open(), Duration::ZERO);
        let users = Users::new(Arc::new(store), Clock::system(), Arc::new(Hashing::new(self.passwords.password_cost)));
        let update = async |name: &UserName, role, disabled| {
            users.update(Actor::Operator, name, UserUpdate { role, disabled }).await.map_err(failure_for(name))
        };
        let report = match self.action {
            Action::List => return print_users(&users).await,
            Action::Add { name, role, password } => {
                let password = password.read_password(&name).await?;
                users.add(Actor::Operator, name.clone(), role, password).await.map_err(failure_for(&name))?;
                format!("added {role} {name}\n")
            }
            Action::Role { name, role } => {
                update(&name, Some(role), None).await?;
                format!("made {name} {role}\n")
            }
            Action::Disable { name } => {
                let revoked = update(&name, None, Some(true)).await?.tokens_revoked;
                format!("disabled {name} and revoked {revoked} tokens\n")
            }
            Action::Enable { name } => {
                update(&name, None, Some(false)).await?;
                format!("enabled {name}\n")
            }
            Action::Password { name, revoke_tokens, password } => {
                let password = password.read_password(&name).await?;
                let revoked = users.set_password(Actor::Operator, &name, password, revoke_tokens).await;
                let revoked = revoked.map_err(failure_for(&name))?;
                let tokens = if revoke_tokens { format!(" and revoked {revoked} tokens") } else { String::new() };
                format!("changed the password of {name}{tokens}\n")
            }
            Action::Remove { name } => {
                let revoked = users.remove(Actor::Operator, &name).await.map_err(failure_for(&name))?;
                format!("removed {name} and revoked {revoked} tokens\n")
            }
        };
        print(&report)
    }
}

/// Runs a command, and writes its audit events to standard error.
async fn audited(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let telemetry = telemetry::init(&telemetry::Settings::for_command(), None);
    let result = command.instrument(logs::command_span()).await;
    telemetry.shutdown().await;
    result
}

/// Prints each user's name, role, state and origin, separated by tabs.
async fn print_users(users: &Users) -> Result<(), Failure> {
    let line = |user: &user::User| {
        let state = if user.disabled { "disabled" } else { "enabled" };
        format!("{}\t{}\t{state}\t{}\n", user.name, user.role, user.credential)
    };
    let mut after = None;
    loop {
        let Listing { items, more } = users.list(after.as_ref(), PAGE_SIZE).await?;
        print(&items.iter().map(line).collect::<String>())?;
        match items.into_iter().last().filter(|_| more) {
            Some(last) => after = Some(last.name),
            None => return Ok(()),
        }
    }
}

/// Returns the failure for an error in a change of this user, whom it names.
fn failure_for(name: &UserName) -> impl Fn(UserError) -> Failure {
    move |error| {
        Failure::Runtime(match error {
            UserError::NoSuchUser => format!("there is no user {name}"),
            UserError::NameTaken => format!("there is a user {name} already"),
            UserError::NoPassword => {
                format!("{name} logs in without a password: remove the user to add one with a password")
            }
            UserError::LastAdmin => format!("{name} is the last enabled administrator: make another one first"),
            UserError::Busy(_) | UserError::Store(_) => error.to_string(),
        })
    }
}

impl PasswordSource {
    /// Reads the new password of this user.
    async fn read_password(&self, name: &UserName) -> Result<Password, Failure> {
        let text = if self.password_stdin {
            in_thread(|| io::read_to_string(io::stdin()).map(SecretString::from)).await?
        } else if io::stdin().is_terminal() {
            password_prompt::ask_twice(&format!("Password of {name}: ")).await?
        } else {
            return Err(Failure::Usage("there is no terminal to ask for the password: use --password-stdin".into()));
        };
        let line =
            secret_line(text.expose_secret()).map_err(|error| Failure::Usage(format!("the password: {error}")))?;
        Password::parse_printable(line).map_err(|error| Failure::Usage(error.to_string()))
    }
}

//! `mayfly user`: the users, in Redis and while the service runs.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::{Args, Subcommand};
use futures_util::future::select_all;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing::Instrument;

use super::outcome::{Failure, print};
use crate::{
    config::{ConfigErrors, PasswordSettings, StoreConfig, StoreSettings, secret_line},
    domain::{
        listing::Listing,
        password::{Password, PasswordError},
        user::{Role, UserName, UserUpdate},
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
pub(super) struct User {
    #[command(flatten)]
    store: StoreSettings,

    #[command(flatten)]
    passwords: PasswordSettings,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add a user
    Add {
        /// 1 to 64 of the characters A-Z a-z 0-9 . _ @ + -, but neither "." nor ".."
        name: UserName,
        /// What the user may do: user, introspector (ask about others' tokens) or admin (all)
        #[arg(long, default_value_t = Role::User)]
        role: Role,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List all users
    List,
    /// Say what a user may do
    Role {
        /// Who
        name: UserName,
        /// user, introspector (ask about others' tokens) or admin (all)
        role: Role,
    },
    /// Keep a user out, and revoke all of the user's tokens
    Disable {
        /// Who
        name: UserName,
    },
    /// Let a user in again
    Enable {
        /// Who
        name: UserName,
    },
    /// Give a user another password
    Password {
        /// Who
        name: UserName,
        /// Revoke all of the user's tokens, too
        #[arg(long)]
        revoke_tokens: bool,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Remove a user and revoke all of the user's tokens
    Remove {
        /// Who
        name: UserName,
    },
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

/// How many users are read at once.
const PAGE: usize = 500;

/// Runs a command until a signal ends it. The command is dropped then, which restores the terminal.
async fn until_signal(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let mut signals = Vec::new();
    for kind in kinds {
        let mut signal = signal(kind)?;
        signals.push(Box::pin(async move {
            signal.recv().await;
            kind
        }));
    }
    tokio::select! {
        result = command => result,
        (kind, ..) = select_all(signals) => Err(Failure::Signal(u8::try_from(kind.as_raw_value()).unwrap_or_default())),
    }
}

/// Runs a command, and writes its audit events to standard error.
async fn audited(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let telemetry = telemetry::init(&telemetry::Settings::of_command(), None);
    let result = command.instrument(logs::command_span()).await;
    telemetry.shutdown().await;
    result
}

impl User {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, errors: ConfigErrors) -> Result<(), Failure> {
        audited(until_signal(self.change(errors))).await
    }

    async fn change(self, mut errors: ConfigErrors) -> Result<(), Failure> {
        let store = self.store.load(&mut errors);
        let store = errors.or(Some(store))?;
        if let StoreConfig::Memory = store {
            let why = "MAYFLY_REDIS_URL (--redis-url) is missing. Users of the embedded store live in the memory of the \
                       service that runs: no other process can reach them";
            return Err(Failure::Usage(why.into()));
        }
        // Its writes wait until no replica goes by what it read before.
        let store = LeasedStore::new(store.open(), Duration::ZERO);
        let users = Users::new(Arc::new(store), Clock::system(), Arc::new(Hashing::new(self.passwords.password_cost)));
        match self.command {
            Command::Add { name, role, password } => {
                let password = password.read().await?;
                users.add(Actor::Operator, name.clone(), role, password).await.map_err(about(&name))?;
                print(&format!("added {role} {name}\n"))
            }
            Command::List => {
                let mut after = None;
                loop {
                    let Listing { items, more } = users.list(after.as_ref(), PAGE).await?;
                    let line = |user: &crate::domain::user::User| {
                        let state = if user.disabled { "disabled" } else { "enabled" };
                        format!("{}\t{}\t{state}\n", user.name, user.role)
                    };
                    print(&items.iter().map(line).collect::<String>())?;
                    match items.into_iter().last().filter(|_| more) {
                        Some(last) => after = Some(last.name),
                        None => return Ok(()),
                    }
                }
            }
            Command::Role { name, role } => {
                let update = UserUpdate { role: Some(role), disabled: None };
                users.update(Actor::Operator, &name, update).await.map_err(about(&name))?;
                print(&format!("made {name} {role}\n"))
            }
            Command::Disable { name } => {
                let update = UserUpdate { role: None, disabled: Some(true) };
                let updated = users.update(Actor::Operator, &name, update).await.map_err(about(&name))?;
                print(&format!("disabled {name} and revoked {} tokens\n", updated.tokens_revoked))
            }
            Command::Enable { name } => {
                let update = UserUpdate { role: None, disabled: Some(false) };
                users.update(Actor::Operator, &name, update).await.map_err(about(&name))?;
                print(&format!("enabled {name}\n"))
            }
            Command::Password { name, revoke_tokens, password } => {
                let password = password.read().await?;
                let revoked =
                    users.set_password(Actor::Operator, &name, password, revoke_tokens).await.map_err(about(&name))?;
                let tokens = if revoke_tokens { format!(" and revoked {revoked} tokens") } else { String::new() };
                print(&format!("changed the password of {name}{tokens}\n"))
            }
            Command::Remove { name } => {
                let revoked = users.remove(Actor::Operator, &name).await.map_err(about(&name))?;
                print(&format!("removed {name} and revoked {revoked} tokens\n"))
            }
        }
    }
}

/// What went wrong with the user of this name.
fn about(name: &UserName) -> impl Fn(UserError) -> Failure {
    move |error| {
        Failure::Runtime(match error {
            UserError::NoSuchUser => format!("there is no user {name}"),
            UserError::NameTaken => format!("there is a user {name} already"),
            UserError::LastAdmin => format!("{name} is the last enabled administrator: make another one first"),
            UserError::Busy(_) | UserError::Store(_) => error.to_string(),
        })
    }
}

impl PasswordSource {
    async fn read(&self) -> Result<Password, Failure> {
        let text = if self.password_stdin {
            in_thread(|| io::read_to_string(io::stdin())).await?
        } else if io::stdin().is_terminal() {
            let terminal = File::options().read(true).write(true).open("/dev/tty")?;
            let _hidden = Hidden::on(&terminal)?;
            let text = ask(&terminal, "Password: ").await?;
            if ask(&terminal, "Again: ").await?.expose_secret() != text.expose_secret() {
                return Err(Failure::Usage("the passwords differ".into()));
            }
            text
        } else {
            return Err(Failure::Usage("there is no terminal to ask for the password: use --password-stdin".into()));
        };
        let line =
            secret_line(text.expose_secret()).map_err(|error| Failure::Usage(format!("the password: {error}")))?;
        line.parse().map_err(|error: PasswordError| Failure::Usage(error.to_string()))
    }
}

/// Asks for a line.
async fn ask(mut terminal: &File, prompt: &str) -> io::Result<SecretString> {
    terminal.write_all(prompt.as_bytes())?;
    let mut reader = BufReader::new(terminal.try_clone()?);
    in_thread(move || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line)
    })
    .await
}

/// Reads on a thread of its own, which nobody waits for where a signal ends the command.
async fn in_thread(read: impl FnOnce() -> io::Result<String> + Send + 'static) -> io::Result<SecretString> {
    let (sender, text) = oneshot::channel();
    thread::spawn(move || sender.send(read().map(SecretString::from)));
    text.await.expect("it reads to its end")
}

/// A terminal that does not show what is typed, until the value is dropped. Keys that send signals work as ever, but for
/// Ctrl-Z, which would leave a shell with such a terminal.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn on(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        // The value that switches a character off.
        hidden.special_codes[SpecialCodeIndex::VSUSP] = 0;
        tcsetattr(terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

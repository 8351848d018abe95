//! The command line: one file a subcommand.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use futures_util::future::select_all;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Instrument;

use crate::{
    config::{HELP_OF_SECRETS, Mistakes, without_unusable_variables},
    telemetry::{self, logs},
};

mod healthcheck;
mod key;
mod openapi;
mod serve;
mod user;

/// API tokens that live exactly as long as their owner says
///
/// Without a command, `serve` runs. Every setting is a flag and a variable; a flag goes first.
#[derive(Parser)]
#[command(name = "mayfly", version, after_help = HELP_OF_SECRETS, after_long_help = HELP_OF_SECRETS)]
#[command(args_conflicts_with_subcommands = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    serve: serve::Serve,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
enum Command {
    /// Run the service (what happens without a command, too)
    #[command(after_help = HELP_OF_SECRETS, after_long_help = HELP_OF_SECRETS)]
    Serve(serve::Serve),
    /// Add, list, change and remove users, in Redis and while the service runs
    User(user::User),
    /// Make, rotate and prune the keys that sign tokens
    Key(key::Key),
    /// Ask the service on this machine whether it is ready: exit code 0 if it is
    Healthcheck(healthcheck::Healthcheck),
    /// Print the OpenAPI document
    Openapi(openapi::Openapi),
}

/// Why a command did not do what it should.
enum Failure {
    /// It was told wrongly: exit code 2.
    Usage(String),
    /// It could not: exit code 1.
    Runtime(String),
    /// This signal ended it: exit code 128 and its number, as of a process that dies of it.
    Signal(u8),
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Usage(mistakes.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// Prints what a command has to say. A reader who hangs up has read enough.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs a command until a signal asks it to end: then it is dropped, and puts in order what it changed of the terminal.
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

/// Runs a command that changes what the service works with, and writes its audit events to standard error.
async fn audited(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let telemetry = telemetry::init(&telemetry::Settings::of_command(), None);
    let result = command.instrument(logs::command_span()).await;
    telemetry.shutdown().await;
    result
}

/// Runs what the command line says. Exits with 0 on success, 1 on failure and 2 where it was told wrongly.
pub fn run() -> ExitCode {
    let command = without_unusable_variables(Cli::command())
        // The settings of the store may follow what to do with users.
        .mut_subcommand("user", |user| user.mut_args(|setting| setting.global(true)));
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        None => cli.serve.run(),
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::User(user)) => user.run(),
        Some(Command::Key(key)) => key.run(),
        Some(Command::Healthcheck(healthcheck)) => healthcheck.run(),
        Some(Command::Openapi(openapi)) => openapi.run(),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, ExitCode::from(2)),
        Err(Failure::Runtime(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Signal(number)) => return ExitCode::from(128 + number),
    };
    // Where nobody reads it, the exit code still says it.
    let _ = writeln!(io::stderr(), "mayfly: {message}");
    code
}

//! The command line: one file a subcommand.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::outcome::Failure;
use crate::config::{self, SECRETS_HELP, Settings};

mod healthcheck;
mod key;
mod openapi;
mod outcome;
mod password_prompt;
mod serve;
mod user;

/// API tokens that live exactly as long as their owner says
///
/// Without a command, `serve` runs. Every setting is a flag and a variable; a flag goes first.
#[derive(Parser)]
#[command(name = "mayfly", version, after_help = SECRETS_HELP, after_long_help = SECRETS_HELP)]
#[command(max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
enum Command {
    /// Run the service (what happens without a command, too)
    #[command(after_help = SECRETS_HELP, after_long_help = SECRETS_HELP)]
    Serve(Settings),
    /// Add, list, change and remove users, in Redis and while the service runs
    User(user::User),
    /// Make, rotate and prune the keys that sign tokens
    Key(key::Key),
    /// Ask the service on this machine whether it is ready: exit code 0 if it is
    Healthcheck(healthcheck::Healthcheck),
    /// Print the OpenAPI document
    Openapi(openapi::Openapi),
}

/// Runs the command line. Exits with 0 on success, 1 on failure, and 2 where an argument or a setting is wrong.
pub fn run() -> ExitCode {
    let command = Cli::command()
        // The settings of the store may follow the name of the subcommand, too.
        .mut_subcommand("user", |user| user.mut_args(|setting| setting.global(true)));
    let (command, arguments) = place_settings(command, env::args_os());
    let (matches, errors) = config::parse(command, arguments);
    let command = match Cli::from_arg_matches(&matches) {
        Ok(Cli { command: Some(command) }) => Ok(command),
        Ok(Cli { command: None }) => Settings::from_arg_matches(&matches).map(Command::Serve),
        Err(error) => Err(error),
    };
    let result = match command.unwrap_or_else(|error| error.exit()) {
        Command::Serve(settings) => serve::run(settings, errors),
        Command::User(user) => user.run(errors),
        Command::Key(key) => key.run(),
        Command::Healthcheck(healthcheck) => healthcheck.run(errors),
        Command::Openapi(openapi) => openapi.run(),
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

/// Moves settings in front of a subcommand behind its name, where clap takes them: `mayfly --redis-url URL user list`.
/// Settings that the subcommand does not have are dropped, as their variables are ignored.
fn place_settings(command: clap::Command, arguments: impl Iterator<Item = OsString>) -> (clap::Command, Vec<OsString>) {
    let settings = Settings::augment_args(clap::Command::new(""));
    let service = command.clone().args(settings.get_arguments());
    let mut arguments = arguments.peekable();
    let mut placed: Vec<_> = arguments.next().into_iter().collect();
    let mut settings = Vec::new();
    let flag = |argument: &OsString| Some(argument.to_str()?.strip_prefix("--")?.split('=').next()?.to_owned());
    let has =
        |command: &clap::Command, flag: &str| command.get_arguments().any(|setting| setting.get_long() == Some(flag));
    while let Some(flag) = arguments.peek().and_then(flag).filter(|flag| has(&service, flag)) {
        let mut setting: Vec<_> = arguments.next().into_iter().collect();
        if !setting[0].to_string_lossy().contains('=') {
            setting.extend(arguments.next());
        }
        settings.push((flag, setting));
    }
    let subcommand = arguments.peek().and_then(|name| command.find_subcommand(name));
    if let Some(subcommand) = subcommand {
        placed.extend(arguments.next());
        settings.retain(|(flag, _)| has(subcommand, flag));
    }
    let is_service = subcommand.is_none();
    placed.extend(settings.into_iter().flat_map(|(_, setting)| setting).chain(arguments));
    (if is_service { service } else { command }, placed)
}

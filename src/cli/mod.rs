//! The command line: one file a subcommand.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::outcome::Failure;
use crate::config::{self, ListenSettings, Settings, VARIABLES_HELP};

mod client;
mod completions;
mod healthcheck;
mod interruptible;
mod issuer;
mod key;
mod manual;
mod openapi;
mod outcome;
mod password_prompt;
mod serve;
mod settings;
mod user;

/// API tokens that live exactly as long as their owner says
///
/// Without a command, `serve` runs. Every setting is a flag and a variable; a flag overrides its variable.
#[derive(Parser)]
#[command(name = "mayfly", version, after_help = VARIABLES_HELP, after_long_help = VARIABLES_HELP)]
#[command(max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service (the default)
    #[command(after_help = VARIABLES_HELP, after_long_help = VARIABLES_HELP)]
    Serve(Settings),
    /// Issue, list, show, rotate, revoke and verify tokens of a service
    Token(client::TokenCommand),
    /// Ask a service who you are, and what tokens you may have
    Whoami(client::WhoamiCommand),
    /// Add, list, change and remove users, in Redis and while the service runs, or by the API of a service
    User(user::UserCommand),
    /// Make, rotate and prune the keys that sign tokens
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Check the file of trusted issuers
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// Ask the service on this machine whether it is ready, and exit with 0 if it is
    Healthcheck(ListenSettings),
    /// Print the OpenAPI document
    Openapi {
        /// Set the format
        #[arg(long, value_enum, default_value_t = openapi::Format::Yaml)]
        format: openapi::Format,
    },
    /// Print the reference of all settings
    Settings {
        /// Set the format
        #[arg(long, value_enum, default_value_t = settings::Format::Markdown)]
        format: settings::Format,
    },
    /// Print the completions for a shell; the help of this command says where to put them
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Set the shell
        shell: clap_complete::Shell,
    },
    /// Write the manual, a page for each command
    Manual {
        /// Set the directory, such as /usr/local/share/man/man1
        directory: PathBuf,
    },
}

/// Where shells look for completions.
const COMPLETIONS_HELP: &str = "\
Put them where the shell finds them, and start it anew:
  bash:  mayfly completions bash > ~/.local/share/bash-completion/completions/mayfly
  zsh:   mayfly completions zsh > \"${fpath[1]}/_mayfly\"
  fish:  mayfly completions fish > ~/.config/fish/completions/mayfly.fish";

/// Runs the command line. Exits with 0 on success, 1 on failure, 2 where an argument or a setting is wrong, and 3 where
/// a service does not answer.
pub fn run() -> ExitCode {
    let (command, arguments) = move_settings_behind_subcommand(command(), env::args_os().collect());
    let (matches, errors) = config::parse(command, arguments);
    let command = match Cli::from_arg_matches(&matches) {
        Ok(Cli { command: Some(command) }) => Ok(command),
        Ok(Cli { command: None }) => Settings::from_arg_matches(&matches).map(Command::Serve),
        Err(error) => Err(error),
    };
    let result = match command.unwrap_or_else(|error| error.exit()) {
        Command::Serve(settings) => serve::run(settings, errors),
        Command::Token(token) => token.run(),
        Command::Whoami(whoami) => whoami.run(),
        Command::User(user) => user.run(errors),
        Command::Key(key) => key.run(),
        Command::Issuer(issuer) => issuer.run(),
        Command::Healthcheck(settings) => healthcheck::run(settings, errors),
        Command::Openapi { format } => openapi::run(format),
        Command::Settings { format } => settings::run(format),
        Command::Completions { shell } => completions::run(complete_command(), shell),
        Command::Manual { directory } => manual::run(complete_command(), &directory),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, ExitCode::from(2)),
        Err(Failure::Runtime(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Unreachable(message)) => (message, ExitCode::from(3)),
        Err(Failure::Signal(number)) => return ExitCode::from(128 + number),
    };
    // The exit code tells the result even where standard error is closed.
    let _ = writeln!(io::stderr(), "mayfly: {message}");
    code
}

/// The command line without the settings that may stand in front of a command.
fn command() -> clap::Command {
    // These settings may also follow the last word of the command: `mayfly user list --redis-url URL`.
    let with_global_settings = |command: clap::Command, name| {
        command.mut_subcommand(name, |with| with.mut_args(|setting| setting.global(true)))
    };
    ["user", "token"].into_iter().fold(Cli::command(), with_global_settings)
}

/// The command line with the settings of `serve`, which runs if there is no command.
fn complete_command() -> clap::Command {
    command().args(Settings::augment_args(clap::Command::new("")).get_arguments())
}

/// Moves settings in front of a subcommand behind its name, where clap takes them: `mayfly --redis-url URL user list`.
/// Drops those that the subcommand does not have, as it ignores their variables. Without a subcommand, they are those
/// of `serve`.
fn move_settings_behind_subcommand(
    command: clap::Command,
    mut arguments: Vec<OsString>,
) -> (clap::Command, Vec<OsString>) {
    let has = |command: &clap::Command, argument: &OsString| {
        let flag = argument.to_str().and_then(|argument| argument.strip_prefix("--")?.split('=').next());
        flag.is_some() && command.get_arguments().any(|setting| setting.get_long() == flag)
    };
    let service = complete_command();
    let (mut settings, mut rest) = (Vec::new(), arguments.split_off(1));
    while rest.first().is_some_and(|argument| has(&service, argument)) {
        let length = if rest[0].to_string_lossy().contains('=') { 1 } else { 2 };
        settings.push(rest.drain(..length.min(rest.len())).collect::<Vec<_>>());
    }
    let subcommand = rest.first().and_then(|name| command.find_subcommand(name));
    if let Some(subcommand) = subcommand {
        arguments.push(rest.remove(0));
        settings.retain(|setting| has(subcommand, &setting[0]));
    }
    let command = if subcommand.is_some() { command } else { service };
    arguments.extend(settings.into_iter().flatten().chain(rest));
    (command, arguments)
}

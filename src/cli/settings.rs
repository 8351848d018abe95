//! `mayfly settings`: print the reference of all settings, from the same definitions as the help.

use std::fmt::Write as _;

use clap::{Arg, Args as _, Command, ValueEnum};

use super::outcome::{Failure, print};
use crate::config::{Settings, VARIABLES_HELP};

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// A page of Markdown with all details
    Markdown,
    /// A file of variables for systemd and Docker, all commented out
    Env,
}

/// The longest line of the page, as in all files of this project.
const MAX_WIDTH: usize = 120;

/// A setting as the help describes it.
struct Setting<'a>(&'a Arg);

pub(super) fn run(format: Format) -> Result<(), Failure> {
    let command = Settings::augment_args(Command::new("mayfly"));
    let settings: Vec<_> =
        command.get_arguments().filter(|argument| argument.get_env().is_some()).map(Setting).collect();
    let by_heading = settings.chunk_by(|a, b| a.0.get_help_heading() == b.0.get_help_heading());
    let mut text = String::from(match format {
        Format::Markdown => {
            "# Settings\n\nEach setting is a variable and a flag; a flag overrides its variable. This \
                             page is what `mayfly settings` prints.\n"
        }
        Format::Env => "# The settings of Mayfly: `man mayfly` describes them. Without the `#`, a line is in force.\n",
    });
    for group in by_heading {
        let heading = group[0].0.get_help_heading().unwrap_or("Options");
        match format {
            Format::Markdown => write!(text, "\n## {heading}\n"),
            Format::Env => write!(text, "\n# {heading}\n"),
        }
        .expect("a string takes any text");
        for setting in group {
            text += &match format {
                Format::Markdown => setting.to_markdown(),
                Format::Env => setting.to_env(),
            };
        }
    }
    if let Format::Markdown = format {
        text = textwrap::fill(&text, MAX_WIDTH);
        write!(text, "\n## Variables without a flag\n\n```\n{VARIABLES_HELP}\n```\n").expect("a string takes any text");
    }
    print(&text)
}

impl Setting<'_> {
    fn variable(&self) -> String {
        self.0.get_env().expect("only those with a variable were chosen").to_string_lossy().into_owned()
    }

    fn default_value(&self) -> String {
        self.0.get_default_values().iter().map(|value| value.to_string_lossy()).collect()
    }

    fn to_markdown(&self) -> String {
        let flag = self.0.get_long().unwrap_or_default();
        let value = self.0.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
        let default = self.default_value();
        let default = if default.is_empty() { "none".into() } else { format!("`{default}`") };
        let help = self.0.get_long_help().or(self.0.get_help()).map(ToString::to_string).unwrap_or_default();
        format!("\n### `{}`\n\n`--{flag} <{value}>`, default: {default}\n\n{help}\n", self.variable())
    }

    fn to_env(&self) -> String {
        let help = self.0.get_help().map(ToString::to_string).unwrap_or_default();
        format!("# {help}\n#{}={}\n", self.variable(), self.default_value())
    }
}

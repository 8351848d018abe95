//! `mayfly completions`: print what makes a shell complete Mayfly's commands and settings.

use clap::Command;
use clap_complete::{Shell, generate};

use super::outcome::{Failure, print};

pub(super) fn run(mut command: Command, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut command, "mayfly", &mut script);
    print(&String::from_utf8(script).expect("the names of commands and settings are UTF-8"))
}

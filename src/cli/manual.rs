//! `mayfly manual`: write the pages for `man`, one for each command.

use std::{fs, path::Path};

use clap::Command;

use super::outcome::Failure;

pub(super) fn run(command: Command, directory: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| Failure::Runtime(format!("cannot write to {}: {error}", directory.display())))
}

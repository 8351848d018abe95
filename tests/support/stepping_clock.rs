//! A wall clock that a test controls.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    process::Command,
};

use super::run;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/stepping_clock.c");

/// Shifts the wall clock of processes started with [`SteppingClock::set_for`]; their monotonic clock is not changed.
pub struct SteppingClock {
    offset: File,
    directory: tempfile::TempDir,
}

impl SteppingClock {
    /// Builds the preloaded library that shifts the clock, and begins at the time of the machine.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("stepping_clock.so");
        let output = run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SOURCE), "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let offset = OpenOptions::new().create_new(true).write(true).open(directory.path().join("offset")).unwrap();
        let clock = Self { offset, directory };
        clock.set(0);
        clock
    }

    /// Makes a command use this clock, which must outlive the command's process.
    pub fn set_for(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", self.directory.path().join("stepping_clock.so"))
            .env("STEPPING_CLOCK", self.directory.path().join("offset"));
    }

    /// Sets the clock to this many milliseconds after (or before) the time of the machine.
    pub fn set(&self, offset_ms: i64) {
        // Not truncated: the processes have the file mapped.
        self.offset.write_all_at(&offset_ms.to_ne_bytes(), 0).unwrap();
    }
}

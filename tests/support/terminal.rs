//! A terminal for a command that prompts.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    pty::{OpenptyResult, openpty},
    sys::{
        signal::{Signal, killpg},
        termios::{Termios, tcgetattr},
    },
    unistd::tcgetpgrp,
};

use super::{Process, eventually};

/// Both ends of a pseudo-terminal.
pub struct Terminal {
    /// The end of the person at the terminal.
    screen: File,
    /// The end of the command: its input and output.
    line: File,
    /// The output of the command so far.
    written: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn open() -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let (screen, line) = (File::from(master), File::from(slave));
        let (written, mut reader) = (Arc::new(Mutex::new(String::new())), screen.try_clone().unwrap());
        let writing = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                *writing.lock().unwrap() += &String::from_utf8_lossy(&bytes[..length]);
            }
        });
        Self { screen, line, written }
    }

    /// Starts a command in a new session with this terminal.
    pub fn spawn(&self, command: &Command) -> Process {
        let stdio = || Stdio::from(self.line.try_clone().unwrap());
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        Process::spawn(session.stdin(stdio()).stdout(stdio()).stderr(stdio()))
    }

    pub fn write(&self, bytes: &[u8]) {
        (&self.screen).write_all(bytes).unwrap();
    }

    /// Waits until the command has written this text.
    pub fn wait_for(&self, text: &str) {
        eventually(text, || self.written.lock().unwrap().contains(text).then_some(()));
    }

    /// Returns what the command has written so far.
    pub fn text(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: Signal) {
        killpg(tcgetpgrp(&self.screen).unwrap(), signal).unwrap();
    }

    pub fn settings(&self) -> Termios {
        tcgetattr(self.line.as_fd()).unwrap()
    }
}

//! A redis-server of the test's own.

use std::process::{Command, Stdio};

use super::{Process, eventually, free_port, run};

/// A redis-server with an append-only file, in a directory of its own.
pub struct RedisServer {
    pub process: Process,
    pub port: u16,
    directory: tempfile::TempDir,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::start_on_port(free_port())
    }

    /// Starts one on this port and waits until it answers.
    pub fn start_on_port(port: u16) -> Self {
        Self::start_on(port, tempfile::tempdir().unwrap())
    }

    fn start_on(port: u16, directory: tempfile::TempDir) -> Self {
        let process = Process::spawn(
            Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
                .arg("--dir")
                .arg(directory.path())
                .stdout(Stdio::null()),
        );
        let server = Self { process, port, directory };
        eventually("redis-server answers", || (server.try_cli(&["PING"]) == "PONG").then_some(()));
        server
    }

    /// Kills it and starts it again on what it wrote.
    pub fn restart(self) -> Self {
        let Self { process, port, directory } = self;
        drop(process);
        Self::start_on(port, directory)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What redis-cli prints. It must succeed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let answer = self.try_cli(arguments);
        assert!(!answer.contains("Could not connect"), "{answer}");
        answer
    }

    fn try_cli(&self, arguments: &[&str]) -> String {
        let output = run(Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments), "");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

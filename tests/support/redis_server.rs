//! A redis-server for a test.

use std::{
    ffi::OsString,
    fs,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use mayfly::store::redis::RedisOptions;

use super::{Process, SteppingClock, eventually, free_port, run};

/// The servers that `tests/setup` provides. WAIT differs: Redis 7.0 waits for all writes, the others for the last write
/// of the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Redis7_0,
    Redis8_2,
    Valkey8_0,
    Valkey9_1,
}

impl Version {
    /// Returns the program of the server; with `--sentinel` it runs as a sentinel.
    pub fn program(self) -> OsString {
        match self {
            Self::Redis7_0 => "redis-server".into(),
            Self::Redis8_2 => server("redis-8.2"),
            Self::Valkey8_0 => server("valkey-8.0"),
            Self::Valkey9_1 => server("valkey-9.1"),
        }
    }
}

fn server(name: &str) -> OsString {
    format!("{}/tests/.tools/servers/{name}", env!("CARGO_MANIFEST_DIR")).into()
}

/// A redis-server with an append-only file in its own directory.
pub struct RedisServer {
    pub process: Process,
    pub port: u16,
    start: Start,
}

/// The command that starts the server.
struct Start {
    program: OsString,
    arguments: Vec<String>,
    clock: Option<Arc<SteppingClock>>,
    directory: tempfile::TempDir,
}

/// Options of a store in the Redis at `url` whose operations do not time out on a busy machine.
pub fn patient_options(url: &str) -> RedisOptions {
    RedisOptions { timeout: Duration::from_secs(20), ..RedisOptions::at(url) }
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start() -> Self {
        Self::start_on_port(free_port())
    }

    /// Starts a server on this port and waits until it answers.
    pub fn start_on_port(port: u16) -> Self {
        Self::start_with(port, &[])
    }

    /// Starts a server whose wall clock the test controls.
    pub fn start_with_clock(clock: &Arc<SteppingClock>, arguments: &[&str]) -> Self {
        Self::start_at("redis-server".into(), free_port(), arguments, Some(Arc::clone(clock)))
    }

    /// Starts a server of this version, with more arguments, and waits until it answers.
    pub fn start_version(version: Version, arguments: &[&str]) -> Self {
        Self::start_version_on_port(version, free_port(), arguments)
    }

    /// Starts a server of this version on this port, with more arguments, and waits until it answers.
    pub fn start_version_on_port(version: Version, port: u16, arguments: &[&str]) -> Self {
        Self::start_program(version.program(), port, arguments)
    }

    /// Starts a server on this port, with more arguments, and waits until it answers.
    pub fn start_with(port: u16, arguments: &[&str]) -> Self {
        Self::start_program("redis-server".into(), port, arguments)
    }

    /// Starts another program with the arguments of redis-server.
    pub fn start_program(program: OsString, port: u16, arguments: &[&str]) -> Self {
        Self::start_at(program, port, arguments, None)
    }

    fn start_at(program: OsString, port: u16, arguments: &[&str], clock: Option<Arc<SteppingClock>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port_argument = port.to_string();
        let basic = ["--port", &port_argument, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"];
        let arguments = basic.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
        Self::start_on(port, Start { program, arguments, clock, directory })
    }

    fn start_on(port: u16, start: Start) -> Self {
        let mut command = Command::new(&start.program);
        command.args(&start.arguments).current_dir(start.directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(clock) = &start.clock {
            clock.set_for(&mut command);
        }
        let process = Process::spawn(&mut command);
        let server = Self { process, port, start };
        eventually("redis-server answers", || (server.try_cli(&["PING"]) == "PONG").then_some(()));
        server
    }

    /// Kills the server and starts it again with its data.
    pub fn restart(self) -> Self {
        self.stop().start_again()
    }

    /// Kills the server and keeps its data.
    pub fn stop(self) -> StoppedServer {
        let Self { process, port, start } = self;
        drop(process);
        StoppedServer { port, start }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs redis-cli, which must succeed, and returns its output.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let answer = self.try_cli(arguments);
        assert!(!answer.contains("Could not connect"), "{answer}");
        answer
    }

    /// Returns the value of a field of `INFO`.
    pub fn info(&self, field: &str) -> String {
        let info = self.cli(&["INFO", "everything"]);
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {field} in {info}")).trim_end().to_owned()
    }

    fn try_cli(&self, arguments: &[&str]) -> String {
        let output = run(Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments), "");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

/// A killed server and its data.
pub struct StoppedServer {
    pub port: u16,
    start: Start,
}

impl StoppedServer {
    /// Deletes the data.
    pub fn forget(&self) {
        for entry in fs::read_dir(self.start.directory.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { fs::remove_dir_all(entry).unwrap() } else { fs::remove_file(entry).unwrap() }
        }
    }

    /// Starts the server again and waits until it answers.
    pub fn start_again(self) -> RedisServer {
        RedisServer::start_on(self.port, self.start)
    }
}

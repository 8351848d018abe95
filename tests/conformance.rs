//! The OpenAPI document against the running service: schemathesis generates requests and checks the responses.

use std::{path::Path, process::Command};

use crate::support::{ADMIN_PASSWORD, Backend, Service, run};

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/bin/schemathesis");
const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis");

/// The password that [`Service::add_user`] gives.
const PASSWORD: &str = "secret";

/// The settings of schemathesis.
pub struct Attempt {
    /// The most test cases for an operation in a phase.
    pub examples: usize,
    pub seed: u32,
}

impl Attempt {
    /// Tries all operations as an administrator, and returns the number of test cases.
    pub fn as_admin(&self, backend: Backend) -> usize {
        self.run(&service(backend), "admin", ADMIN_PASSWORD)
    }

    /// Tries all operations as a user without a role.
    pub fn as_user(&self) -> usize {
        let service = service(Backend::Redis);
        service.add_user("alice", "user");
        self.run(&service, "alice", PASSWORD)
    }

    fn run(&self, service: &Service, name: &str, password: &str) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(TOOL);
        command
            .current_dir(&directory)
            .env("HOOKS", Path::new(SETTINGS).join("hooks.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MAYFLY_URL", &service.url)
            .env("MAYFLY_NAME", name)
            .env("MAYFLY_PASSWORD", password)
            .arg("--config-file")
            .arg(Path::new(SETTINGS).join("schemathesis.toml"))
            .arg("run")
            .arg(format!("{}/openapi.json", service.url))
            .args(["--checks=all", "--mode=all", "--no-color", "--generation-database=none"])
            .arg(format!("--max-examples={}", self.examples))
            .arg(format!("--seed={}", self.seed));
        let output = run(&mut command, "");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let cases = text.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse().ok());
        cases.unwrap_or_else(|| panic!("it says what it did: {text}"))
    }
}

fn service(backend: Backend) -> Service {
    Service::start_with(backend, |command| {
        // What the tool creates, it does not always delete.
        command.env("MAYFLY_TOKEN_QUOTA", "100000").env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    })
}

#[test]
fn responses_to_an_administrator_match_the_document() {
    assert!(Attempt { examples: 5, seed: 1 }.as_admin(Backend::Memory) > 100);
}

#[test]
fn responses_to_a_user_match_the_document() {
    assert!(Attempt { examples: 5, seed: 2 }.as_user() > 100);
}

//! The tests of the Python package in `clients/python`, with the real service.

use std::process::Command;

use crate::support::run;

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/bin/python");

/// Runs these files of the package's tests.
fn pytest(files: &[&str]) {
    let mut command = Command::new(PYTHON);
    command
        .current_dir(PACKAGE)
        .env("MAYFLY_BINARY", env!("CARGO_BIN_EXE_mayfly"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "pytest", "--quiet", "--no-header"])
        .args(files);
    let output = run(&mut command, "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\nIf a Python package is missing, run `make setup`.");
}

#[test]
fn leases_are_strict_in_each_interleaving_and_each_safeguard_is_needed() {
    pytest(&["tests/test_state.py", "tests/test_clock.py", "tests/test_wire.py", "tests/test_lies.py"]);
}

#[test]
fn the_verifier_accepts_no_revoked_token() {
    pytest(&["tests/test_service.py"]);
}

#[test]
fn the_verifier_accepts_no_revoked_token_of_three_replicas_whatever_the_network_does() {
    pytest(&["tests/test_replicas.py"]);
}

#[test]
fn applications_under_gunicorn_and_uvicorn_accept_no_revoked_token() {
    pytest(&["tests/test_apps.py"]);
}

#[test]
fn the_wheel_the_types_and_the_readme_are_right() {
    pytest(&["tests/test_package.py"]);
}

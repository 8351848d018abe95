//! Who may know whom.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each file of the library with the path of its module.
fn sources() -> Vec<(PathBuf, String)> {
    fn visit(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                visit(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&entry).unwrap();
                found.push((entry.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap().into(), text));
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    assert!(found.len() > 20);
    found
}

/// Asserts that of all files only those below `allowed` name one of `words`.
#[track_caller]
fn only(allowed: &[&str], words: &[&str]) {
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code.filter(|_| !allowed.iter().any(|allowed| path.starts_with(allowed))) {
            for word in words {
                assert!(!line.contains(word), "{} names {word}: {line}", path.display());
            }
        }
    }
}

#[test]
fn only_http_knows_poem() {
    only(&["http"], &["poem::", "poem_openapi"]);
    only(&["http", "telemetry/otlp.rs"], &["hyper"]);
}

#[test]
fn only_telemetry_knows_opentelemetry() {
    only(&["telemetry"], &["opentelemetry", "prometheus::", "procfs"]);
    only(&["telemetry"], &["tracing::Span", "_span!"]);
    // An audit event looks the same wherever it comes from.
    only(&["telemetry"], &["target:"]);
}

#[test]
fn only_the_redis_store_knows_redis() {
    only(&["store/redis"], &["deadpool_redis"]);
}

#[test]
fn imports_run_one_way() {
    only(&["main.rs", "lib.rs", "cli"], &["crate::cli", "mayfly::cli"]);
    only(&["cli", "app.rs"], &["crate::app", "crate::config", "telemetry::init"]);
    only(&["cli", "app.rs", "config.rs", "http"], &["crate::http", " http::"]);
    only(&["cli", "app.rs", "config.rs", "http", "service"], &["crate::service", "service::"]);
    only(&["cli", "app.rs", "http", "service", "store", "config.rs"], &["crate::store", "store::"]);
}

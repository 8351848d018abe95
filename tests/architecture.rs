//! The rules between the files of `src`, and between its warnings and the guide.

mod circles;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The directory of the package.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The files below `directory` with one of these extensions, by their path in it. Hidden and built files are left out.
fn files(directory: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    fn visit(directory: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                visit(&path, found);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    let directory = Path::new(ROOT).join(directory);
    let mut found = Vec::new();
    visit(&directory, &mut found);
    found.retain(|path| path.extension().is_some_and(|extension| extensions.contains(&extension.to_str().unwrap())));
    found.sort();
    assert!(!found.is_empty());
    let relative = |path: &Path| path.strip_prefix(&directory).unwrap().to_owned();
    found.iter().map(|path| (relative(path), fs::read_to_string(path).unwrap())).collect()
}

/// The files of the library, by their path in `src`.
fn sources() -> Vec<(PathBuf, String)> {
    files("src", &["rs"])
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
}

#[test]
fn only_the_server_knows_hyper() {
    only(&["server"], &["hyper"]);
    only(&["server"], &["tokio_rustls::"]);
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
    only(&["store/redis"], &["deadpool", "use redis::"]);
}

#[test]
fn imports_run_one_way() {
    only(&["main.rs", "lib.rs", "cli"], &["crate::cli", "mayfly::cli"]);
    only(&["cli", "app.rs"], &["crate::app", "crate::config", "telemetry::init"]);
    only(&["cli", "app.rs", "config", "http"], &["crate::http", " http::"]);
    only(&["cli", "app.rs", "config", "http", "server"], &["crate::server", "mayfly::server"]);
    only(&["cli", "app.rs", "config", "http", "service"], &["crate::service"]);
    // The server knows `hyper::service`.
    only(&["cli", "app.rs", "config", "http", "service", "server"], &["service::"]);
    only(&["cli", "app.rs", "http", "service", "store", "config"], &["crate::store", "store::"]);
}

/// The last text literal among the arguments of a call. `code` begins behind the opening bracket.
fn last_text(code: &str) -> Option<String> {
    let (mut depth, mut open, mut last) = (1, None, None);
    let mut characters = code.char_indices();
    while let Some((index, character)) = characters.next() {
        match (character, open) {
            ('\\', Some(_)) => drop(characters.next()),
            ('"', None) => open = Some(index + 1),
            ('"', Some(start)) => {
                last = Some(code[start..index].split("\\\n").map(str::trim_start).collect());
                open = None;
            }
            ('(', None) => depth += 1,
            (')', None) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

/// The texts that the service logs at WARN and ERROR.
fn warnings() -> Vec<String> {
    let mut found = Vec::new();
    for (path, source) in sources() {
        let code = source.split("#[cfg(test)]").next().unwrap();
        for call in ["tracing::warn!(", "tracing::error!("] {
            found.extend(code.split(call).skip(1).filter_map(last_text));
        }
        if path.starts_with("store/redis/server.rs") {
            found.extend(
                code.split(": Warning =").skip(1).map(|text| last_text(text.split(';').next().unwrap()).unwrap()),
            );
        }
    }
    // A mere placeholder: its text is made elsewhere, and found there.
    found.retain(|text| !(text.starts_with('{') && text.ends_with('}')));
    found
}

#[test]
fn each_warning_is_in_the_guide_with_words_to_grep_for() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/README.md")).unwrap();
    let (_, section) = guide.split_once("## When something fails").unwrap();
    let words: Vec<_> = section.split('`').skip(1).step_by(2).collect();
    let warnings = warnings();
    assert!(warnings.len() > 25, "{warnings:?}");
    for warning in warnings {
        let is_named = words.iter().any(|words| warning == *words || words.contains(' ') && warning.contains(words));
        assert!(is_named, "deploy/README.md says nothing of {warning:?}");
    }
}

/// The most characters in a line.
const MAX_WIDTH: usize = 120;

#[test]
fn no_line_is_wider_than_120_characters() {
    let mut wide = Vec::new();
    for (path, text) in files(".", &["rs", "lua", "md"]) {
        let mut is_literal = false;
        for (number, line) in (1..).zip(text.lines()) {
            is_literal ^= line.starts_with("```");
            let is_exempt = path.extension().is_some_and(|extension| extension == "md")
                && (is_literal || line.starts_with('|') || line.contains("]("));
            if line.chars().count() > MAX_WIDTH && !is_exempt {
                wide.push(format!("{}:{number}", path.display()));
            }
        }
    }
    assert!(wide.is_empty(), "{wide:#?}");
}

/// The fuzz targets are no members of the workspace, so that no build in it asks for their lock file.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_all_dependencies() {
    let manifest = format!("{ROOT}/tests/fuzz/Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "--depth", "0", "--manifest-path", &manifest]);
    let output = command.output().unwrap();
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{reason}\nRun `cargo metadata --manifest-path tests/fuzz/Cargo.toml`.");
}

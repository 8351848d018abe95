//! README.md and the pages that it leads to: their commands, their links and the picture.

use std::{collections::HashSet, fs, os::unix::fs::symlink, path::Path, process::Command};

use regex::Regex;

use crate::{
    page::MAX_PICTURE,
    support::{Backend, Service, run},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What one reads in five minutes.
const MAX_WORDS: usize = 1250;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The commands in the sections of these headings.
fn commands(headings: &[&str]) -> String {
    let readme = read("README.md");
    let section = |heading: &&str| {
        let (_, section) = readme.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
        section.split("\n## ").next().unwrap().to_owned()
    };
    let sections: String = headings.iter().map(section).collect();
    sections.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// The output of commands that all succeed, with a service of its own, where `mayfly` is that of this build.
fn output_of(commands: &str) -> String {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_ADMIN_PASSWORD", "secret");
    });
    let directory = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_mayfly"), directory.path().join("mayfly")).unwrap();
    // In place of the prompt.
    let password_file = directory.path().join("password");
    fs::write(&password_file, "secret").unwrap();
    let commands = commands.replace("http://127.0.0.1:25441", &service.url);
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(&directory);
    bash.env("PATH", format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap()));
    bash.env("MAYFLY_URL", &service.url).env("MAYFLY_PASSWORD_FILE", &password_file).env("HOME", directory.path());
    let output = run(&mut bash, "");
    assert!(output.status.success(), "{output:?}\n{commands}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_line_works_as_it_is_shown() {
    let output = output_of(&commands(&["**In a shell:**", "## Command line"]));
    assert!(output.ends_with("Token deleted\n"), "{output}");
    // Both are verified and listed: with tabs, since this is no terminal.
    assert_eq!(output.matches("user\tadmin\n").count(), 2, "{output}");
    let listed: Vec<_> = output.lines().filter(|line| line.split('\t').count() > 3).collect();
    assert!(listed.len() == 2 && listed[0].contains("Deployment") && listed[1].contains("CI"), "{output}");
}

#[test]
fn the_four_calls_work_as_they_are_shown() {
    let output = output_of(&commands(&["## The four calls"]));
    for expected in [
        r#"{"message":"Token generated","#,
        r#""jwt_token_description":"Token specter","jwt_token_life":21600,"jwt_token_remaining_life":"#,
        r#""expiry_status":"Valid"}"#,
        "x-auth-user: admin",
        r#"{"message":"Token deleted"}"#,
        r#""title":"Unauthorized","status":401,"detail":"The token is not valid"#,
    ] {
        assert!(output.contains(expected), "{expected} is not in\n{output}");
    }
}

#[test]
fn it_is_read_in_five_minutes_and_has_a_picture() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= MAX_WORDS, "{words} words: move a part to docs/ or deploy/");
    let picture = fs::read(Path::new(ROOT).join("deploy/page.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() < MAX_PICTURE, "{} bytes", picture.len());
    assert!(read("README.md").contains("](deploy/page.png)"));
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn all_links_between_pages_lead_somewhere() {
    let files = run(
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]).current_dir(ROOT),
        "",
    );
    let files = String::from_utf8(files.stdout).unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut checked = HashSet::new();
    for file in files.lines() {
        for found in link.captures_iter(&read(file)) {
            let target = found[1].to_owned();
            if target.contains("://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((&target, ""));
            let path = if path.is_empty() {
                Path::new(ROOT).join(file)
            } else {
                Path::new(ROOT).join(file).with_file_name(path)
            };
            assert!(path.exists(), "{file}: {target}");
            if !fragment.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let has_it = text.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
                assert!(has_it, "{file}: {target}");
            }
            checked.insert((file.to_owned(), target));
        }
    }
    assert!(checked.len() > 20, "{checked:?}");
}

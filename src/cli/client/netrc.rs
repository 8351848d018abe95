//! `~/.netrc`: the names and passwords of users, by host.
//!
//! No crate is used for it: those that exist know one user a host, or repeat the file's words, which can be a password,
//! in their errors.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use crate::cli::outcome::Failure;

/// The entry of a host. Each part may be missing.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) login: Option<String>,
    pub(super) password: Option<SecretString>,
}

/// Finds the entry for a host, and for this user if one is given, in the file that `NETRC` names or in `~/.netrc`.
/// Without an entry or a file, the parts are missing.
pub(super) fn find(host: &str, user: Option<&str>) -> Result<Entry, Failure> {
    let named = env::var_os("NETRC").filter(|name| !name.is_empty()).map(PathBuf::from);
    let Some(file) = named.or_else(|| Some(env::home_dir()?.join(".netrc"))) else { return Ok(Entry::default()) };
    match fs::read_to_string(&file).map(SecretString::from) {
        Ok(text) => Ok(find_in(text.expose_secret(), host, user)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entry::default()),
        Err(error) => Err(Failure::Usage(unreadable(&file, &error))),
    }
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", file.display())
}

/// The first entry of the host, or else that of `default`, whose login is the user's. An entry without a login is any
/// user's.
fn find_in(text: &str, host: &str, user: Option<&str>) -> Entry {
    let mut words = words(text).into_iter();
    let mut entries: Vec<(Option<String>, Entry)> = Vec::new();
    while let Some(word) = words.next() {
        let last = entries.last_mut().map(|(_, entry)| entry);
        match (&*word, last) {
            ("machine", _) => entries.push((words.next(), Entry::default())),
            ("default", _) => entries.push((None, Entry::default())),
            ("login", Some(entry)) => entry.login = words.next(),
            ("password", Some(entry)) => entry.password = words.next().map(SecretString::from),
            ("account", _) => drop(words.next()),
            _ => {}
        }
    }
    let fits = |entry: &Entry| user.is_none() || entry.login.is_none() || entry.login.as_deref() == user;
    let is_of = |machine: &Option<String>| machine.as_ref().is_none_or(|machine| machine.eq_ignore_ascii_case(host));
    let found = entries.into_iter().find(|(machine, entry)| is_of(machine) && fits(entry));
    found.map(|(_, entry)| entry).unwrap_or_default()
}

/// The words of the file, without comments and macros. A word in quotes may have spaces; a backslash takes the next
/// character as it is.
fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.starts_with("macdef") {
            // A macro ends with an empty line.
            lines.by_ref().find(|line| line.trim().is_empty());
        } else if !line.starts_with('#') {
            found.extend(words_of_line(line));
        }
    }
    found
}

fn words_of_line(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted || word.is_none() => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            space if space.is_whitespace() && !quoted => found.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    found.extend(word);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# machine commented login nobody password none
machine mayfly.example login alice password first
machine other.example
    login "with space"
    account ignored
    password "a \"b\" c"
macdef machine
  machine mayfly.example login macro password macro

machine mayfly.example login bob password sec#ond
machine ::1 password alone
default login anonymous password last
"#;

    fn find(host: &str, user: Option<&str>) -> (Option<String>, Option<String>) {
        let Entry { login, password } = find_in(FILE, host, user);
        (login, password.map(|password| password.expose_secret().to_owned()))
    }

    #[test]
    fn an_entry_is_found_by_host_and_user() {
        let entry = |login: &str, password: &str| (Some(login.to_owned()), Some(password.to_owned()));
        assert_eq!(find("mayfly.example", None), entry("alice", "first"));
        assert_eq!(find("MAYFLY.example", Some("bob")), entry("bob", "sec#ond"));
        assert_eq!(find("other.example", None), entry("with space", "a \"b\" c"));
        assert_eq!(find("::1", Some("carol")), (None, Some("alone".into())));
        assert_eq!(find("elsewhere", None), entry("anonymous", "last"));
        assert_eq!(find("mayfly.example", Some("carol")), (None, None));
    }

    #[test]
    fn a_broken_file_has_no_entries() {
        for text in ["", "machine", "login x password y", "machine a login", "\"", "\\"] {
            let Entry { login, password } = find_in(text, "a", None);
            assert!(login.is_none() && password.is_none(), "{text}");
        }
    }
}

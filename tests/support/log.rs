//! The standard error of a service.

use std::{fs, process::Stdio};

use serde_json::Value;

use super::eventually;

/// A file with the log.
pub struct Log(tempfile::NamedTempFile);

impl Log {
    pub fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    /// Returns the standard error for a process.
    pub fn stdio(&self) -> Stdio {
        self.0.reopen().unwrap().into()
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.0.path()).unwrap()
    }

    /// Returns the lines, parsed as JSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Waits for a line of this level whose message contains this text.
    pub fn wait_for(&self, level: &str, text: &str) -> Value {
        let is_it = |line: &Value| line["level"] == level && line["message"].as_str().unwrap_or("").contains(text);
        eventually(text, || self.lines().into_iter().find(is_it))
    }

    /// Returns the number of lines whose message contains this text.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line["message"].as_str().unwrap_or("").contains(text)).count()
    }
}

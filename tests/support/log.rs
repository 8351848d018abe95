//! What a service writes to standard error.

use std::{fs, process::Stdio};

use serde_json::Value;

/// A file that takes it.
pub struct Log(tempfile::NamedTempFile);

impl Log {
    pub fn new() -> Self {
        Self(tempfile::NamedTempFile::new().unwrap())
    }

    /// The end to give to the process.
    pub fn stdio(&self) -> Stdio {
        self.0.reopen().unwrap().into()
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.0.path()).unwrap()
    }

    /// Its lines of JSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

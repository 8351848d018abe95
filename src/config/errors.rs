//! The errors in the settings, reported all at once.

use std::{collections::BTreeMap, fmt};

/// The first error of each variable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(BTreeMap<String, String>);

impl ConfigErrors {
    /// Adds an error in the setting of this variable. The message names the variable and its flag.
    pub fn add(&mut self, variable: &str, error: impl fmt::Display) {
        let flag = variable.trim_start_matches("MAYFLY_").to_lowercase().replace('_', "-");
        self.0.entry(variable.to_owned()).or_insert_with(|| format!("{variable} (--{flag}): {error}"));
    }

    /// Adds an error in a variable that has no flag.
    pub fn add_without_flag(&mut self, variable: &str, error: impl fmt::Display) {
        self.0.entry(variable.to_owned()).or_insert_with(|| format!("{variable}: {error}"));
    }

    /// Returns the value of a result, or adds its error in the setting of this variable.
    pub fn ok_or_add<T>(&mut self, variable: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|error| self.add(variable, error)).ok()
    }

    /// Returns whether the setting of this variable has an error.
    pub fn contains(&self, variable: &str) -> bool {
        self.0.contains_key(variable)
    }

    /// Returns the value, unless there are errors.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        value.filter(|_| self.0.is_empty()).ok_or(self)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = if self.0.len() == 1 { "is an error" } else { "are errors" };
        writeln!(f, "there {count} in the settings:")?;
        self.0.values().try_for_each(|error| writeln!(f, "  {error}"))?;
        write!(f, "`mayfly --help` describes all settings")
    }
}

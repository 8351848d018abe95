//! A token as the commands show it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use super::{
    api::printable,
    table::{Cell, HEADING, in_words, is_terminal, render, style_of_life},
};

/// A token of a list, or its details.
pub(super) struct Token {
    /// Empty for details, which do not repeat the id.
    id: String,
    fields: Fields,
}

/// The fields of a token. Its remaining life has another name in the list than in the details.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the API's contract has these names")]
struct Fields {
    jwt_token_description: String,
    jwt_token_life: u64,
    #[serde(alias = "jwt_token_life_remaining")]
    jwt_token_remaining_life: f64,
    /// When it was last used, in seconds since 1970.
    jwt_token_last_used: Option<u64>,
    #[serde(default)]
    jwt_token_scopes: Vec<String>,
    #[serde(default)]
    jwt_token_audiences: Vec<String>,
    #[serde(default)]
    jwt_token_networks: Vec<String>,
}

impl Token {
    /// `None` if the value has not the fields of a token.
    pub(super) fn of(id: String, value: Value) -> Option<Self> {
        Some(Self { id, fields: serde_json::from_value(value).ok()? })
    }

    fn description(&self) -> String {
        printable(&self.fields.jwt_token_description)
    }

    /// Whole seconds, rounded down.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a life has few digits")]
    fn remaining_seconds(&self) -> u64 {
        self.fields.jwt_token_remaining_life as u64
    }

    fn remaining(&self) -> Cell {
        let style = style_of_life(self.fields.jwt_token_remaining_life, self.fields.jwt_token_life);
        Cell::new(in_words(self.remaining_seconds())).styled(style)
    }

    fn last_used(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let ago = |used| format!("{} ago", in_words(now.saturating_sub(used)));
        self.fields.jwt_token_last_used.map_or("never".into(), ago)
    }

    /// The id, the remaining life, the whole life, the description and the scopes, separated by tabs.
    pub(super) fn to_line(&self) -> String {
        let (remaining, life) = (self.remaining_seconds(), self.fields.jwt_token_life);
        let scopes = joined(&self.fields.jwt_token_scopes);
        format!("{}\t{remaining}\t{life}\t{}\t{scopes}\n", printable(&self.id), self.description())
    }

    /// A line for each field.
    pub(super) fn to_details(&self) -> String {
        let Fields { jwt_token_life: life, jwt_token_last_used: used, .. } = &self.fields;
        let remaining = self.remaining_seconds();
        let mut values = vec![
            ("description", self.description(), None),
            ("life", life.to_string(), Some(in_words(*life))),
            ("remaining", remaining.to_string(), Some(in_words(remaining))),
        ];
        values.extend(used.map(|used| ("last used", used.to_string(), Some(self.last_used()))));
        for (name, entries) in [
            ("scopes", &self.fields.jwt_token_scopes),
            ("audiences", &self.fields.jwt_token_audiences),
            ("networks", &self.fields.jwt_token_networks),
        ] {
            values.push((name, joined(entries), None));
        }
        values_of(&values)
    }
}

fn joined(entries: &[String]) -> String {
    printable(&entries.join(" "))
}

/// A table for the terminal, with a heading.
pub(super) fn table_of(tokens: &[Token]) -> String {
    let heading = ["ID", "DESCRIPTION", "REMAINING", "LIFE", "LAST USED", "SCOPES"];
    let heading = heading.map(|name| Cell::new(name).styled(HEADING)).into();
    let row = |token: &Token| {
        vec![
            Cell::new(printable(&token.id)),
            Cell::new(token.description()),
            token.remaining(),
            Cell::new(in_words(token.fields.jwt_token_life)),
            Cell::new(token.last_used()),
            Cell::new(joined(&token.fields.jwt_token_scopes)),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(tokens.iter().map(row)).collect();
    render(&rows)
}

/// A line for each name and value that is not empty. The third text is the value in words, for the terminal.
pub(super) fn values_of(values: &[(&str, String, Option<String>)]) -> String {
    let values = values.iter().filter(|(_, value, _)| !value.is_empty());
    if is_terminal() {
        let row = |(name, value, words): &(&str, String, Option<String>)| {
            vec![Cell::new(*name).styled(HEADING), Cell::new(words.as_ref().unwrap_or(value))]
        };
        render(&values.map(row).collect::<Vec<_>>())
    } else {
        values.flat_map(|(name, value, _)| [name, "\t", value, "\n"]).collect()
    }
}

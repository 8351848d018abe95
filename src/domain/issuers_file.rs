//! The file of trusted issuers: TOML, with one `[[issuer]]` for each set of rules.

use std::{fmt, path::PathBuf};

use serde_json::Value as Json;
use toml::{Table, Value};

use super::{
    attributes::Scopes,
    issuer::{Issuer, KeyLocation, KeySource, Requirement},
    key_url::KeyUrl,
    life::Life,
    origin::IssuerId,
    user::Role,
    user_template::ClaimPath,
};

/// The maximum number of `[[issuer]]`s in a file.
pub const MAX_ISSUERS: usize = 100;

/// The maximum length of an `aud`, in bytes.
const MAX_AUDIENCE_BYTES: usize = 256;

/// All mistakes in a file, each with its issuer and its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuersFileError(Vec<String>);

impl IssuersFileError {
    /// The mistakes.
    pub fn mistakes(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for IssuersFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for IssuersFileError {}

/// Reads the issuers of a file. `own`: the `iss` of this service's own tokens, which no other issuer may have.
///
/// Several entries may have one `iss`: the first one whose rules a JWT meets applies. Their keys must be the same.
pub fn parse(text: &str, own: Option<&str>) -> Result<Vec<Issuer>, IssuersFileError> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        IssuersFileError(vec![format!("line {line}: {}", error.message())])
    })?;
    let mut mistakes = Vec::new();
    for key in file.keys().filter(|key| *key != "issuer") {
        mistakes.push(format!("{key}: there is no such field; each issuer begins with [[issuer]]"));
    }
    let entries = match file.get("issuer") {
        None => &[][..],
        Some(Value::Array(entries)) => entries,
        Some(_) => {
            mistakes.push("issuer: each issuer begins with [[issuer]]".into());
            &[]
        }
    };
    if entries.len() > MAX_ISSUERS {
        mistakes.push(format!("there are {} issuers, and at most {MAX_ISSUERS} are allowed", entries.len()));
    }
    let mut issuers = Vec::<Issuer>::new();
    for (index, entry) in entries.iter().enumerate() {
        let mut fields = Fields::new(index + 1, entry);
        let issuer = fields.issuer(own);
        if let Some(first) = issuer.as_ref().and_then(|new| issuers.iter().find(|issuer| issuer.name == new.name))
            && issuer.as_ref().is_some_and(|new| new.keys != first.keys)
        {
            fields.add("issuer", "another entry has the same issuer with other keys");
        }
        mistakes.append(&mut fields.mistakes);
        issuers.extend(issuer);
    }
    if mistakes.is_empty() { Ok(issuers) } else { Err(IssuersFileError(mistakes)) }
}

/// The fields of an `[[issuer]]`, and the mistakes that were found in them.
struct Fields {
    /// The issuer in messages: its number, counted from 1, and its `iss`.
    label: String,
    table: Table,
    mistakes: Vec<String>,
}

impl Fields {
    fn new(number: usize, entry: &Value) -> Self {
        let table = entry.as_table().cloned().unwrap_or_default();
        let name = table.get("issuer").and_then(Value::as_str).map(|name| format!(" ({name})")).unwrap_or_default();
        Self { label: format!("issuer {number}{name}"), table, mistakes: Vec::new() }
    }

    fn add(&mut self, field: &str, mistake: impl fmt::Display) {
        self.mistakes.push(format!("{}: {field}: {mistake}", self.label));
    }

    /// Takes a field that may be missing. `parse` gets its value.
    fn take<T>(&mut self, field: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        let value = self.table.remove(field)?;
        parse(&value).map_err(|mistake| self.add(field, mistake)).ok()
    }

    /// Takes a field that must be there.
    fn require<T>(&mut self, field: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        if !self.table.contains_key(field) {
            self.add(field, "missing");
        }
        self.take(field, parse)
    }

    /// Reads all fields. `None`: there are mistakes.
    fn issuer(&mut self, own: Option<&str>) -> Option<Issuer> {
        let name = self.require("issuer", |value| {
            let name: IssuerId = text(value)?.parse().map_err(described)?;
            if own == Some(name.as_str()) {
                Err("this is MAYFLY_JWT_ISSUER, this service itself".into())
            } else {
                Ok(name)
            }
        });
        let audience = self.require("audience", audience);
        let keys = self.key_source(name.as_ref());
        let user = self.require("user", |value| text(value)?.parse().map_err(described));
        let role = self.take("role", |value| text(value)?.parse().map_err(described)).unwrap_or(Role::User);
        let max_life = self.take("max_life", |value| Life::parse(text(value)?).map_err(described));
        let scopes = self.take("scopes", scopes);
        let require = self.take("require", requirements).unwrap_or_default();
        for field in std::mem::take(&mut self.table).keys() {
            self.add(field, "there is no such field");
        }
        let (name, audience, keys, user) = (name?, audience?, keys?, user?);
        let issuer = Issuer { name, audience, keys, user, role, max_life, scopes, require };
        self.mistakes.is_empty().then_some(issuer)
    }

    fn key_source(&mut self, name: Option<&IssuerId>) -> Option<KeySource> {
        let url = self.take("jwks_uri", |value| text(value)?.parse::<KeyUrl>().map_err(described));
        let file = self.take("jwks_file", path);
        let ca_file = self.take("ca_file", path);
        let location = match (url, file) {
            (Some(_), Some(_)) => {
                self.add("jwks_uri", "set either this or jwks_file");
                return None;
            }
            (Some(url), None) => KeyLocation::Url(url),
            (None, Some(file)) => KeyLocation::File(file),
            (None, None) => {
                let name = name?;
                match name.as_str().parse::<KeyUrl>() {
                    Ok(url) => KeyLocation::Discovery(url, name.clone()),
                    Err(error) => {
                        self.add("issuer", format!("{error}; or say where its keys are, with jwks_uri or jwks_file"));
                        return None;
                    }
                }
            }
        };
        if ca_file.is_some() && matches!(location, KeyLocation::File(_)) {
            self.add("ca_file", "jwks_file is read without a server");
        }
        Some(KeySource { location, ca_file })
    }
}

fn described(error: impl fmt::Display) -> String {
    error.to_string()
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("must be a text, and is {}", article(value)))
}

/// Says what a value of TOML is.
fn article(value: &Value) -> String {
    match value {
        Value::Integer(_) | Value::Array(_) => format!("an {}", value.type_str()),
        _ => format!("a {}", value.type_str()),
    }
}

/// Reads the name of this service at the issuer. It is compared byte by byte, so no character may look like another.
fn audience(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    if (1..=MAX_AUDIENCE_BYTES).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic()) {
        Ok(name.to_owned())
    } else {
        Err(format!("must be 1 to {MAX_AUDIENCE_BYTES} visible ASCII characters"))
    }
}

fn path(value: &Value) -> Result<PathBuf, String> {
    let path = text(value)?;
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err("must be a path from the root, as in /etc/mayfly/…".into())
    }
}

/// Reads a list of scope tokens (RFC 6749, section 3.3).
fn scopes(value: &Value) -> Result<Vec<String>, String> {
    let scopes = value.as_array().ok_or("must be a list of texts")?;
    let scope = |value: &Value| {
        let scope = text(value)?;
        if Scopes::is_scope(scope) {
            Ok(scope.to_owned())
        } else {
            Err(format!("{scope:?} is no scope: visible ASCII characters without spaces, quotes and backslashes"))
        }
    };
    all_or_mistakes(scopes.iter().map(scope))
}

fn requirements(value: &Value) -> Result<Vec<Requirement>, String> {
    let table = value.as_table().ok_or("must be a table, as in { repository = \"acme/shop\" }")?;
    let requirement = |(claim, allowed): (&String, &Value)| {
        let named = |mistake: &str| format!("{claim}: {mistake}");
        let values = match allowed {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let allowed: Option<Vec<_>> = values.iter().map(plain_value).collect();
        let allowed =
            allowed.ok_or_else(|| named("must be a text, a whole number, true, false, or a list of these"))?;
        if allowed.is_empty() {
            return Err(named("an empty list is never met"));
        }
        let claim = ClaimPath::new(claim).ok_or_else(|| named("a claim has a name"))?;
        Ok(Requirement { claim, allowed })
    };
    all_or_mistakes(table.iter().map(requirement))
}

/// All values, or else all mistakes.
fn all_or_mistakes<T>(results: impl Iterator<Item = Result<T, String>>) -> Result<Vec<T>, String> {
    let (mut values, mut mistakes) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(values) } else { Err(mistakes.join("; ")) }
}

fn plain_value(value: &Value) -> Option<Json> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Integer(number) => Some((*number).into()),
        Value::Boolean(flag) => Some((*flag).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_example_of_the_contract_is_read() {
        let text = r#"
            [[issuer]]
            issuer = "https://token.actions.githubusercontent.com"
            audience = "https://mayfly.example"
            user = "ci-{repository_owner}"
            role = "user"
            max_life = "1 hour"
            scopes = ["deploy"]
            require = { repository = "acme/shop", ref = ["refs/heads/main", "refs/heads/release"] }

            [[issuer]]
            issuer = "kubernetes"
            audience = "mayfly"
            jwks_file = "/etc/mayfly/cluster.json"
            user = "{/kubernetes.io/namespace}"
        "#;
        let issuers = parse(text, Some("https://mayfly.example")).unwrap();
        let github = &issuers[0];
        assert_eq!(github.name.as_str(), "https://token.actions.githubusercontent.com");
        assert!(matches!(&github.keys.location, KeyLocation::Discovery(_, name) if *name == github.name));
        assert_eq!(github.max_life.map(Life::seconds), Some(3600));
        assert_eq!(github.scopes.as_deref(), Some(&["deploy".to_owned()][..]));
        assert_eq!(github.require[0].allowed, [json!("refs/heads/main"), json!("refs/heads/release")]);
        assert_eq!(issuers[1].keys.location, KeyLocation::File("/etc/mayfly/cluster.json".into()));
        assert_eq!((issuers[1].role, issuers[1].max_life, &issuers[1].scopes), (Role::User, None, &None));
        assert_eq!(parse("", None), Ok(Vec::new()));
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let text = r#"
            title = "x"
            [[issuer]]
            issuer = "http://ci.example"
            audience = 7
            user = "{a}{b}"
            role = "root"
            max_life = "1M"
            scopes = ["a b"]
            require = { ref = [], list = [["x"]] }
            requires = 1
            [[issuer]]
            jwks_uri = "http://ci.example/keys"
            jwks_file = "keys.json"
            ca_file = 1
            user = "ci"
            audience = "b\u0430d"
            [[issuer]]
            issuer = "https://mayfly.example"
            audience = "x"
            user = "x"
            [[issuer]]
            issuer = "https://ci.example"
            audience = "x"
            user = "x"
            [[issuer]]
            issuer = "https://ci.example"
            jwks_uri = "https://ci.example/keys"
            audience = "x"
            user = "x"
        "#;
        let error = parse(text, Some("https://mayfly.example")).unwrap_err();
        for expected in [
            "title: there is no such field",
            "issuer 1 (http://ci.example): issuer: must begin with https://",
            "issuer 1 (http://ci.example): audience: must be a text, and is an integer",
            "issuer 1 (http://ci.example): user: put text between {a} and {b}",
            "issuer 1 (http://ci.example): role: a role is",
            "issuer 1 (http://ci.example): max_life: ",
            "issuer 1 (http://ci.example): scopes: \"a b\" is no scope",
            "issuer 1 (http://ci.example): require: list: must be a text, a whole number, true, false, or a list of \
             these; ref: an empty list",
            "issuer 1 (http://ci.example): requires: there is no such field",
            "issuer 2: issuer: missing",
            "issuer 2: audience: must be 1 to 256 visible ASCII",
            "issuer 2: jwks_uri: must begin with https://",
            "issuer 2: jwks_file: must be a path from the root",
            "issuer 2: ca_file: must be a text",
            "issuer 3 (https://mayfly.example): issuer: this is MAYFLY_JWT_ISSUER",
            "issuer 5 (https://ci.example): issuer: another entry has the same issuer with other keys",
        ] {
            assert!(error.mistakes().iter().any(|mistake| mistake.starts_with(expected)), "{expected}: {error}");
        }
        assert_eq!(error.mistakes().len(), 16, "{error:#?}");
    }

    #[test]
    fn fields_that_contradict_each_other_or_can_never_be_met_are_mistakes() {
        let too_long = format!("audience = \"{}\"", "x".repeat(MAX_AUDIENCE_BYTES + 1));
        for (lines, expected) in [
            (
                "audience = \"x\"\njwks_uri = \"https://a/keys\"\njwks_file = \"/keys\"",
                "jwks_uri: set either this or jwks_file",
            ),
            ("audience = \"x\"\njwks_file = \"/keys\"\nca_file = \"/ca\"", "ca_file: jwks_file is read without"),
            ("audience = \"x\"\nrequire = { \"\" = \"x\" }", "require: : a claim has a name"),
            ("audience = \"\"", "audience: must be 1 to 256"),
            (&too_long, "audience: must be 1 to 256"),
        ] {
            let text = format!("[[issuer]]\nissuer = \"https://a\"\nuser = \"x\"\n{lines}\n");
            let error = parse(&text, None).unwrap_err();
            assert_eq!(error.mistakes().len(), 1, "{error}");
            assert!(error.to_string().starts_with(&format!("issuer 1 (https://a): {expected}")), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_names_the_line() {
        let error = parse("[[issuer]]\nissuer = \"a\naudience = 1\n", None).unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        assert!(parse("issuer = 1", None).is_err());
        assert!(parse("issuer = [1]", None).is_err());
        let many = "[[issuer]]\nissuer = \"https://a\"\naudience = \"x\"\nuser = \"x\"\n".repeat(MAX_ISSUERS + 1);
        assert!(parse(&many, None).unwrap_err().to_string().contains("at most 100"));
    }
}

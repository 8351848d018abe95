//! The name of a user, made from the claims of an issuer's JWT.

use std::{fmt, str::FromStr};

use serde_json::Value;

use super::user::{UserName, UserNameError};

/// The place of a claim: the name of a claim, or a JSON pointer (RFC 6901) into nested ones, as in
/// `/kubernetes.io/namespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// The path with this text, which is not empty.
    pub(super) fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The value at this path. `claims`: the object of all claims.
    pub(super) fn find<'c>(&self, claims: &'c Value) -> Option<&'c Value> {
        if self.0.starts_with('/') { claims.pointer(&self.0) } else { claims.get(&self.0) }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user name with claims in braces: `ci-{repository_owner}`.
///
/// Different claims give different names: where text stands between two claims, a value that contains this text is
/// rejected. Otherwise `{a}-{b}` would make one user of `x-y`, `z` and of `x`, `y-z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTemplate {
    /// The text in front of each claim, and the claim.
    claims: Vec<(String, ClaimPath)>,
    /// The text behind the last claim.
    rest: String,
}

/// Why a text is not a [`UserTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserTemplateError {
    /// A brace has no partner, or nothing is between two braces.
    #[error("write the name of a claim between braces, as in \"ci-{{repository_owner}}\"")]
    Braces,
    /// Two claims have no text between them, so that different claims would give one name.
    #[error("put text between {{{0}}} and {{{1}}}, as different claims would give one name")]
    Adjacent(ClaimPath, ClaimPath),
    /// Its own text cannot be part of a name.
    #[error(transparent)]
    Name(#[from] UserNameError),
}

/// Why claims give no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserTemplateMismatch {
    /// There is no such claim.
    #[error("there is no claim {0:?}")]
    Missing(String),
    /// The claim is empty, or neither a text nor a whole number.
    #[error("the claim {0:?} is {1}, and a name is made of texts and whole numbers")]
    Unusable(String, &'static str),
    /// The claim contains the text that ends it in the template.
    #[error("the claim {0:?} is {1:?}, and contains {2:?}, which ends it in the template: names could be mixed up")]
    Ambiguous(String, String, String),
    /// The text is not a user name.
    #[error("{0:?} is no user name: {1}")]
    Name(String, UserNameError),
}

/// What a JSON value is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl UserTemplate {
    /// The name that these claims give.
    pub fn name(&self, claims: &Value) -> Result<UserName, UserTemplateMismatch> {
        let mut name = String::new();
        let texts_behind = self.claims[1.min(self.claims.len())..].iter().map(|(text, _)| text).chain([&self.rest]);
        let last = self.claims.len().saturating_sub(1);
        for (index, ((before, path), behind)) in self.claims.iter().zip(texts_behind).enumerate() {
            let claim = || path.to_string();
            let value = match path.find(claims) {
                Some(Value::String(text)) if !text.is_empty() => text.clone(),
                Some(Value::Number(number)) if number.is_u64() || number.is_i64() => number.to_string(),
                Some(other) => return Err(UserTemplateMismatch::Unusable(claim(), kind_of(other))),
                None => return Err(UserTemplateMismatch::Missing(claim())),
            };
            // The text must first occur behind the value, also where the two overlap.
            if index < last && format!("{value}{behind}").find(behind) != Some(value.len()) {
                return Err(UserTemplateMismatch::Ambiguous(claim(), value, behind.clone()));
            }
            name += before;
            name += &value;
        }
        name += &self.rest;
        name.parse().map_err(|error| UserTemplateMismatch::Name(name, error))
    }
}

impl FromStr for UserTemplate {
    type Err = UserTemplateError;

    fn from_str(text: &str) -> Result<Self, UserTemplateError> {
        let (mut claims, mut rest) = (Vec::<(String, ClaimPath)>::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let (path, behind) = behind.split_once('}').ok_or(UserTemplateError::Braces)?;
            let path = ClaimPath::new(path).filter(|path| !path.0.contains('{')).ok_or(UserTemplateError::Braces)?;
            if let Some((_, previous)) = claims.last().filter(|_| before.is_empty()) {
                return Err(UserTemplateError::Adjacent(previous.clone(), path));
            }
            claims.push((before.to_owned(), path));
            rest = behind;
        }
        let template = Self { claims, rest: rest.to_owned() };
        if template.claims.iter().map(|(before, _)| before).chain([&template.rest]).any(|text| text.contains('}')) {
            return Err(UserTemplateError::Braces);
        }
        // A name with the shortest values. It must be valid, or no value makes it so.
        let own: String =
            template.claims.iter().flat_map(|(before, _)| [before, "x"]).chain([&*template.rest]).collect();
        own.parse::<UserName>()?;
        Ok(template)
    }
}

impl fmt::Display for UserTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.claims.iter().try_for_each(|(before, path)| write!(f, "{before}{{{path}}}"))?;
        f.write_str(&self.rest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(template: &str, claims: &Value) -> Result<String, UserTemplateMismatch> {
        template.parse::<UserTemplate>().unwrap().name(claims).map(|name| name.to_string())
    }

    #[test]
    fn a_name_is_made_of_claims() {
        let claims = json!({
            "owner": "acme", "id": 7, "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "api.v1"}}
        });
        for (template, expected) in [
            ("ci", "ci"),
            ("{owner}", "acme"),
            ("ci-{owner}", "ci-acme"),
            ("{id}+{owner}@ci", "7+acme@ci"),
            ("{/kubernetes.io/namespace}.{/kubernetes.io/serviceaccount/name}", "shop.api.v1"),
        ] {
            assert_eq!(name(template, &claims).as_deref(), Ok(expected));
            assert_eq!(template.parse::<UserTemplate>().unwrap().to_string(), template);
        }
    }

    #[test]
    fn a_claim_that_is_no_plain_text_gives_no_name() {
        let claims = json!({
            "empty": "", "list": ["admin"], "object": {"a": "admin"}, "flag": true, "null": null, "float": 1.5,
            "path": "acme/shop", "cyrillic": "\u{430}dmin", "fullwidth": "\u{ff41}dmin", "spaced": "admin ",
            "zero": "ad\u{200b}min", "long": "x".repeat(65), "dot": "..",
        });
        for claim in claims.as_object().unwrap().keys() {
            assert!(name(&format!("{{{claim}}}"), &claims).is_err(), "{claim}");
        }
        assert_eq!(name("ci-{gone}", &claims), Err(UserTemplateMismatch::Missing("gone".into())));
        assert_eq!(name("ci-{list}", &claims), Err(UserTemplateMismatch::Unusable("list".into(), "an array")));
        assert!(matches!(name("ci-{empty}", &claims), Err(UserTemplateMismatch::Unusable(..))));
    }

    #[test]
    fn different_claims_never_give_one_name() {
        for (template, first, second) in [
            ("{a}-{b}", ["x-y", "z"], ["x", "y-z"]),
            ("{a}--{b}", ["x-", "y"], ["x", "-y"]),
            ("ci.{a}.{b}@x", ["x.y", "z"], ["x", "y.z"]),
        ] {
            let name = |values: [&str; 2]| name(template, &json!({"a": values[0], "b": values[1]}));
            assert!(name(first).is_err() || name(second).is_err(), "{template}");
        }
        assert_eq!(name("{a}.{b}", &json!({"a": "x-y", "b": "z.z"})).as_deref(), Ok("x-y.z.z"));
    }

    #[test]
    fn a_template_that_can_give_no_name_is_rejected() {
        for (bad, expected) in [
            ("{", "braces"),
            ("{}", "braces"),
            ("a}", "braces"),
            ("{a{b}", "braces"),
            ("{a{b}}", "braces"),
            ("{a}}", "braces"),
            ("{a}{b}", "put text between {a} and {b}"),
            ("", "a user name is"),
            ("ci:{a}", "a user name is"),
            ("ci {a}", "a user name is"),
            ("..", "a user name is"),
        ] {
            let error = bad.parse::<UserTemplate>().unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
        let too_long = format!("{}{{a}}", "x".repeat(64));
        assert!(too_long.parse::<UserTemplate>().is_err());
    }
}

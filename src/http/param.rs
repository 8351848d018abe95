//! Parameters that are refused in our own words: what a path names, and what a query asks for.

use std::{borrow::Cow, str::FromStr};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseFromParameter, ParseResult, Type},
};

use super::problem::Problem;
use crate::domain::{token::TokenId, user::UserName};

/// A type of parameters.
pub(super) trait Parameter: FromStr + Send + Sync {
    fn schema() -> MetaSchema;

    /// The answer where the parameter is malformed.
    fn refusal() -> Problem;
}

/// A parameter, or `None` where its text is malformed, absent although required, or there more than once. The operation
/// reads it with [`Param::parsed`], after it knows who is asking.
pub(super) struct Param<T>(Option<T>);

impl<T: Parameter> Param<T> {
    pub(super) fn parsed(self) -> Result<T, Problem> {
        self.0.ok_or_else(T::refusal)
    }

    pub(super) fn is(&self, other: &T) -> bool
    where
        T: PartialEq,
    {
        self.0.as_ref() == Some(other)
    }
}

impl<T: Parameter> Type for Param<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "parameter".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(T::schema()))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Parameter> ParseFromParameter for Param<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Ok(Self(value.parse().ok()))
    }

    fn parse_from_parameters<I: IntoIterator<Item = A>, A: AsRef<str>>(values: I) -> ParseResult<Self> {
        let mut values = values.into_iter();
        let only = values.next().filter(|_| values.next().is_none());
        Ok(Self(only.and_then(|value| value.as_ref().parse().ok())))
    }
}

/// A malformed id names nothing, and is answered like any other that names nothing.
impl Parameter for TokenId {
    fn schema() -> MetaSchema {
        MetaSchema::new_with_format("string", "uuid")
    }

    fn refusal() -> Problem {
        Problem::no_such_token()
    }
}

/// A malformed name is answered like any other that nobody has.
impl Parameter for UserName {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(UserName::PATTERN.to_owned()), ..MetaSchema::new("string") }
    }

    fn refusal() -> Problem {
        Problem::no_such_user()
    }
}

/// How long a page of a list is at most: 1 to 1000 entries.
pub(super) struct Limit(pub(super) usize);

impl Limit {
    const MAX: usize = 1000;
}

impl FromStr for Limit {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|limit| (1..=Self::MAX).contains(limit)).map(Self).ok_or(())
    }
}

impl Parameter for Limit {
    fn schema() -> MetaSchema {
        MetaSchema { minimum: Some(1.0), maximum: Some(1000.0), ..MetaSchema::new("integer") }
    }

    fn refusal() -> Problem {
        Problem::bad_request("limit: must be a number from 1 to 1000.")
    }
}

/// The `Link` header to the page after `last` (RFC 8288).
pub(super) fn next_page(path: &str, limit: usize, last: &str) -> String {
    // A `+` in a query is a space unless it is escaped.
    let query = serde_urlencoded::to_string([("limit", &*limit.to_string()), ("after", last)]);
    format!("<{path}?{}>; rel=\"next\"", query.expect("texts can be encoded"))
}

/// `all=true`: what a caller says who means all tokens, and not one whose id was left empty by mistake.
pub(super) struct All;

impl FromStr for All {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "true" { Ok(Self) } else { Err(()) }
    }
}

impl Parameter for All {
    fn schema() -> MetaSchema {
        MetaSchema { enum_items: vec![true.into()], ..MetaSchema::new("boolean") }
    }

    fn refusal() -> Problem {
        Problem::bad_request("Name one token by its id, or revoke all of them with ?all=true.")
    }
}

//! What a path names.

use std::{borrow::Cow, str::FromStr};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseFromParameter, ParseResult, Type},
};

use super::problem::Problem;
use crate::domain::{token::TokenId, user::UserName};

/// Something that can be named in a path.
pub(super) trait Named: FromStr + Send + Sync {
    /// What the document calls its type.
    const TYPE: &'static str;

    fn schema() -> MetaSchema;

    /// 404 for a name that nothing has.
    fn missing() -> Problem;
}

/// The name in a path. One that is malformed names nothing, and is answered like any other that does not: 404.
pub(super) struct NameParam<T>(Option<T>);

impl<T: Named> NameParam<T> {
    pub(super) fn parsed(self) -> Result<T, Problem> {
        self.0.ok_or_else(T::missing)
    }

    pub(super) fn is(&self, other: &T) -> bool
    where
        T: PartialEq,
    {
        self.0.as_ref() == Some(other)
    }
}

impl<T: Named> Type for NameParam<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::TYPE.into()
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

impl<T: Named> ParseFromParameter for NameParam<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Ok(Self(value.parse().ok()))
    }
}

impl Named for TokenId {
    const TYPE: &'static str = "string_uuid";

    fn schema() -> MetaSchema {
        MetaSchema::new_with_format("string", "uuid")
    }

    fn missing() -> Problem {
        Problem::no_such_token()
    }
}

impl Named for UserName {
    const TYPE: &'static str = "string_username";

    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(UserName::PATTERN.to_owned()), ..MetaSchema::new("string") }
    }

    fn missing() -> Problem {
        Problem::no_such_user()
    }
}

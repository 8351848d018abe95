//! Parameters of paths and queries, with error messages of our own in place of poem-openapi's.

use std::{borrow::Cow, str::FromStr};

use poem::{Request, RequestBody, Result as PoemResult};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
    types::{ParseFromParameter, ParseResult, Type},
};

use super::problem::Problem;
use crate::domain::{
    idempotency::{IdempotencyKey, IdempotencyKeyError},
    token::TokenId,
    user::UserName,
};

/// A type that a parameter is parsed into.
pub(super) trait Parameter: FromStr + Send + Sync {
    /// The schema of the parameter in the OpenAPI document.
    fn schema() -> MetaSchema;

    /// The answer to a malformed parameter.
    fn error() -> Problem;
}

/// A parameter; `None`: malformed, missing although required, or repeated. The operation calls [`Param::parsed`] once
/// the caller is authenticated, so that strangers get 401 first.
pub(super) struct Param<T>(Option<T>);

impl<T: Parameter> Param<T> {
    /// The value, or the answer to a malformed parameter.
    pub(super) fn parsed(self) -> Result<T, Problem> {
        self.0.ok_or_else(T::error)
    }

    /// Whether the parameter is well-formed and equal to `other`.
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

/// A header that a request may have. In contrast to poem-openapi's `Header`, one that is no ASCII is malformed, not
/// missing.
pub(super) struct OptionalHeader<T>(Option<Param<T>>);

impl<T: Parameter> OptionalHeader<T> {
    /// The value, if there is one, or the answer to a malformed or repeated header.
    pub(super) fn parsed(self) -> Result<Option<T>, Problem> {
        self.0.map(Param::parsed).transpose()
    }
}

impl<'a, T: Parameter> ApiExtractor<'a> for OptionalHeader<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = Param<T>;
    type ParamRawType = Param<T>;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(Param::<T>::schema_ref())
    }

    fn param_raw_type(&self) -> Option<&Param<T>> {
        self.0.as_ref()
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<Param<T>>,
    ) -> PoemResult<Self> {
        let mut values = request.headers().get_all(options.name).iter();
        let first = values.next();
        let only = first.filter(|_| values.next().is_none());
        let value = only.and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
        Ok(Self(first.map(|_| Param(value))))
    }
}

/// A malformed id is answered like an unknown one.
impl Parameter for TokenId {
    fn schema() -> MetaSchema {
        MetaSchema::new_with_format("string", "uuid")
    }

    fn error() -> Problem {
        Problem::no_such_token()
    }
}

/// A malformed name is answered like an unknown one.
impl Parameter for UserName {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(UserName::PATTERN.to_owned()), ..MetaSchema::new("string") }
    }

    fn error() -> Problem {
        Problem::no_such_user()
    }
}

/// A header.
impl Parameter for IdempotencyKey {
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(Self::PATTERN.to_owned()), ..MetaSchema::new("string") }
    }

    fn error() -> Problem {
        Problem::bad_request(format!("Idempotency-Key: {IdempotencyKeyError}, and one header."))
    }
}

/// The most entries on a page of a list: 1 to 1000.
pub(super) struct PageLimit(pub(super) usize);

impl PageLimit {
    const MAX: usize = 1000;
}

impl FromStr for PageLimit {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|limit| (1..=Self::MAX).contains(limit)).map(Self).ok_or(())
    }
}

impl Parameter for PageLimit {
    fn schema() -> MetaSchema {
        MetaSchema { minimum: Some(1.0), maximum: Some(1000.0), ..MetaSchema::new("integer") }
    }

    fn error() -> Problem {
        Problem::bad_request("limit: must be a number from 1 to 1000.")
    }
}

/// The `Link` header to the page after `last` (RFC 8288).
pub(super) fn next_page_link(path: &str, limit: usize, last: &str) -> String {
    // User names may contain `+`, which means a space in a query unless it is escaped.
    let query = serde_urlencoded::to_string([("limit", &*limit.to_string()), ("after", last)]);
    format!("<{path}?{}>; rel=\"next\"", query.expect("texts can be encoded"))
}

/// `all=true`, required to revoke all tokens: a path whose id was left empty by mistake comes without it.
pub(super) struct AllTokens;

impl FromStr for AllTokens {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "true" { Ok(Self) } else { Err(()) }
    }
}

impl Parameter for AllTokens {
    fn schema() -> MetaSchema {
        MetaSchema { enum_items: vec![true.into()], ..MetaSchema::new("boolean") }
    }

    fn error() -> Problem {
        Problem::bad_request("Name one token by its id, or revoke all of them with ?all=true.")
    }
}

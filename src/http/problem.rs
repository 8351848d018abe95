//! The one shape of every error: `application/problem+json` (RFC 9457).

use std::{borrow::Cow, marker::PhantomData};

use poem::{
    Response,
    error::ResponseError,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use serde::Serialize;

use crate::{service::hashing::Busy, store::StoreError};

/// The media type of RFC 9457.
const CONTENT_TYPE: &str = "application/problem+json";

const BASIC_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="mayfly", charset="UTF-8""#);

/// The Bearer challenge for a request without a token.
pub(super) const BEARER_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Bearer realm="mayfly""#);

/// Seconds after which a client may try again where the server's own trouble was the cause.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What went wrong, before it has the id of a request. Everything in it is for the client: no cause, no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    oauth_error: Option<&'static str>,
}

/// What went wrong (RFC 9457).
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Problem")]
struct ProblemBody {
    /// `about:blank`: the status says what kind of problem it is.
    r#type: String,
    /// The words of the status.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, and what to do about it.
    detail: String,
    /// The same as `detail`.
    message: String,
    /// What the logs call this request; the `X-Request-Id` header says it, too.
    request_id: String,
    /// For OAuth's endpoints, the error code of RFC 6749, sections 4.1.2.1 and 5.2, or of RFC 6750, section 3.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    error: Option<String>,
}

impl Problem {
    /// A problem with this status; `detail` is shown to the client.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), headers: Vec::new(), oauth_error: None }
    }

    /// 400: the request makes no sense, and repeating it will not change that.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404 for a token: unknown, expired, malformed or another user's, all with the same bytes.
    pub fn no_such_token() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such token.")
    }

    /// 404 for a user: unknown or malformed, with the same bytes.
    pub fn no_such_user() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such user.")
    }

    /// 409: the request does not fit what there is.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 401 with the challenges of Basic and of Bearer (RFC 9110, section 11.6.1).
    pub(super) fn unauthorized(detail: &'static str, bearer: HeaderValue) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
            .with_header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
            .with_header(header::WWW_AUTHENTICATE, bearer)
    }

    /// 401 for an unknown user or a wrong password, with the same bytes.
    pub fn wrong_login() -> Self {
        Self::unauthorized("The user name or the password is wrong.", BEARER_CHALLENGE)
    }

    /// 403 for a user who is no administrator, whether or not the request names something that exists.
    pub fn administrators_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Only an administrator may do this.")
    }

    /// 503: the server's own trouble.
    pub fn unavailable(detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into())
    }

    /// The problem with one more header in its answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The problem as the clients of OAuth's endpoints know it, too: with an error code of RFC 6749.
    #[must_use]
    pub fn for_oauth(self) -> Self {
        let error = match self.status {
            StatusCode::UNAUTHORIZED if self.presents_invalid_token() => "invalid_token",
            StatusCode::UNAUTHORIZED => "invalid_client",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_client_error() => "invalid_request",
            _ => "server_error",
        };
        Self { oauth_error: Some(error), ..self }
    }

    fn presents_invalid_token(&self) -> bool {
        let is_error =
            |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("error=\"invalid_token\""));
        self.headers.iter().any(|(name, value)| name == header::WWW_AUTHENTICATE && is_error(value))
    }

    /// The answer to the request with this id.
    pub fn into_response(self, request_id: &str) -> Response {
        let body = self.body(request_id);
        let mut response = Response::builder()
            .status(self.status)
            .content_type(CONTENT_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
            .body(serde_json::to_vec(&body).expect("strings and numbers are JSON"));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }

    fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            r#type: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Unknown").into(),
            status: self.status.as_u16(),
            detail: self.detail.to_string(),
            message: self.detail.to_string(),
            request_id: request_id.into(),
            error: self.oauth_error.map(str::to_owned),
        }
    }
}

/// Lets a problem travel as poem's error up to `envelope`, which alone answers it.
impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LoginEnded => return Self::wrong_login(),
            StoreError::Forbidden => return Self::administrators_only(),
            _ => {}
        }
        tracing::warn!(error = &error as &dyn std::error::Error, "the store failed");
        Self::unavailable("The token store does not answer. Try again in a moment.")
    }
}

impl From<Busy> for Problem {
    fn from(_: Busy) -> Self {
        Self::unavailable("Too many logins at once. Try again in a moment.")
    }
}

/// What most operations may answer when they do not succeed: status, and an example of its `detail`.
pub(super) mod refusal {
    type Refusal = (u16, &'static str);

    pub(crate) const TWO_LOGINS: Refusal = (400, "A request has one Authorization header.");
    pub(crate) const BAD_LIMIT: Refusal = (400, "limit: must be a number from 1 to 1000.");
    pub(crate) const NOT_ALL: Refusal = (400, "Name one token by its id, or revoke all of them with ?all=true.");
    pub(crate) const WRONG_LOGIN: Refusal = (401, "The user name or the password is wrong.");
    pub(crate) const INVALID_TOKEN: Refusal =
        (401, "The token is not valid: it has expired, was revoked, or was not issued here.");
    pub(crate) const TOKEN_INSTEAD_OF_LOGIN: Refusal =
        (403, "A token may inspect and revoke itself only. Log in with a user name and a password.");
    pub(crate) const NOT_ADMIN: Refusal = (403, "Only an administrator may do this.");
    pub(crate) const NO_SUCH_USER: Refusal = (404, "There is no such user.");
    pub(crate) const LAST_ADMIN: Refusal =
        (409, "This is the last enabled administrator. Make another one first, or enable one.");
    pub(crate) const NO_SUCH_TOKEN: Refusal = (404, "There is no such token.");
    pub(crate) const SLOW_BODY: Refusal = (408, "The body of the request took too long to arrive.");
    pub(crate) const LARGE_BODY: Refusal = (413, "A body is at most 16384 bytes.");
    pub(crate) const NOT_JSON: Refusal =
        (415, "The body must be of another type: send it with Content-Type: application/json.");
    pub(crate) const THROTTLED: Refusal = (429, "Too many failed logins. Try again in 8 seconds; tokens work as ever.");
    pub(crate) const LARGE_HEADERS: Refusal = (431, "The headers of a request are at most 16384 bytes.");
    pub(crate) const INTERNAL: Refusal =
        (500, "Something went wrong here. The logs know more under this request's id.");
    pub(crate) const UNAVAILABLE: Refusal = (503, "The token store does not answer. Try again in a moment.");
}

/// What an operation answers when it does not succeed: each status with an example of its `detail`.
pub trait Refusals {
    /// Status, example.
    const LIST: &'static [(u16, &'static str)];
}

/// A problem, in the signature of an operation that documents its [`Refusals`].
pub struct Refused<R> {
    problem: Problem,
    refusals: PhantomData<fn() -> R>,
}

impl<R, P: Into<Problem>> From<P> for Refused<R> {
    fn from(problem: P) -> Self {
        Self { problem: problem.into(), refusals: PhantomData }
    }
}

impl<R> From<Refused<R>> for poem::Error {
    fn from(refused: Refused<R>) -> Self {
        refused.problem.into()
    }
}

impl<R: Refusals> ApiResponse for Refused<R> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: R::LIST.iter().map(|(status, detail)| meta(*status, detail)).collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

fn meta(status: u16, detail: &'static str) -> MetaResponse {
    let code = StatusCode::from_u16(status).expect("a status of HTTP");
    let example = Problem::new(code, detail).body("0f1c7c5e-4d4e-4a52-8b0e-0f3a5f0c7d11");
    let schema = MetaSchema { all_of: vec![ProblemBody::schema_ref()], example: example.to_json(), ..MetaSchema::ANY };
    let header = |name: &str, description: &str| MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required: status != 403,
        deprecated: false,
        schema: String::schema_ref(),
    };
    let headers = match status {
        401 => vec![header("WWW-AUTHENTICATE", "How to log in: one challenge for Basic, one for Bearer.")],
        403 => vec![header("WWW-AUTHENTICATE", "`insufficient_scope`, where a token was presented.")],
        429 | 503 => vec![header("RETRY-AFTER", "Seconds after which to try again.")],
        _ => Vec::new(),
    };
    MetaResponse {
        description: code.canonical_reason().unwrap_or_default(),
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: CONTENT_TYPE, schema: MetaSchemaRef::Inline(Box::new(schema)) }],
        headers,
    }
}

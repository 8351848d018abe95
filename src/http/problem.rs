//! Errors as answers: every one is a problem of RFC 9457 (`application/problem+json`).
//!
//! At OAuth's endpoints it is also an error of RFC 6749, section 5.2, which RFC 7009, 7662 and 8693 refer to:
//! `application/json`, with `error` and `error_description`. OAuth's clients read no other type.

use std::borrow::Cow;

use poem::{
    Response,
    error::ResponseError,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaResponses, Registry},
};
use serde_json::{Value, json};

use crate::{service::hashing::Busy, store::StoreError};

/// The media type of RFC 9457.
const PROBLEM_JSON: &str = "application/problem+json";

/// The media type of an error of RFC 6749, section 5.2.
const JSON: &str = "application/json";

const BASIC_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="mayfly", charset="UTF-8""#);

/// The Bearer challenge for a request without a token.
pub(super) const BEARER_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Bearer realm="mayfly""#);

/// The `Retry-After` of a 503.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An error as the client sees it, without a cause or a secret. The id of the request is added when it is answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {detail}")]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    oauth_error: Option<&'static str>,
}

impl Problem {
    /// A problem with this status; `detail` is shown to the client.
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), headers: Vec::new(), oauth_error: None }
    }

    /// 400: the request is malformed.
    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404 for a token: unknown, expired, malformed or another user's, all with the same bytes.
    pub(super) fn no_such_token() -> Self {
        Self::not_found("There is no such token.")
    }

    /// 404 for a user: unknown or malformed, with the same bytes.
    pub(super) fn no_such_user() -> Self {
        Self::not_found("There is no such user.")
    }

    /// 409: the request conflicts with the present state.
    pub(super) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 404: the request names something that does not exist.
    pub(super) fn not_found(detail: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 401 with the challenges of Basic and of Bearer (RFC 9110, section 11.6.1).
    pub(super) fn unauthorized(detail: &'static str, bearer: HeaderValue) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
            .with_header(WWW_AUTHENTICATE, BASIC_CHALLENGE)
            .with_header(WWW_AUTHENTICATE, bearer)
    }

    /// 401 for an unknown user, a wrong password or a disabled user, all with the same bytes.
    pub(super) fn wrong_login() -> Self {
        Self::unauthorized("The user name or the password is wrong.", BEARER_CHALLENGE)
    }

    /// 403 for a user who is no administrator, whether or not the request names something that exists.
    pub(super) fn administrators_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Only an administrator may do this.")
    }

    /// 403 for a user who may not introspect the tokens of others.
    pub(super) fn introspectors_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Only an introspector or an administrator may do this.")
    }

    /// 503: the service cannot answer now.
    pub(super) fn unavailable(detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(RETRY_AFTER, RETRY_AFTER_SECONDS.into())
    }

    /// 503: the store failed, or did not confirm a change.
    pub(super) fn store_unavailable() -> Self {
        Self::unavailable("The token store does not answer. Try again in a moment.")
    }

    /// Adds a header to the answer.
    #[must_use]
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds the error code of RFC 6749 or RFC 6750 that clients of OAuth's endpoints expect.
    #[must_use]
    pub(super) fn with_oauth_error(self) -> Self {
        if self.oauth_error.is_some() {
            return self;
        }
        let error = match self.status {
            StatusCode::UNAUTHORIZED if self.has_challenge("error=\"invalid_token\"") => "invalid_token",
            StatusCode::UNAUTHORIZED => "invalid_client",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_client_error() => "invalid_request",
            _ => "server_error",
        };
        Self { oauth_error: Some(error), ..self }
    }

    /// Sets the error code for clients of OAuth's endpoints, where the status says too little.
    #[must_use]
    pub(super) fn with_error(self, error: &'static str) -> Self {
        Self { oauth_error: Some(error), ..self }
    }

    /// What is wrong with the request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether a `WWW-Authenticate` header contains this text.
    fn has_challenge(&self, text: &str) -> bool {
        let holds = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains(text));
        self.headers.iter().any(|(name, value)| name == WWW_AUTHENTICATE && holds(value))
    }

    /// The answer to the request with this id.
    pub(super) fn into_response(self, request_id: &str) -> Response {
        let body = self.body(request_id);
        let mut response = Response::builder()
            .status(self.status)
            .content_type(self.media_type())
            .header(CACHE_CONTROL, "no-store")
            .body(body.to_string());
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    fn media_type(&self) -> &'static str {
        if self.oauth_error.is_some() { JSON } else { PROBLEM_JSON }
    }

    /// This problem as a response of the OpenAPI document.
    pub(super) fn to_openapi_response(&self) -> Value {
        let mut response = json!({
            "description": self.status.canonical_reason(),
            "content": { self.media_type(): {
                "schema": { "$ref": "#/components/schemas/Problem" },
                "example": self.body("0f1c7c5e-4d4e-4a52-8b0e-0f3a5f0c7d11"),
            } },
        });
        let headers = match self.status.as_u16() {
            401 if !self.has_challenge("Basic") => header("WWW-AUTHENTICATE", "How to present a token: Bearer.", true),
            401 => header("WWW-AUTHENTICATE", "How to log in: one challenge for Basic, one for Bearer.", true),
            403 => header("WWW-AUTHENTICATE", "`insufficient_scope`, where a token was presented.", false),
            429 | 503 => header("RETRY-AFTER", "Seconds after which to try again.", true),
            _ => return response,
        };
        response["headers"] = headers;
        response
    }

    /// The body. Its schema is in `openapi_overlay.yaml`.
    fn body(&self, request_id: &str) -> Value {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Unknown"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "message": self.detail,
            "request_id": request_id,
        });
        if let Some(error) = self.oauth_error {
            body["error"] = error.into();
            body["error_description"] = error_description(&self.detail).into();
        }
        body
    }
}

/// The detail in the characters that RFC 6749, section 5.2, allows: ASCII without `"` and `\`.
fn error_description(detail: &str) -> String {
    let allowed = |c| match c {
        '"' => '\'',
        '\\' => '/',
        ' '..='~' => c,
        _ => '?',
    };
    detail.chars().map(allowed).collect()
}

/// A problem passes through poem as an error, and `envelope` answers it.
impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.status
    }
}

/// 503 if the store failed; 401 or 403 if the caller lost the login or the role while the request ran.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LoginEnded => return Self::wrong_login(),
            StoreError::Forbidden => return Self::administrators_only(),
            _ => {}
        }
        tracing::warn!(error = &error as &dyn std::error::Error, "the store failed");
        Self::store_unavailable()
    }
}

impl From<Busy> for Problem {
    fn from(_: Busy) -> Self {
        Self::unavailable("Too many logins at once. Try again in a moment.")
    }
}

/// A header of a response of the OpenAPI document.
fn header(name: &str, description: &str, is_required: bool) -> Value {
    json!({ name: { "description": description, "required": is_required, "schema": { "type": "string" } } })
}

/// Adds no response to the document: `documented_failures` adds those of each operation.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: Vec::new() }
    }

    fn register(_: &mut Registry) {}
}

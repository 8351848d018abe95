//! The one shape of every error: `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use poem::{
    Response,
    error::ResponseError,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaResponses, Registry},
};
use serde_json::{Value, json};

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

    /// 400: the request makes no sense, and repeating it will not change that.
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

    /// 409: the request does not fit what there is.
    pub(super) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 404: the request names nothing.
    pub(super) fn not_found(detail: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 401 with the challenges of Basic and of Bearer (RFC 9110, section 11.6.1).
    pub(super) fn unauthorized(detail: &'static str, bearer: HeaderValue) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
            .with_header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
            .with_header(header::WWW_AUTHENTICATE, bearer)
    }

    /// 401 for an unknown user or a wrong password, with the same bytes.
    pub(super) fn wrong_login() -> Self {
        Self::unauthorized("The user name or the password is wrong.", BEARER_CHALLENGE)
    }

    /// 403 for a user who is no administrator, whether or not the request names something that exists.
    pub(super) fn administrators_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Only an administrator may do this.")
    }

    /// 503: the server's own trouble.
    pub(super) fn unavailable(detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_header(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into())
    }

    /// 503: the store does not answer, or refuses to work.
    pub(super) fn store_unavailable() -> Self {
        Self::unavailable("The token store does not answer. Try again in a moment.")
    }

    /// The problem with one more header in its answer.
    #[must_use]
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The problem as the clients of OAuth's endpoints know it, too: with an error code of RFC 6749.
    #[must_use]
    pub(super) fn for_oauth(self) -> Self {
        let error = match self.status {
            StatusCode::UNAUTHORIZED if self.challenges("error=\"invalid_token\"") => "invalid_token",
            StatusCode::UNAUTHORIZED => "invalid_client",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_client_error() => "invalid_request",
            _ => "server_error",
        };
        Self { oauth_error: Some(error), ..self }
    }

    /// Whether a challenge of the answer holds this text.
    fn challenges(&self, text: &str) -> bool {
        let holds = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains(text));
        self.headers.iter().any(|(name, value)| name == header::WWW_AUTHENTICATE && holds(value))
    }

    /// The answer to the request with this id.
    pub(super) fn into_response(self, request_id: &str) -> Response {
        let body = self.body(request_id);
        let mut response = Response::builder()
            .status(self.status)
            .content_type(CONTENT_TYPE)
            .header(header::CACHE_CONTROL, "no-store")
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

    /// This problem as a response of the OpenAPI document.
    pub(super) fn as_documentation(&self) -> Value {
        let header = |name: &str, description: &str, required| json!({ name: { "description": description, "required": required, "schema": { "type": "string" } } });
        let mut response = json!({
            "description": self.status.canonical_reason(),
            "content": { CONTENT_TYPE: {
                "schema": { "$ref": "#/components/schemas/Problem" },
                "example": self.body("0f1c7c5e-4d4e-4a52-8b0e-0f3a5f0c7d11"),
            } },
        });
        let headers = match self.status.as_u16() {
            401 if !self.challenges("Basic") => header("WWW-AUTHENTICATE", "How to present a token: Bearer.", true),
            401 => header("WWW-AUTHENTICATE", "How to log in: one challenge for Basic, one for Bearer.", true),
            403 => header("WWW-AUTHENTICATE", "`insufficient_scope`, where a token was presented.", false),
            429 | 503 => header("RETRY-AFTER", "Seconds after which to try again.", true),
            _ => return response,
        };
        response["headers"] = headers;
        response
    }

    /// The body of RFC 9457, as `overlay.yaml` describes it.
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
        }
        body
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
        Self::store_unavailable()
    }
}

impl From<Busy> for Problem {
    fn from(_: Busy) -> Self {
        Self::unavailable("Too many logins at once. Try again in a moment.")
    }
}

/// The document shows how each operation fails by its own means (`failures`).
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: Vec::new() }
    }

    fn register(_: &mut Registry) {}
}

//! Requests to a service, and the errors of its answers.

use std::{io, sync::Arc, thread::sleep, time::Duration};

use rustls::crypto::aws_lc_rs;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{
    Agent, Error,
    http::{HeaderMap, HeaderValue, Method, Request},
    tls::{RootCerts, TlsConfig},
};
use uuid::Uuid;

use crate::{cli::outcome::Failure, config::ServiceUrl};

/// The maximum size of an answer, in bytes: a thousand tokens with the longest attributes need 13 MB.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The times to wait before each repetition of a create, unless the service asks for more.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(800), Duration::from_millis(1600)];

/// A service that asks for a longer wait gets no repetition.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// A service, and who calls it.
pub(in crate::cli) struct Api {
    agent: Agent,
    url: ServiceUrl,
    timeout: Duration,
    /// The value of `Authorization`.
    authorization: SecretString,
}

/// A successful answer.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    url: ServiceUrl,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The service refused the request, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The service, or a proxy in front of it, answers 502, 503 or 504.
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Option<Duration> },
    /// No connection, or no whole answer.
    #[error("{0}")]
    Lost(String),
    /// Something else answers, or nothing that can be trusted.
    #[error("{0}")]
    Foreign(String),
}

/// Makes requests that follow no redirect, each within `timeout`. Without `roots`, certificates are not verified.
/// A service on this machine is not called through a proxy; for others, `HTTPS_PROXY` and `NO_PROXY` apply.
pub(in crate::cli) fn agent(roots: Option<RootCerts>, timeout: Duration, is_on_this_machine: bool) -> Agent {
    let tls = TlsConfig::builder()
        .disable_verification(roots.is_none())
        .root_certs(roots.unwrap_or(RootCerts::WebPki))
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
    let mut config = Agent::config_builder()
        .tls_config(tls.build())
        .max_redirects(0)
        .max_idle_connections(0)
        .http_status_as_error(false)
        .user_agent(concat!("mayfly/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(timeout));
    if is_on_this_machine {
        config = config.proxy(None);
    }
    config.build().into()
}

/// Says why `server` did not answer within `timeout`.
pub(in crate::cli) fn describe(error: &Error, server: &str, timeout: Duration) -> String {
    match error {
        Error::Timeout(_) => format!("no answer within {timeout:?}"),
        Error::Protocol(_) => format!("the service on {server} is not Mayfly"),
        Error::Io(error) if is_cut(error) => format!("the connection to {server} was lost: {error}"),
        Error::Io(error) => format!("cannot connect to {server}: {error}"),
        error => format!("cannot connect to {server}: {error}"),
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A text of a server without control characters, which could change what a terminal shows.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl Api {
    pub(super) fn new(agent: Agent, url: ServiceUrl, timeout: Duration, authorization: SecretString) -> Self {
        Self { agent, url, timeout, authorization }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, ApiError> {
        self.send(Method::GET, path, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, ApiError> {
        self.send(Method::DELETE, path, None)
    }

    /// Sends a request once.
    pub(super) fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ApiError> {
        self.send_with_key(method, path, body, None)
    }

    /// Creates a token with POST. After a lost answer and a 503, sends the request again with the same Idempotency-Key,
    /// so that it creates no second one.
    pub(super) fn create(&self, path: &str, body: &Value) -> Result<Answer, ApiError> {
        let key = Uuid::new_v4().to_string();
        let mut backoff = BACKOFF.into_iter();
        loop {
            let error = match self.send_with_key(Method::POST, path, Some(body), Some(&key)) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let retry_after = match &error {
                ApiError::Unavailable { retry_after, .. } => retry_after.unwrap_or_default(),
                ApiError::Lost(_) => Duration::ZERO,
                ApiError::Refused(_) | ApiError::Foreign(_) => return Err(error),
            };
            match backoff.next() {
                Some(wait) if retry_after <= MAX_RETRY_AFTER => sleep(wait.max(retry_after)),
                _ => return Err(error.with_doubt()),
            }
        }
    }

    fn send_with_key(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer, ApiError> {
        let mut authorization = HeaderValue::from_str(self.authorization.expose_secret())
            .map_err(|_| ApiError::Refused("the token has characters that no token has".into()))?;
        authorization.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", authorization)
            .header("accept", "application/json, application/problem+json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(body).map_err(|error| ApiError::Foreign(error.to_string()))?;
        let answer = self.agent.run(request).and_then(|mut response| {
            let text = response.body_mut().with_config().limit(MAX_BYTES).lossy_utf8(true).read_to_string()?;
            Ok((response.status(), response.headers().clone(), text))
        });
        let (status, headers, text) = answer.map_err(|error| self.unanswered(&error))?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_problem = header("content-type").is_some_and(|kind| kind.starts_with("application/problem+json"));
        let problem = is_problem.then(|| serde_json::from_str::<Problem>(&text).ok()).flatten();
        let detail = problem.map(|problem| printable(&problem.detail));
        let url = &self.url;
        match status.as_u16() {
            200..300 => Ok(Answer { headers, text, url: url.clone() }),
            300..400 => {
                let target = printable(header("location").unwrap_or_default());
                Err(ApiError::Foreign(format!(
                    "{url} redirects to {target}. Passwords and tokens are not sent elsewhere: set MAYFLY_URL to the \
                     service itself"
                )))
            }
            502..=504 => Err(ApiError::Unavailable {
                reason: detail.unwrap_or_else(|| format!("{url} answers {status}")),
                retry_after: header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            }),
            _ => Err(match detail {
                Some(detail) => ApiError::Refused(detail),
                None => ApiError::Foreign(format!("{url} answers {status}, and not as Mayfly does")),
            }),
        }
    }

    fn unanswered(&self, error: &Error) -> ApiError {
        let reason = describe(error, &self.url.to_string(), self.timeout);
        match error {
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => ApiError::Foreign(reason),
            Error::Io(_) | Error::Timeout(_) | Error::ConnectionFailed => ApiError::Lost(reason),
            _ => ApiError::Foreign(reason),
        }
    }
}

/// The member of a problem (RFC 9457) that says why.
#[derive(serde::Deserialize)]
struct Problem {
    detail: String,
}

impl Answer {
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_str(&self.text).map_err(|_| self.foreign())
    }

    /// The value of a header that the answer has to have.
    pub(super) fn header(&self, name: &str) -> Result<String, ApiError> {
        self.optional_header(name).ok_or_else(|| self.foreign())
    }

    pub(super) fn optional_header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(printable)
    }

    /// The error for an answer that is none of Mayfly's.
    pub(super) fn foreign(&self) -> ApiError {
        ApiError::Foreign(format!("{} does not answer as Mayfly does", self.url))
    }
}

impl ApiError {
    /// Adds to the last error of a create that an earlier try may have had an effect.
    fn with_doubt(self) -> Self {
        let doubt = "the token may have been made all the same: `mayfly token list` shows it";
        match self {
            Self::Lost(reason) => Self::Lost(format!("{reason}; {doubt}")),
            Self::Unavailable { reason, retry_after } => {
                Self::Unavailable { reason: format!("{} ({doubt})", reason.trim_end_matches('.')), retry_after }
            }
            error => error,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(reason) => Self::Runtime(reason),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

//! The outermost layer: what holds for every request, whatever answers it.
//!
//! It names the request, turns each error, panics included, into a problem, and has the whole of it observed.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Endpoint, IntoResponse, Middleware, PathPattern, Request, Response, Result,
    error::{MethodNotAllowedError, NotFoundError, ParsePathError},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
};
use poem_openapi::error::ContentTypeError;
use uuid::Uuid;

use super::{
    allow::AllowedMethods,
    browser,
    client_address::{ClientAddress, TrustedProxies},
    paths,
    payload::{FORM, JSON, media_type_expected},
    problem::Problem,
    verify::{self, Verification},
};
use crate::telemetry::{
    events::{RequestInfo, ResponseInfo},
    request::ObservedRequest,
};

/// What names a request, in it and in its answer.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of all names and values of a request's headers.
pub(super) const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Puts an endpoint into the envelope.
#[derive(Clone)]
pub(super) struct Envelope {
    /// What answers at its path; the endpoint answers all others.
    pub(super) verification: Verification,
    /// What to say of the other methods of a path.
    pub(super) allowed: AllowedMethods,
    /// Whose word is taken for where a request comes from.
    pub(super) proxies: Arc<TrustedProxies>,
}

/// An endpoint that never fails.
pub(super) struct Enveloped<E> {
    others: E,
    envelope: Envelope,
}

impl<E: Endpoint> Middleware<E> for Envelope {
    type Output = Enveloped<E>;

    fn transform(&self, others: E) -> Self::Output {
        Enveloped { others, envelope: self.clone() }
    }
}

impl<E: Endpoint> Endpoint for Enveloped<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let id = request_id(request.headers());
        let request_id = id.to_str().expect("an id is visible ASCII");
        let mut response = if verify::is_at(request.uri().path()) {
            self.verify(&request, request_id).await
        } else {
            // In a box, so that what a verification moves about is not as large as what they need.
            Box::pin(self.respond(request, request_id)).await
        };
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }
}

impl<E: Endpoint> Enveloped<E> {
    /// Answers a verification.
    async fn verify(&self, request: &Request, request_id: &str) -> Response {
        // Found out for those who ask: here nobody does, as a rule. (A proxy that is not trusted is warned of at
        // others.)
        let client = || self.envelope.proxies.client(request);
        let info =
            RequestInfo { method: known(request.method()), id: request_id, client: &client, is_verification: true };
        let observed = ObservedRequest::begin(info, |name| only(request.headers(), name));
        let answer = async {
            check_headers(request)?;
            self.envelope.verification.answer(request).await
        };
        // Pinned here and below, because a future that is moved is copied, with room for all that it may ever hold.
        let answer = pin!(answer);
        let response = observed
            .follow(pin!(caught(answer)))
            .await
            .flatten()
            .unwrap_or_else(|problem| problem_response(problem, request_id));
        observed.end(ResponseInfo { route: Some(paths::VERIFY), status: response.status().as_u16() });
        response
    }

    /// Any other answer.
    async fn respond(&self, mut request: Request, request_id: &str) -> Response {
        let client = self.envelope.proxies.client(&request);
        if let Some(client) = client {
            request.set_data(ClientAddress(client));
        }
        let of_a_script = browser::is_of_a_script(request.headers());
        let info =
            RequestInfo { method: known(request.method()), id: request_id, client: &|| client, is_verification: false };
        let observed = ObservedRequest::begin(info, |name| only(request.headers(), name));
        let (mut response, route) = observed.follow(self.route(request, request_id)).await;
        observed.end(ResponseInfo { route, status: response.status().as_u16() });
        if of_a_script {
            browser::without_dialog(response.headers_mut());
        }
        response
    }

    /// What the others answer, and the template of the path, where there is such a path.
    async fn route(&self, request: Request, request_id: &str) -> (Response, Option<&'static str>) {
        let uri = request.uri().clone();
        let result = match check_headers(&request) {
            Ok(()) => caught(pin!(self.others.call(request))).await.unwrap_or_else(|problem| Err(problem.into())),
            Err(problem) => Err(problem.into()),
        };
        let (response, pattern) = match result {
            Ok(response) => {
                let mut response = response.into_response();
                browser::protect(response.headers_mut());
                let pattern = response.data::<PathPattern>().cloned();
                (response, pattern)
            }
            Err(error) => {
                let pattern = error.data::<PathPattern>().cloned();
                (self.envelope.answer(error, uri.path(), request_id), pattern)
            }
        };
        (response, pattern.and_then(|PathPattern(pattern)| self.envelope.allowed.template(&pattern)))
    }
}

/// What this work comes to, or what is said of its panic.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Problem> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| internal_error())
}

impl Envelope {
    fn answer(&self, error: poem::Error, path: &str, request_id: &str) -> Response {
        if error.is_from_response() {
            return error.into_response();
        }
        let problem = error.downcast_ref::<Problem>().cloned().unwrap_or_else(|| self.problem_of(&error, path));
        let problem = if path.starts_with(paths::OAUTH) { problem.for_oauth() } else { problem };
        problem_response(problem, request_id)
    }

    /// The problem that an error of the frameworks amounts to.
    fn problem_of(&self, error: &poem::Error, path: &str) -> Problem {
        if error.is::<NotFoundError>() {
            Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path. /docs describes what there is.")
        } else if error.is::<ParsePathError>() {
            // A name that is not even text. What is named in paths are users, and tokens.
            paths::not_found(path)
        } else if error.is::<MethodNotAllowedError>() {
            let allow = self.allowed.at(path);
            let detail = format!("This path answers to {allow} only.");
            let allow = HeaderValue::try_from(allow).expect("methods are visible ASCII");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, allow)
        } else if error.is::<ContentTypeError>() {
            let media_type = if path.starts_with(paths::OAUTH) { FORM } else { JSON };
            media_type_expected(media_type)
        } else if error.status().is_client_error() {
            Problem::new(error.status(), error.to_string())
        } else {
            tracing::error!(%error, "a request failed");
            internal_error()
        }
    }
}

/// The answer to the request with this id, safe in a browser.
pub(super) fn problem_response(problem: Problem, request_id: &str) -> Response {
    let mut response = problem.into_response(request_id);
    browser::protect(response.headers_mut());
    response
}

/// 500: the logs have the cause.
pub(super) fn internal_error() -> Problem {
    let detail = "Something went wrong here. The logs know more under this request's id.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}

/// 431: the headers have more than [`MAX_HEADER_BYTES`].
pub(super) fn headers_too_large() -> Problem {
    let detail = format!("The headers of a request are at most {MAX_HEADER_BYTES} bytes.");
    Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
}

/// What holds for the headers of each request, in one pass over them.
fn check_headers(request: &Request) -> Result<(), Problem> {
    let (mut bytes, mut hosts) = (0, 0);
    for (name, value) in request.headers() {
        bytes += name.as_str().len() + value.len();
        hosts += u32::from(name == header::HOST);
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(headers_too_large());
    }
    // RFC 9112, section 3.2. In HTTP/1.0 there may be none.
    if hosts > 1 || hosts == 0 && request.version() > Version::HTTP_10 {
        return Err(Problem::bad_request("A request has one Host header."));
    }
    Ok(())
}

/// The id that the client or a proxy gave the request, if it is harmless in a log; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(c))
    };
    headers.get(REQUEST_ID).filter(harmless).cloned().unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut text)).expect("an id is visible ASCII")
    })
}

/// The value of a header that is there once and is text. A second `traceparent` makes both invalid (W3C Trace Context,
/// section 3.2).
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
}

/// The method, if it is one of HTTP's: others are texts of the client.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

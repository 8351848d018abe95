//! The outermost layer, the same for every request.
//!
//! It gives the request an id, turns errors and panics into problems, and has each request logged, counted and traced.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Endpoint, IntoResponse, PathPattern, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
};
use uuid::Uuid;

use super::{
    allow::AllowedMethods,
    browser,
    client_address::{ClientAddress, TrustedProxies},
    paths::CHANGES,
    poem_errors::{self, internal_error},
    problem::Problem,
};
use crate::telemetry::{
    events::{RequestInfo, ResponseLabels},
    request::ObservedRequest,
};

/// The header with the id of a request, in the request and in its response.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of all names and values of a request's headers.
pub(super) const MAX_HEADER_BYTES: usize = 16 * 1024;

/// An endpoint that answers at its own paths without poem's router and middleware.
pub(super) trait DirectEndpoint: Send + Sync {
    /// The path under which logs and metrics count its requests.
    const ROUTE: &'static str;

    /// Returns whether a request for this path is answered here.
    fn matches(path: &str) -> bool;

    /// Answers a request.
    fn answer(&self, request: &Request) -> impl Future<Output = Result<Response, Problem>> + Send;
}

/// Turns an endpoint that may fail into one that always answers.
pub(super) struct Envelope<E, D> {
    pub(super) endpoint: E,
    pub(super) direct: D,
    pub(super) allowed: AllowedMethods,
    pub(super) proxies: Arc<TrustedProxies>,
}

impl<E: Endpoint, D: DirectEndpoint> Endpoint for Envelope<E, D> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let id = request_id(request.headers());
        let request_id = id.to_str().expect("an id is visible ASCII");
        let mut response = if D::matches(request.uri().path()) {
            self.answer_directly(&request, request_id).await
        } else {
            // Boxed, so that the future of a direct answer is no larger than that answer needs.
            Box::pin(self.answer(request, request_id)).await
        };
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }
}

impl<E: Endpoint, D: DirectEndpoint> Envelope<E, D> {
    async fn answer_directly(&self, request: &Request, request_id: &str) -> Response {
        // A closure, because the address of the client is rarely logged here, and costs time.
        let client = || self.proxies.client_of(request);
        let info = RequestInfo {
            method: known(request.method()),
            id: request_id,
            client: &client,
            is_verification: true,
            is_poll: false,
        };
        let observed = ObservedRequest::begin(info, |name| single_value(request.headers(), name));
        let answer = async {
            check_headers(request)?;
            self.direct.answer(request).await
        };
        // Pinned here and below: to move a future is to copy all of its memory.
        let answer = pin!(answer);
        let response = observed
            .run(pin!(catch_panic(answer)))
            .await
            .flatten()
            .unwrap_or_else(|problem| problem_response(problem, request_id));
        observed.end(ResponseLabels { route: Some(D::ROUTE), status: response.status().as_u16() });
        response
    }

    async fn answer(&self, mut request: Request, request_id: &str) -> Response {
        let client = self.proxies.client_of(&request);
        if let Some(client) = client {
            request.set_data(ClientAddress(client));
        }
        let is_from_script = browser::is_script_request(request.headers());
        let info = RequestInfo {
            method: known(request.method()),
            id: request_id,
            client: &|| client,
            is_verification: false,
            is_poll: request.uri().path() == CHANGES,
        };
        let observed = ObservedRequest::begin(info, |name| single_value(request.headers(), name));
        let (mut response, route) = observed.run(pin!(self.call_endpoint(request, request_id))).await;
        observed.end(ResponseLabels { route, status: response.status().as_u16() });
        if is_from_script {
            browser::remove_basic_challenge(response.headers_mut());
        }
        response
    }

    /// Returns the response, and the template of the request's path if there is such a path.
    async fn call_endpoint(&self, request: Request, request_id: &str) -> (Response, Option<&'static str>) {
        let uri = request.uri().clone();
        let result = match check_headers(&request) {
            Ok(()) => catch_panic(pin!(self.endpoint.call(request))).await.unwrap_or_else(|panic| Err(panic.into())),
            Err(problem) => Err(problem.into()),
        };
        let (response, pattern) = match result.map(IntoResponse::into_response) {
            Ok(mut response) => {
                browser::set_security_headers(response.headers_mut());
                let pattern = response.data::<PathPattern>().cloned();
                (response, pattern)
            }
            Err(error) => {
                let pattern = error.data::<PathPattern>().cloned();
                let response = if error.is_from_response() {
                    error.into_response()
                } else {
                    problem_response(poem_errors::problem_for(&error, uri.path(), &self.allowed), request_id)
                };
                (response, pattern)
            }
        };
        (response, pattern.and_then(|PathPattern(pattern)| self.allowed.template_for(&pattern)))
    }
}

/// Returns the output of `work`, or a problem if `work` panics.
async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, Problem> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| internal_error())
}

/// Returns the response with this problem, safe in a browser.
pub(super) fn problem_response(problem: Problem, request_id: &str) -> Response {
    let mut response = problem.into_response(request_id);
    browser::set_security_headers(response.headers_mut());
    response
}

/// 431: the headers have more than [`MAX_HEADER_BYTES`].
pub(super) fn headers_too_large() -> Problem {
    let detail = format!("The headers of a request are at most {MAX_HEADER_BYTES} bytes.");
    Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
}

/// Checks the size of all headers, and that there is one `Host`, in one pass.
fn check_headers(request: &Request) -> Result<(), Problem> {
    let (mut bytes, mut hosts) = (0, 0);
    for (name, value) in request.headers() {
        bytes += name.as_str().len() + value.len();
        hosts += u32::from(name == header::HOST);
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(headers_too_large());
    }
    // RFC 9112, section 3.2. HTTP/1.0 needs none.
    if hosts > 1 || hosts == 0 && request.version() > Version::HTTP_10 {
        return Err(Problem::bad_request("A request has one Host header."));
    }
    Ok(())
}

/// Returns the id that the client or a proxy gave the request if that id is safe in a log, or else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_safe = |id: &&HeaderValue| {
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(c))
    };
    headers.get(REQUEST_ID).filter(is_safe).cloned().unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut text)).expect("an id is visible ASCII")
    })
}

/// Returns the value of a header that occurs once and is visible ASCII. A second `traceparent` makes both invalid (W3C
/// Trace Context, section 3.2).
fn single_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
}

/// Returns one of HTTP's own methods, or `_OTHER`: any other is a text of the client's, and may not become a label of
/// metrics.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

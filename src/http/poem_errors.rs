//! Problems for the errors that poem makes by itself.

use poem::{
    Error,
    error::{MethodNotAllowedError, NotFoundError, ParsePathError},
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::error::ContentTypeError;

use super::{
    allow::AllowedMethods,
    paths,
    payload::{FORM, JSON, media_type_expected},
    problem::Problem,
};

/// Returns the problem for an error at this path: an operation's own, or one for an error of poem.
pub(super) fn problem_for(error: &Error, path: &str, allowed: &AllowedMethods) -> Problem {
    let is_oauth = path.starts_with(paths::OAUTH);
    let problem = if let Some(problem) = error.downcast_ref::<Problem>() {
        problem.clone()
    } else if error.is::<NotFoundError>() {
        Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path. /docs describes what there is.")
    } else if error.is::<ParsePathError>() {
        paths::non_utf8_segment(path)
    } else if error.is::<MethodNotAllowedError>() {
        let allow = allowed.header_for(path);
        let detail = format!("This path answers to {allow} only.");
        let allow = HeaderValue::try_from(allow).expect("methods are visible ASCII");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, allow)
    } else if error.is::<ContentTypeError>() {
        media_type_expected(if is_oauth { FORM } else { JSON })
    } else if error.status().is_client_error() {
        Problem::new(error.status(), error.to_string())
    } else {
        tracing::error!(%error, "a request failed");
        internal_error()
    };
    if is_oauth { problem.with_oauth_error() } else { problem }
}

/// 500 for a panic or an unexpected error. The log has the cause.
pub(super) fn internal_error() -> Problem {
    let detail = "Something went wrong here. The logs know more under this request's id.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}

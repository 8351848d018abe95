//! Forward-auth: a proxy asks here, with the headers of each request that it was sent, whether to let it through.
//!
//! It answers to every method and to every path below its own, because proxies differ in what they forward. This is the hot
//! path, and poem-openapi costs a twelfth of it (98 k against 90 k requests/s).

use std::sync::Arc;

use super::{
    auth::{Scheme, authorization, bearer_only},
    envelope::DirectEndpoint,
    paths::VERIFY,
    problem::Problem,
    services::Services,
};
use poem::{
    Request, Response,
    http::{HeaderName, HeaderValue, header},
};

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const TOKEN_ID: HeaderName = HeaderName::from_static("x-auth-token-id");
const EXPIRES_IN: HeaderName = HeaderName::from_static("x-auth-expires-in");

fn is_at_with_doubled_slashes(path: &str) -> bool {
    let segments = |path: &'static str| path.split('/').filter(|segment| !segment.is_empty());
    let mut given = path.split('/').filter(|segment| !segment.is_empty());
    segments(VERIFY).all(|segment| given.next() == Some(segment))
}

/// Room for the headers above and those that every response has.
const HEADERS: usize = 8;

/// Answers without poem's router and middleware, which would cost more than the response itself.
pub(super) struct Verification {
    pub(super) services: Arc<Services>,
}

impl DirectEndpoint for Verification {
    const ROUTE: &'static str = VERIFY;

    /// Doubled slashes count as one, as they do for poem's router.
    fn matches(path: &str) -> bool {
        let is_exact = path.strip_prefix(VERIFY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_exact || path.contains("//") && is_at_with_doubled_slashes(path)
    }

    /// Whether to let the request through whose headers these are.
    async fn answer(&self, request: &Request) -> Result<Response, Problem> {
        let Some((Scheme::Bearer, jwt)) = authorization(request)? else { return Err(bearer_only(None)) };
        let presented = self.services.tokens.verify(jwt).await.map_err(|error| bearer_only(Some(error)))?;
        let signed = &presented.signed;
        let mut response = Response::default();
        let headers = response.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(USER, HeaderValue::from_str(signed.owner.as_str()).expect("a name is visible ASCII"));
        headers.insert(TOKEN_ID, HeaderValue::from_bytes(&signed.id.to_ascii()).expect("an id is visible ASCII"));
        headers.insert(EXPIRES_IN, self.services.tokens.expires_in(&presented).into());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

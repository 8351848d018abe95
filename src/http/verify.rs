//! Forward-auth: a proxy sends the headers of each request here, and forwards the request only after a 200.
//!
//! The endpoint answers every method and every path below its own, because proxies differ in what they forward. It is
//! the hot path: without poem-openapi it serves a twelfth more (98 k instead of 90 k requests/s).

use std::sync::Arc;

use poem::{
    Request, Response,
    http::{HeaderName, HeaderValue, header},
};
use secrecy::ExposeSecret;

use super::{
    auth::{Scheme, authorization, bearer_required, token_as_password},
    client_address::TrustedProxies,
    demands::demands_of,
    envelope::DirectEndpoint,
    paths::VERIFY,
    problem::Problem,
    services::Services,
};

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const TOKEN_ID: HeaderName = HeaderName::from_static("x-auth-token-id");
const EXPIRES_IN: HeaderName = HeaderName::from_static("x-auth-expires-in");
/// Only for a token with scopes.
const SCOPE: HeaderName = HeaderName::from_static("x-auth-scope");

/// Like [`VerifyEndpoint::matches`], with doubled slashes as one.
fn matches_with_doubled_slashes(path: &str) -> bool {
    let mut given = segments(path);
    segments(VERIFY).all(|segment| given.next() == Some(segment))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The room for the headers above and those that every response has; the scope of a token may need more.
const HEADER_CAPACITY: usize = 8;

/// Whether the query of a request to this path is the proxy's own. Below the endpoint's path, it may be that of the
/// request which the proxy asks about: Envoy appends path and query to the endpoint's path.
fn is_own_path(path: &str) -> bool {
    !path.ends_with('/') && segments(path).count() == segments(VERIFY).count()
}

/// Answers without poem's router and middleware, which would cost more than the response itself.
pub(super) struct VerifyEndpoint {
    pub(super) services: Arc<Services>,
    /// They tell the addresses of clients.
    pub(super) proxies: Arc<TrustedProxies>,
}

impl DirectEndpoint for VerifyEndpoint {
    const ROUTE: &'static str = VERIFY;

    /// Also matches the paths below its own. As in poem's router, doubled slashes count as one.
    fn matches(path: &str) -> bool {
        let is_exact = path.strip_prefix(VERIFY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_exact || path.contains("//") && matches_with_doubled_slashes(path)
    }

    /// 200 with the identity of the presented token, or a problem.
    async fn answer(&self, request: &Request) -> Result<Response, Problem> {
        let password;
        let jwt = match authorization(request)? {
            Some((Scheme::Bearer, jwt)) => jwt,
            Some((Scheme::Basic, credentials)) => {
                password = token_as_password(credentials);
                password.as_ref().map_or("", ExposeSecret::expose_secret)
            }
            None => return Err(bearer_required(None)),
        };
        let demands = demands_of(request, || is_own_path(request.uri().path()))?;
        let client = || self.proxies.known_client_of(request);
        let presented = self.services.tokens.accept(jwt, &demands, client).await?;
        let signed = &presented.signed;
        let mut response = Response::default();
        let headers = response.headers_mut();
        headers.reserve(HEADER_CAPACITY);
        headers.insert(USER, HeaderValue::from_str(signed.owner.as_str()).expect("a name is visible ASCII"));
        headers.insert(TOKEN_ID, HeaderValue::from_bytes(&signed.id.to_ascii()).expect("an id is visible ASCII"));
        headers.insert(EXPIRES_IN, self.services.tokens.expires_in(&presented).into());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let scopes = presented.attributes.scopes.as_str();
        if !scopes.is_empty() {
            headers.insert(SCOPE, HeaderValue::from_str(scopes).expect("scopes are visible ASCII and spaces"));
        }
        Ok(response)
    }
}

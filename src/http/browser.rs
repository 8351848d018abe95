//! Protects users whose browser has stored a password for this service: pages of other sites can neither write in the
//! user's name nor read or frame an answer.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use poem::{
    Endpoint, Middleware, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Cors, CorsEndpoint},
};

use super::problem::Problem;

/// The header by which a browser says which site sent a request (Fetch Metadata, section 2.1.2).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The header by which a page's script says that it, not the browser, sent the request.
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// The policy for answers of the API: a browser runs and frames nothing of them.
const API_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// How long a browser may cache the answer to a preflight request.
const CORS_MAX_AGE_SECONDS: i32 = 600;

/// 403 for a write sent by a page of another site, unless the site is one of `origins` (`https://console.example`).
pub(super) fn reject_cross_site_writes(request: &Request, origins: &[HeaderValue]) -> Result<(), Problem> {
    let headers = request.headers();
    let is_cross_site = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site");
    if is_cross_site && !request.method().is_safe() && !is_from_origin(headers, origins) {
        let detail = "Another site may not write here. MAYFLY_CORS_ORIGINS says which may.";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// 403 for a write that a page of another site may have had a browser send, where the browser is logged in at a proxy:
/// then the proxy adds the login to whatever the browser sends. Stricter than [`reject_cross_site_writes`], because a
/// browser sends no `Sec-Fetch-Site` over plain HTTP, and sites of `MAYFLY_CORS_ORIGINS` have no part in that login.
pub(super) fn expect_own_page(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let is_own = match (headers.get(SEC_FETCH_SITE), headers.get(header::ORIGIN)) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) => is_host_of(origin, headers),
        // No browser, or an old one. What another site can send without asking first (a preflight) is a form.
        (None, None) => {
            let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
                kind.to_str().is_ok_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json"))
            });
            request.method() != Method::POST || is_json || is_script_request(headers)
        }
    };
    if is_own || request.method().is_safe() {
        return Ok(());
    }
    let detail = "Another site may not write here. A program sends \"X-Requested-With: XMLHttpRequest\".";
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

/// Whether this origin (`https://host:port`) has the host and port that the request is for.
fn is_host_of(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

/// Whether a page of one of these origins sent the request.
fn is_from_origin(headers: &HeaderMap, origins: &[HeaderValue]) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origins.contains(origin))
}

/// Lets pages of these sites (`https://console.example`) use the API and read its answers (CORS).
pub(super) struct CrossOrigin {
    pub(super) origins: Vec<HeaderValue>,
}

/// An endpoint that pages of these sites may use.
pub(super) struct CrossOriginEndpoint<E> {
    origins: Vec<HeaderValue>,
    cors: CorsEndpoint<E>,
}

impl<E: Endpoint<Output = Response>> Middleware<E> for CrossOrigin {
    type Output = CrossOriginEndpoint<E>;

    fn transform(&self, inner: E) -> Self::Output {
        let cors = Cors::new()
            .expose_headers([header::LINK, header::LOCATION, header::RETRY_AFTER, header::WWW_AUTHENTICATE])
            .max_age(CORS_MAX_AGE_SECONDS);
        CrossOriginEndpoint { origins: self.origins.clone(), cors: cors.transform(inner) }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for CrossOriginEndpoint<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let headers = request.headers();
        // An OPTIONS request is a preflight only with this header.
        let is_allowed = is_from_origin(headers, &self.origins)
            && (request.method() != Method::OPTIONS || headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD));
        if !is_allowed {
            // poem's middleware rejects requests of unknown origins, and passes on those without an origin.
            request.headers_mut().remove(header::ORIGIN);
        }
        // The call is boxed: each request would reserve its memory, also where no site is allowed.
        let mut response = Box::pin(self.cors.call(request)).await?;
        if is_allowed {
            // poem's middleware overwrites the `Accept-Encoding` that the documentation set.
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin, Accept-Encoding"));
        }
        Ok(response)
    }
}

/// Whether a page's script sent the request: jQuery and the documentation page set this header.
pub(super) fn is_script_request(headers: &HeaderMap) -> bool {
    headers.get(X_REQUESTED_WITH).is_some_and(|with| with == "XMLHttpRequest")
}

/// Removes the Basic challenge from a 401. A browser answers that challenge with its own login dialog, and the page's
/// script waits until the dialog is closed.
pub(super) fn remove_basic_challenge(headers: &mut HeaderMap) {
    let challenges: Vec<_> = headers.get_all(header::WWW_AUTHENTICATE).iter().cloned().collect();
    headers.remove(header::WWW_AUTHENTICATE);
    for challenge in challenges.into_iter().filter(|challenge| !challenge.as_bytes().starts_with(b"Basic ")) {
        headers.append(header::WWW_AUTHENTICATE, challenge);
    }
}

/// Sets the headers that keep a browser from guessing another media type, and from running or framing the answer. A
/// policy that is already set stays.
pub(super) fn set_security_headers(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(API_POLICY);
}

/// The policy for a self-contained page: only its own inline scripts run, nothing is loaded from elsewhere, and
/// requests go only to the server of the page.
pub(super) fn page_policy(page: &str) -> HeaderValue {
    let hash = |script: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes())));
    let hashes = inline_scripts(page).map(hash).collect::<Vec<_>>().join(" ");
    let policy = format!(
        "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is visible ASCII")
}

/// The texts of the inline scripts: all between a `<script …>` and the next `</script>`, even what looks like a tag
/// (HTML, section 13.1.2).
fn inline_scripts(page: &str) -> impl Iterator<Item = &str> {
    let mut rest = page;
    std::iter::from_fn(move || {
        let (_, tag) = rest.split_once("<script")?;
        let (_, script) = tag.split_once('>')?;
        let (script, after) = script.split_once("</script>")?;
        rest = after;
        Some(script)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_and_what_looks_like_one_is_not() {
        let page = r#"<p><script charset="x">a("<script>")</script><style>b</style><script>c</script>"#;
        assert_eq!(inline_scripts(page).collect::<Vec<_>>(), [r#"a("<script>")"#, "c"]);
    }
}

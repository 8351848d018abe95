//! What protects a user whose browser knows a password of this service: other sites cannot write in the user's name, read an
//! answer, or put one into a frame.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use poem::{
    Endpoint, Middleware, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Cors, CorsEndpoint},
};

use super::problem::Problem;

/// Where a browser says that a request comes from (Fetch Metadata, section 2.1.2).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How a page's script says that it is one.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// What an answer of the API may do in a browser: nothing.
const INERT: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// How long a browser may remember what other sites may do, in seconds.
const CORS_MAX_AGE_SECONDS: i32 = 600;

/// Refuses a write that a page of another site has the browser send. The pages of `origins` (`https://console.example`) may
/// write.
pub(super) fn refuse_other_sites(request: Request, origins: &[HeaderValue]) -> Result<Request> {
    let headers = request.headers();
    let is_of_another = headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site");
    if is_of_another && !request.method().is_safe() && !is_of(headers, origins) {
        let detail = "Another site may not write here. MAYFLY_CORS_ORIGINS says which may.";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
    }
    Ok(request)
}

/// Whether a page of one of these sites sent the request.
fn is_of(headers: &HeaderMap, origins: &[HeaderValue]) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origins.contains(origin))
}

/// Lets pages of these sites (`https://console.example`) use the API and read its answers (CORS).
pub(super) struct CrossOrigin {
    pub(super) origins: Vec<HeaderValue>,
}

/// An endpoint that pages of these sites may use.
pub(super) struct Shared<E> {
    origins: Vec<HeaderValue>,
    cors: CorsEndpoint<E>,
}

impl<E: Endpoint<Output = Response>> Middleware<E> for CrossOrigin {
    type Output = Shared<E>;

    fn transform(&self, inner: E) -> Self::Output {
        let cors = Cors::new()
            .expose_headers([header::LINK, header::LOCATION, header::RETRY_AFTER, header::WWW_AUTHENTICATE])
            .max_age(CORS_MAX_AGE_SECONDS);
        Shared { origins: self.origins.clone(), cors: cors.transform(inner) }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Shared<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let headers = request.headers();
        // An OPTIONS without this header is no preflight.
        let is_shared = is_of(headers, &self.origins)
            && (request.method() != Method::OPTIONS || headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD));
        if !is_shared {
            // Or poem's middleware would refuse the request; without the header it passes it on.
            request.headers_mut().remove(header::ORIGIN);
        }
        let mut response = self.cors.call(request).await?;
        if is_shared {
            // poem's middleware drops the `Accept-Encoding` of the documentation.
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin, Accept-Encoding"));
        }
        Ok(response)
    }
}

/// Whether a page's script sent the request and says so, as jQuery does and the documentation page.
pub(super) fn is_of_a_script(headers: &HeaderMap) -> bool {
    headers.get(REQUESTED_WITH).is_some_and(|with| with == "XMLHttpRequest")
}

/// Removes the challenge for a password from a 401. A browser answers that challenge with a login dialog of its own, and the
/// page's script waits for its answer until the dialog is closed.
pub(super) fn without_dialog(headers: &mut HeaderMap) {
    let challenges: Vec<_> = headers.get_all(header::WWW_AUTHENTICATE).iter().cloned().collect();
    headers.remove(header::WWW_AUTHENTICATE);
    for challenge in challenges.into_iter().filter(|challenge| !challenge.as_bytes().starts_with(b"Basic ")) {
        headers.append(header::WWW_AUTHENTICATE, challenge);
    }
}

/// What a browser should know of an answer, whatever it says: it is what its media type says, and no page to run or to frame,
/// unless another policy is set.
pub(super) fn protect(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(INERT);
}

/// The policy for a page that is whole in itself: it runs the scripts that are in it and no others, loads nothing from
/// elsewhere, and asks only where it came from.
pub(super) fn policy_of_page(page: &str) -> HeaderValue {
    let hash = |script: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes())));
    let hashes = inline_scripts(page).map(hash).collect::<Vec<_>>().join(" ");
    let policy = format!(
        "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is visible ASCII")
}

/// What stands between each `<script …>` and the next `</script>`: whatever looks like a tag in between is text (HTML,
/// section 13.1.2).
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

//! Serves the OpenAPI document and Swagger UI, the page that shows it.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response, Result, Route,
    endpoint::make_sync,
    error::MethodNotAllowedError,
    get,
    http::{
        HeaderMap, Method,
        header::{self, CONTENT_SECURITY_POLICY as CSP},
    },
    middleware::SetHeader,
    web::Redirect,
};
use serde_json::Value;

use super::{
    browser,
    document::{api, document_yaml},
    paths::DOCS,
};

/// The HTML head of the page. Narrow screens show the page at their own width, without the empty column of links.
const PAGE_HEAD: &str = r#"<head>
    <title>Mayfly: API tokens</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>
        @media (max-width: 640px) {
            .swagger-ui .response-col_links { display: none }
            .swagger-ui .wrapper { padding: 0 8px }
        }
    </style>"#;

/// The settings of Swagger UI. Its requests carry `X-Requested-With`, so that a 401 opens no login dialog of the
/// browser ([`browser::remove_basic_challenge`]); the curl command on the page leaves the header out.
const UI_SETTINGS: &str = "deepLinking: true,
        showMutatedRequest: false,
        requestInterceptor: request => {
            request.headers['X-Requested-With'] = 'XMLHttpRequest';
            return request;
        },";

/// The endpoints at the paths of [`DOCS`].
pub(super) fn routes(document: &Value) -> Route {
    let json = format!("{document:#}\n");
    // The page contains the document as poem-openapi generated it: replace it by the completed one.
    let page = format!("<!DOCTYPE html>{}", api().swagger_ui_html().replace(&api().spec(), &json));
    let page = page.replacen("<title>Swagger UI</title>", "", 1).replacen("<head>", PAGE_HEAD, 1).replacen(
        "deepLinking: true,",
        UI_SETTINGS,
        1,
    );
    let policy = browser::page_policy(&page);
    Route::new()
        .at(DOCS[0], compressed_text("application/json", json))
        .at(DOCS[1], compressed_text("application/yaml", document_yaml()))
        .at(DOCS[2], compressed_text("text/html; charset=utf-8", page).with(SetHeader::new().overriding(CSP, policy)))
}

/// Redirects `/` to the documentation. The reference is relative, so that it stays below a path prefix of a proxy.
pub(super) fn redirect_from_root(method: &Method) -> Result<Response> {
    match *method {
        Method::GET | Method::HEAD => Ok(Redirect::temporary("docs").into_response()),
        _ => Err(MethodNotAllowedError.into()),
    }
}

/// Serves a text, compressed for clients that accept gzip: the page has 1.9 MB, and 0.4 MB compressed.
fn compressed_text(content_type: &'static str, text: String) -> impl Endpoint {
    // All answers share these two buffers: many slow clients need no more memory.
    let (compressed, plain) = (Bytes::from(compress(text.as_bytes())), Bytes::from(text));
    get(make_sync(move |request: Request| {
        let response = Response::builder().content_type(content_type).header(header::VARY, "Accept-Encoding");
        if accepts_gzip(request.headers()) {
            response.header(header::CONTENT_ENCODING, "gzip").body(compressed.clone())
        } else {
            response.body(plain.clone())
        }
    }))
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes all")
}

/// Whether a client accepts gzip: `gzip`, or else `*`, has a weight above 0 (RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    let weights: Vec<_> = lists.flat_map(|list| list.split(',')).map(parse_coding).collect();
    let accepted = |name: &str| weights.iter().find(|(coding, _)| *coding == name).map(|(_, is_accepted)| *is_accepted);
    accepted("gzip").or_else(|| accepted("*")).unwrap_or(false)
}

/// A coding of `Accept-Encoding`, and whether its weight is above 0.
fn parse_coding(element: &str) -> (String, bool) {
    let (coding, parameters) = element.split_once(';').unwrap_or((element, ""));
    let q = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), |q| q.trim().parse::<f32>());
    (coding.trim().to_ascii_lowercase(), q.is_ok_and(|q| q > 0.0))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_for_clients_that_accept_it() {
        for (accepted, expected) in [
            (&["gzip, deflate, br, zstd"][..], true),
            (&["deflate", "GZIP;q=0.1"], true),
            (&["*"], true),
            (&["br, *;q=0.5"], true),
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, *"], false),
            (&["*;q=0"], false),
            (&["gzip; q=x"], false),
        ] {
            let headers = accepted.iter().map(|list| (header::ACCEPT_ENCODING, HeaderValue::from_static(list)));
            assert_eq!(accepts_gzip(&headers.collect()), expected, "{accepted:?}");
        }
    }
}

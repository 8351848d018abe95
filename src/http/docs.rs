//! Serves the OpenAPI document and Swagger UI, the page that shows it.

use poem::{
    Endpoint, EndpointExt, Route, endpoint::make_sync, get, http::header::CONTENT_SECURITY_POLICY as CSP,
    middleware::SetHeader, web::Redirect,
};
use serde_json::Value;

use super::{
    browser,
    compressed::compressed_text,
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
pub(super) fn redirect() -> impl Endpoint {
    get(make_sync(|_| Redirect::temporary("docs")))
}

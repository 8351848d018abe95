//! The OpenAPI document, generated from the operations, and Swagger UI on top of it.

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
use poem_openapi::{LicenseObject, OpenApiService};
use serde_json::{Value, json};

use super::{
    browser, health::HealthApi, oauth::OAuthApi, paths::USERS, token::TokenApi, user::UserApi,
    user_token::UserTokenApi, verify,
};
use crate::domain::{duration, token::Description, user::UserName};

/// All operations of the API.
pub(super) fn api() -> OpenApiService<(TokenApi, UserApi, UserTokenApi, OAuthApi, HealthApi), ()> {
    let operations = (TokenApi, UserApi, UserTokenApi, OAuthApi, HealthApi);
    OpenApiService::new(operations, "Mayfly", env!("CARGO_PKG_VERSION"))
        .description(
            "API tokens that live exactly as long as their owner says. A user logs in with HTTP Basic; a token, used as \
             Bearer, may inspect and revoke itself. Every error is a problem of RFC 9457: also those of a path that does \
             not exist (404) or does not answer to a method (405, with `Allow`). Every answer has an `X-Request-Id`: that \
             of the request, or a new one.",
        )
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server("/")
}

/// The OpenAPI document.
///
/// # Panics
/// Where poem-openapi writes no JSON.
pub fn document() -> Value {
    let mut document: Value = serde_json::from_str(&api().spec()).expect("poem-openapi writes JSON");
    let schemas = &mut document["components"]["schemas"];
    // poem-openapi has no words for what serde's `deny_unknown_fields` means.
    for strict in ["TokenRequest", "RotateRequest", "UserRequest", "UserUpdateRequest", "PasswordRequest"] {
        schemas[strict]["additionalProperties"] = json!(false);
    }
    // Nor for a pattern that is written down elsewhere, and for `null`.
    schemas["TokenRequest"]["properties"]["jwt_token_description"]["pattern"] = json!(Description::PATTERN);
    schemas["UserRequest"]["properties"]["username"]["pattern"] = json!(UserName::PATTERN);
    for (request, duration) in [("TokenRequest", "jwt_token_life"), ("RotateRequest", "overlap")] {
        let schema = &mut schemas[request]["properties"][duration];
        schema["format"] = json!("human-duration");
        schema["pattern"] = json!(duration::PATTERN);
    }
    schemas["RotateRequest"]["properties"]["overlap"]["nullable"] = json!(true);
    // Nor for the example of a parameter.
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in operations.as_object_mut().into_iter().flat_map(|operations| operations.values_mut()) {
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                let example = match parameter["name"].as_str() {
                    Some("limit") => json!(100),
                    Some("name") => json!("carol"),
                    Some("after") if path == USERS => json!("carol"),
                    _ => json!("b56929f3-54f1-4dc2-9984-9bba615e26e6"),
                };
                parameter["example"] = example;
                if parameter["name"] == "after" && path == USERS {
                    parameter["schema"]["pattern"] = json!(UserName::PATTERN);
                }
            }
        }
    }
    verify::describe(&mut document);
    simplify(&mut document);
    // poem-openapi says 3.0.0, of which this is the corrected text.
    document["openapi"] = json!("3.0.3");
    // It sorts the tags by name, and readers come for the first.
    let place = |tag: &Value| TAGS.iter().position(|name| tag["name"] == *name);
    document["tags"].as_array_mut().expect("a document has tags").sort_by_key(place);
    document
}

/// The groups of operations, in the order in which the page shows them.
const TAGS: [&str; 4] = ["Tokens", "Services", "Users", "Operations"];

/// Takes out what generators of clients stumble over: `allOf` of a `$ref` and what poem-openapi says beside it. The text and
/// the default beside the reference go; an example of a body goes where OpenAPI has another place for it.
fn simplify(value: &mut Value) {
    if let Some(example) = value.pointer("/schema/allOf").and(value.pointer("/schema/example")).cloned() {
        value["example"] = example;
    }
    if let Some(reference) = value.pointer("/allOf/0/$ref").cloned() {
        *value = json!({ "$ref": reference });
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(simplify),
        Value::Array(elements) => elements.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// The OpenAPI document as YAML.
///
/// # Panics
/// Where JSON cannot be written as YAML.
pub fn document_yaml() -> String {
    serde_yaml::to_string(&document()).expect("JSON is YAML")
}

/// The paths of the documentation.
pub(super) const PATHS: [&str; 3] = ["/openapi.json", "/openapi.yaml", "/docs"];

/// Has a telephone show the page as wide as its screen, without the empty column of links, for which there is no room.
const HEAD: &str = r#"<head>
    <title>Mayfly: API tokens</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>
        @media (max-width: 640px) {
            .swagger-ui .response-col_links { display: none }
            .swagger-ui .wrapper { padding: 0 8px }
        }
    </style>"#;

/// Swagger UI's settings. Each request says that a script sent it, so that its 401 comes without the browser's login dialog
/// ([`browser::without_dialog`]); the curl command that is shown leaves this out.
const SETTINGS: &str = "deepLinking: true,
        showMutatedRequest: false,
        requestInterceptor: request => {
            request.headers['X-Requested-With'] = 'XMLHttpRequest';
            return request;
        },";

/// What is at [`PATHS`].
pub(super) fn routes(document: &Value) -> Route {
    let json = format!("{document:#}\n");
    // The page holds the document that poem-openapi wrote; what was amended takes its place.
    let page = format!("<!DOCTYPE html>{}", api().swagger_ui_html().replace(&api().spec(), &json));
    let page = page.replacen("<title>Swagger UI</title>", "", 1).replacen("<head>", HEAD, 1).replacen(
        "deepLinking: true,",
        SETTINGS,
        1,
    );
    let policy = browser::policy_of_page(&page);
    Route::new()
        .at(PATHS[0], text("application/json", json))
        .at(PATHS[1], text("application/yaml", document_yaml()))
        .at(PATHS[2], text("text/html; charset=utf-8", page).with(SetHeader::new().overriding(CSP, policy)))
}

/// Answers at `/`, where there is no page yet: leads to the documentation. The relative reference stays below the path that
/// a proxy may have put in front.
pub(super) fn lead_from_front_door(method: &Method) -> Result<Response> {
    match *method {
        Method::GET | Method::HEAD => Ok(Redirect::temporary("docs").into_response()),
        _ => Err(MethodNotAllowedError.into()),
    }
}

/// A text, compressed for the clients that accept it: the page is 1.9 MB as it is and 0.4 MB compressed.
fn text(content_type: &'static str, text: String) -> impl Endpoint {
    // However many clients fetch it, and however slowly, it is in memory once.
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

/// Whether a client takes gzip (RFC 9110, section 12.5.3): where it is named with a weight above 0, or else `*` is.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    let weights: Vec<_> = lists.flat_map(|list| list.split(',')).map(weight).collect();
    let accepted = |name: &str| weights.iter().find(|(coding, _)| *coding == name).map(|(_, is_accepted)| *is_accepted);
    accepted("gzip").or_else(|| accepted("*")).unwrap_or(false)
}

/// A coding of `Accept-Encoding`, and whether its weight is above 0.
fn weight(element: &str) -> (String, bool) {
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

//! The page for people, at `/`: plain HTML, CSS and ES modules in `page/`, which uses the public API alone.

use poem::{
    Endpoint, EndpointExt, Route,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY as CSP},
    },
    middleware::SetHeader,
};

use super::compressed::compressed_text;

/// The path of the page.
pub(super) const PAGE: &str = "/";

/// The paths below which its scripts and styles are.
pub(super) const FILES: &str = "/page";

/// Only the page's own files run and are shown, no text becomes HTML or a script (Trusted Types), and requests go only
/// to the server of the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The files of the page: path, media type, content.
macro_rules! files {
    ($($name:literal: $media_type:expr),+ $(,)?) => {
        [$((concat!("/", $name), $media_type, include_str!(concat!("page/", $name)))),+]
    };
}

/// The part of the page that leads to the documentation.
const FOOTER: &str = "<footer><a href=\"docs\">API documentation</a></footer>\n";

/// The page itself, at [`PAGE`]. With `docs`, it leads to the documentation.
pub(super) fn page(docs: bool) -> impl Endpoint {
    let html = include_str!("page/index.html");
    with_headers(compressed_text(HTML, if docs { html.into() } else { html.replace(FOOTER, "") }))
}

/// Its files, below [`FILES`].
pub(super) fn files() -> impl Endpoint {
    let files = files![
        "api.js": SCRIPT,
        "dialogs.js": SCRIPT,
        "dom.js": SCRIPT,
        "icon.svg": "image/svg+xml",
        "life.js": SCRIPT,
        "main.js": SCRIPT,
        "new-token.js": SCRIPT,
        "page.css": "text/css; charset=utf-8",
        "sign-in.js": SCRIPT,
        "timeline.js": SCRIPT,
        "tokens.js": SCRIPT,
        "users.js": SCRIPT,
    ];
    with_headers(files.into_iter().fold(Route::new(), |routes, (path, media_type, content)| {
        routes.at(path, compressed_text(media_type, content.into()))
    }))
}

fn with_headers(endpoint: impl Endpoint) -> impl Endpoint {
    // A new version of the service has a new page, so the files are asked for each time.
    endpoint.with(SetHeader::new().overriding(CSP, POLICY).overriding(CACHE_CONTROL, "no-cache"))
}

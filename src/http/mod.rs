//! The HTTP API. Only this module knows poem.
//!
//! `application` takes a request from [`crate::server`], `envelope` observes it, and poem routes it to an operation in
//! the file of its resource (`token`, `user`, `oauth`, …). The operation has `auth` identify the caller, calls one use
//! case and converts the result; a failure becomes a `problem`. Only `verify` is called without poem's router.

use std::{future::ready, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, Request, Response, Route,
    http::Uri,
    middleware::{NormalizePath, TrailingSlash},
};

use self::{allow::AllowedMethods, browser::CrossOrigin, envelope::Envelope, verify::VerifyEndpoint};

mod allow;
mod application;
mod attributes;
mod auth;
mod browser;
mod changes;
mod client_address;
mod compressed;
mod demands;
mod docs;
mod document;
mod documented_failures;
mod envelope;
mod health;
mod kubernetes;
mod metrics;
mod oauth;
mod page;
mod param;
mod paths;
mod payload;
mod poem_errors;
mod problem;
mod proxy_login;
mod revocation;
mod services;
mod tags;
mod token;
mod token_exchange;
mod user;
mod user_token;
mod verify;
mod whoami;

pub use application::Application;
pub use client_address::{TrustedProxies, TrustedProxiesError};
pub use document::{document, document_yaml};
pub use metrics::metrics_endpoint;
pub use poem::http::{HeaderName, HeaderValue};
pub use services::Services;

/// The access of browsers, as configured.
#[derive(Debug, Clone)]
pub struct BrowserAccess {
    /// Serves `/docs` and the OpenAPI document.
    pub docs: bool,
    /// Serves the page for people at `/`.
    pub page: bool,
    /// The origins of other sites whose pages may call the API (CORS).
    pub cors_origins: Vec<HeaderValue>,
}

/// Returns the endpoint of the whole API.
pub fn endpoint(
    services: Arc<Services>,
    access: BrowserAccess,
    proxies: Arc<TrustedProxies>,
) -> impl Endpoint<Output = Response> + 'static {
    let document = document::document();
    let files = if access.docs { docs::routes(&document) } else { Route::new() };
    let files = if access.page { files.nest(page::FILES, page::files()) } else { files };
    let front_page = match access {
        BrowserAccess { page: true, docs, .. } => Some(page::page(docs).map_to_response().boxed()),
        BrowserAccess { docs: true, .. } => Some(docs::redirect().map_to_response().boxed()),
        _ => None,
    };
    let front_page = front_page.map(Arc::new);
    let origins = access.cors_origins;
    let write_origins = origins.clone();
    let metadata = services.issuer.as_deref().and_then(oauth::issuer_metadata_path);
    let direct = VerifyEndpoint { services: Arc::clone(&services), proxies: Arc::clone(&proxies) };
    let endpoint = files
        .nest_no_strip("/", document::api())
        .around(move |others, request| {
            // Not a route: the API above is nested at the same pattern.
            let front_page = front_page.clone().filter(|_| request.uri().path() == page::PAGE);
            async move {
                match front_page {
                    Some(page) => page.call(request).await,
                    None => others.call(request).await,
                }
            }
        })
        .before({
            let proxies = Arc::clone(&proxies);
            // One layer for three things: each layer keeps the request in memory once more.
            move |mut request: Request| {
                if metadata.as_deref() == Some(request.uri().path()) {
                    *request.uri_mut() = Uri::from_static(oauth::METADATA_PATH);
                }
                request.set_data(Arc::clone(&services));
                request.set_data(Arc::clone(&proxies));
                ready(Ok(request))
            }
        })
        .with(NormalizePath::new(TrailingSlash::Trim))
        .before(move |request| {
            let is_allowed = browser::reject_cross_site_writes(&request, &write_origins);
            let checked = is_allowed.and_then(|()| paths::reject_inner_empty_name(&request));
            ready(checked.map(|()| request).map_err(Into::into))
        });
    Envelope { endpoint, direct, allowed: AllowedMethods::of(&document), proxies }
        .with_if(!origins.is_empty(), CrossOrigin { origins })
        .into_endpoint()
}

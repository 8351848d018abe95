//! HTTP: the only place that knows poem.
//!
//! A request comes from [`crate::server`], passes `envelope`, is routed to an operation in the file of its resource
//! (`verify`, `token`, `user`, `oauth`, `health`, `docs`), which asks `auth` who is asking, calls one use case and converts
//! its result. Whatever fails on the way becomes a `problem`.

use std::{future::ready, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, Request, Response, Route,
    http::Uri,
    middleware::{AddData, NormalizePath, TrailingSlash},
};

use self::{allow::AllowedMethods, browser::CrossOrigin, envelope::Envelope, verify::Verification};

mod allow;
mod application;
mod auth;
mod browser;
mod client_address;
mod docs;
mod document;
mod envelope;
mod failures;
mod health;
mod metrics;
mod oauth;
mod param;
mod paths;
mod payload;
mod problem;
mod services;
mod tags;
mod token;
mod user;
mod user_token;
mod verify;

pub use application::Application;
pub use client_address::{TrustedProxies, TrustedProxiesError};
pub use document::{document, document_yaml};
pub use metrics::metrics_endpoint;
pub use poem::http::HeaderValue;
pub use services::Services;

/// What the operator shows to browsers.
#[derive(Debug, Clone)]
pub struct BrowserAccess {
    /// Whether there are `/docs` and the OpenAPI document.
    pub docs: bool,
    /// The sites whose pages may use the API.
    pub cors_origins: Vec<HeaderValue>,
}

/// Everything that answers requests.
pub fn endpoint(
    services: Arc<Services>,
    access: BrowserAccess,
    proxies: Arc<TrustedProxies>,
) -> impl Endpoint<Output = Response> + 'static {
    let document = document::document();
    let allowed = AllowedMethods::of(&document);
    let docs = if access.docs { docs::routes(&document) } else { Route::new() };
    let origins = access.cors_origins;
    let writers = origins.clone();
    let metadata = services.issuer.as_deref().and_then(oauth::further_metadata_path);
    let verification = Verification { services: Arc::clone(&services) };
    docs.nest_no_strip("/", document::api())
        .around(move |others, request| async move {
            // No route of its own: the nested operations have taken the pattern.
            let is_front_door = access.docs && request.uri().path() == "/";
            if is_front_door { docs::lead_from_front_door(request.method()) } else { others.call(request).await }
        })
        .before(move |mut request: Request| {
            if metadata.as_deref() == Some(request.uri().path()) {
                *request.uri_mut() = Uri::from_static(oauth::METADATA_PATH);
            }
            ready(Ok(request))
        })
        .with(AddData::new(services))
        .with(AddData::new(Arc::clone(&proxies)))
        .with(NormalizePath::new(TrailingSlash::Trim))
        .before(paths::refuse_empty_names)
        .before(move |request| ready(browser::refuse_other_sites(request, &writers)))
        .with(Envelope { verification, allowed, proxies })
        .with_if(!origins.is_empty(), CrossOrigin { origins })
        .into_endpoint()
}

//! HTTP: the only place that knows poem.
//!
//! A request comes in through [`server`], passes `envelope`, is routed to an operation in the file of its resource
//! (`verify`, `token`, `oauth`, `health`, `docs`), which asks `auth` who is asking, calls one use case and converts its result. Whatever
//! fails on the way becomes a `problem`.

use std::sync::Arc;

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, Request, Response,
    middleware::{AddData, NormalizePath, TrailingSlash},
};
use poem_openapi::Tags;

use self::{allow::AllowedMethods, envelope::Envelope, verify::VerifyOr};
use crate::service::{login::Login, readiness::Readiness, signing_keys::SigningKeys, tokens::Tokens};

mod allow;
mod auth;
mod docs;
mod envelope;
mod health;
mod metrics;
mod oauth;
mod payload;
mod problem;
pub mod server;
mod token;
mod verify;

pub use docs::{document, document_yaml};
pub use metrics::metrics_endpoint;

/// The use cases that the operations call.
pub struct Services {
    /// Issue, inspect, list, revoke and verify.
    pub tokens: Tokens,
    /// Log in.
    pub login: Login,
    /// Whether requests can be sent here.
    pub readiness: Readiness,
    /// The keys, of which the public ones are for everybody.
    pub keys: Arc<SigningKeys>,
    /// The configured `iss`.
    pub issuer: Option<String>,
}

impl Services {
    fn of(request: &Request) -> &Self {
        request.data::<Arc<Self>>().expect("`endpoint` adds the services to each request")
    }
}

/// How the operations are grouped in the documentation.
#[derive(Tags)]
enum Tag {
    /// The tokens of the user who logs in.
    Tokens,
    /// For the services that receive tokens.
    Services,
    /// For load balancers and Kubernetes.
    Operations,
}

/// Everything that answers requests.
pub fn endpoint(services: Arc<Services>) -> impl Endpoint<Output = Response> + 'static {
    let document = document();
    let allowed = AllowedMethods::of(&document);
    let others = docs::routes(&document)
        .nest_no_strip("/", docs::api())
        .with(AddData::new(Arc::clone(&services)))
        .with(NormalizePath::new(TrailingSlash::Trim));
    VerifyOr { services, others }.with(Envelope { allowed }).into_endpoint()
}

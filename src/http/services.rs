//! The use cases that the operations call.

use std::sync::Arc;

use poem::Request;

use crate::service::{
    external_login::ExternalLogins, issuers::TrustedIssuers, login::Login, readiness::Readiness,
    signing_keys::SigningKeys, tokens::Tokens, users::Users, verifiers::Verifiers,
};

/// All use cases of the service.
pub struct Services {
    /// Issue, inspect, list, rotate, revoke and verify tokens.
    pub tokens: Tokens,
    /// Add, find, list, change and remove users.
    pub users: Users,
    /// Log users in by their passwords.
    pub login: Arc<Login>,
    /// Log users in by the word of other parties.
    pub external_logins: ExternalLogins,
    /// Tell verifiers which tokens have changed.
    pub verifiers: Verifiers,
    /// The issuers whose JWTs log users in.
    pub issuers: Arc<TrustedIssuers>,
    /// Whether load balancers should send requests here.
    pub readiness: Readiness,
    /// The signing keys, whose public halves are published.
    pub keys: Arc<SigningKeys>,
    /// The configured `iss`.
    pub issuer: Option<String>,
}

impl Services {
    /// The use cases that `endpoint` added to each request.
    pub(super) fn of(request: &Request) -> &Self {
        request.data::<Arc<Self>>().expect("`endpoint` adds the services to each request")
    }
}

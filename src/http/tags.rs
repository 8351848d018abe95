//! The groups of operations in the OpenAPI document.

use poem_openapi::Tags;

/// A group of operations.
#[derive(Tags)]
pub(super) enum Tag {
    /// The tokens of the user who logs in.
    Tokens,
    /// The users and their tokens, for administrators.
    Users,
    /// For the services that receive tokens.
    Services,
    /// For load balancers and Kubernetes.
    Operations,
}

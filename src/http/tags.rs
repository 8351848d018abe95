//! The groups of operations in the OpenAPI document.

use poem_openapi::Tags;

/// A group of operations, described in `openapi_overlay.yaml`.
#[derive(Tags)]
pub(super) enum Tag {
    Tokens,
    Users,
    Services,
    Operations,
}

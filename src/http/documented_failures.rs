//! The error responses of each operation in the OpenAPI document, with an example for each status.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    auth::{
        bearer_required, invalid_token, issuer_unavailable, password_required, repeated_authorization, token_required,
        too_many_failures,
    },
    changes::Cursor,
    demands::malformed,
    envelope::headers_too_large,
    param::{AllTokens, PageLimit, Parameter},
    paths::OAUTH,
    payload::{MAX_BODY_BYTES, MAX_LONG_BODY_BYTES, body_too_large, body_too_slow, media_type_expected},
    poem_errors::internal_error,
    problem::Problem,
    revocation::wrong_number_of_ids,
    token::no_such_page,
    token_exchange::unsupported_grant_type,
    user::invalid_field,
};
use crate::{
    domain::{
        demands::{DemandError, Unmet},
        duration,
        idempotency::IdempotencyKey,
        password::Password,
        user::UserName,
    },
    service::{
        external_login::ExternalLoginError,
        idempotency::IdempotencyError,
        tokens::{IssueError, RotateError, VerifyError},
        users::UserError,
        verifiers::ChangesError,
    },
};

/// The `Retry-After` in the example of 429. The service computes its own: [`too_many_failures`].
const EXAMPLE_RETRY_AFTER: Duration = Duration::from_secs(8);

/// Adds the failures of the operation at this path to its responses. Of two with one status, the specific one is the
/// example.
pub(super) fn add_to(path: &str, operation: &mut Value) {
    let mut failures = BTreeMap::new();
    for problem in specific_failures(operation).into_iter().chain(common_failures(operation)) {
        failures.entry(problem.status()).or_insert(problem);
    }
    for (status, problem) in failures {
        let problem = if path.starts_with(OAUTH) { problem.with_oauth_error() } else { problem };
        operation["responses"][status.as_str()] = problem.to_openapi_response();
    }
}

/// The failures of this operation alone.
fn specific_failures(operation: &Value) -> Vec<Problem> {
    let ambiguous = || duration::parse("1M").expect_err("M may be a minute or a month");
    let successor = "b56929f3-54f1-4dc2-9984-9bba615e26e6".parse().expect("an id");
    let no_name = |field| invalid_field(field)("..".parse::<UserName>().expect_err("not a name"));
    match operation["operationId"].as_str().unwrap_or_default() {
        "issueToken" => vec![IssueError::Life(ambiguous().into()).into(), IssueError::QuotaReached(1000).into()],
        "rotateToken" => {
            vec![RotateError::Overlap(ambiguous()).into(), RotateError::AlreadyRotated(Some(successor)).into()]
        }
        "revokeListedTokens" | "revokeListedUserTokens" => {
            vec![wrong_number_of_ids(), body_too_large(MAX_LONG_BODY_BYTES)]
        }
        "listTokens" => vec![no_such_page()],
        "inspectSelf" | "revokeSelf" => vec![token_required(), too_many_failures(EXAMPLE_RETRY_AFTER)],
        "listUsers" => vec![no_name("after")],
        "addUser" => vec![no_name("username"), UserError::NameTaken.into()],
        "changeUser" => vec![
            Problem::bad_request(
                "The body: role: unknown variant `root`, expected one of `user`, `introspector`, `admin`.",
            ),
            UserError::LastAdmin.into(),
        ],
        "changePassword" => vec![
            invalid_field("password")(Password::parse_printable("").expect_err("it is empty")),
            UserError::NoPassword.into(),
        ],
        "removeUser" => vec![UserError::LastAdmin.into()],
        "exchangeToken" => vec![
            unsupported_grant_type(),
            Problem::from(ExternalLoginError::Disabled),
            Problem::from(ExternalLoginError::OtherOrigin),
            issuer_unavailable(),
        ],
        "introspectToken" => vec![
            Problem::bad_request("The body: duplicate field `token`."),
            ExternalLoginError::Disabled.into(),
            ExternalLoginError::OtherOrigin.into(),
            Problem::store_unavailable(),
        ],
        "revokePresentedToken" => {
            vec![Problem::bad_request("The body: duplicate field `token`."), Problem::store_unavailable()]
        }
        "reviewToken" => vec![
            Problem::introspectors_only(),
            Problem::bad_request("apiVersion, kind: send a TokenReview of authentication.k8s.io/v1."),
            Problem::store_unavailable(),
        ],
        "changes" => vec![ChangesError::Forbidden.into(), ChangesError::NoWatch.into(), Cursor::error()],
        "verify" => vec![
            malformed("scope", DemandError::Scopes),
            bearer_required(Some(VerifyError::Invalid)),
            Unmet::Scopes { demanded: "read write".into(), missing: "write".into() }.into(),
        ],
        "ready" => vec![Problem::unavailable(
            "The token store does not answer, or is not set up so that tokens can be kept in it.",
        )],
        _ => Vec::new(),
    }
}

/// The failures that follow from the parameters, body and security of the operation.
fn common_failures(operation: &Value) -> Vec<Problem> {
    let mut failures = vec![headers_too_large(), internal_error()];
    let takes =
        |name: &str| operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
    if takes("limit") {
        failures.push(PageLimit::error());
    }
    if takes("Idempotency-Key") {
        failures.extend([IdempotencyKey::error(), IdempotencyError::OtherRequest.into()]);
    }
    if takes("all") {
        failures.push(AllTokens::error());
    }
    if takes("id") {
        failures.push(Problem::no_such_token());
    } else if takes("name") {
        failures.push(Problem::no_such_user());
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        failures.extend(content.keys().map(|media_type| media_type_expected(media_type)));
        failures.extend([body_too_slow(), body_too_large(MAX_BODY_BYTES)]);
    }
    let security = operation["security"].as_array().into_iter().flatten().filter_map(Value::as_object);
    let schemes: Vec<_> = security.flat_map(|scheme| scheme.keys()).map(String::as_str).collect();
    if schemes.is_empty() {
        return failures;
    }
    if schemes.contains(&"Basic") {
        failures.extend([Problem::wrong_login(), too_many_failures(EXAMPLE_RETRY_AFTER)]);
    } else {
        failures.push(invalid_token());
    }
    if schemes == ["Basic"] {
        let is_for_administrators = operation["tags"] == json!(["Users"]);
        failures.push(if is_for_administrators { Problem::administrators_only() } else { password_required() });
        failures.push(ExternalLoginError::OtherOrigin.into());
    }
    failures.extend([repeated_authorization(), Problem::store_unavailable()]);
    failures
}

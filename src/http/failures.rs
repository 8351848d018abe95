//! How each operation can fail, for the OpenAPI document: an example of each status.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    auth::{bearer_only, invalid_token, login_needed, token_needed, too_many_failures, two_logins},
    envelope::headers_too_large,
    param::{All, Limit, Parameter},
    payload::{body_too_large, body_too_slow, media_type_expected},
    poem_errors::internal_error,
    problem::Problem,
    token::no_such_cursor,
    user::invalid,
};
use crate::{
    domain::{duration, password::Password, user::UserName},
    service::{
        tokens::{IssueError, RotateError, VerifyError},
        users::UserError,
    },
};

/// The delay after failed logins in the example of 429.
const LOGIN_DELAY: Duration = Duration::from_secs(8);

/// Adds the failures of an operation to its responses.
pub(super) fn describe(operation: &mut Value) {
    let mut failures = BTreeMap::new();
    for problem in own(operation).into_iter().chain(common(operation)) {
        failures.entry(problem.status()).or_insert(problem);
    }
    for (status, problem) in failures {
        operation["responses"][status.as_str()] = problem.as_documentation();
    }
}

/// The failures of this operation alone.
fn own(operation: &Value) -> Vec<Problem> {
    let ambiguous = || duration::parse("1M").expect_err("M may be a minute or a month");
    let successor = "b56929f3-54f1-4dc2-9984-9bba615e26e6".parse().expect("an id");
    let no_name = |field| invalid(field)("..".parse::<UserName>().expect_err("not a name"));
    match operation["operationId"].as_str().unwrap_or_default() {
        "issueToken" => vec![IssueError::Life(ambiguous().into()).into(), IssueError::QuotaReached(1000).into()],
        "rotateToken" => {
            vec![RotateError::Overlap(ambiguous()).into(), RotateError::AlreadyRotated(Some(successor)).into()]
        }
        "listTokens" => vec![no_such_cursor()],
        "inspectSelf" | "revokeSelf" => vec![token_needed(), too_many_failures(LOGIN_DELAY)],
        "listUsers" => vec![no_name("after")],
        "addUser" => vec![no_name("username"), UserError::NameTaken.into()],
        "changeUser" => vec![
            Problem::bad_request("The body: unknown variant `root`, expected one of `user`, `introspector`, `admin`."),
            UserError::LastAdmin.into(),
        ],
        "changePassword" => vec![invalid("password")(Password::parse_new("").expect_err("no password is empty"))],
        "removeUser" => vec![UserError::LastAdmin.into()],
        "introspectToken" | "revokePresentedToken" => {
            vec![Problem::bad_request("The body: duplicate field `token`."), Problem::store_unavailable()]
        }
        "verify" => vec![bearer_only(Some(VerifyError::Invalid))],
        "ready" => vec![Problem::unavailable(
            "The token store does not answer, or is not set up so that tokens can be kept in it.",
        )],
        _ => Vec::new(),
    }
}

/// The failures of all operations with the same parameters, body and security.
fn common(operation: &Value) -> Vec<Problem> {
    let mut failures = vec![headers_too_large(), internal_error()];
    let takes =
        |name: &str| operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
    if takes("limit") {
        failures.push(Limit::refusal());
    }
    if takes("all") {
        failures.push(All::refusal());
    }
    if takes("id") {
        failures.push(Problem::no_such_token());
    } else if takes("name") {
        failures.push(Problem::no_such_user());
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        failures.extend(content.keys().map(|media_type| media_type_expected(media_type)));
        failures.extend([body_too_slow(), body_too_large()]);
    }
    let schemes = operation["security"].as_array().into_iter().flatten();
    match *schemes.filter_map(Value::as_object).flat_map(|scheme| scheme.keys()).collect::<Vec<_>>() {
        [] => return failures,
        [scheme] if scheme == "Bearer" => failures.push(invalid_token()),
        [_] => failures.extend([
            Problem::wrong_login(),
            too_many_failures(LOGIN_DELAY),
            if operation["tags"] == json!(["Users"]) { Problem::administrators_only() } else { login_needed() },
        ]),
        _ => failures.extend([Problem::wrong_login(), too_many_failures(LOGIN_DELAY)]),
    }
    failures.extend([two_logins(), Problem::store_unavailable()]);
    failures
}

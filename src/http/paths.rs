//! The base paths of the resources, and the 404 for paths below them that cannot name anything.

use poem::Request;

use super::problem::Problem;
use crate::domain::user::UserName;

/// The tokens of the user who logs in.
pub(super) const TOKENS: &str = "/api/v1alpha/token";

/// The users.
pub(super) const USERS: &str = "/api/v1alpha/user";

/// Forward-auth. Some proxies append the path of the request that they ask about.
pub(super) const VERIFY: &str = "/api/v1alpha/verify";

/// The questions of verifiers.
pub(super) const CHANGES: &str = "/api/v1alpha/changes";

/// The prefix of OAuth's endpoints, whose problems carry an error code of RFC 6749.
pub(super) const OAUTH: &str = "/oauth2/";

/// The OpenAPI document and the page that shows it.
pub(super) const DOCS: [&str; 3] = ["/openapi.json", "/openapi.yaml", "/docs"];

/// 404 for a path with a segment that is not UTF-8, and so neither a user name nor a token id.
pub(super) fn non_utf8_segment(path: &str) -> Problem {
    let name = path.strip_prefix(USERS).and_then(|rest| rest.trim_start_matches('/').split('/').next());
    let names_no_user = name.is_some_and(|name| name.parse::<UserName>().is_err());
    if names_no_user { Problem::no_such_user() } else { Problem::no_such_token() }
}

/// 404 for an empty name or id before another segment: `/user//token` is rejected, and would otherwise be the path of
/// the user `token`; `/user/` is not. Other doubled slashes, and trailing ones, make no difference.
pub(super) fn reject_inner_empty_name(request: &Request) -> Result<(), Problem> {
    // The segment after the base is empty, and another one follows.
    let has_empty_name = |base: &str| {
        let mut segments = request.uri().path().split('/');
        let is_next = |part| segments.find(|segment| !segment.is_empty()) == Some(part);
        base[1..].split('/').all(is_next) && segments.next() == Some("") && segments.any(|segment| !segment.is_empty())
    };
    if has_empty_name(USERS) {
        Err(Problem::no_such_user())
    } else if has_empty_name(TOKENS) {
        Err(Problem::no_such_token())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_found() {
        for (path, refused) in [
            ("/api/v1alpha/user//token", true),
            ("//api//v1alpha/user///token/", true),
            ("/api/v1alpha/token//rotate", true),
            ("/api/v1alpha/token//", false),
            ("/api/v1alpha/user/bob//token//", false),
            ("/api/v1alpha/users//token", false),
            ("/api/v1alpha/user", false),
        ] {
            let request = Request::builder().uri_str(path).finish();
            assert_eq!(reject_inner_empty_name(&request).is_err(), refused, "{path}");
        }
    }
}

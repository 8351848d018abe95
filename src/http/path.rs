//! Paths whose names are empty.

use poem::{Request, Result};

use super::{problem::Problem, token, user};

/// Refuses a path whose name is empty: `/user//token` would otherwise become that of the user `token`. Other doubled
/// slashes, and those at the end, make no difference.
pub(super) async fn refuse_empty_names(request: Request) -> Result<Request> {
    // The first segment behind the base is empty, and something follows it.
    let has_empty_name = |base: &str| {
        let mut segments = request.uri().path().split('/');
        let is_next = |part| segments.find(|segment| !segment.is_empty()) == Some(part);
        base[1..].split('/').all(is_next) && segments.next() == Some("") && segments.any(|segment| !segment.is_empty())
    };
    if has_empty_name(user::PATH) {
        Err(Problem::no_such_user().into())
    } else if has_empty_name(token::PATH) {
        Err(Problem::no_such_token().into())
    } else {
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_name_is_found() {
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
            assert_eq!(refuse_empty_names(request).await.is_err(), refused, "{path}");
        }
    }
}

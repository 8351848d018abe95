//! The `Authorization` header: all credentials but the one password and the one token are refused.

use poem::{
    Request,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::in_process::{InProcess, LOGIN, with_service};

/// The credentials in the header lines.
#[derive(Clone, Copy, PartialEq)]
enum Credentials {
    Admin,
    Token,
    Invalid,
    /// None, or several headers.
    Ambiguous,
    TooLarge,
}

/// The limit for all headers together, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Sends each line of the input as one header, to operations that need a login and to operations that need a token.
pub fn check(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let Ok(lines) = lines.collect::<Result<Vec<_>, _>>() else { return };
    with_service(|service| {
        service.forget_failures();
        let credentials = Credentials::of(&lines, service);
        for (path, statuses) in [
            // With the administrator's login, with a token, with invalid credentials.
            ("/api/v1alpha/token", [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED]),
            ("/api/v1alpha/token/self", [StatusCode::FORBIDDEN, StatusCode::OK, StatusCode::UNAUTHORIZED]),
            ("/api/v1alpha/verify", [StatusCode::UNAUTHORIZED, StatusCode::OK, StatusCode::UNAUTHORIZED]),
        ] {
            let expected = match credentials {
                Credentials::Admin => statuses[0],
                Credentials::Token => statuses[1],
                Credentials::Invalid => statuses[2],
                Credentials::Ambiguous => StatusCode::BAD_REQUEST,
                Credentials::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            };
            let mut request = Request::builder().method(Method::GET).uri_str(path).finish();
            for line in &lines {
                request.headers_mut().append(header::AUTHORIZATION, line.clone());
            }
            assert_eq!(service.answer(request).status, expected, "{path}");
        }
    });
}

impl Credentials {
    fn of(lines: &[HeaderValue], service: &InProcess) -> Self {
        let bytes = |line: &HeaderValue| header::AUTHORIZATION.as_str().len() + line.len();
        if lines.iter().map(bytes).sum::<usize>() > MAX_HEADER_BYTES {
            return Self::TooLarge;
        }
        let [line] = lines else { return Self::Ambiguous };
        let Some((scheme, credentials)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
            return Self::Invalid;
        };
        let credentials = credentials.trim_matches(' ');
        let login = InProcess::authorization(LOGIN);
        if scheme.eq_ignore_ascii_case("Basic") && login.strip_prefix("Basic ") == Some(credentials) {
            Self::Admin
        } else if scheme.eq_ignore_ascii_case("Bearer") && credentials == service.jwt {
            Self::Token
        } else {
            Self::Invalid
        }
    }
}

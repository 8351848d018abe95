//! The `Authorization` header: whoever presents anything but the one password and the one token is refused.

use poem::{
    Request,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::in_process::{InProcess, LOGIN, with_service};

/// Who is asking, in the words of the header.
#[derive(Clone, Copy, PartialEq)]
enum Asking {
    Admin,
    Token,
    Nobody,
    /// Two headers.
    Confused,
    /// More than anybody needs.
    TooMuch,
}

/// The most bytes of all headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Sends each line of the input as one header, to what asks for a login and to what asks for a token.
pub fn check(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let Ok(lines) = lines.collect::<Result<Vec<_>, _>>() else { return };
    with_service(|service| {
        service.forget_failures();
        let asking = Asking::of(&lines, service);
        for (path, statuses) in [
            // The administrator, a token, nobody.
            ("/api/v1alpha/token", [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED]),
            ("/api/v1alpha/token/self", [StatusCode::FORBIDDEN, StatusCode::OK, StatusCode::UNAUTHORIZED]),
            ("/api/v1alpha/verify", [StatusCode::UNAUTHORIZED, StatusCode::OK, StatusCode::UNAUTHORIZED]),
        ] {
            let expected = match asking {
                Asking::Admin => statuses[0],
                Asking::Token => statuses[1],
                Asking::Nobody => statuses[2],
                Asking::Confused => StatusCode::BAD_REQUEST,
                Asking::TooMuch => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            };
            let mut request = Request::builder().method(Method::GET).uri_str(path).finish();
            for line in &lines {
                request.headers_mut().append(header::AUTHORIZATION, line.clone());
            }
            assert_eq!(service.answer(request).status, expected, "{path}");
        }
    });
}

impl Asking {
    fn of(lines: &[HeaderValue], service: &InProcess) -> Self {
        let bytes = |line: &HeaderValue| header::AUTHORIZATION.as_str().len() + line.len();
        if lines.iter().map(bytes).sum::<usize>() > MAX_HEADER_BYTES {
            return Self::TooMuch;
        }
        let [line] = lines else { return Self::Confused };
        let Some((scheme, credentials)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
            return Self::Nobody;
        };
        let credentials = credentials.trim_matches(' ');
        let login = InProcess::authorization(LOGIN);
        if scheme.eq_ignore_ascii_case("Basic") && login.strip_prefix("Basic ") == Some(credentials) {
            Self::Admin
        } else if scheme.eq_ignore_ascii_case("Bearer") && credentials == service.jwt {
            Self::Token
        } else {
            Self::Nobody
        }
    }
}

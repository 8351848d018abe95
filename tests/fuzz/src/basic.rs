//! The decoded credentials of Basic: a name, a colon and a password, in any bytes.

use base64::{Engine, prelude::BASE64_STANDARD};
use poem::{
    Request,
    http::{StatusCode, header},
};

use super::in_process::{LOGIN, with_service};

/// Logs in with the input: only the administrator's name and password succeed.
pub fn check(input: &[u8]) {
    with_service(|service| {
        service.forget_failures();
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(input));
        let request = Request::builder().uri_str("/api/v1alpha/token").header(header::AUTHORIZATION, authorization);
        let expected = if input == LOGIN.as_bytes() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(service.answer(request.finish()).status, expected);
    });
}

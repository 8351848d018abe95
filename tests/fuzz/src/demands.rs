//! Demands on a token, in the query and in headers: they hold together, and none that cannot be read is left out.

use std::borrow::Cow;

use mayfly::domain::attributes::{Audiences, Scopes};
use poem::{
    Request,
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
};

use super::in_process::{AUDIENCES, InProcess, SCOPES, with_service};

const VERIFY: &str = "/api/v1alpha/verify";

/// Less than all headers of a request may have together.
const MAX_INPUT_BYTES: usize = 8 * 1024;

/// Verifies a token. The input's first line is the query, or, behind a `/`, the path and query of the request that the
/// proxy asks about. Each other line is the value of a header that demands scopes, or, behind an `a`, an audience; or,
/// behind a `?`, the rest of a header's name.
pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(Ok(asked)) = lines.next().map(str::from_utf8) else { return };
    let owns_query = !asked.starts_with('/');
    let separator = if owns_query { "?" } else { "" };
    let Ok(uri) = format!("{VERIFY}{separator}{asked}").parse::<Uri>() else { return };
    let mut request = Request::builder().uri(uri.clone()).finish();
    let mut demands = Demands::default();
    for line in lines {
        let (name, value) = match line.split_first() {
            Some((b'?', rest)) => ([b"x-auth-require", rest].concat(), &b"a"[..]),
            Some((b'a', rest)) => (b"x-auth-require-audience".to_vec(), rest),
            _ => (b"x-auth-require-scope".to_vec(), line),
        };
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(value)) else { return };
        let text = value.to_str().unwrap_or_default().to_owned();
        demands.add(name.as_str().strip_prefix("x-auth-require-"), text.into(), true);
        request.headers_mut().append(name, value);
    }
    let query = uri.query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        demands.add(Some(&name), value, owns_query);
    }
    if input.len() > MAX_INPUT_BYTES {
        return;
    }
    with_service(|service| {
        let authorization = HeaderValue::try_from(format!("Bearer {}", service.jwt_with_attributes)).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, authorization);
        demands.check(service, request);
    });
}

/// The demands of a request: the reference.
#[derive(Default)]
struct Demands<'a> {
    scopes: Vec<Cow<'a, str>>,
    audiences: Vec<Cow<'a, str>>,
    /// One has an unknown name.
    is_misspelt: bool,
}

impl<'a> Demands<'a> {
    /// Adds a demand. `is_known`: nothing else has a name of this kind.
    fn add(&mut self, name: Option<&str>, value: Cow<'a, str>, is_known: bool) {
        match name {
            Some("scope") => self.scopes.push(value),
            Some("audience") => self.audiences.push(value),
            _ => self.is_misspelt |= is_known,
        }
    }

    fn is_malformed(&self) -> bool {
        let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        let is_scope = |text: &str| is_visible(text) && !text.contains(['"', '\\']);
        self.is_misspelt
            || !self.scopes.iter().flat_map(|list| list.split(' ')).all(is_scope)
            || !self.audiences.iter().all(|audience| is_visible(audience) && audience.len() <= Audiences::MAX_CHARS)
            || self.scopes.iter().map(|list| list.len()).sum::<usize>() > 2 * Scopes::MAX_BYTES
            || self.audiences.len() > 16
    }

    fn check(&self, service: &InProcess, request: Request) {
        let has_scopes = self.scopes.iter().flat_map(|list| list.split(' ')).all(|scope| SCOPES.contains(&scope));
        let expected = if self.is_malformed() {
            StatusCode::BAD_REQUEST
        } else if !self.audiences.iter().all(|audience| AUDIENCES.contains(&&**audience)) {
            StatusCode::UNAUTHORIZED
        } else if !has_scopes {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::OK
        };
        let answer = service.answer(request);
        assert_eq!(answer.status, expected);
        let is_accepted = expected == StatusCode::OK;
        assert_eq!(answer.headers.contains_key("x-auth-user"), is_accepted);
        if expected == StatusCode::FORBIDDEN {
            let challenge = answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            let scopes = self.scopes.iter().map(Cow::as_ref).collect::<Vec<_>>().join(" ");
            assert!(challenge.ends_with(&format!("error=\"insufficient_scope\", scope=\"{scopes}\"")), "{challenge}");
        }
    }
}

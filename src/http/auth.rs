//! Who is asking: HTTP Basic (RFC 7617) and Bearer (RFC 6750).

use base64::{Engine, prelude::BASE64_STANDARD};
use poem::{
    Request, RequestBody, Result,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use secrecy::{ExposeSecret, SecretString};

use super::{Services, problem::Problem};
use crate::{
    domain::{
        password::Password,
        user::{User, UserName},
    },
    service::tokens::{Verified, VerifyError},
};

const BASIC_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="mayfly", charset="UTF-8""#);
const BEARER_CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Bearer realm="mayfly""#);
const INVALID_TOKEN_CHALLENGE: HeaderValue =
    HeaderValue::from_static(r#"Bearer realm="mayfly", error="invalid_token", error_description="not a live token""#);
const INSUFFICIENT_SCOPE_CHALLENGE: HeaderValue =
    HeaderValue::from_static(r#"Bearer realm="mayfly", error="insufficient_scope""#);

/// A user who logged in with name and password.
pub(super) struct BasicUser(pub(super) User);

/// A client that presents a live token.
pub(super) struct BearerToken(pub(super) Verified);

/// What an `Authorization` header holds.
enum Credentials {
    Basic(UserName, Password),
    Bearer(SecretString),
}

/// 401 for a name and a password that do not belong together, or a name that nobody has.
pub(super) fn wrong_login() -> Problem {
    unauthorized("The user name or the password is wrong.", BEARER_CHALLENGE)
}

fn invalid_token() -> Problem {
    unauthorized(
        "The token is not valid: it has expired, was revoked, or was not issued here.",
        INVALID_TOKEN_CHALLENGE,
    )
}

fn unauthorized(detail: &'static str, bearer: HeaderValue) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
        .with_header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
        .with_header(header::WWW_AUTHENTICATE, bearer)
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Refused => invalid_token(),
            VerifyError::Store(error) => error.into(),
        }
    }
}

impl Credentials {
    fn of(request: &Request) -> Result<Self, Problem> {
        let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
        let missing = || unauthorized("Log in with a user name and a password, or present a token.", BEARER_CHALLENGE);
        let value = headers.next().ok_or_else(missing)?;
        if headers.next().is_some() {
            return Err(Problem::bad_request("A request has one Authorization header."));
        }
        let (scheme, credentials) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
        let credentials = credentials.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("Basic") {
            Self::basic(credentials).ok_or_else(wrong_login)
        } else if scheme.eq_ignore_ascii_case("Bearer") {
            Ok(Self::Bearer(credentials.into()))
        } else {
            Err(missing())
        }
    }

    /// Base64 of `name:password`. A name may hold no colon, a password may (RFC 7617, section 2).
    fn basic(credentials: &str) -> Option<Self> {
        let pair = SecretString::from(String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?);
        let (name, password) = pair.expose_secret().split_once(':')?;
        Some(Self::Basic(name.parse().ok()?, password.parse().ok()?))
    }
}

impl<'a> ApiExtractor<'a> for BasicUser {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let description = "A user's name and password.";
        registry
            .create_security_scheme("Basic", MetaSecurityScheme { scheme: Some("basic"), ..http_scheme(description) });
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["Basic"]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let services = Services::of(request);
        match Credentials::of(request)? {
            Credentials::Basic(name, password) => {
                Ok(Self(services.login.log_in(&name, password).await.map_err(Problem::from)?))
            }
            Credentials::Bearer(jwt) => {
                // Only a live token is told what it may not do.
                services.tokens.verify(jwt.expose_secret()).await.map_err(Problem::from)?;
                let detail = "A token may inspect and revoke itself only. Log in with a user name and a password.";
                Err(Problem::new(StatusCode::FORBIDDEN, detail)
                    .with_header(header::WWW_AUTHENTICATE, INSUFFICIENT_SCOPE_CHALLENGE)
                    .into())
            }
        }
    }
}

impl<'a> ApiExtractor<'a> for BearerToken {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let scheme = http_scheme("A token issued here.");
        let scheme = MetaSecurityScheme { scheme: Some("bearer"), bearer_format: Some("JWT"), ..scheme };
        registry.create_security_scheme("Bearer", scheme);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["Bearer"]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let services = Services::of(request);
        match Credentials::of(request)? {
            Credentials::Bearer(jwt) => {
                Ok(Self(services.tokens.verify(jwt.expose_secret()).await.map_err(Problem::from)?))
            }
            Credentials::Basic(name, password) => {
                services.login.log_in(&name, password).await.map_err(Problem::from)?;
                let detail = "\"self\" is the token that a request presents: present one, or name a token by its id.";
                Err(Problem::new(StatusCode::FORBIDDEN, detail).into())
            }
        }
    }
}

fn http_scheme(description: &'static str) -> MetaSecurityScheme {
    MetaSecurityScheme {
        ty: "http",
        description: Some(description),
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    }
}

//! Authenticates callers: HTTP Basic (RFC 7617) and Bearer (RFC 6750).

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use poem::{
    Request, RequestBody, Result,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use secrecy::{ExposeSecret, SecretString};

use super::{
    client_address::ClientAddress,
    paths,
    problem::{BEARER_CHALLENGE, Problem},
    proxy_login,
    services::Services,
};
use crate::{
    domain::{
        issuer::Admission,
        password::Password,
        throttle::{ClientAndUser, ClientNetwork},
        user::UserName,
    },
    service::{
        Caller,
        external_login::{ExternalLogin, ExternalLoginError},
        issuers::IssuerJwtRejection,
        login::LoginError,
        tokens::VerifyError,
    },
    store::StoreError,
};

/// The detail of a 401 that rejects a presented token, and its challenge (RFC 6750, section 3.1).
type TokenRejection = (&'static str, HeaderValue);

/// For a token that was revoked or not issued here, and for a text that is no JWT.
const INVALID_TOKEN: TokenRejection = (
    "The token is not valid.",
    HeaderValue::from_static(
        r#"Bearer realm="mayfly", error="invalid_token", error_description="The token is not valid""#,
    ),
);

/// For a token whose `exp` has passed. Only a JWT with a valid signature gets it, and it reveals only what the JWT
/// says.
const EXPIRED_TOKEN: TokenRejection = (
    "The token has expired.",
    HeaderValue::from_static(
        r#"Bearer realm="mayfly", error="invalid_token", error_description="The token has expired""#,
    ),
);

const INSUFFICIENT_SCOPE_CHALLENGE: HeaderValue =
    HeaderValue::from_static(r#"Bearer realm="mayfly", error="insufficient_scope""#);

/// A user, logged in by name and password.
pub(super) struct BasicUser(pub(super) Caller);

/// A presented token. Not verified yet: the operation reads the token once, and verifies and answers with that read.
pub(super) struct BearerToken(pub(super) SecretString);

/// An administrator, logged in by name and password.
pub(super) struct Administrator(pub(super) Caller);

/// A user, logged in by name and password or by a live token.
pub(super) struct BasicOrBearerUser(pub(super) Caller);

/// The credentials of a request.
enum Credentials<'a> {
    /// A name and its password, or two candidates: form-decoded, then as sent.
    Basic(UserName, Vec<Password>),
    /// The presumed JWT.
    Bearer(&'a str),
    /// The word of a trusted proxy, in place of an `Authorization` header.
    Proxy(ExternalLogin),
}

/// Whom a request comes from.
enum Identity<'a> {
    /// A user who is logged in.
    User(Caller),
    /// The bearer of a token, which is not verified yet.
    Token(&'a str),
}

/// 400 for a request with more than one `Authorization` header.
pub(super) fn repeated_authorization() -> Problem {
    Problem::bad_request("A request has one Authorization header.")
}

/// 403 for a live token where a password is required: for all but the operations on the token itself and
/// introspection.
pub(super) fn password_required() -> Problem {
    let detail = "A token may not do this. Log in with a user name and a password.";
    Problem::new(StatusCode::FORBIDDEN, detail).with_header(header::WWW_AUTHENTICATE, INSUFFICIENT_SCOPE_CHALLENGE)
}

/// 403 for a right password where a token is required.
pub(super) fn token_required() -> Problem {
    let detail = "\"self\" is the token that a request presents: present one, or name a token by its id.";
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// 401 for a token that is not valid.
pub(super) fn invalid_token() -> Problem {
    let (detail, challenge) = INVALID_TOKEN;
    Problem::unauthorized(detail, challenge)
}

/// The 401 that rejects a presented token, or the error of the store.
fn token_rejection(error: VerifyError) -> Result<TokenRejection, StoreError> {
    match error {
        VerifyError::Expired => Ok(EXPIRED_TOKEN),
        VerifyError::Invalid | VerifyError::Revoked => Ok(INVALID_TOKEN),
        VerifyError::Store(error) => Err(error),
    }
}

/// 401 where only tokens are accepted, or the store's problem. Without a Basic challenge, for which a browser would ask
/// its user for a password.
pub(super) fn bearer_required(error: Option<VerifyError>) -> Problem {
    let (detail, challenge) = match error.map(token_rejection) {
        Some(Ok(rejection)) => rejection,
        Some(Err(error)) => return error.into(),
        None => ("Present a token: Authorization: Bearer.", BEARER_CHALLENGE),
    };
    Problem::new(StatusCode::UNAUTHORIZED, detail).with_header(header::WWW_AUTHENTICATE, challenge)
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::wrong_login(),
            LoginError::RetryAfter(remaining) => too_many_failures(remaining),
            LoginError::Busy(busy) => busy.into(),
            LoginError::Store(error) => error.into(),
        }
    }
}

/// 429: this login is throttled. It is checked again after the remaining time, rounded up to seconds in `Retry-After`.
pub(super) fn too_many_failures(remaining: Duration) -> Problem {
    let seconds = remaining.as_millis().div_ceil(1000);
    let detail = format!("Too many failed logins. Try again in {seconds} seconds; tokens work as ever.");
    let seconds = HeaderValue::try_from(seconds.to_string()).expect("a number is visible ASCII");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_header(header::RETRY_AFTER, seconds)
}

impl From<IssuerJwtRejection> for Problem {
    fn from(rejection: IssuerJwtRejection) -> Self {
        let (detail, challenge) = match rejection {
            IssuerJwtRejection::NoKeys => return issuer_unavailable(),
            IssuerJwtRejection::Expired => EXPIRED_TOKEN,
            IssuerJwtRejection::Rejected => INVALID_TOKEN,
        };
        Self::unauthorized(detail, challenge)
    }
}

/// 503: the keys of a trusted issuer are not known, and it does not answer.
pub(super) fn issuer_unavailable() -> Problem {
    Problem::unavailable(
        "The issuer of this token does not answer, so that it cannot be checked. Try again in a moment.",
    )
}

impl From<ExternalLoginError> for Problem {
    fn from(error: ExternalLoginError) -> Self {
        match error {
            ExternalLoginError::OtherOrigin => {
                Self::conflict("There is a user of your name who logs in in another way. Ask an administrator.")
            }
            ExternalLoginError::Disabled => Self::new(StatusCode::FORBIDDEN, "This user is disabled."),
            ExternalLoginError::Store(error) => error.into(),
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match token_rejection(error) {
            Ok((detail, challenge)) => Self::unauthorized(detail, challenge),
            Err(error) => error.into(),
        }
    }
}

/// The scheme and the credentials of a request's `Authorization` header; `None`: it has none, or of another scheme. 400
/// for a second such header.
pub(super) fn authorization(request: &Request) -> Result<Option<(Scheme, &str)>, Problem> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    let Some(value) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(repeated_authorization());
    }
    let Some((scheme, credentials)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return Ok(None);
    };
    let scheme = Scheme::ALL.into_iter().find(|known| scheme.eq_ignore_ascii_case(known.as_str()));
    Ok(scheme.map(|scheme| (scheme, credentials.trim_matches(' '))))
}

impl<'a> Credentials<'a> {
    /// The credentials of a request, not verified. 401 if there are none.
    fn of(request: &'a Request) -> Result<Self, Problem> {
        match authorization(request)? {
            Some((Scheme::Basic, credentials)) => {
                let is_oauth = request.uri().path().starts_with(paths::OAUTH);
                Self::basic(credentials, is_oauth).ok_or_else(Problem::wrong_login)
            }
            Some((Scheme::Bearer, credentials)) => Ok(Self::Bearer(credentials)),
            None => proxy_login::login_of(request)?.map(Self::Proxy).ok_or_else(|| {
                let detail = "Log in with a user name and a password, or present a token.";
                Problem::unauthorized(detail, BEARER_CHALLENGE)
            }),
        }
    }

    /// Parses Base64 of `name:password`. A password may contain colons, a name may not (RFC 7617, section 2).
    ///
    /// OAuth clients should form-encode both (RFC 6749, section 2.3.1), and many do not. If the encoding is ambiguous,
    /// both passwords are tried as one attempt, the decoded one first. A wrong password, or a right one that was sent
    /// plain, then costs two hashes.
    fn basic(credentials: &str, is_oauth: bool) -> Option<Self> {
        let pair = decoded_pair(credentials)?;
        let (name, password) = pair.expose_secret().split_once(':')?;
        let plain = || Some((name.parse::<UserName>().ok()?, password.parse::<Password>().ok()?));
        let decoded = || {
            let (name, decoded) = (form_decoded(name)?, SecretString::from(form_decoded(password)?));
            let differs = decoded.expose_secret() != password;
            Some((name.parse::<UserName>().ok()?, decoded.expose_secret().parse::<Password>().ok()?, differs))
        };
        Some(match (is_oauth.then(decoded).flatten(), plain()) {
            (Some((name, decoded, true)), Some((same, plain))) if name == same => {
                Self::Basic(name, vec![decoded, plain])
            }
            (Some((name, password, _)), _) | (None, Some((name, password))) => Self::Basic(name, vec![password]),
            (None, None) => return None,
        })
    }
}

/// Decodes Base64 of `name:password`.
fn decoded_pair(credentials: &str) -> Option<SecretString> {
    Some(String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?.into())
}

/// The password of Basic credentials, with any name: the presumed JWT of a client that speaks nothing else, such as
/// git, pip, docker and maven.
pub(super) fn token_as_password(credentials: &str) -> Option<SecretString> {
    let pair = decoded_pair(credentials)?;
    let (_, jwt) = pair.expose_secret().split_once(':')?;
    Some(jwt.into())
}

/// Decodes a form-encoded text (RFC 6749, appendix B); `None`: it has a character that every encoder escapes, or a `%`
/// without two hexadecimal digits.
fn form_decoded(text: &str) -> Option<String> {
    let is_unescaped = |c: char| c.is_ascii_alphanumeric() || "+%-._~*!'()".contains(c);
    let is_code = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_encoded = text.chars().all(is_unescaped) && text.split('%').skip(1).all(is_code);
    let mut fields: Vec<(String, String)> =
        serde_urlencoded::from_str(&format!("={text}")).ok().filter(|_| is_encoded)?;
    fields.pop().map(|(_, decoded)| decoded)
}

/// The network of the client that sent this request.
fn client_network(request: &Request) -> ClientNetwork {
    let ClientAddress(client) = request.data().copied().unwrap_or(ClientAddress(Ipv4Addr::UNSPECIFIED.into()));
    client.into()
}

/// 503 for a login before the store was prepared.
fn starting() -> Problem {
    Problem::unavailable("The service is starting. Try again in a moment.")
}

/// Logs a user in by the word of another party.
async fn log_in_externally(request: &Request, login: ExternalLogin) -> Result<Caller, Problem> {
    let services = Services::of(request);
    services.readiness.first_attempt().await;
    // Otherwise, its first token could create a user before the first administrator is added, who then never is.
    if !services.readiness.is_started() {
        return Err(starting());
    }
    Ok(services.external_logins.log_in(login, client_network(request)).await?)
}

/// Logs a user in, if one of these is the password; a failure counts for the client's address.
async fn log_in(request: &Request, user: UserName, passwords: &[Password]) -> Result<Caller, Problem> {
    let pair = ClientAndUser { user, client: client_network(request) };
    let services = Services::of(request);
    services.readiness.first_attempt().await;
    match services.login.log_in(&pair, passwords).await {
        // Until the first administrator was added, a right password looks wrong.
        Err(LoginError::Refused) if !services.readiness.is_started() => Err(starting()),
        result => Ok(result?.into()),
    }
}

/// Logs a user in with the JWT of a trusted issuer. Also returns what the JWT says. `None`: it is not of one.
pub(super) async fn log_in_with_issuer_jwt(
    request: &Request,
    jwt: &str,
) -> Result<Option<(Caller, Arc<Admission>)>, Problem> {
    let identified = Services::of(request).issuers.identify(jwt, client_network(request)).await?;
    let Some(admission) = identified else { return Ok(None) };
    let caller = log_in_externally(request, (&*admission).into()).await?;
    Ok(Some((caller, admission)))
}

impl<'a> Identity<'a> {
    /// Logs the user of a request in, unless it presents a token.
    async fn of(request: &'a Request) -> Result<Self, Problem> {
        match Credentials::of(request)? {
            Credentials::Basic(name, passwords) => Ok(Self::User(log_in(request, name, &passwords).await?)),
            Credentials::Bearer(jwt) => Ok(match log_in_with_issuer_jwt(request, jwt).await? {
                Some((caller, _)) => Self::User(caller),
                None => Self::Token(jwt),
            }),
            Credentials::Proxy(login) => Ok(Self::User(log_in_externally(request, login).await?)),
        }
    }
}

impl BasicUser {
    async fn of(request: &Request) -> Result<Self, Problem> {
        match Identity::of(request).await? {
            Identity::User(caller) => Ok(Self(caller)),
            Identity::Token(jwt) => {
                // Only a live token gets 403, any other 401.
                Services::of(request).tokens.verify(jwt).await?;
                Err(password_required())
            }
        }
    }
}

impl Administrator {
    async fn of(request: &Request) -> Result<Self, Problem> {
        let BasicUser(caller) = BasicUser::of(request).await?;
        if caller.is_administrator() { Ok(Self(caller)) } else { Err(Problem::administrators_only()) }
    }
}

impl BearerToken {
    async fn of(request: &Request) -> Result<Self, Problem> {
        match Identity::of(request).await? {
            Identity::Token(jwt) => Ok(Self(jwt.into())),
            Identity::User(_) => Err(token_required()),
        }
    }
}

impl BasicOrBearerUser {
    /// The caller of this request. 401 for a live token whose owner is disabled.
    pub(super) async fn of(request: &Request) -> Result<Self, Problem> {
        let services = Services::of(request);
        let caller = match Identity::of(request).await? {
            Identity::User(caller) => caller,
            Identity::Token(jwt) => {
                let presented = services.tokens.verify(jwt).await?;
                let user =
                    services.login.find_enabled_user(&presented.signed.owner).await?.ok_or_else(invalid_token)?;
                services.tokens.record_use(&presented);
                user.into()
            }
        };
        Ok(Self(caller))
    }
}

/// Implements poem-openapi's extractor for a type by its function `of`. The OpenAPI document lists these security
/// schemes for the operations that take it.
macro_rules! extractor {
    ($type:ident: $($scheme:ident),+) => {
        impl<'a> ApiExtractor<'a> for $type {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn security_schemes() -> Vec<&'static str> {
                vec![$(Scheme::$scheme.as_str()),+]
            }

            async fn from_request(
                request: &'a Request,
                _: &mut RequestBody,
                _: ExtractParamOptions<()>,
            ) -> Result<Self> {
                Ok(Self::of(request).await?)
            }
        }
    };
}

extractor!(BasicUser: Basic);
extractor!(Administrator: Basic);
extractor!(BearerToken: Bearer);
extractor!(BasicOrBearerUser: Basic, Bearer);

/// A scheme of HTTP authentication, described in `openapi_overlay.yaml`.
#[derive(Clone, Copy)]
pub(super) enum Scheme {
    /// A name and a password (RFC 7617).
    Basic,
    /// A token (RFC 6750).
    Bearer,
}

impl Scheme {
    const ALL: [Self; 2] = [Self::Basic, Self::Bearer];

    fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
        }
    }
}

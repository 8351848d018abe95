//! `/oauth2` and `/.well-known`: introspection (RFC 7662), revocation (RFC 7009), authorization server metadata
//! (RFC 8414) and public keys (RFC 7517).

use std::sync::Arc;

use poem::{Request, web::Data};
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    attributes::IntrospectedAttributes,
    auth::BasicOrBearerUser,
    changes::age_ms,
    client_address::TrustedProxies,
    payload::{Form, Json},
    problem::Problem,
    services::Services,
    tags::Tag,
    token_exchange::GRANT_TYPE,
};
#[cfg(doc)]
use crate::domain::key_rotation;
use crate::{domain::jwk::PublicJwk, service::tokens::VerifyError, store::leased::ActiveToken};

/// The path of the metadata.
pub(super) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// Caches keep the public keys for 300 s. A new key is published for longer than that before it signs
/// ([`key_rotation::PUBLISHED_BEFORE_SIGNING`]).
const KEYS_CACHE_CONTROL: &str = "public, max-age=300";

/// The operations for the services that receive tokens.
pub(super) struct OAuthApi;

/// A token to introspect or to revoke.
#[derive(Deserialize, Object)]
struct TokenForm {
    /// The JWT alone, without `Bearer` and quotes. White space and a byte order mark around it are ignored.
    token: String,
    /// Ignored: the service has one type of token.
    token_type_hint: Option<String>,
}

/// The state of a token.
#[derive(Default, Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct IntrospectionResponse {
    /// Whether the token is live. Otherwise, this is the only member.
    active: bool,
    /// The name of its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// The same as `username`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// When it was issued, in seconds since 1970 (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// When it expires, in seconds since 1970 (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// Its issuer, if one is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    /// `Bearer`
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
    /// The time in milliseconds since the token was known to be live, at most: since this replica asked Redis for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    #[serde(flatten)]
    #[oai(flatten)]
    attributes: IntrospectedAttributes,
}

/// The public keys as a JWK Set.
#[derive(Serialize, Object)]
struct PublicKeys {
    /// Empty if all keys are symmetric.
    keys: Vec<PublicKey>,
}

/// A public key as a JWK.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct PublicKey {
    /// `OKP` or `EC`
    kty: String,
    /// `Ed25519` or `P-256`
    crv: String,
    /// The key (`OKP`), or its x coordinate (`EC`).
    x: String,
    /// The y coordinate (`EC`).
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    /// `sig`
    r#use: String,
    /// `EdDSA` or `ES256`
    alg: String,
    /// The id of the key in the headers of tokens.
    kid: String,
}

/// The authorization server metadata: the URLs of the endpoints.
#[derive(Serialize, Object)]
struct Metadata {
    /// The configured issuer, if it is a URL; otherwise the origin of this request.
    issuer: String,
    /// The URL of the public keys.
    jwks_uri: String,
    /// The URL where a JWT of a trusted issuer is exchanged for a token.
    token_endpoint: String,
    /// `none`: the JWT is enough.
    token_endpoint_auth_methods_supported: Vec<String>,
    /// The exchange of tokens (RFC 8693).
    grant_types_supported: Vec<String>,
    /// The URL of introspection.
    introspection_endpoint: String,
    /// How its callers authenticate.
    introspection_endpoint_auth_methods_supported: Vec<String>,
    /// The URL of revocation.
    revocation_endpoint: String,
    /// `none`: presenting the token is enough.
    revocation_endpoint_auth_methods_supported: Vec<String>,
    /// `none`: there is no authorization endpoint. RFC 8414 requires the member and forbids an empty array.
    response_types_supported: Vec<String>,
    /// The URL of the documentation page.
    service_documentation: String,
}

/// 200 with the public keys, which caches may keep.
#[derive(ApiResponse)]
enum KeysResponse {
    /// The public keys.
    #[oai(status = 200)]
    Ok(
        Json<PublicKeys>,
        /// How long the keys may be cached. A new key is published for longer before it signs.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

/// The only success: 200, without a body.
#[derive(ApiResponse)]
enum RevocationResponse {
    /// The token is not live, whether or not it was before.
    #[oai(status = 200)]
    Ok,
}

#[OpenApi(tag = "Tag::Services")]
impl OAuthApi {
    /// Introspect a token
    ///
    /// The owner of a live token, introspectors and administrators get its claims. Any other caller, and a token that
    /// is not live, gets `{"active":false}` (RFC 7662).
    #[oai(path = "/oauth2/introspect", method = "post", operation_id = "introspectToken")]
    async fn introspect(
        &self,
        services: Data<&Arc<Services>>,
        request: &Request,
        BasicOrBearerUser(_caller): BasicOrBearerUser,
        form: Form<TokenForm>,
    ) -> Result<Json<IntrospectionResponse>, Problem> {
        // Authenticated again: the user may have changed while the form arrived.
        let BasicOrBearerUser(user) = BasicOrBearerUser::of(request).await?;
        let introspection = services.tokens.introspect(&user, form.0.bare_token()?).await?;
        let issuer = services.issuer.clone();
        Ok(Json(introspection.map(|token| IntrospectionResponse::active(&token, issuer)).unwrap_or_default()))
    }

    /// Revoke a token that you hold
    ///
    /// Needs no login: presenting the token is enough. A token that is not live gets the same answer (RFC 7009). After
    /// the 200, no replica accepts the token again.
    #[oai(path = "/oauth2/revoke", method = "post", operation_id = "revokePresentedToken")]
    async fn revoke(
        &self,
        services: Data<&Arc<Services>>,
        form: Form<TokenForm>,
    ) -> Result<RevocationResponse, Problem> {
        match services.tokens.revoke_presented(form.0.bare_token()?).await {
            Ok(()) | Err(VerifyError::Invalid | VerifyError::Expired | VerifyError::Revoked) => {
                Ok(RevocationResponse::Ok)
            }
            Err(VerifyError::Store(error)) => Err(error.into()),
        }
    }

    /// Get the public keys
    ///
    /// With them, other services can verify the signature of a token, but not whether it was revoked. Symmetric keys
    /// are not included.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "publicKeys")]
    async fn public_keys(&self, services: Data<&Arc<Services>>) -> Result<KeysResponse, Problem> {
        let keys = services.keys.current_keys().set.public_keys().into_iter().map(Into::into).collect();
        Ok(KeysResponse::Ok(Json(PublicKeys { keys }), KEYS_CACHE_CONTROL.into()))
    }

    /// Get the URLs of OAuth's endpoints
    ///
    /// If the configured issuer is a URL with a path, the metadata are also at this path with the issuer's appended
    /// (RFC 8414, section 3.1): for `https://tokens.example/shop`, at `/.well-known/oauth-authorization-server/shop`.
    #[oai(path = "/.well-known/oauth-authorization-server", method = "get", operation_id = "metadata")]
    async fn metadata(
        &self,
        services: Data<&Arc<Services>>,
        proxies: Data<&Arc<TrustedProxies>>,
        request: &Request,
    ) -> Result<Json<Metadata>, Problem> {
        // Without an issuer that is a URL, the endpoints' URLs begin like that of this request.
        let issuer = services.issuer.clone().filter(|issuer| without_scheme(issuer).is_some());
        let is_authority = |host: &&str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        let host = request.header("host").filter(is_authority).unwrap_or("localhost");
        let scheme = if proxies.is_https(request) { "https" } else { "http" };
        Ok(Json(Metadata::for_issuer(&issuer.unwrap_or_else(|| format!("{scheme}://{host}")))))
    }
}

impl TokenForm {
    /// The token without white space and a byte order mark around it. 400 for characters that no bearer token has (RFC
    /// 6750, section 2.1): to `Bearer` before a token or quotes around it, RFC 7009 answers 200, and the client would
    /// believe its token revoked.
    fn bare_token(&self) -> Result<&str, Problem> {
        let token = self.token.trim_matches([' ', '\t', '\r', '\n', '\u{feff}']);
        let is_bare = token.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/=".contains(c));
        let error = || Problem::bad_request("token: send the token alone, without \"Bearer\" and without quotes.");
        is_bare.then_some(token).ok_or_else(error)
    }
}

/// The issuer without its scheme, if it is a URL.
fn without_scheme(issuer: &str) -> Option<&str> {
    ["https://", "http://"].into_iter().find_map(|scheme| issuer.strip_prefix(scheme))
}

/// The path of the metadata for an issuer with a path (RFC 8414, section 3.1), besides [`METADATA_PATH`].
pub(super) fn issuer_metadata_path(issuer: &str) -> Option<String> {
    let (_, path) = without_scheme(issuer)?.trim_end_matches('/').split_once('/')?;
    Some(format!("{METADATA_PATH}/{path}"))
}

impl Metadata {
    fn for_issuer(issuer: &str) -> Self {
        let base = issuer.trim_end_matches('/');
        Self {
            issuer: issuer.into(),
            jwks_uri: format!("{base}/.well-known/jwks.json"),
            token_endpoint: format!("{base}/oauth2/token"),
            token_endpoint_auth_methods_supported: vec!["none".into()],
            grant_types_supported: vec![GRANT_TYPE.into()],
            introspection_endpoint: format!("{base}/oauth2/introspect"),
            introspection_endpoint_auth_methods_supported: vec!["client_secret_basic".into(), "Bearer".into()],
            revocation_endpoint: format!("{base}/oauth2/revoke"),
            revocation_endpoint_auth_methods_supported: vec!["none".into()],
            response_types_supported: vec!["none".into()],
            service_documentation: format!("{base}/docs"),
        }
    }
}

impl IntrospectionResponse {
    fn active(token: &ActiveToken, issuer: Option<String>) -> Self {
        let signed = &token.signed;
        let owner = signed.owner.to_string();
        Self {
            active: true,
            username: Some(owner.clone()),
            sub: Some(owner),
            jti: Some(signed.id.to_string()),
            iat: Some(signed.validity.issued_at()),
            exp: Some(signed.validity.expires_at()),
            iss: issuer,
            token_type: Some("Bearer".into()),
            age_ms: Some(age_ms(token.age())),
            attributes: IntrospectedAttributes::from(&*token.attributes),
        }
    }
}

impl From<PublicJwk> for PublicKey {
    fn from(PublicJwk { kty, crv, x, y, alg, kid }: PublicJwk) -> Self {
        Self { kty, crv, x, y, r#use: "sig".into(), alg, kid }
    }
}

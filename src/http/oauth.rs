//! `/oauth2` and what leads there: introspection (RFC 7662), revocation (RFC 7009), and the metadata and public keys that
//! a client finds them by (RFC 8414, RFC 7517).

use std::sync::Arc;

use poem::{Request, web::Data};
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    auth::BasicOrBearerUser,
    client_address::TrustedProxies,
    payload::{Form, Json},
    problem::Problem,
    services::Services,
    tags::Tag,
};
#[cfg(doc)]
use crate::domain::key_rotation;
use crate::{
    domain::{jwk::PublicJwk, token::SignedToken},
    service::tokens::VerifyError,
};

/// Where the metadata are.
pub(super) const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// For how long the public keys may be cached. A new key is published for longer before it signs
/// ([`key_rotation::PUBLISHED_BEFORE_SIGNING`]).
const KEYS_CACHE_CONTROL: &str = "public, max-age=300";

/// The operations of OAuth.
pub(super) struct OAuthApi;

/// A token, to ask about or to revoke.
#[derive(Deserialize, Object)]
struct TokenForm {
    /// The JWT. White space around it is ignored.
    token: String,
    /// Ignored: there is one kind of token here.
    token_type_hint: Option<String>,
}

/// What there is to know of a token.
#[derive(Default, Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct IntrospectionResponse {
    /// Whether it is live. Nothing else is said of one that is not.
    active: bool,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// When it was issued, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// When it dies, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// Who issued it, where that is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    /// `Bearer`
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
}

/// The public keys: a JWK Set.
#[derive(Serialize, Object)]
struct PublicKeys {
    /// Empty, where all keys are symmetric.
    keys: Vec<PublicKey>,
}

/// A public key: a JWK.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct PublicKey {
    /// `OKP` or `EC`
    kty: String,
    /// `Ed25519` or `P-256`
    crv: String,
    /// The key, or a coordinate of it.
    x: String,
    /// The other coordinate.
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    /// `sig`
    r#use: String,
    /// `EdDSA` or `ES256`
    alg: String,
    /// The name that the headers of tokens refer to.
    kid: String,
}

/// Where the endpoints are.
#[derive(Serialize, Object)]
struct Metadata {
    /// The configured issuer, if it is a URL, or where this was asked for.
    issuer: String,
    /// The public keys.
    jwks_uri: String,
    /// Introspection.
    introspection_endpoint: String,
    /// How its callers say who they are.
    introspection_endpoint_auth_methods_supported: Vec<String>,
    /// Revocation.
    revocation_endpoint: String,
    /// Holding the token is enough.
    revocation_endpoint_auth_methods_supported: Vec<String>,
    /// `none`: tokens are issued at `/api/v1alpha/token`. RFC 8414 wants the member, and no empty array.
    response_types_supported: Vec<String>,
    /// For people.
    service_documentation: String,
}

#[derive(ApiResponse)]
enum KeysResponse {
    /// The keys, which anybody may know and cache.
    #[oai(status = 200)]
    Ok(
        Json<PublicKeys>,
        /// For how long they may be cached: a new key is published before it signs.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

#[derive(ApiResponse)]
enum RevocationResponse {
    /// The token is live no more, if it ever was.
    #[oai(status = 200)]
    Ok,
}

#[OpenApi(tag = "Tag::Services")]
impl OAuthApi {
    /// Introspect a token
    ///
    /// Tells those who may know (the owner, introspectors, administrators) what there is to know of a live token, and
    /// nothing but `{"active":false}` otherwise (RFC 7662).
    #[oai(path = "/oauth2/introspect", method = "post", operation_id = "introspectToken")]
    async fn introspect(
        &self,
        services: Data<&Arc<Services>>,
        request: &Request,
        BasicOrBearerUser(_caller): BasicOrBearerUser,
        form: Form<TokenForm>,
    ) -> Result<Json<IntrospectionResponse>, Problem> {
        // Once more, for the form may have taken its time.
        let BasicOrBearerUser(user) = BasicOrBearerUser::of(request).await?;
        let introspection = services.tokens.introspect(&user, form.0.token.trim()).await?;
        let issuer = services.issuer.clone();
        Ok(Json(introspection.map(|signed| IntrospectionResponse::active(&signed, issuer)).unwrap_or_default()))
    }

    /// Revoke a token that one holds
    ///
    /// Holding it is the right to revoke it. The answer is the same for a token that is not live (RFC 7009). Once it is
    /// there, no replica accepts the token again.
    #[oai(path = "/oauth2/revoke", method = "post", operation_id = "revokePresentedToken")]
    async fn revoke(
        &self,
        services: Data<&Arc<Services>>,
        form: Form<TokenForm>,
    ) -> Result<RevocationResponse, Problem> {
        match services.tokens.revoke_presented(form.0.token.trim()).await {
            Ok(()) | Err(VerifyError::Invalid | VerifyError::Expired | VerifyError::Revoked) => {
                Ok(RevocationResponse::Ok)
            }
            Err(VerifyError::Store(error)) => Err(error.into()),
        }
    }

    /// The public keys
    ///
    /// With which others can verify a signature by themselves, though not whether the token was revoked. A symmetric key is
    /// not among them.
    #[oai(path = "/.well-known/jwks.json", method = "get", operation_id = "publicKeys")]
    async fn public_keys(&self, services: Data<&Arc<Services>>) -> Result<KeysResponse, Problem> {
        let keys = services.keys.current_keys().set.public().into_iter().map(Into::into).collect();
        Ok(KeysResponse::Ok(Json(PublicKeys { keys }), KEYS_CACHE_CONTROL.into()))
    }

    /// Where the endpoints of OAuth are
    ///
    /// Where the configured issuer is a URL with a path, they are also found with that path at the end (RFC 8414, section
    /// 3.1): `https://tokens.example/shop` at `/.well-known/oauth-authorization-server/shop`.
    #[oai(path = "/.well-known/oauth-authorization-server", method = "get", operation_id = "metadata")]
    async fn metadata(
        &self,
        services: Data<&Arc<Services>>,
        proxies: Data<&Arc<TrustedProxies>>,
        request: &Request,
    ) -> Result<Json<Metadata>, Problem> {
        // An issuer that is no URL is a name, and leads nowhere; a client knows then by itself where it asks.
        let issuer = services.issuer.clone().filter(|issuer| behind_scheme(issuer).is_some());
        let is_authority = |host: &&str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        let host = request.header("host").filter(is_authority).unwrap_or("localhost");
        let scheme = if proxies.is_https(request) { "https" } else { "http" };
        Ok(Json(Metadata::at(&issuer.unwrap_or_else(|| format!("{scheme}://{host}")))))
    }
}

/// An issuer without its scheme, where it is a URL.
fn behind_scheme(issuer: &str) -> Option<&str> {
    ["https://", "http://"].into_iter().find_map(|scheme| issuer.strip_prefix(scheme))
}

/// Where the metadata of an issuer with a path are, beside [`METADATA_PATH`] (RFC 8414, section 3.1).
pub(super) fn further_metadata_path(issuer: &str) -> Option<String> {
    let (_, path) = behind_scheme(issuer)?.trim_end_matches('/').split_once('/')?;
    Some(format!("{METADATA_PATH}/{path}"))
}

impl Metadata {
    fn at(issuer: &str) -> Self {
        let base = issuer.trim_end_matches('/');
        Self {
            issuer: issuer.into(),
            jwks_uri: format!("{base}/.well-known/jwks.json"),
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
    fn active(signed: &SignedToken, issuer: Option<String>) -> Self {
        let owner = signed.owner.to_string();
        Self {
            active: true,
            username: Some(owner.clone()),
            sub: Some(owner),
            jti: Some(signed.id.to_string()),
            iat: Some(signed.issued_at),
            exp: Some(signed.expires_at),
            iss: issuer,
            token_type: Some("Bearer".into()),
        }
    }
}

impl From<PublicJwk> for PublicKey {
    fn from(PublicJwk { kty, crv, x, y, alg, kid }: PublicJwk) -> Self {
        Self { kty, crv, x, y, r#use: "sig".into(), alg, kid }
    }
}

//! `/api/v1alpha/token`: issue, list, inspect, rotate and revoke tokens.
//!
//! Clients depend on each path, field and message here: `tests/api/token.rs` compares them letter for letter.
//! The examples of the OpenAPI document are in `openapi_overlay.yaml`.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use poem::{http::StatusCode, web::Data};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    attributes::{self, TokenAttributes},
    auth::{BasicUser, BearerToken},
    param::{AllTokens, OptionalHeader, PageLimit, Param, next_page_link},
    paths::TOKENS,
    payload::{Created, Json, OptionalJson, Paged, not_null},
    problem::Problem,
    services::Services,
    tags::Tag,
};
use crate::{
    domain::{
        idempotency::IdempotencyKey,
        listing::{Listing, PageRequest},
        token::{InspectedToken, TokenId, TokenIdError},
        user::UserName,
    },
    service::{
        Actor,
        idempotency::IdempotencyError,
        tokens::{IssueError, IssuedToken, RotateError, TooLong},
    },
};

/// The operations on tokens.
pub(super) struct TokenApi;

/// A request for a new token.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the API's contract has these names")]
struct TokenRequest {
    /// Its description: 1 to 256 characters once trimmed, no control characters. Need not be unique.
    jwt_token_description: String,
    /// How long it lives, in up to 64 characters: `6 hours`, `90m`, `1h 30m`, `30 days`, `1week 2days`. Whole seconds,
    /// from 1 second to the configured maximum (1 year by default).
    jwt_token_life: String,
    /// What it may be used for: scopes of RFC 6749, section 3.3, at most 1024 bytes in all with a space between two.
    #[serde(default, deserialize_with = "not_null")]
    jwt_token_scopes: Option<Vec<String>>,
    /// The services that it is for. Without any, it is accepted where no audience is demanded.
    #[serde(default, deserialize_with = "not_null")]
    jwt_token_audiences: Option<Vec<String>>,
    /// The networks (CIDR) and addresses that it may be used from. Without any, it may be used from everywhere.
    #[serde(default, deserialize_with = "not_null")]
    jwt_token_networks: Option<Vec<String>>,
}

/// A new token. Its JWT is in this answer only: it is stored nowhere.
#[derive(Serialize, Object)]
struct TokenIssued {
    /// `Token generated`
    message: String,
    /// The id of the token, a UUID.
    jwt_token_id: String,
    /// The JWT.
    jwt_token: String,
    /// Its description.
    jwt_token_description: String,
    /// Its life in seconds.
    jwt_token_life: u64,
}

/// The live tokens of a user.
#[derive(Serialize, Object)]
pub(super) struct TokenList {
    /// `Tokens exists`, or `No tokens exist`.
    message: String,
    /// By id, newest first.
    jwt_tokens: BTreeMap<ListedId, TokenSummary>,
}

/// A live token in a list.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct TokenSummary {
    /// Its description.
    jwt_token_description: String,
    /// Its whole life in seconds.
    jwt_token_life: u64,
    /// Its remaining life in seconds.
    jwt_token_remaining_life: f64,
    #[serde(flatten)]
    #[oai(flatten)]
    attributes: TokenAttributes,
    /// When a service last accepted it, in seconds since 1970 (UTC), at most 60 s late. Missing if none ever did.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_token_last_used: Option<u64>,
}

/// A live token.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct TokenDetails {
    /// `Tokens exists`
    message: String,
    /// Its description.
    jwt_token_description: String,
    /// Its whole life in seconds.
    jwt_token_life: u64,
    /// Its remaining life in seconds.
    jwt_token_life_remaining: f64,
    /// `Valid`: any other token is answered with 404.
    expiry_status: String,
    #[serde(flatten)]
    #[oai(flatten)]
    attributes: TokenAttributes,
    /// When a service last accepted it, in seconds since 1970 (UTC), at most 60 s late. Missing if none ever did.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_token_last_used: Option<u64>,
}

/// A token was revoked.
#[derive(Serialize, Object)]
pub(super) struct TokenDeleted {
    /// `Token deleted`
    message: String,
}

/// Options of a rotation.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    /// How long the rotated token lives on beside its successor: whole seconds, in up to 64 characters such as `24
    /// hours`. It never outlives its own life.
    overlap: Option<String>,
}

/// All tokens of the user were revoked.
#[derive(Serialize, Object)]
pub(super) struct TokensDeleted {
    /// `Tokens deleted`
    message: String,
    /// The number of tokens revoked.
    jwt_tokens_deleted: u64,
}

#[OpenApi(prefix_path = "/api/v1alpha/token", tag = "Tag::Tokens")]
impl TokenApi {
    /// Issue a token
    ///
    /// The JWT is in this answer only. After a lost answer or a 503, send the same request with the same
    /// `Idempotency-Key` again.
    #[oai(path = "/", method = "post", operation_id = "issueToken")]
    async fn issue(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// A text of your choice, new for each token, such as a UUID; 1 to 255 visible ASCII characters, with or
        /// without quotes. The same request with the same key within 24 hours, or within the token's life if that is
        /// shorter, issues no second token: the answer has the same token and JWT. Another request with the key is
        /// answered with 422; 409 names the token if it is gone, or if its JWT cannot be signed again (ES256).
        #[oai(name = "Idempotency-Key")]
        key: OptionalHeader<IdempotencyKey>,
        request: Json<TokenRequest>,
    ) -> Result<Created<TokenIssued>, Problem> {
        let Json(TokenRequest {
            jwt_token_description: description,
            jwt_token_life: life,
            jwt_token_scopes: scopes,
            jwt_token_audiences: audiences,
            jwt_token_networks: networks,
        }) = request;
        let key = key.parsed()?;
        let attributes = attributes::parse(scopes, audiences, networks)?;
        Ok(services.tokens.issue(&user, &description, &life, attributes, key).await?.into())
    }

    /// List your tokens
    ///
    /// Newest first. Without `limit`, all of them.
    #[oai(path = "/", method = "get", operation_id = "listTokens")]
    async fn list(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// The most tokens on the page; without it, all tokens.
        limit: Query<Option<Param<PageLimit>>>,
        /// The page begins after this live token.
        after: Query<Option<String>>,
    ) -> Result<Paged<TokenList>, Problem> {
        list_page(&services, &user.name, TOKENS, limit.0, after.0).await
    }

    /// Inspect a token
    #[oai(path = "/:id", method = "get", operation_id = "inspectToken")]
    async fn inspect(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// The token's id.
        id: Path<Param<TokenId>>,
    ) -> Result<Json<TokenDetails>, Problem> {
        let id = id.0.parsed()?;
        let found = services.tokens.inspect(&user.name, id).await?.ok_or_else(Problem::no_such_token)?;
        Ok(Json(found.into()))
    }

    /// Revoke a token
    ///
    /// After the 200, no replica accepts the token again.
    #[oai(path = "/:id", method = "delete", operation_id = "revokeToken")]
    async fn revoke(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// The token's id.
        id: Path<Param<TokenId>>,
    ) -> Result<Json<TokenDeleted>, Problem> {
        let (owner, id) = (user.name.clone(), id.0.parsed()?);
        let revoked = services.tokens.revoke(Actor::User(user), &owner, id).await?;
        revoked.then(TokenDeleted::new).ok_or_else(Problem::no_such_token)
    }

    /// Revoke all your tokens
    ///
    /// After the 200, no replica accepts any of them again.
    #[oai(path = "/", method = "delete", operation_id = "revokeTokens")]
    async fn revoke_all(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// Must be `true`: a path whose id was left empty by mistake would otherwise revoke all tokens.
        all: Query<Param<AllTokens>>,
    ) -> Result<Json<TokensDeleted>, Problem> {
        let AllTokens = all.0.parsed()?;
        let owner = user.name.clone();
        Ok(TokensDeleted::new(services.tokens.revoke_all(Actor::User(user), &owner).await?))
    }

    /// Rotate a token
    ///
    /// Issues a successor with the same description, life, scopes, audiences and networks. The rotated token expires
    /// after the overlap, by default at once, and cannot be rotated again. After a lost answer or a 503, send the same
    /// request with the same `Idempotency-Key` again. Without one, list the tokens and rotate the successor, if there
    /// is one; with an overlap, the rotated token still works meanwhile.
    #[oai(path = "/:id/rotate", method = "post", operation_id = "rotateToken")]
    async fn rotate(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// The token's id.
        id: Path<Param<TokenId>>,
        /// A text of your choice, new for each rotation, such as a UUID; 1 to 255 visible ASCII characters, with or
        /// without quotes. The same request with the same key within 24 hours, or within the successor's life if that
        /// is shorter, rotates nothing: the answer has the same successor and JWT. Another request with the key is
        /// answered with 422; 409 names the successor if it is gone, or if its JWT cannot be signed again (ES256).
        #[oai(name = "Idempotency-Key")]
        key: OptionalHeader<IdempotencyKey>,
        request: OptionalJson<RotateRequest>,
    ) -> Result<Created<TokenIssued>, Problem> {
        let OptionalJson(RotateRequest { overlap }) = request;
        let (id, key) = (id.0.parsed()?, key.parsed()?);
        Ok(services.tokens.rotate(&user, id, overlap.as_deref(), key).await?.into())
    }

    /// Inspect the presented token
    #[oai(path = "/self", method = "get", operation_id = "inspectSelf")]
    async fn inspect_self(
        &self,
        services: Data<&Arc<Services>>,
        BearerToken(jwt): BearerToken,
    ) -> Result<Json<TokenDetails>, Problem> {
        Ok(Json(services.tokens.inspect_presented(jwt.expose_secret()).await?.into()))
    }

    /// Revoke the presented token
    ///
    /// After the 200, no replica accepts the token again.
    #[oai(path = "/self", method = "delete", operation_id = "revokeSelf")]
    async fn revoke_self(
        &self,
        services: Data<&Arc<Services>>,
        BearerToken(jwt): BearerToken,
    ) -> Result<Json<TokenDeleted>, Problem> {
        services.tokens.revoke_presented(jwt.expose_secret()).await?;
        Ok(TokenDeleted::new())
    }
}

/// 404 for a page after a token that is not live: unknown, expired and revoked ones get the same answer.
pub(super) fn no_such_page() -> Problem {
    Problem::not_found("after: there is no such token (any more). Begin with the first page.")
}

/// A page of the tokens of `owner`; `path` is that of the list, for the link to the next page.
pub(super) async fn list_page(
    services: &Services,
    owner: &UserName,
    path: &str,
    limit: Option<Param<PageLimit>>,
    after: Option<String>,
) -> Result<Paged<TokenList>, Problem> {
    let after = after.map(|id| id.parse()).transpose().map_err(|_| no_such_page())?;
    let limit = limit.map(Param::parsed).transpose()?.map(|PageLimit(limit)| limit);
    let listing = services.tokens.list(owner, PageRequest { after, limit }).await?.ok_or_else(no_such_page)?;
    let last = listing.items.last().filter(|_| listing.more);
    let next = last.zip(limit).map(|(last, limit)| next_page_link(path, limit, &last.token.id.to_string()));
    Ok(Paged::Ok(Json(listing.into()), next))
}

impl TokenDeleted {
    pub(super) fn new() -> Json<Self> {
        Json(Self { message: "Token deleted".into() })
    }
}

impl TokensDeleted {
    pub(super) fn new(jwt_tokens_deleted: u64) -> Json<Self> {
        Json(Self { message: "Tokens deleted".into(), jwt_tokens_deleted })
    }
}

impl From<IssuedToken> for Created<TokenIssued> {
    fn from(issued: IssuedToken) -> Self {
        let location = format!("{TOKENS}/{}", issued.token.id);
        Self::Created(Json(issued.into()), location)
    }
}

impl From<IssuedToken> for TokenIssued {
    fn from(IssuedToken { jwt, token }: IssuedToken) -> Self {
        Self {
            message: "Token generated".into(),
            jwt_token_id: token.id.to_string(),
            jwt_token: jwt.expose_secret().into(),
            jwt_token_description: token.description.into(),
            jwt_token_life: token.life.seconds(),
        }
    }
}

impl From<Listing<InspectedToken>> for TokenList {
    fn from(listing: Listing<InspectedToken>) -> Self {
        let message = if listing.items.is_empty() { "No tokens exist" } else { "Tokens exists" };
        let entry = |(position, InspectedToken { token, remaining, last_used })| {
            let summary = TokenSummary {
                jwt_token_description: token.description.into(),
                jwt_token_life: token.life.seconds(),
                jwt_token_remaining_life: remaining.as_secs_f64(),
                attributes: TokenAttributes::from(&*token.attributes),
                jwt_token_last_used: last_used,
            };
            (ListedId { position, id: token.id }, summary)
        };
        Self { message: message.into(), jwt_tokens: listing.items.into_iter().enumerate().map(entry).collect() }
    }
}

impl From<InspectedToken> for TokenDetails {
    fn from(InspectedToken { token, remaining, last_used }: InspectedToken) -> Self {
        Self {
            message: "Tokens exists".into(),
            jwt_token_description: token.description.into(),
            jwt_token_life: token.life.seconds(),
            jwt_token_life_remaining: remaining.as_secs_f64(),
            expiry_status: "Valid".into(),
            attributes: TokenAttributes::from(&*token.attributes),
            jwt_token_last_used: last_used,
        }
    }
}

/// The id of a token in a list, sorted by its position: poem-openapi has no map that keeps the order of insertion.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ListedId {
    position: usize,
    id: TokenId,
}

impl Serialize for ListedId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.id)
    }
}

impl fmt::Display for ListedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl FromStr for ListedId {
    type Err = TokenIdError;

    fn from_str(id: &str) -> Result<Self, TokenIdError> {
        Ok(Self { position: 0, id: id.parse()? })
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Life(error) => Self::bad_request(format!("jwt_token_life: {error}.")),
            IssueError::Description(error) => Self::bad_request(format!("jwt_token_description: {error}.")),
            IssueError::Scope(error) => Self::bad_request(format!("jwt_token_scopes: {error}.")),
            IssueError::TooLong(error) => too_long(error),
            IssueError::QuotaReached(quota) => quota_reached(quota),
            IssueError::Idempotency(error) => error.into(),
            IssueError::Store(error) => error.into(),
        }
    }
}

impl From<RotateError> for Problem {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Overlap(error) => Self::bad_request(format!("overlap: {error}.")),
            RotateError::FractionOfOverlap => Self::bad_request(format!("overlap: {error}.")),
            RotateError::Scope(error) => {
                Self::new(StatusCode::FORBIDDEN, format!("{error}: issue a new token instead."))
            }
            RotateError::Life(error) => Self::new(
                StatusCode::FORBIDDEN,
                format!("The life of this token, and so of its successor, {error}: issue a new token instead."),
            ),
            RotateError::NoSuchToken => Self::no_such_token(),
            RotateError::AlreadyRotated(Some(successor)) => {
                Self::conflict(format!("This token was rotated before. Its successor is {successor}: rotate that."))
            }
            RotateError::AlreadyRotated(None) => {
                Self::conflict("This token was rotated in this moment. List the tokens to find out.")
            }
            RotateError::TooLong(error) => too_long(error),
            RotateError::QuotaReached(quota) => quota_reached(quota),
            RotateError::Idempotency(error) => error.into(),
            RotateError::Store(error) => error.into(),
        }
    }
}

/// 422 for another request; 409 where the token of the key is gone or its JWT cannot be answered again.
impl From<IdempotencyError> for Problem {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::OtherRequest => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used for another request. Use a new key for each request.",
            ),
            IdempotencyError::TokenGone(id) => Self::conflict(format!(
                "This Idempotency-Key was used for the token {id}, which was revoked or rotated, or has expired. Use a \
                 new key for another token."
            )),
            IdempotencyError::NotSignedAgain(id) => Self::conflict(format!(
                "This Idempotency-Key was used for the token {id}, whose JWT cannot be shown again. Revoke it, and use \
                 a new key for another token."
            )),
            IdempotencyError::TooManyKeys(kept) => Self::conflict(format!(
                "You have used {kept} Idempotency-Keys, as many as are kept. Wait until one expires, which takes at \
                 most 24 hours, or send none."
            )),
        }
    }
}

/// 400: the JWT would be too long to be presented.
fn too_long(error: TooLong) -> Problem {
    Problem::bad_request(format!("The token would be too long: {error}."))
}

/// 409: the user has as many live tokens as allowed.
fn quota_reached(quota: usize) -> Problem {
    Problem::conflict(format!(
        "You have {quota} live tokens, as many as allowed. Delete one or wait until one expires."
    ))
}

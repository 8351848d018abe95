//! `/api/v1alpha/user/{name}/token`: administrators list and revoke the tokens of any user.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use super::{
    auth::Administrator,
    param::{AllTokens, PageLimit, Param},
    paths::USERS,
    payload::{Json, Paged},
    problem::Problem,
    services::Services,
    tags::Tag,
    token::{TokenDeleted, TokenList, TokensDeleted, list_page},
};
use crate::{
    domain::{token::TokenId, user::UserName},
    service::Actor,
};

/// The operations on the tokens of any user.
pub(super) struct UserTokenApi;

#[OpenApi(prefix_path = "/api/v1alpha/user", tag = "Tag::Users")]
impl UserTokenApi {
    /// List a user's tokens
    ///
    /// Newest first. Without `limit`, all of them.
    #[oai(path = "/:name/token", method = "get", operation_id = "listUserTokens")]
    async fn list(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(_actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        /// The most tokens on the page; without it, all tokens.
        limit: Query<Option<Param<PageLimit>>>,
        /// The page begins after this live token.
        after: Query<Option<String>>,
    ) -> Result<Paged<TokenList>, Problem> {
        let name = known_user(&services, name.0).await?;
        list_page(&services, &name, &format!("{USERS}/{name}/token"), limit.0, after.0).await
    }

    /// Revoke all of a user's tokens
    ///
    /// After the 200, no replica accepts any of them again.
    #[oai(path = "/:name/token", method = "delete", operation_id = "revokeUserTokens")]
    async fn revoke_all(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        /// Must be `true`: a path whose id was left empty by mistake would otherwise revoke all tokens.
        all: Query<Param<AllTokens>>,
    ) -> Result<Json<TokensDeleted>, Problem> {
        let AllTokens = all.0.parsed()?;
        let name = known_user(&services, name.0).await?;
        Ok(TokensDeleted::new(services.tokens.revoke_all(Actor::User(actor), &name).await?))
    }

    /// Revoke one of a user's tokens
    ///
    /// After the 200, no replica accepts the token again.
    #[oai(path = "/:name/token/:id", method = "delete", operation_id = "revokeUserToken")]
    async fn revoke(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        /// The token's id.
        id: Path<Param<TokenId>>,
    ) -> Result<Json<TokenDeleted>, Problem> {
        let name = known_user(&services, name.0).await?;
        let revoked = services.tokens.revoke(Actor::User(actor), &name, id.0.parsed()?).await?;
        revoked.then(TokenDeleted::new).ok_or_else(Problem::no_such_token)
    }
}

/// The name, if it is that of a user; 404 otherwise.
pub(super) async fn known_user(services: &Services, name: Param<UserName>) -> Result<UserName, Problem> {
    let name = name.parsed()?;
    services.users.find(&name).await?.map(|user| user.name).ok_or_else(Problem::no_such_user)
}

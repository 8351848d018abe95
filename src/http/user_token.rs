//! `/api/v1alpha/user/{name}/token`: a user's tokens, for administrators.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use super::{
    auth::Administrator,
    param::{All, Limit, Param},
    paths::USERS,
    payload::Json,
    problem::Problem,
    services::Services,
    tags::Tag,
    token::{ListResponse, TokenDeleted, TokensDeleted, next_page, no_such_cursor},
};
use crate::{
    domain::{listing::Page, token::TokenId, user::UserName},
    service::Actor,
};

/// The operations on others' tokens.
pub(super) struct UserTokenApi;

#[OpenApi(prefix_path = "/api/v1alpha/user", tag = "Tag::Users")]
impl UserTokenApi {
    /// List a user's tokens
    ///
    /// Newest first, and all of them unless `limit` says otherwise.
    #[oai(path = "/:name/token", method = "get", operation_id = "listUserTokens")]
    async fn list(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(_actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        /// At most so many.
        limit: Query<Option<Param<Limit>>>,
        /// Begin behind this live token.
        after: Query<Option<String>>,
    ) -> Result<ListResponse, Problem> {
        let name = known_user(&services, name.0).await?;
        let after = after.0.map(|id| id.parse()).transpose().map_err(|_| no_such_cursor())?;
        let limit = limit.0.map(Param::parsed).transpose()?.map(|Limit(limit)| limit);
        let page = Page { after, limit };
        let listing = services.tokens.list(&name, page).await?.ok_or_else(no_such_cursor)?;
        let link = next_page(&format!("{USERS}/{name}/token"), &listing, page.limit);
        Ok(ListResponse::Ok(Json(listing.into()), link))
    }

    /// Revoke all of a user's tokens
    ///
    /// Once this is answered with 200, no replica accepts one of them again.
    #[oai(path = "/:name/token", method = "delete", operation_id = "revokeUserTokens")]
    async fn revoke_all(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        /// That all are meant: a path whose id was left empty is the same.
        all: Query<Param<All>>,
    ) -> Result<Json<TokensDeleted>, Problem> {
        let All = all.0.parsed()?;
        let name = known_user(&services, name.0).await?;
        Ok(Json(TokensDeleted::so_many(services.tokens.revoke_all(Actor::User(actor), &name).await?)))
    }

    /// Revoke one of a user's tokens
    ///
    /// Once this is answered with 200, no replica accepts the token again.
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
        if revoked { Ok(Json(TokenDeleted::new())) } else { Err(Problem::no_such_token()) }
    }
}

/// The name, if somebody has it.
async fn known_user(services: &Services, name: Param<UserName>) -> Result<UserName, Problem> {
    let name = name.parsed()?;
    services.users.find(&name).await?.map(|user| user.name).ok_or_else(Problem::no_such_user)
}

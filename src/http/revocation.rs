//! `/api/v1alpha/token/revoke` and `/api/v1alpha/user/{name}/token/revoke`: revoke many tokens by their ids.
//!
//! The ids are the body of a POST: 10,000 of them have 390 KB, too long for a URL, and the body of a DELETE has no
//! meaning that intermediaries would keep (RFC 9110, section 9.3.5).

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Path};
use serde::{Deserialize, Serialize};

use super::{
    auth::{Administrator, BasicUser},
    param::Param,
    payload::{Json, LongJson},
    problem::Problem,
    services::Services,
    tags::Tag,
    user_token::known_user,
};
use crate::{
    domain::{token::TokenId, user::UserName},
    service::Actor,
};

/// The most ids of one request.
pub(super) const MAX_IDS: usize = 10_000;

/// The operations that revoke tokens by their ids.
pub(super) struct RevocationApi;

/// The tokens to revoke.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct RevocationRequest {
    /// Their ids, 1 to 10,000.
    #[oai(validator(min_items = 1, max_items = 10000))]
    jwt_token_ids: Vec<String>,
}

/// The tokens were revoked.
#[derive(Serialize, Object)]
struct ListedTokensDeleted {
    /// `Tokens deleted`
    message: String,
    /// The number of tokens revoked.
    jwt_tokens_deleted: u64,
    /// The ids of no live token of the user: unknown, expired, revoked before, or no ids at all.
    jwt_tokens_not_found: Vec<String>,
}

#[OpenApi(prefix_path = "/api/v1alpha")]
impl RevocationApi {
    /// Revoke many of your tokens
    ///
    /// After the 200, no replica accepts any of them again. Ids of no live token are named and change nothing, so the
    /// request can be repeated.
    #[oai(path = "/token/revoke", method = "post", operation_id = "revokeListedTokens", tag = "Tag::Tokens")]
    async fn revoke(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        request: LongJson<RevocationRequest>,
    ) -> Result<Json<ListedTokensDeleted>, Problem> {
        let owner = user.name.clone();
        revoke_listed(&services, Actor::User(user), &owner, request.0).await
    }

    /// Revoke many of a user's tokens
    ///
    /// After the 200, no replica accepts any of them again. Ids of no live token are named and change nothing, so the
    /// request can be repeated.
    #[oai(
        path = "/user/:name/token/revoke",
        method = "post",
        operation_id = "revokeListedUserTokens",
        tag = "Tag::Users"
    )]
    async fn revoke_of_user(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        request: LongJson<RevocationRequest>,
    ) -> Result<Json<ListedTokensDeleted>, Problem> {
        let name = known_user(&services, name.0).await?;
        revoke_listed(&services, Actor::User(actor), &name, request.0).await
    }
}

/// 400: there is no id, so that an empty list by mistake does not look like a success, or there are too many.
pub(super) fn wrong_number_of_ids() -> Problem {
    Problem::bad_request(format!("jwt_token_ids: from 1 to {MAX_IDS} ids."))
}

async fn revoke_listed(
    services: &Services,
    by: Actor,
    owner: &UserName,
    RevocationRequest { jwt_token_ids }: RevocationRequest,
) -> Result<Json<ListedTokensDeleted>, Problem> {
    if jwt_token_ids.is_empty() || jwt_token_ids.len() > MAX_IDS {
        return Err(wrong_number_of_ids());
    }
    let ids = jwt_token_ids.iter().filter_map(|id| id.parse::<TokenId>().ok()).collect();
    let revoked = services.tokens.revoke_listed(by, owner, ids).await?;
    let mut not_found = jwt_token_ids;
    not_found.retain(|id| !id.parse().is_ok_and(|id| revoked.contains(&id)));
    Ok(Json(ListedTokensDeleted {
        message: "Tokens deleted".into(),
        jwt_tokens_deleted: revoked.len() as u64,
        jwt_tokens_not_found: not_found,
    }))
}

//! `/api/v1alpha/whoami`: who has logged in.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{auth::BasicUser, payload::Json, problem::Problem, services::Services, tags::Tag, user::Role};

/// The operation on the caller.
pub(super) struct WhoamiApi;

/// The user who has logged in, and the limits of the user's tokens.
#[derive(Serialize, Object)]
struct Caller {
    /// `You are logged in`
    message: String,
    /// The name.
    username: String,
    /// The role.
    role: Role,
    /// The maximum life of a token, in seconds.
    jwt_token_max_life: u64,
    /// The maximum number of live tokens.
    jwt_token_quota: usize,
}

#[OpenApi(prefix_path = "/api/v1alpha", tag = "Tag::Tokens")]
impl WhoamiApi {
    /// Ask who you are
    ///
    /// The user who logs in, and how many tokens of what life the user may have.
    #[oai(path = "/whoami", method = "get", operation_id = "whoami")]
    async fn whoami(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
    ) -> Result<Json<Caller>, Problem> {
        let tokens = &services.tokens;
        Ok(Json(Caller {
            message: "You are logged in".into(),
            username: user.name.to_string(),
            role: user.role.into(),
            jwt_token_max_life: tokens.max_life(&user).seconds(),
            jwt_token_quota: tokens.quota(),
        }))
    }
}

//! `/api/v1alpha/changes`: verifiers ask which tokens have changed.

use std::{convert::Infallible, str::FromStr, sync::Arc, time::Duration};

use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query, registry::MetaSchema};
use serde::Serialize;

use super::{
    auth::BasicOrBearerUser,
    param::{Param, Parameter},
    payload::Json,
    problem::Problem,
    services::Services,
    tags::Tag,
};
use crate::{service::verifiers::ChangesError, store::leased::ChangesSince};

/// The operation for verifiers.
pub(super) struct ChangesApi;

/// The tokens that have changed since a cursor.
#[derive(Serialize, Object)]
struct ChangedTokens {
    /// The cursor of the next question.
    cursor: String,
    /// The time in milliseconds since the changes were complete, at most: since this replica asked Redis for them.
    age_ms: u64,
    /// Whether any token may have changed, as the changes since the cursor are not known. Then `tokens` is empty.
    reset: bool,
    /// The ids of the tokens that have changed: created, rotated, revoked or expired.
    tokens: Vec<String>,
}

/// A cursor of an earlier answer. Any other text is answered with a reset, like a cursor of another replica.
pub(super) struct Cursor(String);

impl FromStr for Cursor {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl Parameter for Cursor {
    fn schema() -> MetaSchema {
        MetaSchema::new("string")
    }

    fn error() -> Problem {
        Problem::bad_request("after: give one cursor.")
    }
}

#[OpenApi(tag = "Tag::Services")]
impl ChangesApi {
    /// Ask which tokens have changed
    ///
    /// For verifiers: libraries that verify tokens in the memory of a service, as strictly as the replicas do. Needs
    /// the role `introspector` or `admin`.
    #[oai(path = "/api/v1alpha/changes", method = "get", operation_id = "changes")]
    async fn changes(
        &self,
        services: Data<&Arc<Services>>,
        BasicOrBearerUser(caller): BasicOrBearerUser,
        /// The cursor of the last answer. Without one, or with one that this replica cannot continue (of another
        /// replica, from before Redis was connected to again, too old, or not a cursor), the answer is a reset.
        after: Query<Option<Param<Cursor>>>,
    ) -> Result<Json<ChangedTokens>, Problem> {
        let cursor = after.0.map(Param::parsed).transpose()?;
        let changes = services.verifiers.changes(&caller, cursor.as_ref().map(|Cursor(text)| text.as_str()))?;
        Ok(Json(changes.into()))
    }
}

impl From<ChangesSince> for ChangedTokens {
    fn from(ChangesSince { cursor, age, tokens }: ChangesSince) -> Self {
        let (reset, tokens) = (tokens.is_none(), tokens.unwrap_or_default());
        let tokens = tokens.into_iter().map(|token| token.to_string()).collect();
        Self { cursor, age_ms: age_ms(age), reset, tokens }
    }
}

impl From<ChangesError> for Problem {
    fn from(error: ChangesError) -> Self {
        match error {
            ChangesError::Forbidden => Self::introspectors_only(),
            ChangesError::NoWatch => Self::unavailable("This replica does not know which tokens have changed."),
        }
    }
}

/// The age of an answer in whole milliseconds, rounded up: who takes it for younger than it is would use it too long.
pub(super) fn age_ms(age: Duration) -> u64 {
    u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

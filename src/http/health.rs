//! `/livez` and `/readyz`: for load balancers and Kubernetes.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Serialize;

use super::{
    Services, Tag,
    payload::Json,
    problem::{
        Problem, Refusals, Refused,
        refusal::{INTERNAL, LARGE_HEADERS},
    },
};

/// The operations for those who run the service.
pub(super) struct HealthApi;

/// It works.
#[derive(Serialize, Object)]
#[oai(example)]
struct Health {
    /// `OK`
    message: String,
}

impl Example for Health {
    fn example() -> Self {
        Self { message: "OK".into() }
    }
}

#[OpenApi(tag = "Tag::Operations")]
impl HealthApi {
    /// Is the process alive?
    ///
    /// Says nothing of Redis: a restart of this process would not mend that.
    #[oai(path = "/livez", method = "get", operation_id = "live")]
    async fn live(&self) -> Result<Json<Health>, Refused<NotAlive>> {
        Ok(Json(Health::example()))
    }

    /// Can requests be sent here?
    ///
    /// Only while Redis answers and no shutdown has begun.
    #[oai(path = "/readyz", method = "get", operation_id = "ready")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<Json<Health>, Refused<NotReady>> {
        match services.readiness.check().await {
            Ok(()) => Ok(Json(Health::example())),
            Err(why) => Err(Problem::unavailable(why).into()),
        }
    }
}

/// What a sign of life is refused with.
struct NotAlive;

impl Refusals for NotAlive {
    const LIST: &'static [(u16, &'static str)] = &[LARGE_HEADERS, INTERNAL];
}

/// What readiness is refused with.
struct NotReady;

impl Refusals for NotReady {
    const LIST: &'static [(u16, &'static str)] = &[LARGE_HEADERS, INTERNAL, (503, "The token store does not answer.")];
}

//! `/livez` and `/readyz`: for load balancers and Kubernetes.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{payload::Json, problem::Problem, services::Services, tags::Tag};

/// The operations for those who run the service.
pub(super) struct HealthApi;

/// It works.
#[derive(Serialize, Object)]
struct Health {
    /// `OK`
    message: String,
}

/// Requests can be sent here.
#[derive(Serialize, Object)]
struct Ready {
    /// `OK`
    message: String,
    /// What is wrong with how Redis is set up, and what mends it. Best empty.
    warnings: Vec<String>,
}

#[OpenApi(tag = "Tag::Operations")]
impl HealthApi {
    /// Is the process alive?
    ///
    /// Says nothing of Redis: a restart of this process would not mend that.
    #[oai(path = "/livez", method = "get", operation_id = "live")]
    async fn live(&self) -> Result<Json<Health>, Problem> {
        Ok(Json(Health { message: "OK".into() }))
    }

    /// Can requests be sent here?
    ///
    /// From the first contact with Redis on, until a shutdown begins or Redis has not answered for some time (15 s unless
    /// configured otherwise): a short outage is answered with 503 by each request, and does not take all replicas out of
    /// their load balancer at once. Not while Redis may evict any key, or does not let the service run scripts.
    #[oai(path = "/readyz", method = "get", operation_id = "ready")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<Json<Ready>, Problem> {
        match services.readiness.check() {
            Ok(warnings) => {
                let warnings = warnings.into_iter().map(str::to_owned).collect();
                Ok(Json(Ready { message: "OK".into(), warnings }))
            }
            Err(why) => Err(Problem::unavailable(why)),
        }
    }
}

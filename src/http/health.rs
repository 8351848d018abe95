//! `/livez` and `/readyz`: the probes of load balancers and Kubernetes.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{payload::Json, problem::Problem, services::Services, tags::Tag};

/// The operations for load balancers, Kubernetes and operators.
pub(super) struct HealthApi;

/// The process is alive.
#[derive(Serialize, Object)]
struct Health {
    /// `OK`
    message: String,
}

/// The service is ready for requests.
#[derive(Serialize, Object)]
struct Ready {
    /// `OK`
    message: String,
    /// Faults in the configuration of Redis, each with its remedy. Empty when there are none.
    warnings: Vec<String>,
}

#[OpenApi(tag = "Tag::Operations")]
impl HealthApi {
    /// Is the process alive?
    ///
    /// Independent of Redis: restarting this process would not repair Redis.
    #[oai(path = "/livez", method = "get", operation_id = "live")]
    async fn live(&self) -> Result<Json<Health>, Problem> {
        Ok(Json(Health { message: "OK".into() }))
    }

    /// Is the service ready for requests?
    ///
    /// Ready from the first answer of Redis until a shutdown begins or Redis has not answered for 15 s (by default):
    /// during a shorter outage each request gets 503, and the load balancer keeps its replicas. Not ready while Redis
    /// may evict any key, or forbids the service to run scripts.
    #[oai(path = "/readyz", method = "get", operation_id = "ready")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<Json<Ready>, Problem> {
        match services.readiness.status() {
            Ok(warnings) => {
                let warnings = warnings.into_iter().map(str::to_owned).collect();
                Ok(Json(Ready { message: "OK".into(), warnings }))
            }
            Err(why) => Err(Problem::unavailable(why)),
        }
    }
}

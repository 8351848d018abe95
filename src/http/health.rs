//! `/livez` and `/readyz`: for load balancers and Kubernetes.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Serialize;

use super::{
    payload::Json,
    problem::{
        Problem, Refusals, Refused,
        refusal::{INTERNAL, LARGE_HEADERS},
    },
    services::Services,
    tags::Tag,
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

/// Requests can be sent here.
#[derive(Serialize, Object)]
#[oai(example)]
struct Ready {
    /// `OK`
    message: String,
    /// What is wrong with how Redis is set up, and what mends it. Best empty.
    warnings: Vec<String>,
}

impl Example for Ready {
    fn example() -> Self {
        Self { message: "OK".into(), warnings: Vec::new() }
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
    /// From the first contact with Redis on, until a shutdown begins or Redis has not answered for some time (15 s unless
    /// configured otherwise): a short outage is answered with 503 by each request, and does not take all replicas out of
    /// their load balancer at once. Not while Redis may evict any key, or does not let the service run scripts.
    #[oai(path = "/readyz", method = "get", operation_id = "ready")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<Json<Ready>, Refused<NotReady>> {
        match services.readiness.check() {
            Ok(warnings) => {
                let warnings = warnings.into_iter().map(str::to_owned).collect();
                Ok(Json(Ready { message: "OK".into(), warnings }))
            }
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
    const LIST: &'static [(u16, &'static str)] = &[
        LARGE_HEADERS,
        INTERNAL,
        (503, "The token store does not answer, or is not set up so that tokens can be kept in it."),
    ];
}

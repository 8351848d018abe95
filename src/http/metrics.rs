//! `/metrics`, for a listener of its own: access to metrics is granted apart from access to the API.

use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route, endpoint::make_sync, get};

use crate::telemetry::metrics::Prometheus;

/// The endpoint that Prometheus scrapes.
pub fn metrics_endpoint(prometheus: Prometheus) -> impl Endpoint<Output = Response> + 'static {
    let page = move |_| prometheus.page().with_content_type(Prometheus::CONTENT_TYPE);
    Route::new().at("/metrics", get(make_sync(page))).map_to_response()
}

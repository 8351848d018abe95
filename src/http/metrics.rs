//! `/metrics`, on a listener of its own: who may ask there is another question than who may ask for tokens.

use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route, endpoint::make_sync, get};

use crate::telemetry::metrics::Prometheus;

/// Answers Prometheus, and nobody else.
pub fn metrics_endpoint(prometheus: Prometheus) -> impl Endpoint<Output = Response> + 'static {
    let page = move |_| prometheus.page().with_content_type(Prometheus::CONTENT_TYPE);
    Route::new().at("/metrics", get(make_sync(page))).map_to_response()
}

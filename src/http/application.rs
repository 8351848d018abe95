//! poem's endpoints as applications of the server.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use poem::{
    Body, Endpoint, Request, RequestParts, Response,
    http::{StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use uuid::Uuid;

use super::{
    client_address::TrustedProxies,
    envelope::{MAX_HEADER_BYTES, REQUEST_ID, problem_response},
    problem::Problem,
};
use crate::{
    domain::throttle::ClientNetwork,
    server::{self, RequestError},
    telemetry::{
        events::{RequestInfo, ResponseLabels},
        request::ObservedRequest,
    },
};

/// An endpoint of poem as an application of the server, behind these proxies.
pub struct Application<E> {
    endpoint: E,
    proxies: Arc<TrustedProxies>,
}

impl<E> Application<E> {
    /// Wraps an endpoint.
    pub fn new(endpoint: E, proxies: Arc<TrustedProxies>) -> Self {
        Self { endpoint, proxies }
    }
}

impl<E: Endpoint<Output = Response> + 'static> server::Application for Application<E> {
    async fn answer(&self, request: server::Request, client: SocketAddr, is_tls: bool) -> server::Response {
        let (head, body) = request.into_parts();
        let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let head = RequestParts::from((head, LocalAddr::default(), RemoteAddr(client.into()), scheme));
        self.endpoint.get_response(Request::from_parts(head, Body::from(body))).await.into()
    }

    /// The response is logged and counted like that to a complete request.
    fn reject(&self, error: RequestError, client: SocketAddr) -> server::Response {
        let (status, detail) = match error {
            RequestError::Malformed => (StatusCode::BAD_REQUEST, "This is no request of HTTP/1.1 (RFC 9112).".into()),
            RequestError::HeadersTooLarge => {
                let detail =
                    format!("The headers of a request are at most {MAX_HEADER_BYTES} bytes, in fewer than 100 lines.");
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
            }
            RequestError::UriTooLong => (StatusCode::URI_TOO_LONG, "The URI of the request is too long.".into()),
            RequestError::HeadTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "The head of the request took too long to arrive.".into())
            }
            RequestError::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "The body of the request took too long to arrive.".into())
            }
        };
        let id = Uuid::new_v4().to_string();
        let client = Some(client.ip().to_canonical());
        // The method may be missing, or any text.
        let info =
            RequestInfo { method: "_OTHER", id: &id, client: &|| client, is_verification: false, is_poll: false };
        let observed = ObservedRequest::begin(info, |_| None);
        let mut response = problem_response(Problem::new(status, detail), &id);
        response.headers_mut().insert(REQUEST_ID, id.parse().expect("an id is visible ASCII"));
        observed.end(ResponseLabels { route: None, status: status.as_u16() });
        response.into()
    }

    fn network(&self, address: IpAddr) -> Option<ClientNetwork> {
        self.proxies.network(address)
    }
}

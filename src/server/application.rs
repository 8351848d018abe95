//! The seam between the server and the application behind it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;

use crate::domain::throttle::ClientNetwork;

/// A request with its body.
pub type Request = hyper::Request<BoxBody<Bytes, io::Error>>;

/// A response with its body.
pub type Response = hyper::Response<BoxBody<Bytes, io::Error>>;

/// The application behind the server: answers the requests that arrive on a listener.
pub trait Application: Send + Sync + 'static {
    /// Answers a request that came from the peer `client`.
    fn answer(&self, request: Request, client: SocketAddr, is_tls: bool) -> impl Future<Output = Response> + Send;

    /// Returns the response to a client that sent no complete request. The connection ends with it.
    fn reject(&self, error: RequestError, client: SocketAddr) -> Response;

    /// Returns the network that a connection from this address counts to. One network holds at most half of all
    /// connections; `None` exempts the connection from that limit.
    fn network(&self, address: IpAddr) -> Option<ClientNetwork>;
}

/// The reason why the server rejects a request before the application sees it, or sees all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The bytes are not HTTP/1.
    Malformed,
    /// The headers are too long, or too many.
    HeadersTooLarge,
    /// The request target is too long.
    UriTooLong,
    /// The head did not arrive in time, or the connection was closed for a new one meanwhile.
    HeadTimeout,
    /// The connection was closed for a new one before the body arrived.
    BodyTimeout,
}

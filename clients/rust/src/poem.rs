//! A middleware for poem.

use http::{HeaderValue, StatusCode, header};
use poem::{Endpoint, IntoResponse, Middleware, Request, Response, Result};

use crate::{Demands, Verifier, VerifyError, bearer};

/// Verifies the Bearer token of each request. The [`Token`](crate::Token) is in the data of the request then
/// (`Data<&Token>`); any other request is answered with 401, 403 or 503.
///
/// A token that is bound to networks is accepted from the address of the connection's other end.
#[derive(Debug, Clone)]
pub struct VerifyMiddleware {
    verifier: Verifier,
    demands: Demands,
}

/// An endpoint behind a [`VerifyMiddleware`].
#[derive(Debug)]
pub struct VerifyEndpoint<E> {
    inner: E,
    middleware: VerifyMiddleware,
}

impl VerifyMiddleware {
    /// Accepts all live tokens.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier, demands: Demands::new() }
    }

    /// Accepts live tokens that meet these demands.
    #[must_use]
    pub fn demand(self, demands: Demands) -> Self {
        Self { demands, ..self }
    }
}

impl<E: Endpoint> Middleware<E> for VerifyMiddleware {
    type Output = VerifyEndpoint<E>;

    fn transform(&self, inner: E) -> VerifyEndpoint<E> {
        VerifyEndpoint { inner, middleware: self.clone() }
    }
}

impl<E: Endpoint> Endpoint for VerifyEndpoint<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let VerifyMiddleware { verifier, demands } = &self.middleware;
        let verified = match bearer(request.headers()) {
            Some(jwt) => {
                let client = request.remote_addr().as_socket_addr().map(std::net::SocketAddr::ip);
                verifier.verify_for(jwt, &demands.clone().client(client)).await.map_err(Some)
            }
            None => Err(None),
        };
        match verified {
            Ok(token) => {
                request.set_data(token);
                self.inner.call(request).await.map(IntoResponse::into_response)
            }
            Err(error) => Ok(rejection(error.as_ref())),
        }
    }
}

/// The answer to a request whose token is not accepted; `None`: it has no token.
fn rejection(error: Option<&VerifyError>) -> Response {
    let status = StatusCode::from_u16(error.map_or(401, VerifyError::status)).expect("it is one of three");
    let mut response = status.into_response();
    let challenge = error.map_or(Some("Bearer".into()), VerifyError::challenge);
    let challenge = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok());
    match challenge {
        Some(challenge) => response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge),
        None => response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
    };
    response
}

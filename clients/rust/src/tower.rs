//! A layer for services that are built on tower: axum, tonic and others.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Demands, Verifier, VerifyError, bearer};

/// Finds the address of a request's client.
type FindClient = Arc<dyn Fn(&HeaderMap, &Extensions) -> Option<IpAddr> + Send + Sync>;

/// Verifies the Bearer token of each request. The [`Token`](crate::Token) is among the extensions of the request then;
/// any other request is answered with 401, 403 or 503, and with the status of gRPC that belongs to it.
#[derive(Clone)]
pub struct VerifyLayer {
    verifier: Verifier,
    demands: Demands,
    find_client: Option<FindClient>,
}

/// A service behind a [`VerifyLayer`].
#[derive(Debug, Clone)]
pub struct VerifyService<S> {
    inner: S,
    layer: VerifyLayer,
}

impl VerifyLayer {
    /// Accepts all live tokens.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier, demands: Demands::new(), find_client: None }
    }

    /// Accepts live tokens that meet these demands.
    #[must_use]
    pub fn demand(self, demands: Demands) -> Self {
        Self { demands, ..self }
    }

    /// Finds the client's address with this function, for tokens that are bound to networks. Without one, these tokens
    /// are rejected. Do not believe headers that a client may have sent.
    #[must_use]
    pub fn client_address(
        self,
        find: impl Fn(&HeaderMap, &Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self { find_client: Some(Arc::new(find)), ..self }
    }
}

impl fmt::Debug for VerifyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyLayer").field("demands", &self.demands).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = VerifyService<S>;

    fn layer(&self, inner: S) -> VerifyService<S> {
        VerifyService { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for VerifyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let client = self.layer.find_client.as_ref().and_then(|find| find(request.headers(), request.extensions()));
        let demands = match client {
            Some(_) => self.layer.demands.clone().client(client),
            None => self.layer.demands.clone(),
        };
        let jwt = bearer(request.headers()).map(str::to_owned);
        // The clone that is left behind has not been polled to be ready; this one has.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let verifier = self.layer.verifier.clone();
        Box::pin(async move {
            let result = match &jwt {
                Some(jwt) => verifier.verify_for(jwt, &demands).await.map_err(Some),
                None => Err(None),
            };
            match result {
                Ok(token) => {
                    request.extensions_mut().insert(token);
                    inner.call(request).await
                }
                Err(error) => Ok(rejection(error.as_ref(), request.headers())),
            }
        })
    }
}

/// The answer to a request whose token is not accepted; `None`: it has no token.
fn rejection<R: Default>(error: Option<&VerifyError>, request: &HeaderMap) -> Response<R> {
    let mut response = Response::new(R::default());
    let status = error.map_or(401, VerifyError::status);
    let is_grpc =
        request.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        // UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE: an answer of headers alone.
        let code = match status {
            401 => "16",
            403 => "7",
            _ => "14",
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        return response;
    }
    *response.status_mut() = StatusCode::from_u16(status).expect("it is one of three");
    let challenge = match error {
        Some(error) => error.challenge(),
        None => Some("Bearer".into()),
    };
    if let Some(challenge) = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    } else {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

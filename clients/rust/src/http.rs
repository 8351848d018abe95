//! Sends questions to the service over HTTP.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::RwLock;

use crate::error::Unavailable;

/// The most bytes of an answer. The service names at most 4,096 changes, in 160 KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a verifier logs in at the service: as a user with the role `introspector`.
#[derive(Clone)]
pub struct Credentials(HeaderValue);

impl Credentials {
    /// The name and password of a user.
    pub fn basic(name: &str, password: &str) -> Self {
        Self::header("Basic", &BASE64_STANDARD.encode(format!("{name}:{password}")))
    }

    /// A token of a user. It has to be replaced before it expires: [`crate::Verifier::set_credentials`].
    ///
    /// # Panics
    /// If the token has characters that no header can have.
    pub fn bearer(jwt: &str) -> Self {
        Self::header("Bearer", jwt.trim())
    }

    fn header(scheme: &str, credentials: &str) -> Self {
        let value = HeaderValue::from_str(&format!("{scheme} {credentials}"));
        let mut value = value.expect("credentials are visible ASCII");
        value.set_sensitive(true);
        Self(value)
    }
}

/// Shows no secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The URL cannot be that of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an http:// or https:// URL")]
#[non_exhaustive]
pub struct UrlError;

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The service.
pub(crate) struct Service {
    /// The URL without a slash at its end.
    base: String,
    /// For questions about changes: one connection, which stays open.
    changes: HttpClient,
    /// For questions about tokens.
    tokens: HttpClient,
    credentials: RwLock<Credentials>,
}

/// An answer with the status 200.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    /// The `Date` header.
    pub(crate) date: Option<String>,
}

impl Service {
    pub(crate) fn new(url: &str, credentials: Credentials, max_idle: usize) -> Result<Self, UrlError> {
        let base = url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| UrlError)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !is_http || uri.query().is_some() {
            return Err(UrlError);
        }
        let connector = connector();
        let client = |idle| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_max_idle_per_host(idle).pool_timer(hyper_util::rt::TokioTimer::new());
            builder.build(connector.clone())
        };
        Ok(Self { base, changes: client(1), tokens: client(max_idle), credentials: RwLock::new(credentials) })
    }

    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write() = credentials;
    }

    /// Asks which tokens have changed since this cursor, which has only characters that a URL may have.
    pub(crate) async fn changes(&self, cursor: Option<&str>) -> Result<Answer, Unavailable> {
        let query = cursor.map(|cursor| format!("?after={cursor}")).unwrap_or_default();
        let request = self.request(Method::GET, &format!("/api/v1alpha/changes{query}"));
        send(&self.changes, request.body(Full::default())).await
    }

    /// Asks about a token. Its JWT has only characters that need no encoding in a form.
    pub(crate) async fn introspect(&self, jwt: &str) -> Result<Answer, Unavailable> {
        let request = self.request(Method::POST, "/oauth2/introspect");
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        send(&self.tokens, request.body(Full::from(format!("token={jwt}")))).await
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let Credentials(credentials) = self.credentials.read().clone();
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, credentials)
            .header(header::USER_AGENT, concat!("mayfly-verifier-rust/", env!("CARGO_PKG_VERSION")))
    }
}

/// Connects over TCP, and over TLS with the certificates of the system (or of `SSL_CERT_FILE`).
fn connector() -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.enforce_http(false);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Named here, so that no provider has to be installed in the process.
    let builder = match HttpsConnectorBuilder::new().with_provider_and_native_roots(Arc::clone(&provider)) {
        Ok(builder) => builder,
        Err(error) => {
            tracing::warn!(%error, "the system has no certificates: https:// will fail");
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider has TLS 1.2 and 1.3")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        }
    };
    builder.https_or_http().enable_http1().wrap_connector(tcp)
}

async fn send(client: &HttpClient, request: http::Result<Request<Full<Bytes>>>) -> Result<Answer, Unavailable> {
    let request = request.map_err(|error| Unavailable::Connection(Arc::new(error)))?;
    let response = client.request(request).await.map_err(|error| Unavailable::Connection(Arc::new(error)))?;
    match response.status() {
        StatusCode::OK => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(Unavailable::Credentials(status.as_u16()));
        }
        status => return Err(Unavailable::Status(status.as_u16())),
    }
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| Unavailable::Connection(error.into()))?.to_bytes();
    Ok(Answer { body, date })
}

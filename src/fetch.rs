//! Fetches small documents from servers that may be slow, broken or hostile.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use ureq::{
    Agent, Error,
    config::Config,
    tls::{Certificate, RootCerts, TlsConfig},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

use crate::domain::key_url::{KeyUrl, is_allowed_address};

/// The maximum size of a document, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Fetches documents over HTTPS, or over HTTP from this machine, with GET. Follows no redirect: it could lead to plain
/// HTTP or to an address that only this machine reaches. Such addresses ([`is_allowed_address`]) are refused, also if a
/// name resolves to one.
///
/// `HTTPS_PROXY` and `NO_PROXY` apply; a proxy resolves names itself.
pub struct Fetcher(Agent);

/// A document.
pub struct Document {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// For how long it may be cached, by its `Cache-Control`; `None`: the server does not say.
    pub max_age: Option<Duration>,
}

/// Why a document was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The answer has this status, and no document.
    #[error("the server answers {0}")]
    Status(u16),
    /// The answer is a redirect.
    #[error("the server answers {0}, and redirects are not followed")]
    Redirect(u16),
    /// The document is larger than 1 MiB.
    #[error("the document has more than 1 MiB")]
    TooLarge,
    /// The document did not arrive in time.
    #[error("no answer in time")]
    Timeout,
    /// No name or address of the server may be used.
    #[error("the server's name resolves to no address that may be used")]
    Address,
    /// The server cannot be reached, or speaks no HTTP.
    #[error("{0}")]
    Transport(String),
}

/// The certificates of this machine's authorities, and of `SSL_CERT_FILE`.
static MACHINE_ROOTS: LazyLock<RootCerts> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs().certs;
    RootCerts::from(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
});

/// Returns the certificates in this file (PEM), or else those of this machine. Blocks on the file system.
pub fn trusted_roots(ca_file: Option<&Path>) -> io::Result<RootCerts> {
    let Some(file) = ca_file else { return Ok(MACHINE_ROOTS.clone()) };
    let pem = fs::read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(io::Error::other)?;
    if certificates.is_empty() {
        return Err(io::Error::other("it holds no certificate in PEM"));
    }
    Ok(RootCerts::from(certificates.iter().map(|one| Certificate::from_der(one).to_owned())))
}

impl Fetcher {
    /// Verifies servers with the certificates in this file (PEM), or else with those of this machine. Blocks on the
    /// file system.
    pub fn new(ca_file: Option<&Path>) -> io::Result<Self> {
        let tls = TlsConfig::builder()
            .root_certs(trusted_roots(ca_file)?)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .max_redirects(0)
            .max_idle_connections(0)
            .http_status_as_error(false)
            .user_agent("mayfly")
            .build();
        Ok(Self(Agent::with_parts(config, DefaultConnector::default(), PublicResolver::default())))
    }

    /// Fetches a document. Blocks for as long as `timeout`.
    pub fn get(&self, url: &KeyUrl, timeout: Duration) -> Result<Document, FetchError> {
        let mut request = self.0.get(url.as_str()).config().timeout_global(Some(timeout));
        if url.is_loopback() {
            request = request.proxy(None);
        }
        let mut response = request.build().header("accept", "application/json").call()?;
        match response.status().as_u16() {
            200 => {}
            status @ 300..400 => return Err(FetchError::Redirect(status)),
            status => return Err(FetchError::Status(status)),
        }
        let cache_control = response.headers().get_all("cache-control").iter().filter_map(|value| value.to_str().ok());
        let max_age = cache_control.flat_map(|value| value.split(',')).find_map(max_age);
        let bytes = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec()?;
        Ok(Document { bytes, max_age })
    }
}

/// The duration of a directive `max-age` or `no-store`/`no-cache`, which is zero.
fn max_age(directive: &str) -> Option<Duration> {
    let directive = directive.trim().to_ascii_lowercase();
    match directive.split_once('=') {
        None => ["no-store", "no-cache"].contains(&&*directive).then_some(Duration::ZERO),
        Some(("max-age", seconds)) => seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
        Some(_) => None,
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        match error {
            Error::BodyExceedsLimit(_) => Self::TooLarge,
            Error::Timeout(_) => Self::Timeout,
            Error::HostNotFound => Self::Address,
            Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            error => Self::Transport(error.to_string()),
        }
    }
}

/// Leaves out addresses that may not be used. Names are resolved once a request, so that a second resolution cannot
/// lead elsewhere.
#[derive(Debug, Default)]
struct PublicResolver(DefaultResolver);

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let found = self.0.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        found.iter().filter(|found: &&SocketAddr| is_allowed_address(host, found.ip())).for_each(|found| {
            allowed.push(*found);
        });
        if allowed.is_empty() { Err(Error::HostNotFound) } else { Ok(allowed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_control_gives_an_age() {
        for (directive, expected) in [
            ("max-age=60", Some(60)),
            (" Max-Age=\"5\"", Some(5)),
            ("no-store", Some(0)),
            ("public", None),
            ("max-age=x", None),
        ] {
            assert_eq!(max_age(directive), expected.map(Duration::from_secs), "{directive}");
        }
    }

    #[test]
    fn a_name_that_resolves_to_this_machine_is_refused() {
        let resolve = |url: &str| {
            let url: ureq::http::Uri = url.parse().unwrap();
            PublicResolver::default().resolve(&url, &Config::default(), NextTimeout::default())
        };
        assert!(resolve("https://localhost:1/").is_ok());
        // The same name, in another spelling than the one that is allowed.
        assert!(matches!(resolve("https://LOCALHOST:1/"), Err(Error::HostNotFound)));
        assert!(matches!(resolve("https://169.254.169.254/"), Err(Error::HostNotFound)));
    }
}

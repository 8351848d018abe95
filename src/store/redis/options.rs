//! The settings of a Redis store.

use std::time::Duration;

use secrecy::{SecretSlice, SecretString};

/// Where Redis is, and how to talk to it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`; may hold a password.
    pub url: SecretString,
    /// The password, where the URL does not hold it.
    pub password: Option<SecretString>,
    /// Certificates for `rediss://`.
    pub tls: TlsFiles,
    /// The most time for one operation, connecting included.
    pub timeout: Duration,
    /// The number of replicas that must acknowledge a write before it is answered; 0: none.
    pub wait_replicas: u32,
    /// The most time for these acknowledgements. Less than `timeout`.
    pub wait_timeout: Duration,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct TlsFiles {
    /// The authorities to trust; `None`: those that the system trusts.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate chain and its private key.
    pub client: Option<(Vec<u8>, SecretSlice<u8>)>,
}

impl RedisOptions {
    /// The Redis at `url`, with the default of every other setting.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.into(),
            password: None,
            tls: TlsFiles::default(),
            timeout: Duration::from_secs(1),
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(500),
        }
    }
}

/// Why a URL or its certificates cannot be used. The text quotes nothing, because a URL may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The URL has no known form.
    #[error(
        "not a URL such as redis://127.0.0.1:6379, rediss://user:password@redis:6379/0, unix:///run/redis.sock, \
         redis+sentinel://a:26379,b:26379/service or redis+cluster://a:6379,b:6379"
    )]
    Url,
    /// A password in the URL and another one.
    #[error("the URL holds a password already: give it there or in the file, not both")]
    TwoPasswords,
    /// Certificates for a connection without TLS.
    #[error("certificates are for rediss:// URLs")]
    Plain,
    /// Certificates for Sentinel or a Cluster.
    #[error(
        "with Sentinel and Cluster the system's certificates are trusted, to which SSL_CERT_FILE adds one, and client \
         certificates are not supported"
    )]
    SystemTrust,
    /// The files hold no certificates.
    #[error("the certificates are none: PEM is expected")]
    Certificates,
}

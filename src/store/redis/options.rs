//! The settings of a Redis store. [`super::address`] parses the URL.

use std::time::Duration;

use secrecy::{SecretSlice, SecretString};

/// Where Redis is, and how to talk to it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`; may hold a password.
    pub url: SecretString,
    /// The password, if the URL does not hold it.
    pub password: Option<SecretString>,
    /// Certificates for `rediss://`.
    pub tls: TlsFiles,
    /// The most time for one request, connecting and sending it again included. An operation may take several requests.
    pub timeout: Duration,
    /// The number of Redis replicas that must acknowledge a write before it is answered; 0: none.
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

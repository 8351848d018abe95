//! TLS, with a certificate that is reloaded when its files change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::watched_files::{Reload, WatchedFiles, read_regular_file};

/// The protocol inside TLS, for clients that negotiate it (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// A certificate and its key, reloaded from their files. New connections use the newest pair that is valid.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    files: WatchedFiles,
    current: ArcSwap<ServerConfig>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or contains no certificate or key.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] pem::Error),
    /// The key does not belong to the certificate, or one of them is of an unsupported kind.
    #[error("{0} and its key cannot be used: {1}")]
    Pair(PathBuf, #[source] rustls::Error),
}

impl Certificate {
    /// Reads a PEM file with the certificate and its intermediate certificates, and one with its key.
    pub fn open(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let (chain, key) = (chain.to_owned(), key.to_owned());
        let files = WatchedFiles::new([chain.clone(), key.clone()]);
        let current = ArcSwap::from_pointee(server_config(&chain, &key)?);
        Ok(Self { chain, key, files, current })
    }

    /// Returns the path of the certificate.
    pub fn chain(&self) -> &Path {
        &self.chain
    }

    /// Reads the files again, always or if they changed. After an error, which is logged, the old pair stays. Blocks.
    pub fn reload(&self, when: Reload) {
        self.files.reload(when, || self.load_files());
    }

    fn load_files(&self) {
        match server_config(&self.chain, &self.key) {
            Ok(config) => {
                tracing::info!(file = %self.chain.display(), "read the certificate");
                // The new configuration knows no TLS session of the old one, so that none begun with a leaked key is
                // resumed.
                self.current.store(Arc::new(config));
            }
            Err(error) => tracing::error!(%error, "the old certificate stays in force"),
        }
    }

    /// Accepts a TLS connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current.load_full()).accept(stream).await
    }
}

/// Reads both files.
fn server_config(chain: &Path, key: &Path) -> Result<ServerConfig, CertificateError> {
    let unreadable = |file: &Path| {
        let file = file.to_owned();
        move |error| CertificateError::Read(file, error)
    };
    let bytes = |file: &Path| read_regular_file(file).map_err(pem::Error::Io).map_err(unreadable(file));
    let certificates =
        CertificateDer::pem_slice_iter(&bytes(chain)?).collect::<Result<_, _>>().map_err(unreadable(chain))?;
    let private_key = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(unreadable(key))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, private_key))
        .map_err(|error| CertificateError::Pair(chain.to_owned(), error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

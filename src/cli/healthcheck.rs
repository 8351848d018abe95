//! `mayfly healthcheck`: ask the service on this machine whether it is ready.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Args;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Failure, serve::reachable};
use crate::config::{ConfigErrors, ListenSettings};

/// How long the service may take for its answer, from the connection to the end of the first line.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Healthcheck {
    #[command(flatten)]
    service: ListenSettings,
}

impl Healthcheck {
    pub(super) fn run(self, errors: ConfigErrors) -> Result<(), Failure> {
        let address = reachable(errors.or(Some(self.service.listen))?);
        let (sender, checked) = mpsc::channel();
        // Whatever it waits for then ends with the process.
        thread::spawn(move || sender.send(self.check(address)));
        checked.recv_timeout(TIMEOUT).unwrap_or_else(|_| Err(Failure::Runtime(format!("no answer within {TIMEOUT:?}"))))
    }

    fn check(self, address: SocketAddr) -> Result<(), Failure> {
        let connection = TcpStream::connect(address)
            .map_err(|error| Failure::Runtime(format!("cannot connect to {address}: {error}")))?;
        let status = match self.service.tls_cert {
            None => ask(connection, address)?,
            Some(_) => ask(with_tls(connection, address)?, address)?,
        };
        match status.strip_prefix("HTTP/1.1 ").map(str::trim_end) {
            Some(status) if status.starts_with("200") => Ok(()),
            Some(status) => Err(Failure::Runtime(format!("not ready: {status}"))),
            None => Err(Failure::Runtime(format!("what listens on {address} is no Mayfly"))),
        }
    }
}

/// The first line of the answer.
fn ask(mut connection: impl Read + Write, address: SocketAddr) -> io::Result<String> {
    write!(connection, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(connection).read_line(&mut status)?;
    Ok(status)
}

fn with_tls(connection: TcpStream, address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), address.ip().into()).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, connection))
}

/// Takes whatever certificate is shown. What is asked here is no secret and goes to this machine, by an address that the
/// certificate does not name.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

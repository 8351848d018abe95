//! TLS between clients and the service.

use std::{
    fs, io,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rstest::rstest;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};

use crate::support::{Authority, Identity, Log, Service, eventually, run};

/// Longer than any step of a test: only keeps a test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service with a certificate, and the authority that signed it.
struct Secured {
    service: Service,
    authority: Authority,
    log: Log,
    chain: PathBuf,
    key: PathBuf,
    _directory: tempfile::TempDir,
}

impl Secured {
    /// Starts a service with a new certificate, and returns both.
    fn start() -> (Self, Identity) {
        Self::start_with(|_| ())
    }

    fn start_with(configure: impl FnOnce(&mut Command)) -> (Self, Identity) {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let authority = Authority::new();
        let identity = authority.identify("127.0.0.1");
        identity.write_certificate(&chain);
        identity.write_key(&key);
        let log = Log::new();
        let service = Service::launch(None, |command| {
            command.env("MAYFLY_TLS_CERT", &chain).env("MAYFLY_TLS_KEY", &key).stderr(log.stdio());
            configure(command);
        });
        (Self { service, authority, log, chain, key, _directory: directory }, identity)
    }

    fn connect(&self) -> Client {
        Client::connect(self.service.address(), &self.authority, &[&TLS13, &TLS12])
    }

    /// Returns the certificate that a new client gets.
    fn shown(&self) -> CertificateDer<'static> {
        let mut client = self.connect();
        assert_eq!(client.get("/livez").unwrap(), 200);
        client.0.get_ref().conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// A TLS client that trusts one authority.
struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    fn connect(address: &str, authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut trusted = RootCertStore::empty();
        trusted.add(authority.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let session = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(StreamOwned::new(session, stream)))
    }

    /// Sends a request, and returns the status of the response. The connection can be used again.
    fn get(&mut self, path: &str) -> io::Result<u16> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.to_lowercase());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
        self.0.read_exact(&mut body)?;
        Ok(head[0].split(' ').nth(1).unwrap().parse().unwrap())
    }
}

#[rstest]
#[case(&TLS12)]
#[case(&TLS13)]
fn tls_1_2_and_1_3_are_accepted(#[case] version: &'static SupportedProtocolVersion) {
    let (secured, _) = Secured::start();
    let mut client = Client::connect(secured.service.address(), &secured.authority, &[version]);
    for _ in 0..2 {
        assert_eq!(client.get("/livez").unwrap(), 200);
    }
    let session = &client.0.get_ref().conn;
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(session.protocol_version(), Some(version.version));
}

#[test]
fn curl_and_the_health_check_accept_the_certificate() {
    let (secured, _) = Secured::start();
    assert!(secured.service.url.starts_with("https://"), "{}", secured.service.greeting);
    let authority = secured.chain.with_file_name("ca.pem");
    fs::write(&authority, secured.authority.pem()).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--cacert"]).arg(&authority).arg(format!("{}/readyz", secured.service.url));
    let output = run(&mut curl, "");
    assert!(output.status.success(), "{output:?}");
    let metadata = format!("{}/.well-known/oauth-authorization-server", secured.service.url);
    let output = run(Command::new("curl").args(["--silent", "--cacert"]).arg(&authority).arg(metadata), "");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(metadata["issuer"], secured.service.url);
    // The printed command trusts this certificate and no other.
    let paste = secured.service.greeting.lines().last().unwrap();
    assert!(paste.contains(&format!(" --cacert '{}' ", secured.chain.display())), "{paste}");
    let output = run(Command::new("bash").args(["-c", &paste.replace("admin ", "admin:wrong ")]), "");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"status\":401"), "{output:?}");
    let health = |chain: Option<&PathBuf>| {
        let mut command = Service::command();
        command.args(["healthcheck", "--listen", secured.service.address()]);
        command.envs(chain.map(|chain| ("MAYFLY_TLS_CERT", chain)));
        run(&mut command, "").status.code()
    };
    assert_eq!((health(Some(&secured.chain)), health(None)), (Some(0), Some(1)));
}

#[test]
fn a_certificate_is_replaced_without_a_failed_request() {
    let (secured, old) = Secured::start();
    assert_eq!(secured.shown(), old.der());
    let requests = AtomicUsize::new(0);
    thread::scope(|scope| {
        // The clients stop when this scope ends, even by a panic.
        let going_on = Arc::new(());
        // One client connects for each request, and one stays connected.
        for stays in [false, true] {
            let (secured, requests, going_on) = (&secured, &requests, Arc::downgrade(&going_on));
            scope.spawn(move || {
                let mut client = secured.connect();
                while going_on.strong_count() > 0 {
                    if !stays {
                        client = secured.connect();
                    }
                    assert_eq!(client.get("/livez").unwrap(), 200);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let new = secured.authority.identify("127.0.0.1");
        new.write_certificate(&secured.chain);
        let complaints = || secured.log.text().matches("the old certificate stays in force").count();
        eventually("half a pair is noticed", || (complaints() > 0).then_some(()));
        assert_eq!(secured.shown(), old.der());
        new.write_key(&secured.key);
        eventually("the new certificate is shown", || (secured.shown() == new.der()).then_some(()));

        // An empty file, and a file without a key.
        fs::remove_file(&secured.chain).unwrap();
        let before = complaints();
        eventually("a missing file is noticed", || (complaints() > before).then_some(()));
        fs::write(&secured.key, "no key").unwrap();
        let before = complaints();
        secured.service.process.signal(Signal::SIGHUP);
        eventually("a broken file is noticed", || (complaints() > before).then_some(()));
        assert_eq!(secured.shown(), new.der());

        let newest = secured.authority.identify("127.0.0.1");
        newest.write_key(&secured.key);
        newest.write_certificate(&secured.chain);
        secured.service.process.signal(Signal::SIGHUP);
        eventually("the newest certificate is shown", || (secured.shown() == newest.der()).then_some(()));
    });
    assert!(requests.into_inner() > 10);
    assert!(!secured.log.text().contains("PRIVATE KEY"));
}

#[test]
fn connections_that_do_not_complete_a_handshake_are_closed() {
    let (secured, _) = Secured::start();
    let begun = Instant::now();
    let mut silent = secured.service.connect();
    // Only the beginning of a handshake.
    silent.write_all(&[0x16, 0x03, 0x01]).unwrap();
    let plain = secured.service.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!plain.contains("HTTP"), "{plain}");
    assert_eq!(secured.connect().get("/livez").unwrap(), 200);
    assert!(begun.elapsed() < Duration::from_secs(9), "the silent one keeps nobody waiting");
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let end = silent.read(&mut [0; 64]).map_err(|error| error.kind());
    assert!(!matches!(end, Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)), "it is closed");
}

#[test]
fn a_connection_without_a_handshake_is_closed_for_a_new_one_at_the_limit() {
    let (secured, _) = Secured::start_with(|command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "2").env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    });
    let begun = Instant::now();
    let _silent = [0, 1].map(|_| secured.service.connect());
    assert_eq!(secured.connect().get("/livez").unwrap(), 200);
    assert!(begun.elapsed() < Duration::from_secs(9), "nobody waited for a time-out");
}

#[test]
fn a_key_of_another_certificate_is_a_configuration_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    authority.identify("localhost").write_certificate(file("a.crt"));
    authority.identify("localhost").write_key(file("b.key"));
    for (chain, key, expected) in [
        (Some("a.crt"), Some("b.key"), "a.crt and its key cannot be used: "),
        (Some("a.crt"), Some("a.crt"), "a.crt: no items found"),
        (Some("b.key"), Some("b.key"), "b.key and its key cannot be used: "),
        (Some("nowhere"), Some("b.key"), "cannot read "),
        (Some("a.crt"), None, "goes with MAYFLY_TLS_KEY, and neither without the other"),
        (None, Some("b.key"), "goes with MAYFLY_TLS_KEY, and neither without the other"),
    ] {
        let mut command = Service::command();
        command.envs(chain.map(|name| ("MAYFLY_TLS_CERT", file(name))));
        command.envs(key.map(|name| ("MAYFLY_TLS_KEY", file(name))));
        let output = run(&mut command, "");
        let mistakes = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{mistakes}");
        assert!(mistakes.contains("MAYFLY_TLS_CERT (--tls-cert): ") && mistakes.contains(expected), "{mistakes}");
        assert!(!mistakes.contains("PRIVATE KEY"), "{mistakes}");
    }
}

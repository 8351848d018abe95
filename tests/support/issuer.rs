//! An issuer of JWTs on this machine, whose every answer a test decides.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The path of an issuer's keys.
pub const JWKS: &str = "/jwks";

/// The path of an issuer's OpenID configuration.
pub const DISCOVERY: &str = "/.well-known/openid-configuration";

/// A key of an issuer.
pub struct IssuerKey {
    pub kid: String,
    pub alg: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// What an issuer answers at a path.
#[derive(Clone)]
pub struct Reply {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// How long it takes.
    pub delay: Duration,
}

/// A running issuer.
pub struct LocalIssuer {
    /// `http://127.0.0.1:port`
    pub url: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    requests: Arc<Mutex<Vec<(String, Instant)>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The time in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl IssuerKey {
    pub fn new(kid: &str, alg: &'static str) -> Self {
        let pair = match alg {
            "RS256" | "PS256" => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
            "ES256" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "ES384" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => panic!("{alg}"),
        };
        Self { kid: kid.to_owned(), alg, pair }
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let crv = if self.alg == "ES256" { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": crv, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.alg);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A JWT with these claims and the header that fits the key.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"typ": "JWT", "alg": self.alg, "kid": self.kid}), claims)
    }

    /// A JWT with this header, signed by this key with its own algorithm whatever the header says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if self.alg == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let signer = aws_lc_rs::signature::RsaKeyPair::from_pkcs8(&pkcs8(pair)).unwrap();
                signer.sign(padding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(&signature))
    }
}

fn pkcs8(pair: &RsaKeyPair) -> Vec<u8> {
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(pair).unwrap();
    der.as_ref().to_vec()
}

impl Reply {
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self { status: "200 OK", headers: Vec::new(), body: body.into(), delay: Duration::ZERO }
    }

    pub fn json(body: &Value) -> Self {
        Self::bytes(body.to_string())
    }

    pub fn keys(keys: &[&IssuerKey]) -> Self {
        Self::json(&json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}))
    }

    pub fn redirect(to: &str) -> Self {
        Self { status: "302 Found", headers: vec![("Location", to.to_owned())], ..Self::bytes("") }
    }

    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl LocalIssuer {
    /// An issuer with these keys.
    pub fn start(keys: &[&IssuerKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut issuer = Self {
            url: url.clone(),
            replies: Arc::default(),
            requests: Arc::default(),
            stopped: Arc::default(),
            thread: None,
        };
        issuer.answer(DISCOVERY, Reply::json(&json!({"issuer": url, "jwks_uri": format!("{url}{JWKS}")})));
        issuer.answer(JWKS, Reply::keys(keys));
        let (replies, requests) = (Arc::clone(&issuer.replies), Arc::clone(&issuer.requests));
        let stopped = Arc::clone(&issuer.stopped);
        issuer.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (replies, requests) = (Arc::clone(&replies), Arc::clone(&requests));
                // A slow answer delays no other one. A client that hangs up is no error.
                thread::spawn(move || drop(answer(stream, &replies, &requests)));
            }
        }));
        issuer
    }

    /// Answers so at this path from now on.
    pub fn answer(&self, path: &str, reply: Reply) {
        self.replies.lock().insert(path.to_owned(), reply);
    }

    /// When this path was asked for.
    pub fn requests(&self, path: &str) -> Vec<Instant> {
        self.requests.lock().iter().filter(|(asked, _)| asked == path).map(|(_, at)| *at).collect()
    }

    /// The claims of a JWT of this issuer for `https://mayfly.example`.
    pub fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": "https://mayfly.example", "sub": "a", "iat": now(), "exp": now() + 300})
    }

    /// An `[[issuer]]` with the keys from the OpenID configuration, and these further lines.
    pub fn entry(&self, lines: &str) -> String {
        format!("[[issuer]]\nissuer = \"{}\"\naudience = \"https://mayfly.example\"\n{lines}\n", self.url)
    }
}

impl Drop for LocalIssuer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answer(
    mut stream: TcpStream,
    replies: &Mutex<HashMap<String, Reply>>,
    requests: &Mutex<Vec<(String, Instant)>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    requests.lock().push((path.clone(), Instant::now()));
    let reply = replies.lock().get(&path).cloned();
    let reply = reply.unwrap_or_else(|| Reply { status: "404 Not Found", ..Reply::bytes("") });
    thread::sleep(reply.delay);
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    let length = reply.body.len();
    write!(stream, "HTTP/1.1 {}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n", reply.status)?;
    stream.write_all(&reply.body)
}

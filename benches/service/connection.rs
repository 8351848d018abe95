//! HTTP connections that cost the machine little, so that many clients leave the cores to the service.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A connection that sends one request after the other.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends a request, and returns the status and the body of the response.
    pub async fn send(&mut self, request: &str) -> (u16, String) {
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut status, mut length, mut is_chunked) = (None, 0, false);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.trim().is_empty() {
                break;
            }
            let line = line.to_ascii_lowercase();
            status = status.or_else(|| line.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok());
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            is_chunked |= line.starts_with("transfer-encoding:");
        }
        let body = if is_chunked { self.read_chunks().await } else { self.read(length).await };
        (status.expect("a response begins with its status"), String::from_utf8(body).unwrap())
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut size = String::new();
            self.0.read_line(&mut size).await.unwrap();
            let length = usize::from_str_radix(size.trim(), 16).unwrap();
            // The chunk and its line end.
            let chunk = self.read(length + 2).await;
            body.extend_from_slice(&chunk[..length]);
            if length == 0 {
                return body;
            }
        }
    }

    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }
}

/// Sends these requests on this many connections, each the next one once it has its response, and returns the bodies.
/// Each response must be a success.
pub async fn exchange(address: &str, requests: &[String], connections: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let client = async || {
        let mut connection = Connection::open(address).await;
        let mut bodies = Vec::new();
        while let Some(request) = requests.get(next.fetch_add(1, Relaxed)) {
            let (status, body) = connection.send(request).await;
            assert!((200..300).contains(&status), "{status}: {body}");
            bodies.push(body);
        }
        bodies
    };
    join_all((0..connections.min(requests.len())).map(|_| client())).await.concat()
}

/// The `Authorization` of a user with the password "secret".
pub fn basic(user: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:secret")))
}

pub fn request(method: &str, path: &str, authorization: &str, body: &str) -> String {
    let length = body.len();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: {authorization}\r\n{kind}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

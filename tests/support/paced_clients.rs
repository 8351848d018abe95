//! Clients that verify a token at a steady rate and measure the latency.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// Clients that verify a token at a steady rate, each on its own connection.
pub struct PacedClients {
    pub clients: u32,
    /// The rate of all clients together.
    pub requests_per_second: u32,
    pub duration: Duration,
}

/// The latencies of all responses, sorted.
pub struct Latencies(Vec<Duration>);

impl PacedClients {
    /// Verifies `jwt` at the service at `address`. Each response must be 200.
    pub fn verify(&self, address: &str, jwt: &str) -> Latencies {
        let request = format!("GET /api/v1alpha/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {jwt}\r\n\r\n");
        let interval = Duration::from_secs(1) * self.clients / self.requests_per_second;
        let begun = Instant::now();
        let mut latencies: Vec<Duration> = thread::scope(|scope| {
            let client = |number| {
                let (first, request) = (begun + interval * number / self.clients, &request);
                scope.spawn(move || send_at_rate(address, request.as_bytes(), first, interval, begun + self.duration))
            };
            let clients: Vec<_> = (0..self.clients).map(client).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        latencies.sort();
        Latencies(latencies)
    }
}

/// Returns the latency of each response, measured from the time at which its request was due: a late response makes the
/// next requests late, too.
fn send_at_rate(address: &str, request: &[u8], first: Instant, interval: Duration, end: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut latencies, mut due, mut answer) = (Vec::new(), first, [0; 4096]);
    while due < end {
        let early = due.saturating_duration_since(Instant::now());
        sleep(early);
        // A late wake-up is not counted: the service did not cause it.
        let sent = if early.is_zero() { due } else { Instant::now() };
        stream.write_all(request).unwrap();
        let length = stream.read(&mut answer).unwrap();
        latencies.push(sent.elapsed());
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
        due += interval;
    }
    latencies
}

impl Latencies {
    /// Returns the latency, in milliseconds, that this share of the responses did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let index = (self.0.len() as f64 * share) as usize;
        self.0[index.min(self.0.len() - 1)].as_secs_f64() * 1e3
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

//! Good clients: they ask at a steady pace, and note how long they waited.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// Clients that verify a token at a steady pace, each on a connection of its own.
pub struct Pace {
    pub clients: u32,
    /// Of all clients together.
    pub requests_per_second: u32,
    pub duration: Duration,
}

/// How long the answers took, in order.
pub struct Waits(Vec<Duration>);

impl Pace {
    /// Verifies `jwt` at the service at `address`. Each answer must be 200.
    pub fn verify(&self, address: &str, jwt: &str) -> Waits {
        let request = format!("GET /api/v1alpha/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {jwt}\r\n\r\n");
        let interval = Duration::from_secs(1) * self.clients / self.requests_per_second;
        let begun = Instant::now();
        let mut waits: Vec<Duration> = thread::scope(|scope| {
            let client = |number| {
                let (first, request) = (begun + interval * number / self.clients, &request);
                scope.spawn(move || ask_at_pace(address, request.as_bytes(), first, interval, begun + self.duration))
            };
            let clients: Vec<_> = (0..self.clients).map(client).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        waits.sort();
        Waits(waits)
    }
}

/// How long each answer took from when it was due to be asked for: an answer that is late makes the next ones late, too.
fn ask_at_pace(address: &str, request: &[u8], first: Instant, interval: Duration, end: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut waits, mut due, mut answer) = (Vec::new(), first, [0; 4096]);
    while due < end {
        let early = due.saturating_duration_since(Instant::now());
        sleep(early);
        // To be woken late is not the service's doing.
        let asked = if early.is_zero() { due } else { Instant::now() };
        stream.write_all(request).unwrap();
        let length = stream.read(&mut answer).unwrap();
        waits.push(asked.elapsed());
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
        due += interval;
    }
    waits
}

impl Waits {
    /// What this share of the answers did not exceed, in milliseconds.
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

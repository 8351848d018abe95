//! How soon a new process answers.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    median,
    support::{RedisServer, Service},
};

const STARTS: usize = 7;

pub fn run() {
    measure("on the embedded store", None);
    let redis = RedisServer::start();
    measure("on Redis", Some(&redis.url()));
}

/// Starts the service on this store several times, and prints the time from its start to its first 200.
pub fn measure(store: &str, redis_url: Option<&str>) {
    // The first start on a new Redis stores the administrator.
    let times: Vec<f64> = (0..=STARTS).map(|_| start(redis_url).as_secs_f64() * 1e3).skip(1).collect();
    let most = times.iter().copied().fold(0.0, f64::max);
    println!("\nStart {store}, {STARTS} times: median {:.0} ms to the first 200, at most {most:.0} ms.", median(times));
}

fn start(redis_url: Option<&str>) -> Duration {
    let mut begun = Instant::now();
    let service = Service::launch(redis_url, |command| {
        command.env("MAYFLY_METRICS_LISTEN", "off");
        begun = Instant::now();
    });
    while !is_ready(service.address()) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the service is ready within 30 s");
        sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}

fn is_ready(address: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    ask().unwrap_or(false)
}

//! Idle clients, slow clients and floods of logins, from loopback addresses of their own.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    select,
    sync::oneshot,
    time::{interval, sleep, timeout},
};

use super::eventually;

/// Pause between two bytes of a slow client.
const BYTE_INTERVAL: Duration = Duration::from_secs(3);

/// Priority of the load's thread: its own use of the cores should not slow the service.
const NICE: i32 = 10;

/// A thread that sends requests to a service until it is dropped.
struct BackgroundLoad {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl BackgroundLoad {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            setpriority_process(None, NICE).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                select! {
                    () = work => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for BackgroundLoad {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Connects from the loopback address with this number; loopback has 16 million addresses.
async fn connect(address: SocketAddr, from: usize, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let source = u32::from(Ipv4Addr::new(127, 1, 0, 0)) + u32::try_from(from).unwrap();
    socket.bind((Ipv4Addr::from(source), 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Idle and slow clients.
pub struct SlowClients {
    counts: Arc<Counts>,
    _load: BackgroundLoad,
}

#[derive(Default)]
struct Counts {
    idle: AtomicUsize,
    slow: AtomicUsize,
    timed_out: AtomicUsize,
}

/// Adds one to a count until dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn at(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SlowClients {
    /// Opens this many connections to a service, and waits until all are open. Every other idle client has sent a
    /// request before. Slow clients send the head of a request byte by byte, or its body, or read a response byte by
    /// byte; they connect again when their connection is closed.
    pub fn connect(address: &str, idle: usize, slow: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        let counts = Arc::<Counts>::default();
        let load = BackgroundLoad::start({
            let counts = Arc::clone(&counts);
            async move {
                for number in 0..idle {
                    tokio::spawn(idle_client(address, number, Arc::clone(&counts)));
                    // A few at a time, so that the listener's backlog does not overflow.
                    if number % 64 == 0 {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                for number in 0..slow {
                    tokio::spawn(slow_client(address, number, Arc::clone(&counts)));
                    if number % 64 == 0 {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                std::future::pending::<()>().await;
            }
        });
        let clients = Self { counts, _load: load };
        eventually("all clients are connected", || (clients.count() >= (idle, slow * 9 / 10)).then_some(()));
        clients
    }

    /// Returns the number of connected idle and slow clients.
    pub fn count(&self) -> (usize, usize) {
        (self.counts.idle.load(Ordering::Relaxed), self.counts.slow.load(Ordering::Relaxed))
    }

    /// Returns the number of slow requests that were answered with 408.
    pub fn timed_out(&self) -> usize {
        self.counts.timed_out.load(Ordering::Relaxed)
    }
}

async fn idle_client(address: SocketAddr, number: usize, counts: Arc<Counts>) {
    let mut stream = connect(address, number % 16, None).await.unwrap();
    if number.is_multiple_of(2) {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
    }
    let _counted = Counted::at(&counts.idle);
    // Until the service closes the connection.
    let _ = stream.read(&mut [0]).await;
}

async fn slow_client(address: SocketAddr, number: usize, counts: Arc<Counts>) {
    loop {
        let is_reader = number.is_multiple_of(10);
        let Ok(mut stream) = connect(address, number % 16, is_reader.then_some(4096)).await else { continue };
        let _counted = Counted::at(&counts.slow);
        let opening: &[u8] = match number % 10 {
            // The responses are larger than the kernel's buffers.
            0 => &b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4),
            1..6 => b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            _ => {
                b"POST /oauth2/revoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                  Content-Length: 1000\r\n\r\ntoken="
            }
        };
        if stream.write_all(opening).await.is_err() {
            continue;
        }
        loop {
            if is_reader {
                sleep(BYTE_INTERVAL).await;
                if !matches!(stream.read(&mut [0]).await, Ok(1)) {
                    break;
                }
                continue;
            }
            let mut answer = [0; 1024];
            match timeout(BYTE_INTERVAL, stream.read(&mut answer)).await {
                Err(_) if stream.write_all(b"x").await.is_ok() => {}
                Ok(Ok(length)) if answer[..length].starts_with(b"HTTP/1.1 408 ") => {
                    counts.timed_out.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                _ => break,
            }
        }
    }
}

/// A flood of logins of unknown users, each with a name and an address of its own; or with an invalid name, which costs
/// no hash.
pub struct LoginFlood {
    counts: Arc<Mutex<StatusCounts>>,
    _load: BackgroundLoad,
}

/// The number of responses with each status. 0 counts requests that were not sent because no connection was free.
pub type StatusCounts = BTreeMap<u16, usize>;

/// Connections of a flood of logins.
const FLOOD_CONNECTIONS: usize = 1_000;

impl LoginFlood {
    /// Starts to send logins at this rate, however they are answered.
    pub fn start(address: &str, requests_per_second: usize, costs_a_hash: bool) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let counts = Arc::<Mutex<StatusCounts>>::default();
        let load = BackgroundLoad::start({
            let counts = Arc::clone(&counts);
            async move {
                let pool = Arc::<Mutex<VecDeque<TcpStream>>>::default();
                for number in 0..FLOOD_CONNECTIONS {
                    let stream = connect(address, number, None).await.unwrap();
                    pool.lock().unwrap().push_back(stream);
                }
                let mut ticks = interval(Duration::from_secs(1) / u32::try_from(requests_per_second).unwrap());
                for number in 0_usize.. {
                    ticks.tick().await;
                    let free = pool.lock().unwrap().pop_front();
                    let Some(mut stream) = free else {
                        *counts.lock().unwrap().entry(0).or_default() += 1;
                        continue;
                    };
                    let (pool, counts) = (Arc::clone(&pool), Arc::clone(&counts));
                    tokio::spawn(async move {
                        let status = log_in(&mut stream, number, costs_a_hash).await.unwrap();
                        *counts.lock().unwrap().entry(status).or_default() += 1;
                        pool.lock().unwrap().push_back(stream);
                    });
                }
            }
        });
        Self { counts, _load: load }
    }

    /// Returns the responses since the last call.
    pub fn take_counts(&self) -> StatusCounts {
        std::mem::take(&mut self.counts.lock().unwrap())
    }
}

/// Sends a login that fails, and returns its status.
async fn log_in(stream: &mut TcpStream, number: usize, costs_a_hash: bool) -> io::Result<u16> {
    // An invalid name is rejected without hashing.
    let name = if costs_a_hash { format!("nobody{number}") } else { format!("no body{number}") };
    let credentials = BASE64_STANDARD.encode(format!("{name}:password"));
    let request = format!("GET /api/v1alpha/token HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).await?;
    let status = answer[..length].strip_prefix(b"HTTP/1.1 ").and_then(|rest| str::from_utf8(&rest[..3]).ok());
    status.and_then(|status| status.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

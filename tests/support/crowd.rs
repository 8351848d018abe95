//! Clients who are a burden, from addresses of their own.

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

/// Between the bytes of a slow client.
const DRIP: Duration = Duration::from_secs(3);

/// What the burden has of the cores is not to be mistaken for what it costs the service.
const NICE: i32 = 10;

/// A thread that burdens a service until it is dropped.
struct Burden {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Burden {
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

impl Drop for Burden {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Connects from the loopback address with this number: 16 million of them are one's own.
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
pub struct Crowd {
    counts: Arc<Counts>,
    _burden: Burden,
}

#[derive(Default)]
struct Counts {
    idle: AtomicUsize,
    slow: AtomicUsize,
    refused: AtomicUsize,
}

/// Counts one while it lives.
struct Present<'a>(&'a AtomicUsize);

impl<'a> Present<'a> {
    fn at(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crowd {
    /// Holds so many connections to a service, and waits until all are there. Of the idle ones, every other has made a request
    /// before. Of the slow ones, some send the head of a request byte by byte, some its body, and some read what they asked
    /// for so; they come again when they are sent away.
    pub fn gather(address: &str, idle: usize, slow: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        let counts = Arc::<Counts>::default();
        let burden = Burden::start({
            let counts = Arc::clone(&counts);
            async move {
                for number in 0..idle {
                    tokio::spawn(idle_client(address, number, Arc::clone(&counts)));
                    // A few at a time, so that none waits for its place in the listener's backlog.
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
        let crowd = Self { counts, _burden: burden };
        eventually("the crowd is there", || (crowd.size() >= (idle, slow * 9 / 10)).then_some(()));
        crowd
    }

    /// How many are connected: idle, slow.
    pub fn size(&self) -> (usize, usize) {
        (self.counts.idle.load(Ordering::Relaxed), self.counts.slow.load(Ordering::Relaxed))
    }

    /// How many slow requests were answered with 408.
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

async fn idle_client(address: SocketAddr, number: usize, counts: Arc<Counts>) {
    let mut stream = connect(address, number % 16, None).await.unwrap();
    if number.is_multiple_of(2) {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
    }
    let _present = Present::at(&counts.idle);
    // Until the service ends it.
    let _ = stream.read(&mut [0]).await;
}

async fn slow_client(address: SocketAddr, number: usize, counts: Arc<Counts>) {
    loop {
        let is_reader = number.is_multiple_of(10);
        let Ok(mut stream) = connect(address, number % 16, is_reader.then_some(4096)).await else { continue };
        let _present = Present::at(&counts.slow);
        let opening: &[u8] = match number % 10 {
            // More than the kernel buffers.
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
                sleep(DRIP).await;
                if !matches!(stream.read(&mut [0]).await, Ok(1)) {
                    break;
                }
                continue;
            }
            let mut answer = [0; 1024];
            match timeout(DRIP, stream.read(&mut answer)).await {
                Err(_) if stream.write_all(b"x").await.is_ok() => {}
                Ok(Ok(length)) if answer[..length].starts_with(b"HTTP/1.1 408 ") => {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                _ => break,
            }
        }
    }
}

/// Logins of users whom nobody knows, each a name and an address of its own. Or of nobody at all, which costs no hash.
pub struct Flood {
    answers: Arc<Mutex<Answers>>,
    _burden: Burden,
}

/// How many of each status. 0: not sent, since no connection was free.
pub type Answers = BTreeMap<u16, usize>;

/// Connections of a flood.
const FLOOD_CONNECTIONS: usize = 1_000;

impl Flood {
    /// Begins one at this rate, whatever becomes of it.
    pub fn start(address: &str, requests_per_second: usize, costs_a_hash: bool) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let answers = Arc::<Mutex<Answers>>::default();
        let burden = Burden::start({
            let answers = Arc::clone(&answers);
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
                        *answers.lock().unwrap().entry(0).or_default() += 1;
                        continue;
                    };
                    let (pool, answers) = (Arc::clone(&pool), Arc::clone(&answers));
                    tokio::spawn(async move {
                        let status = log_in(&mut stream, number, costs_a_hash).await.unwrap();
                        *answers.lock().unwrap().entry(status).or_default() += 1;
                        pool.lock().unwrap().push_back(stream);
                    });
                }
            }
        });
        Self { answers, _burden: burden }
    }

    /// What came back since this was last asked.
    pub fn take_answers(&self) -> Answers {
        std::mem::take(&mut self.answers.lock().unwrap())
    }
}

/// The status of a login that is refused.
async fn log_in(stream: &mut TcpStream, number: usize, costs_a_hash: bool) -> io::Result<u16> {
    // A name that cannot be one is refused as it is.
    let name = if costs_a_hash { format!("nobody{number}") } else { format!("no body{number}") };
    let credentials = BASE64_STANDARD.encode(format!("{name}:password"));
    let request = format!("GET /api/v1alpha/token HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).await?;
    let status = answer[..length].strip_prefix(b"HTTP/1.1 ").and_then(|rest| str::from_utf8(&rest[..3]).ok());
    status.and_then(|status| status.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

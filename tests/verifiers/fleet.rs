//! Three replicas on a Redis that fails over, a load balancer, verifiers, and a fault proxy on each link.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        RwLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::sleep,
    time::Duration,
};

use fastrand::Rng;
use mayfly::domain::{jwk::Algorithm, key_rotation::generate};
use nix::sys::signal::Signal;
use secrecy::ExposeSecret;

use super::process::{Kind, VerifierProcess};
use crate::support::{Direction, Process, Proxy, Sentinel, Service, eventually, free_port};

pub const REPLICAS: usize = 3;

/// The verifiers. The last one has a replica of its own, the others ask through the load balancer.
pub const VERIFIERS: [Kind; 4] = [Kind::Rust, Kind::PythonThreads, Kind::PythonAsyncio, Kind::Rust];

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// Of the link between the load balancer and a replica.
    Link,
    /// Of the link between a replica and Redis.
    RedisLink,
    /// A replica is killed, and started again later.
    ReplicaAway,
    /// The primary is killed, and another is promoted.
    RedisAway,
    VerifierStopped,
}

impl Fault {
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Nothing, "nothing"),
        (Self::Link, "a link to a replica"),
        (Self::RedisLink, "a link to Redis"),
        (Self::ReplicaAway, "a replica is away"),
        (Self::RedisAway, "Redis fails over"),
        (Self::VerifierStopped, "a verifier is stopped"),
    ];
}

/// What happens to a link.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Stall(Direction),
    Blackhole,
    Delay,
    Cut,
    LoseResponse,
}

const TROUBLES: [Trouble; 6] = [
    Trouble::Stall(Direction::ToServer),
    Trouble::Stall(Direction::ToClient),
    Trouble::Blackhole,
    Trouble::Delay,
    Trouble::Cut,
    Trouble::LoseResponse,
];

pub struct Fleet {
    /// `None`: away.
    pub replicas: Vec<RwLock<Option<Service>>>,
    pub verifiers: Vec<VerifierProcess>,
    /// An index of [`Fault::ALL`].
    fault: AtomicUsize,
    /// Between the load balancer and the replicas.
    links: Vec<Proxy>,
    /// Between each replica and the primary, as far as the replica does not ask the sentinels.
    redis_links: Vec<Proxy>,
    sentinel_url: String,
    keys_file: PathBuf,
    _balancer: Process,
    _directory: tempfile::TempDir,
}

impl Fleet {
    pub fn start(sentinel: &Sentinel) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys_file = directory.path().join("keys.json");
        fs::write(&keys_file, generate(Algorithm::Hs256, 0).expose_secret()).unwrap();
        fs::set_permissions(&keys_file, Permissions::from_mode(0o600)).unwrap();
        let redis_links: Vec<_> = (1..REPLICAS).map(|_| Proxy::to(sentinel.primary_port())).collect();
        let sentinel_url = sentinel.url();
        let replicas: Vec<_> =
            (0..REPLICAS).map(|number| start_replica(number, &redis_links, &sentinel_url, &keys_file)).collect();
        replicas.iter().for_each(Service::wait_until_ready);
        let links: Vec<_> = replicas.iter().map(|replica| Proxy::to(port_of(replica))).collect();
        let (balancer, port) = balance(directory.path(), &links);
        let url = |number: usize| {
            let is_last = number + 1 == VERIFIERS.len();
            format!("http://127.0.0.1:{}", if is_last { links[REPLICAS - 1].port } else { port })
        };
        let verifiers =
            VERIFIERS.into_iter().enumerate().map(|(number, kind)| VerifierProcess::start(kind, &url(number)));
        Self {
            verifiers: verifiers.collect(),
            replicas: replicas.into_iter().map(|replica| RwLock::new(Some(replica))).collect(),
            fault: AtomicUsize::new(0),
            links,
            redis_links,
            sentinel_url,
            keys_file,
            _balancer: balancer,
            _directory: directory,
        }
    }

    /// An index of [`Fault::ALL`].
    pub fn fault(&self) -> usize {
        self.fault.load(SeqCst)
    }

    /// Each fault once, in a random order.
    pub fn fail(&self, sentinel: &mut Sentinel, rng: &mut Rng) {
        let links = TROUBLES.map(|trouble| (Fault::Link, Some(trouble)));
        let redis_links = TROUBLES.map(|trouble| (Fault::RedisLink, Some(trouble)));
        let others = [Fault::ReplicaAway, Fault::ReplicaAway, Fault::VerifierStopped, Fault::VerifierStopped];
        let mut faults = [&links[..], &redis_links, &others.map(|fault| (fault, None))].concat();
        faults.push((Fault::RedisAway, None));
        rng.shuffle(&mut faults);
        for (fault, trouble) in faults {
            let index = Fault::ALL.iter().position(|(other, _)| *other == fault).unwrap();
            self.fault.store(index, SeqCst);
            let pause = Duration::from_millis(rng.u64(100..800));
            match (fault, trouble) {
                (Fault::Link, Some(trouble)) => disturb(rng.choice(&self.links).unwrap(), trouble, pause),
                (Fault::RedisLink, Some(trouble)) => disturb(rng.choice(&self.redis_links).unwrap(), trouble, pause),
                (Fault::ReplicaAway, _) => self.restart(rng.usize(..REPLICAS), pause),
                (Fault::RedisAway, _) => sentinel.fail_over_telling(|primary| {
                    self.redis_links.iter().for_each(|link| link.redirect(primary.port));
                }),
                _ => {
                    let process = &rng.choice(&self.verifiers).unwrap().process;
                    process.signal(Signal::SIGSTOP);
                    sleep(pause);
                    process.signal(Signal::SIGCONT);
                }
            }
            // What follows belongs to the fault.
            sleep(Duration::from_millis(300));
            self.fault.store(0, SeqCst);
            sleep(Duration::from_millis(rng.u64(..400)));
        }
    }

    /// Kills a replica, and starts it again after this time.
    fn restart(&self, number: usize, pause: Duration) {
        let mut replica = self.replicas[number].write().unwrap();
        drop(replica.take());
        drop(replica);
        sleep(pause);
        let started = start_replica(number, &self.redis_links, &self.sentinel_url, &self.keys_file);
        started.wait_until_ready();
        self.links[number].redirect(port_of(&started));
        *self.replicas[number].write().unwrap() = Some(started);
    }
}

fn disturb(link: &Proxy, trouble: Trouble, pause: Duration) {
    match trouble {
        Trouble::Stall(direction) => {
            link.stall(direction, true);
            sleep(pause);
            link.stall(direction, false);
        }
        Trouble::Blackhole => {
            link.blackhole(true);
            sleep(pause);
            link.blackhole(false);
        }
        Trouble::Delay => {
            link.delay(pause / 4);
            sleep(pause);
            link.delay(Duration::ZERO);
        }
        Trouble::Cut => link.cut(),
        Trouble::LoseResponse => link.drop_next_response(),
    }
}

/// Starts a replica: the first one asks the sentinels for the primary, the others have a link of their own to it.
fn start_replica(number: usize, redis_links: &[Proxy], sentinel_url: &str, keys: &Path) -> Service {
    let link = number.checked_sub(1).map(|index| format!("redis://127.0.0.1:{}", redis_links[index].port));
    Service::launch(Some(link.as_deref().unwrap_or(sentinel_url)), |command| {
        command
            .env("MAYFLY_LOG", "error")
            .env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1")
            .env("MAYFLY_JWT_KEYS_FILE", keys)
            // All replicas of Redis: else a failover may bring a revoked token back.
            .env("MAYFLY_REDIS_WAIT_REPLICAS", "1");
    })
}

fn port_of(service: &Service) -> u16 {
    service.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// An nginx that sends each request to the next replica. Without `max_fails=0`, nginx takes a 503 for a fault of the
/// replica: while Redis was away, it answered with 502 by itself, and for seconds after.
fn balance(directory: &Path, links: &[Proxy]) -> (Process, u16) {
    let port = free_port();
    let servers: Vec<_> = links.iter().map(|link| format!("server 127.0.0.1:{} max_fails=0;", link.port)).collect();
    let servers = servers.concat();
    let root = directory.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {root}/nginx.pid; error_log /dev/null; events {{}}
         http {{ access_log off; client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
         uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
         upstream replicas {{ {servers} keepalive 16; }}
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://replicas; proxy_http_version 1.1;
         proxy_set_header Connection ''; proxy_connect_timeout 1s; proxy_read_timeout 2s;
         proxy_next_upstream error timeout http_503; }} }} }}"
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-e").arg("/dev/null").arg("-c").arg(&path).arg("-p").arg(directory);
    let process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (process, port)
}

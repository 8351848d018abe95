//! The promise, in other processes: once a revocation was answered, no verifier accepts the token again.
//!
//! Three replicas share one Redis. Verifiers, each in a process of its own, reach them through a load balancer that
//! sends each request to another replica, and through a proxy on each link. Meanwhile links stall, delay and break,
//! replicas lose Redis and are restarted, and verifiers are stopped and go on.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use fastrand::Rng;
use mayfly_verifier::{Credentials, Verifier, VerifyError};
use nix::sys::signal::Signal;

use crate::support::{ADMIN_PASSWORD, Direction, Process, Proxy, RedisServer, Service, eventually, free_port};

/// Set for a process that is to be a verifier: the URL of its service.
const VERIFIER_URL: &str = "MAYFLY_TEST_VERIFIER_URL";

const REPLICAS: usize = 3;
const VERIFIERS: usize = 3;

/// Counts of verifications, and of wrong ones.
#[derive(Debug, Default)]
pub struct Report {
    pub revocations: u64,
    pub verifications: u64,
    pub accepted: u64,
    /// Neither accepted nor rejected: the service gave no answer.
    pub unavailable: u64,
    /// Began after the revocation was answered, and accepted the token.
    pub violations: u64,
}

/// Whether this process is to be a verifier.
pub fn is_verifier() -> bool {
    env::var_os(VERIFIER_URL).is_some()
}

/// Reads JWTs, one a line, and answers each with a line: `= accepted`, `= rejected` or `= unavailable`. A verifier in
/// another language can do the same.
#[tokio::main]
pub async fn serve_lines() {
    let url = env::var(VERIFIER_URL).unwrap();
    let verifier = Verifier::builder(&url, Credentials::basic("admin", ADMIN_PASSWORD)).build().unwrap();
    for jwt in std::io::stdin().lines() {
        let answer = match verifier.verify(&jwt.unwrap()).await {
            Ok(_) => "accepted",
            Err(VerifyError::Rejected(_)) => "rejected",
            Err(VerifyError::Unavailable(_)) => "unavailable",
        };
        println!("= {answer}");
    }
}

/// A verifier in a process of its own.
struct Lines {
    process: Process,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Lines {
    fn start(url: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "verifiers::a_process_that_verifies_lines"]);
        Self::spawn(command.env(VERIFIER_URL, url))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let child = process.child();
        let pipes = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { process, pipes: Mutex::new(pipes) }
    }

    fn verify(&self, jwt: &str) -> String {
        let (input, output) = &mut *self.pipes.lock().unwrap();
        writeln!(input, "{jwt}").unwrap();
        // The test harness of the process prints lines, too.
        let mut answers = output.lines().map(Result::unwrap);
        answers.find_map(|line| line.split_once("= ").map(|(_, answer)| answer.to_owned())).expect("it answers")
    }
}

struct Token {
    id: String,
    jwt: String,
    ended: AtomicBool,
}

struct Fleet {
    replicas: Vec<RwLock<Service>>,
    /// Between the replicas and Redis.
    redis_links: Vec<Proxy>,
    /// Between the load balancer and the replicas.
    links: Vec<Proxy>,
    _balancer: Process,
    verifiers: Vec<Lines>,
    redis: RedisServer,
    wanted: u64,
    revocations: AtomicU64,
    verifications: AtomicU64,
    accepted: AtomicU64,
    unavailable: AtomicU64,
    violations: AtomicU64,
}

fn start_replica(redis_link: &Proxy, keys: Option<&std::path::Path>) -> Service {
    Service::launch(Some(&format!("redis://127.0.0.1:{}", redis_link.port)), |command| {
        command.env("MAYFLY_LOG", "error").env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1");
        if let Some(keys) = keys {
            command.env("MAYFLY_JWT_KEYS_FILE", keys);
        }
    })
}

fn port_of(service: &Service) -> u16 {
    service.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// An nginx that sends each request to the next replica.
fn balance(directory: &std::path::Path, links: &[Proxy]) -> (Process, u16) {
    let port = free_port();
    let servers: Vec<_> = links.iter().map(|link| format!("server 127.0.0.1:{};", link.port)).collect();
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

/// Runs this many workers until they have revoked at least this many tokens, with and without faults.
pub fn revoke_beside_verifiers(workers: usize, revocations: u64, with_faults: bool, seed: u64) -> Report {
    let (redis, directory) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let redis_links: Vec<_> = (0..REPLICAS).map(|_| Proxy::to(redis.port)).collect();
    let mut replicas: Vec<Service> = Vec::new();
    for link in &redis_links {
        let keys = replicas.first().map(|first| first.keys_file.clone());
        replicas.push(start_replica(link, keys.as_deref()));
    }
    replicas.iter().for_each(Service::wait_until_ready);
    let links: Vec<_> = replicas.iter().map(|replica| Proxy::to(port_of(replica))).collect();
    let (balancer, port) = balance(directory.path(), &links);
    // The last verifier has a replica of its own.
    let direct = format!("http://127.0.0.1:{}", links[0].port);
    let through_nginx = format!("http://127.0.0.1:{port}");
    let verifiers = (0..VERIFIERS).map(|number| Lines::start(if number == 2 { &direct } else { &through_nginx }));
    let fleet = Fleet {
        verifiers: verifiers.collect(),
        replicas: replicas.into_iter().map(RwLock::new).collect(),
        redis_links,
        links,
        _balancer: balancer,
        redis,
        wanted: revocations,
        revocations: AtomicU64::new(0),
        verifications: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        unavailable: AtomicU64::new(0),
        violations: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        for number in 0..workers as u64 {
            let (fleet, rng) = (&fleet, Rng::with_seed(seed ^ number));
            scope.spawn(move || fleet.work(rng));
        }
        if with_faults {
            let (fleet, rng) = (&fleet, Rng::with_seed(!seed));
            scope.spawn(move || fleet.fail(rng));
        }
    });
    drop(fleet.redis);
    Report {
        revocations: fleet.revocations.into_inner(),
        verifications: fleet.verifications.into_inner(),
        accepted: fleet.accepted.into_inner(),
        unavailable: fleet.unavailable.into_inner(),
        violations: fleet.violations.into_inner(),
    }
}

impl Fleet {
    fn is_done(&self) -> bool {
        self.revocations.load(Ordering::SeqCst) >= self.wanted
    }

    fn verify(&self, verifier: &Lines, token: &Token) {
        let ended = token.ended.load(Ordering::SeqCst);
        let answer = verifier.verify(&token.jwt);
        self.verifications.fetch_add(1, Ordering::SeqCst);
        self.accepted.fetch_add(u64::from(answer == "accepted"), Ordering::SeqCst);
        self.unavailable.fetch_add(u64::from(answer == "unavailable"), Ordering::SeqCst);
        self.violations.fetch_add(u64::from(ended && answer == "accepted"), Ordering::SeqCst);
    }

    /// Sends a request to some replica, not through a proxy, until it has one of these statuses.
    fn send(&self, rng: &mut Rng, statuses: [u16; 2], send: impl Fn(&Service) -> Option<u16>) {
        eventually("a replica does it", || {
            let replica = self.replicas[rng.usize(..REPLICAS)].read().unwrap();
            send(&replica).filter(|status| statuses.contains(status))
        });
    }

    /// Issues tokens, has them verified for a while, and revokes them.
    fn work(&self, mut rng: Rng) {
        while !self.is_done() {
            let body = serde_json::json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
            let issued = Mutex::new(None);
            self.send(&mut rng, [201, 201], |replica| {
                let answer = replica.admin().post("/api/v1alpha/token", &body).try_send().ok()?;
                *issued.lock().unwrap() = (answer.status == 201).then(|| answer.json());
                Some(answer.status)
            });
            let issued = issued.into_inner().unwrap().unwrap();
            let field = |name: &str| issued[name].as_str().unwrap().to_owned();
            let (id, jwt) = (field("jwt_token_id"), field("jwt_token"));
            let token = Token { id, jwt, ended: AtomicBool::new(false) };
            thread::scope(|scope| {
                let mut verifying = rng.fork();
                let (token, until) = (&token, Duration::from_millis(rng.u64(..600)));
                scope.spawn(move || {
                    // Until some time after the revocation was answered.
                    let mut after = 0;
                    while after < 5 {
                        after += u32::from(token.ended.load(Ordering::SeqCst));
                        self.verify(verifying.choice(&self.verifiers).unwrap(), token);
                    }
                });
                let begun = Instant::now();
                while begun.elapsed() < until {
                    self.verify(rng.choice(&self.verifiers).unwrap(), token);
                }
                // 404: a repetition of one that was not answered.
                self.send(&mut rng, [200, 404], |replica| {
                    let path = format!("/api/v1alpha/token/{}", token.id);
                    replica.admin().delete(&path).try_send().ok().map(|answer| answer.status)
                });
                token.ended.store(true, Ordering::SeqCst);
                self.revocations.fetch_add(1, Ordering::SeqCst);
                self.verifiers.iter().for_each(|verifier| self.verify(verifier, token));
            });
        }
    }

    /// One fault after the other.
    fn fail(&self, mut rng: Rng) {
        while !self.is_done() {
            let link = if rng.bool() { rng.choice(&self.links) } else { rng.choice(&self.redis_links) };
            let (link, pause) = (link.unwrap(), Duration::from_millis(rng.u64(..700)));
            match rng.u32(..7) {
                0 => {
                    let direction = if rng.bool() { Direction::ToServer } else { Direction::ToClient };
                    link.stall(direction, true);
                    sleep(pause);
                    link.stall(direction, false);
                }
                1 => {
                    link.blackhole(true);
                    sleep(pause);
                    link.blackhole(false);
                }
                2 => {
                    link.delay(pause / 4);
                    sleep(pause);
                    link.delay(Duration::ZERO);
                }
                3 => link.cut(),
                4 => link.drop_next_response(),
                5 => {
                    let verifier = rng.choice(&self.verifiers).unwrap();
                    verifier.process.signal(Signal::SIGSTOP);
                    sleep(pause);
                    verifier.process.signal(Signal::SIGCONT);
                }
                _ => {
                    let number = rng.usize(1..REPLICAS);
                    let keys = self.replicas[0].read().unwrap().keys_file.clone();
                    let mut replica = self.replicas[number].write().unwrap();
                    *replica = start_replica(&self.redis_links[number], Some(&keys));
                    replica.wait_until_ready();
                    self.links[number].redirect(port_of(&replica));
                }
            }
            sleep(pause / 4);
        }
    }
}

#[test]
#[ignore = "a process of the tests below"]
fn a_process_that_verifies_lines() {
    serve_lines();
}

/// The same with 10,000 revocations is part of `make soak`.
#[test]
fn no_verifier_accepts_a_token_after_its_revocation_is_answered() {
    let seed = fastrand::u64(..);
    let report = revoke_beside_verifiers(6, 60, true, seed);
    println!("{report:?} with seed {seed}");
    assert_eq!(report.violations, 0, "{report:?} with seed {seed}");
    assert!(report.revocations >= 60 && report.accepted > 200, "{report:?}");
}

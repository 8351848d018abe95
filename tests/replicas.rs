//! Replicas behind the load balancer of `deploy/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use mayfly::domain::throttle::PER_CLIENT_AND_USER;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::support::{ADMIN_PASSWORD, Client, Process, RedisServer, Service, eventually, free_port, run};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";

/// Replicas of the service, and HAProxy in front of them.
struct Replicas {
    url: String,
    services: Vec<Option<Service>>,
    ports: Vec<u16>,
    keys: PathBuf,
    redis: RedisServer,
    statistics: PathBuf,
    _haproxy: Process,
    _directory: tempfile::TempDir,
}

impl Replicas {
    fn start(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys.json");
        let generated = run(Service::command().args(["key", "generate"]), "").stdout;
        fs::write(&keys, generated).unwrap();
        let redis = RedisServer::start();
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let services = ports.iter().map(|port| Some(launch(&redis, &keys, *port))).collect();

        // The delivered configuration, with the addresses of this test.
        let (port, statistics) = (free_port(), directory.path().join("statistics"));
        let server = |port: &u16| format!("    server replica-{port} 127.0.0.1:{port}");
        let servers = ports.iter().map(server).collect::<Vec<_>>().join("\n");
        let delivered = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg")).unwrap();
        let configuration = delivered
            .replace("bind :25441", &format!("bind 127.0.0.1:{port}"))
            .replace("    server-template replica 10 mayfly:25441", &servers)
            .replace(" resolvers docker init-addr none", "")
            .replace("global\n", &format!("global\n    stats socket {}\n", statistics.display()));
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, configuration).unwrap();
        let haproxy =
            Process::spawn(Command::new("haproxy").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()));
        let replicas = Self {
            url: format!("http://127.0.0.1:{port}"),
            services,
            ports,
            keys,
            redis,
            statistics,
            _haproxy: haproxy,
            _directory: directory,
        };
        eventually("all replicas are up", || (replicas.count_up() == count).then_some(()));
        replicas
    }

    /// Returns the number of replicas to which HAProxy sends requests.
    fn count_up(&self) -> usize {
        let Ok(mut socket) = std::os::unix::net::UnixStream::connect(&self.statistics) else { return 0 };
        let mut statistics = String::new();
        std::io::Write::write_all(&mut socket, b"show stat\n").unwrap();
        std::io::Read::read_to_string(&mut socket, &mut statistics).unwrap();
        statistics.lines().filter(|line| line.starts_with("replicas,replica-") && line.contains(",UP,")).count()
    }

    fn client(&self) -> Client {
        Client::new(&self.url)
    }

    fn admin(&self) -> Client {
        self.client().with_basic("admin", ADMIN_PASSWORD)
    }

    /// Ends a replica with this signal, waits for its end, and starts another in its place.
    fn restart(&mut self, index: usize, signal: Signal) {
        let mut replica = self.services[index].take().unwrap();
        replica.process.signal(signal);
        replica.process.wait();
        self.services[index] = Some(launch(&self.redis, &self.keys, self.ports[index]));
        eventually("it is back", || (self.count_up() == self.ports.len()).then_some(()));
    }
}

fn launch(redis: &RedisServer, keys: &Path, port: u16) -> Service {
    let replica = Service::launch(Some(&redis.url()), |command| {
        command
            .env("MAYFLY_LISTEN", format!("127.0.0.1:{port}"))
            .env("MAYFLY_JWT_KEYS_FILE", keys)
            .env("MAYFLY_TOKEN_QUOTA", "100000")
            .env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1")
            // HAProxy checks every second, and a failed check again after half a second.
            .env("MAYFLY_SHUTDOWN_DELAY", "3s");
    });
    replica.wait_until_ready();
    replica
}

/// Clients that verify a token without a pause: some on one connection, others on a new one for each request.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(url: &str, jwt: &str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..6)
            .map(|index| {
                let (url, jwt) = (url.to_owned(), jwt.to_owned());
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                let kept = Client::new(&url).with_bearer(&jwt);
                thread::spawn(move || {
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let client = if index < 3 { kept.clone() } else { Client::new(&url).with_bearer(&jwt) };
                        match client.get(SELF).try_send() {
                            Ok(answer) if answer.status == 200 => {}
                            other => failures.push(format!("{other:?}")),
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(2));
                    }
                    failures
                })
            })
            .collect();
        Self { stop, answered, clients }
    }

    /// Stops the clients, and returns the numbers of all and of failed requests.
    fn stop(self) -> (usize, Vec<String>) {
        eventually("there is some load", || (self.answered.load(Ordering::Relaxed) > 100).then_some(()));
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

#[test]
fn replicas_behind_the_load_balancer_act_as_one_service() {
    let replicas = Replicas::start(3);
    let each = || replicas.services.iter().flatten();
    for creator in each() {
        let (id, jwt) = creator.admin().issue("x", "1h");
        for replica in each() {
            assert_eq!(replica.client().with_bearer(&jwt).get(SELF).send().status, 200);
        }
        let deleter = each().find(|replica| replica.url != creator.url).unwrap();
        assert_eq!(deleter.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
        for replica in each() {
            replica.client().with_bearer(&jwt).get(SELF).send().problem(401);
            replica.admin().get(&format!("{TOKEN}/{id}")).send().problem(404);
        }
    }
    // The load balancer may send each request to another replica.
    let (id, jwt) = replicas.admin().issue("x", "1h");
    for _ in 0..6 {
        assert_eq!(replicas.client().with_bearer(&jwt).get(SELF).send().status, 200);
    }
    assert_eq!(replicas.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    for _ in 0..6 {
        replicas.client().with_bearer(&jwt).get(SELF).send().problem(401);
    }
}

/// Restarts replicas this often, one after the other. Returns the numbers of all and of failed requests meanwhile.
pub fn restart_rolling(times: usize) -> (usize, Vec<String>) {
    let mut replicas = Replicas::start(3);
    let (_, jwt) = replicas.admin().issue("x", "1h");
    let load = Load::start(&replicas.url, &jwt);
    for round in 0..times {
        replicas.restart(round % 3, Signal::SIGTERM);
    }
    load.stop()
}

#[test]
fn a_rolling_restart_fails_no_request() {
    let (requests, failures) = restart_rolling(3);
    assert!(failures.is_empty(), "{failures:?} of {requests}");
}

#[test]
fn a_killed_replica_fails_only_its_own_requests() {
    let mut replicas = Replicas::start(3);
    let (_, jwt) = replicas.admin().issue("x", "1h");
    let load = Load::start(&replicas.url, &jwt);
    replicas.restart(0, Signal::SIGKILL);
    let (requests, failures) = load.stop();
    // At most one request of each of the six clients is in flight on the killed replica.
    assert!(failures.len() <= 6, "{failures:?} of {requests}");
    for failure in &failures {
        // On a reused connection to the replica HAProxy closes the client's, for the client to try again.
        assert!(failure.contains("status: 502") || failure.contains("Peer disconnected"), "{failure}");
    }
}

/// Returns the status of a login through the load balancer from this address, with a forged `X-Forwarded-For`.
async fn log_in_from(address: &str, replicas: &Replicas, forwarded_for: &str, password: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let host = replicas.url.trim_start_matches("http://");
    let mut stream = socket.connect(host.parse().unwrap()).await.unwrap();
    let login = BASE64_STANDARD.encode(format!("admin:{password}"));
    let request = format!(
        "GET {TOKEN} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {login}\r\nX-Forwarded-For: {forwarded_for}\r\n\
         Forwarded: for={forwarded_for}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn clients_behind_the_load_balancer_are_throttled_by_their_own_addresses() {
    let replicas = Replicas::start(2);
    let mut guesses = 0;
    while log_in_from("127.0.0.2", &replicas, &format!("192.0.2.{guesses}"), "a guess").await == "401" {
        guesses += 1;
        assert!(guesses < 2 * PER_CLIENT_AND_USER.free_failures, "one can guess for ever");
    }
    assert_eq!(log_in_from("127.0.0.3", &replicas, "127.0.0.2", ADMIN_PASSWORD).await, "200");
}

//! One Redis with every kind of fault: requests get a correct response in time, and recover after the fault.

use std::{
    fs,
    process::Command,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Authority, Client, Proxy, RedisServer, Service, Version, eventually, free_port, run};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";

/// The longest time for a response during a fault.
const SOON: Duration = Duration::from_secs(2);

/// The longest time to recover after a fault.
const RECOVERY: Duration = Duration::from_secs(5);

/// A service with a live and a revoked token, and a proxy between the service and Redis.
struct Scene {
    service: Service,
    redis: RedisServer,
    proxy: Proxy,
    live: (String, String),
    revoked: (String, String),
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Self {
        // Some tests kill it: what it answered is on the disk.
        let redis = RedisServer::start_with(free_port(), &[arguments, &["--appendfsync", "always"]].concat());
        let proxy = Proxy::to(redis.port);
        let service = Service::launch(Some(&format!("redis://127.0.0.1:{}", proxy.port)), |_| {});
        service.wait_until_ready();
        let [live, revoked] = ["live", "revoked"].map(|name| service.admin().issue(name, "1h"));
        assert_eq!(service.admin().delete(&format!("{TOKEN}/{}", revoked.0)).send().status, 200);
        Self { service, redis, proxy, live, revoked }
    }

    fn bearer(&self, token: &(String, String)) -> Client {
        self.service.client().with_bearer(&token.1)
    }

    /// Asserts that each request is answered in time with 503.
    fn assert_unavailable(&self) {
        for request in [
            self.bearer(&self.live).get("/api/v1alpha/token/self"),
            self.bearer(&self.revoked).get("/api/v1alpha/token/self"),
            self.service.admin().get(TOKEN),
            self.service.admin().post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})),
            self.service.admin().delete(&format!("{TOKEN}/{}", self.revoked.0)),
        ] {
            let asked = Instant::now();
            let answer = request.send();
            assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
            answer.problem(503);
            assert_eq!(answer.header("retry-after"), "1");
        }
        // The service stays live and ready.
        assert_eq!(self.service.client().get("/readyz").send().status, 200);
        assert_eq!(self.service.client().get("/livez").send().status, 200);
    }

    /// Asserts that requests succeed again in time, and that no token has changed its state.
    fn assert_recovers(&self) {
        let well = Instant::now();
        eventually("it recovers", || {
            let live = self.bearer(&self.live).get("/api/v1alpha/token/self").send().status;
            let revoked = self.bearer(&self.revoked).get("/api/v1alpha/token/self").send().status;
            assert!([200, 503].contains(&live), "a live token was answered with {live}");
            assert!([401, 503].contains(&revoked), "a revoked token was answered with {revoked}");
            (live == 200 && revoked == 401).then_some(())
        });
        assert!(well.elapsed() < RECOVERY, "{:?}", well.elapsed());
        let (id, _) = self.service.admin().issue("another", "1h");
        assert_eq!(self.service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    }
}

#[test]
fn requests_recover_after_redis_is_restarted() {
    let mut scene = Scene::new();
    let stopped = scene.redis.stop();
    scene.redis = RedisServer::start();
    scene.assert_unavailable();
    scene.redis = stopped.start_again();
    scene.assert_recovers();
}

#[test]
fn requests_recover_after_redis_is_paused() {
    let scene = Scene::new();
    scene.redis.process.signal(Signal::SIGSTOP);
    scene.assert_unavailable();
    scene.redis.process.signal(Signal::SIGCONT);
    scene.assert_recovers();
}

#[test]
fn requests_recover_after_the_connection_is_blackholed() {
    let scene = Scene::new();
    scene.proxy.blackhole(true);
    scene.assert_unavailable();
    scene.proxy.blackhole(false);
    scene.assert_recovers();
}

#[test]
fn requests_recover_after_redis_loads_its_data() {
    // 50 ms for each key; Redis answers clients only after every few.
    let slowly = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];
    let mut scene = Scene::with(&slowly);
    for _ in 0..50 {
        scene.service.admin().issue("one of many", "1h");
    }
    scene.redis.cli(&["BGREWRITEAOF"]);
    eventually("it is written", || (scene.redis.info("aof_base_size").parse::<u32>().unwrap() > 1024).then_some(()));
    let stopped = scene.redis.stop();
    scene.redis = RedisServer::start();
    let port = stopped.port;
    let starting = thread::spawn(|| stopped.start_again());
    let ping = || String::from_utf8(run(Command::new("redis-cli").args(["-p", &port.to_string(), "PING"]), "").stdout);
    eventually("it loads", || ping().unwrap().contains("LOADING").then_some(()));
    scene.assert_unavailable();
    scene.redis = starting.join().unwrap();
    scene.assert_recovers();
}

#[test]
fn requests_recover_after_redis_becomes_a_replica() {
    let scene = Scene::new();
    let primary = RedisServer::start();
    scene.redis.cli(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    // A former primary's data may be stale, so it authorizes neither writes nor reads.
    scene.assert_unavailable();
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    let recovered = || scene.service.admin().get(TOKEN).send().status != 503;
    eventually("it is a primary", || recovered().then_some(()));
}

#[test]
fn a_former_primary_authorizes_no_administrator() {
    let scene = Scene::new();
    let admin = scene.service.admin();
    assert_eq!(admin.get(USER).send().status, 200);
    // Its data may lack later removals.
    scene.redis.cli(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    admin.get(USER).send().problem(503);
    let path = format!("{USER}/admin");
    eventually("what was read before is of no use any more", || (admin.get(&path).send().status == 503).then_some(()));
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is a primary", || (admin.get(&path).send().status == 200).then_some(()));
    assert_eq!(admin.get(USER).send().status, 200);
}

#[test]
fn a_primary_without_its_replicas_is_not_used() {
    let scene = Scene::new();
    scene.redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let answer = scene.bearer(&scene.live).get("/api/v1alpha/token/self").send();
    answer.problem(503);
    scene.redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    scene.assert_recovers();
}

#[test]
fn a_full_redis_rejects_creations_and_revokes() {
    let scene = Scene::new();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let create = scene.service.admin().post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"}));
    create.send().problem(503);
    assert_eq!(scene.bearer(&scene.live).get("/api/v1alpha/token/self").send().status, 200);
    let (id, _) = &scene.live;
    assert_eq!(scene.service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    scene.bearer(&scene.live).get("/api/v1alpha/token/self").send().problem(401);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    scene.service.admin().issue("another", "1h");
}

#[test]
fn lost_scripts_and_connections_are_replaced() {
    let scene = Scene::new();
    scene.redis.cli(&["SCRIPT", "FLUSH"]);
    scene.assert_recovers();
    scene.redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(scene.bearer(&scene.live).get("/api/v1alpha/token/self").send().status, 200);
    scene.assert_recovers();
}

#[test]
fn a_redis_that_recovers_gets_no_burst_of_connections() {
    let mut scene = Scene::new();
    let stopped = scene.redis.stop();
    scene.redis = RedisServer::start();
    let before = scene.proxy.connections();
    let begun = Instant::now();
    let stop = begun + Duration::from_secs(2);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let client = scene.bearer(&scene.live);
            thread::spawn(move || {
                let mut answers = 0;
                while Instant::now() < stop {
                    let status = client.get("/api/v1alpha/token/self").send().status;
                    assert!([200, 503].contains(&status), "{status}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    sleep(Duration::from_secs(1));
    scene.redis = stopped.start_again();
    let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    scene.assert_recovers();
    let attempts = scene.proxy.connections() - before;
    let elapsed = begun.elapsed().as_millis();
    assert!(attempts as u128 <= 2 + elapsed / 100, "{attempts} connections in {elapsed} ms for {answers} requests");
    assert!(answers > 10 * attempts, "{answers} requests are no storm");
}

#[test]
fn a_write_with_too_few_acknowledgements_is_503_and_can_be_repeated() {
    let replica_port = free_port();
    let redis = RedisServer::start_with(free_port(), &["--repl-diskless-sync-delay", "0"]);
    let replica_of = format!("127.0.0.1 {}", redis.port);
    let replica = RedisServer::start_with(replica_port, &["--replicaof", &replica_of]);
    eventually("it follows", || (replica.info("master_link_status") == "up").then_some(()));
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1").env("MAYFLY_REDIS_WAIT_TIMEOUT", "200ms");
    });
    service.wait_until_ready();
    let (id, jwt) = service.admin().issue("x", "1h");
    let path = format!("{TOKEN}/{id}");

    replica.process.signal(Signal::SIGSTOP);
    let create = || service.admin().post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})).send();
    create().problem(503);
    let revoke = || service.admin().delete(&path).send();
    revoke().problem(503);
    // The token is gone from the primary, but the revocation is not acknowledged: a failover could undo it.
    revoke().problem(503);
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);

    replica.process.signal(Signal::SIGCONT);
    let answer = eventually("the replica has it", || Some(revoke()).filter(|answer| answer.status != 503));
    answer.problem(404);
    assert_eq!(replica.cli(&["EXISTS", &format!("mayfly:{{admin}}:token:{id}")]), "0");
    assert_eq!(create().status, 201);
}

/// A redis-server with TLS, an ACL user and a Unix socket.
#[test]
fn redis_is_reached_through_tls_with_certificates_and_through_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let authority = Authority::new();
    fs::write(file("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let identity = authority.identify("localhost");
        identity.write_certificate(file(&format!("{name}.pem")));
        identity.write_key(file(&format!("{name}.key")));
    }
    fs::write(file("password"), "hunter2\n").unwrap();
    let (tls_port, socket) = (free_port(), file("redis.sock"));
    let redis = RedisServer::start_with(
        free_port(),
        &[
            &["--tls-port", &tls_port.to_string(), "--tls-auth-clients", "yes", "--unixsocket", &socket][..],
            &["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")],
            &["--tls-ca-cert-file", &file("ca.pem")],
        ]
        .concat(),
    );
    // The ACL user of `docker-compose.yml`, which must suffice for these tests.
    let acl = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis-acl")).unwrap();
    let rules: Vec<_> = acl.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect();
    let user = [&["ACL", "SETUSER", "mayfly", "on", ">hunter2"], &rules[..]].concat();
    assert_eq!(redis.cli(&user), "OK");
    redis.cli(&["ACL", "SETUSER", "default", "nopass", "-@all", "+ping", "+acl"]);

    let secured = |command: &mut Command| {
        command
            .env("MAYFLY_REDIS_PASSWORD_FILE", file("password"))
            .env("MAYFLY_REDIS_CA_FILE", file("ca.pem"))
            .env("MAYFLY_REDIS_CERT_FILE", file("client.pem"))
            .env("MAYFLY_REDIS_KEY_FILE", file("client.key"));
    };
    let url = format!("rediss://mayfly@localhost:{tls_port}/0");
    let service = Service::launch(Some(&url), secured);
    service.wait_until_ready();
    let (id, jwt) = service.admin().issue("x", "1h");
    assert_eq!(service.admin().get(TOKEN).send().status, 200);
    // All that administrators do.
    let (admin, user) = (service.admin(), "/api/v1alpha/user/alice");
    admin.add_user("alice", "admin");
    assert_eq!(admin.get("/api/v1alpha/user").send().json()["users"].as_array().unwrap().len(), 2);
    service.client().with_basic("alice", "secret").issue("x", "1h");
    for change in [json!({"disabled": true}), json!({"disabled": false}), json!({"role": "user"})] {
        assert_eq!(admin.patch(user, &change).send().status, 200);
    }
    let password = json!({"password": "second", "revoke_tokens": true});
    assert_eq!(admin.put(&format!("{user}/password"), &password).send().status, 200);
    assert_eq!(admin.delete(user).send().status, 200);
    // Longer than a lease, so that the lease is renewed.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
    }
    let refused = redis.cli(&["ACL", "LOG"]);
    for entry in refused.lines().collect::<Vec<_>>().windows(2).filter(|lines| lines[0] == "object") {
        assert!(entry[1].starts_with("client|setinfo"), "{}: only the name of the library is kept from it", entry[1]);
    }

    let by_socket = Service::launch(Some(&format!("unix://{socket}?user=mayfly&pass=hunter2")), |_| {});
    by_socket.wait_until_ready();
    assert_eq!(by_socket.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);

    // A server with an untrusted certificate is not used.
    let distrustful = Service::launch(Some(&url), |command| {
        secured(command);
        command.env("MAYFLY_REDIS_CA_FILE", file("server.pem"));
    });
    distrustful.admin().get(TOKEN).send().problem(503);
}

#[test]
fn valkey_can_replace_redis() {
    let valkey = RedisServer::start_version(Version::Valkey9_1, &[]);
    assert_eq!(valkey.info("server_name"), "valkey");
    let service = Service::launch(Some(&valkey.url()), |_| {});
    service.wait_until_ready();
    assert_eq!(service.client().get("/readyz").send().json()["warnings"], json!([]));
    let (id, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    assert_eq!(bearer.get("/api/v1alpha/token/self").send().status, 200);
    assert_eq!(service.admin().get(TOKEN).send().json()["jwt_tokens"].as_object().unwrap().len(), 1);
    valkey.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    bearer.get("/api/v1alpha/token/self").send().problem(401);
}

//! Failovers between Redis servers, and the writes that survive them.

use nix::sys::signal::Signal;

use crate::support::{
    ADMIN_PASSWORD, Backend, Client, Cluster, Load, Losses, RedisServer, Sentinel, Service, eventually, free_port,
};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";

fn launch(url: &str, wait_replicas: &str) -> Service {
    let service = Service::launch(Some(url), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", wait_replicas).env("MAYFLY_TOKEN_QUOTA", "100000");
    });
    service.wait_until_ready();
    service
}

/// Kills the primary this often, while clients create and revoke tokens.
pub fn fail_over(times: usize, wait_replicas: &str) -> Losses {
    let mut sentinel = Sentinel::start(2, 3);
    let service = launch(&sentinel.url(), wait_replicas);
    let load = Load::start(&service.admin(), 4);
    for _ in 0..times {
        load.wait_for(10);
        sentinel.fail_over();
    }
    load.wait_for(10);
    load.stop(&service.client())
}

/// Kills the service this often.
pub fn kill_the_service(times: usize) -> Losses {
    let redis = RedisServer::start();
    let port = free_port();
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(Service::start(Backend::Memory).keys_file, &keys).unwrap();
    let launch = || {
        let service = Service::launch(Some(&redis.url()), |command| {
            command
                .env("MAYFLY_LISTEN", format!("127.0.0.1:{port}"))
                .env("MAYFLY_JWT_KEYS_FILE", keys.path())
                .env("MAYFLY_TOKEN_QUOTA", "100000");
        });
        service.wait_until_ready();
        service
    };
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut service = launch();
    let load = Load::start(&client.with_basic("admin", ADMIN_PASSWORD), 4);
    for _ in 0..times {
        load.wait_for(1);
        service.process.signal(Signal::SIGKILL);
        service.process.wait();
        service = launch();
    }
    load.wait_for(4);
    load.stop(&client)
}

/// Kills Redis this often; it writes to disk before it answers (`appendfsync always`).
pub fn kill_redis(times: usize) -> Losses {
    let mut redis = RedisServer::start_with(free_port(), &["--appendfsync", "always"]);
    let service = launch(&redis.url(), "0");
    let load = Load::start(&service.admin(), 4);
    for _ in 0..times {
        load.wait_for(1);
        redis = redis.restart();
    }
    load.wait_for(4);
    load.stop(&service.client())
}

#[test]
fn acknowledged_writes_survive_failovers() {
    // Both replicas: Sentinel may promote the one that is behind.
    let losses = fail_over(2, "2");
    assert_eq!((losses.lost, losses.undone), (0, 0), "{losses:?}");
}

#[test]
fn acknowledged_writes_survive_kills_of_the_service() {
    let losses = kill_the_service(5);
    assert_eq!((losses.lost, losses.undone), (0, 0), "{losses:?}");
}

#[test]
fn acknowledged_writes_survive_kills_of_redis() {
    let losses = kill_redis(5);
    assert_eq!((losses.lost, losses.undone), (0, 0), "{losses:?}");
}

#[test]
fn a_primary_that_accepts_writes_without_replicas_is_warned_about() {
    let sentinel = Sentinel::start(1, 1);
    let warnings = |service: &Service| service.client().get("/readyz").send().json()["warnings"].to_string();
    let service = launch(&sentinel.url(), "1");
    eventually("it is told", || warnings(&service).contains("min-replicas-to-write").then_some(()));
    assert!(
        !warnings(&launch(&sentinel.url(), "0")).contains("min-replicas"),
        "what is answered is not promised to last"
    );
    let primary = sentinel.primary().unwrap();
    primary.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    eventually("all is well", || (!warnings(&service).contains("min-replicas")).then_some(()));
}

#[test]
fn a_former_primary_that_wakes_up_gives_no_stale_answer() {
    let sentinel = Sentinel::start(1, 1);
    let [first, second] = [(), ()].map(|()| launch(&sentinel.url(), "1"));
    let keys = first.keys_file.clone();
    drop(second);
    let second = Service::launch(Some(&sentinel.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", keys);
    });
    second.wait_until_ready();
    let (id, jwt) = first.admin().issue("x", "1h");
    let verify = || second.client().with_bearer(&jwt).get(SELF).send().status;
    assert_eq!(verify(), 200);

    let deposed = sentinel.primary().unwrap();
    deposed.process.signal(Signal::SIGSTOP);
    eventually("another is promoted", || (sentinel.primary_port() != deposed.port).then_some(()));
    // The new primary's only replica is paused, so no write is acknowledged.
    first.admin().delete(&format!("{TOKEN}/{id}")).send().problem(503);
    // The second service may still use the old primary.
    deposed.process.signal(Signal::SIGCONT);
    let acknowledged = || [200, 404].contains(&first.admin().delete(&format!("{TOKEN}/{id}")).send().status);
    eventually("the revocation is acknowledged", || acknowledged().then_some(()));
    for _ in 0..50 {
        assert!([401, 503].contains(&verify()));
    }
    eventually("the second service follows", || (verify() == 401).then_some(()));
}

#[test]
fn a_cluster_works_after_a_failover_and_a_moved_slot() {
    let mut cluster = Cluster::start(true);
    let service = launch(&cluster.url(), "1");
    // Keys of one user live in one slot.
    let key = "mayfly:{admin}:user";
    let load = Load::start(&service.admin(), 2);
    load.wait_for(10);
    cluster.move_slot_of(key);
    load.wait_for(10);
    let killed = cluster.primary_of(key);
    let stopped = cluster.servers[killed].take().unwrap().stop();
    // The promoted server has no replica now: reads are answered, writes are not acknowledged.
    let jwt = load.live();
    let verify = || service.client().with_bearer(&jwt).get(SELF).send().status;
    eventually("another answers", || (verify() == 200).then_some(()));
    cluster.servers[killed] = Some(stopped.start_again());
    cluster.wait_until_whole();
    load.wait_for(10);
    let losses = load.stop(&service.client());
    assert_eq!((losses.lost, losses.undone), (0, 0), "{losses:?}");
}

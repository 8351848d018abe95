//! How the service starts, waits and stops.

use std::{
    io::{Read, Write, pipe},
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Client, Process, RedisServer, Service, eventually, free_port, run};

const TOKEN: &str = "/api/v1alpha/token";

#[test]
fn the_banner_has_the_address_and_a_command_that_works() {
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("pass word");
    std::fs::write(&password_file, "from a file\n").unwrap();
    for (name, configure) in [
        (
            "generated",
            Box::new(|command: &mut Command| {
                command.env_remove("MAYFLY_ADMIN_PASSWORD").env_remove("MAYFLY_JWT_KEYS_FILE");
            }) as Box<dyn Fn(&mut Command)>,
        ),
        ("variable", Box::new(|_: &mut Command| {})),
        (
            "file",
            Box::new(|command: &mut Command| {
                command.env_remove("MAYFLY_ADMIN_PASSWORD").env("MAYFLY_ADMIN_PASSWORD_FILE", &password_file);
            }),
        ),
    ] {
        let service = Service::start_with(Backend::Memory, |command| configure(command));
        let lines: Vec<_> = service.greeting.lines().collect();
        assert_eq!(lines[0], format!("Mayfly {} listens on {}", env!("CARGO_PKG_VERSION"), service.url), "{name}");
        assert_eq!(lines[1], format!("Page: {}/", service.url), "{name}");
        assert_eq!(lines[2], format!("Documentation: {}/docs", service.url), "{name}");
        assert!(lines[3].starts_with("Store: in memory"), "{name}: {}", lines[3]);
        assert!(lines[4].starts_with("Administrator: admin, password "), "{name}: {}", lines[4]);
        assert!(lines.last().unwrap().trim_start().starts_with("curl -u "), "{name}");
        // Without a terminal, curl reads the password from standard input.
        let mut paste = Command::new("setsid");
        let pasted = run(paste.args(["--wait", "bash", "-c", lines.last().unwrap()]), &format!("{ADMIN_PASSWORD}\n"));
        let answer = String::from_utf8(pasted.stdout).unwrap();
        assert!(answer.starts_with(r#"{"message":"Token generated""#), "{name}: {answer}");
    }
}

#[test]
fn requests_are_served_while_the_first_administrator_is_added() {
    let service = Service::launch(None, |command| {
        // A hash takes many seconds, and the longer the busier the machine is.
        command.env("MAYFLY_PASSWORD_COST", "m=131072,t=32,p=1");
    });
    assert_eq!(service.client().get("/livez").send().status, 200);
    assert_eq!(service.client().get("/readyz").send().problem(503), "The service is starting.");
}

#[test]
fn a_login_waits_until_the_first_administrator_is_added() {
    let service = Service::launch(None, |command| {
        command.env("MAYFLY_PASSWORD_COST", "m=65536,t=4,p=1");
    });
    assert_eq!(service.admin().get(TOKEN).send().status, 200);
}

#[test]
fn a_full_or_closed_standard_output_does_not_stop_the_service() {
    for is_closed in [false, true] {
        let (reader, mut output) = pipe().unwrap();
        // Fills the pipe.
        output.write_all(&vec![b'x'; 64 << 10]).unwrap();
        let reader = (!is_closed).then_some(reader);
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Service::command();
        command.env("MAYFLY_LISTEN", &address).env("MAYFLY_METRICS_LISTEN", "off").stdout(output).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command);
        drop(command);
        let client = Client::new(&format!("http://{address}"));
        eventually("it answers", || {
            client.get("/livez").try_send().is_ok_and(|answer| answer.status == 200).then_some(())
        });
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait().code(), Some(0));
        drop(reader);
    }
}

#[test]
fn each_start_generates_another_password() {
    let password = || {
        let service = Service::start_with(Backend::Memory, |command| {
            command.env_remove("MAYFLY_ADMIN_PASSWORD");
        });
        let words = "Administrator: admin, password ";
        service.greeting.lines().find_map(|line| line.strip_prefix(words)).unwrap().to_owned()
    };
    let (first, second) = (password(), password());
    assert_ne!(first, second);
    assert_eq!(first.len(), 24);
}

#[test]
fn the_administrator_is_added_once_and_never_overwritten() {
    let redis = RedisServer::start();
    let start = |password: &str| {
        let service = Service::launch(Some(&redis.url()), |command| {
            command.env("MAYFLY_ADMIN_PASSWORD", password);
        });
        eventually("ready", || (service.client().get("/readyz").send().status == 200).then_some(()));
        service
    };
    let status =
        |service: &Service, password: &str| service.client().with_basic("admin", password).get(TOKEN).send().status;
    assert_eq!(status(&start("first"), "first"), 200);
    let again = start("second");
    assert_eq!((status(&again, "first"), status(&again, "second")), (200, 401));
}

#[test]
fn replicas_share_users_and_tokens() {
    let redis = RedisServer::start();
    let first = Service::launch(Some(&redis.url()), |_| {});
    eventually("ready", || (first.client().get("/readyz").send().status == 200).then_some(()));
    let keys = first.keys_file.clone();
    let second = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", keys);
    });
    let (id, jwt) = first.admin().issue("x", "1h");
    assert_eq!(second.admin().get(&format!("{TOKEN}/{id}")).send().status, 200);
    assert_eq!(second.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().status, 200);
    assert_eq!(second.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    first.admin().get(&format!("{TOKEN}/{id}")).send().problem(404);
    first.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);
}

#[test]
fn tokens_outlive_a_restart_of_the_service_and_of_redis() {
    let mut service = Service::start(Backend::Redis);
    let (id, jwt) = service.admin().issue("x", "1h");
    // By default, the append-only file is synced every second.
    let redis = service.redis.take().unwrap();
    redis.cli(&["CONFIG", "SET", "appendfsync", "always"]);
    let redis = redis.restart();
    let get = || service.admin().get(&format!("{TOKEN}/{id}")).send();
    eventually("it finds Redis again", || (get().status == 200).then_some(()));
    let again = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &service.keys_file);
    });
    assert_eq!(again.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().status, 200);
}

#[test]
fn the_service_starts_without_redis_and_answers_503() {
    let port = free_port();
    let service = Service::launch(Some(&format!("redis://127.0.0.1:{port}")), |_| {});
    assert_eq!(service.client().get("/livez").send().status, 200);
    for answer in [
        service.client().get("/readyz").send(),
        service.admin().get(TOKEN).send(),
        service.admin().post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})).send(),
    ] {
        answer.problem(503);
        assert_eq!(answer.header("retry-after"), "1");
    }
    let _redis = RedisServer::start_on_port(port);
    eventually("ready", || (service.client().get("/readyz").send().status == 200).then_some(()));
    service.admin().issue("x", "1h");
}

#[test]
fn a_stopped_redis_causes_503_and_never_401() {
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    let (id, jwt) = service.admin().issue("x", "1h");
    let redis = service.redis.take().unwrap().stop();
    let bearer = service.client().with_bearer(&jwt);
    for request in [
        service.admin().get(TOKEN),
        service.admin().get(&format!("{TOKEN}/{id}")),
        service.admin().delete(&format!("{TOKEN}/{id}")),
        service.client().with_basic("admin", "wrong").get(TOKEN),
        bearer.get("/api/v1alpha/token/self"),
        bearer.delete("/api/v1alpha/token/self"),
    ] {
        request.send().problem(503);
    }
    assert_eq!(service.client().get("/livez").send().status, 200);
    let _redis = redis.start_again();
    eventually("it is well again", || (service.admin().get(TOKEN).send().status == 200).then_some(()));
}

#[test]
fn only_a_long_outage_makes_the_service_unready() {
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_UNREADY_AFTER", "2s");
    });
    let redis = service.redis.take().unwrap().stop();
    let ready = || service.client().get("/readyz").send().status == 200;
    let away = Instant::now();
    service.admin().get(TOKEN).send().problem(503);
    eventually("it turns unready", || (!ready()).then_some(()));
    assert!(away.elapsed() >= Duration::from_secs(2), "unready after {:?}", away.elapsed());
    let _redis = redis.start_again();
    eventually("it turns ready", || ready().then_some(()));
}

#[test]
fn a_redis_that_may_lose_tokens_is_warned_about() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    let warnings = || service.client().get("/readyz").send().json()["warnings"].clone();
    assert_eq!(warnings(), json!([]));
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let warnings = eventually("it complains", || Some(warnings()).filter(|warnings| warnings[1].is_string()));
    for (warning, fix) in
        warnings.as_array().unwrap().iter().zip(["maxmemory-policy to noeviction", "appendonly to yes"])
    {
        assert!(warning.as_str().unwrap().contains(fix), "{warning}");
    }
}

#[test]
fn a_paused_redis_causes_503_before_clients_time_out() {
    let service = Service::start(Backend::Redis);
    let (id, _) = service.admin().issue("x", "1h");
    let redis = service.redis.as_ref().unwrap();
    redis.process.signal(Signal::SIGSTOP);
    service.admin().get(&format!("{TOKEN}/{id}")).send().problem(503);
    service.admin().get(&format!("{TOKEN}/{id}")).send().problem(503);
    redis.process.signal(Signal::SIGCONT);
    let get = || service.admin().get(&format!("{TOKEN}/{id}")).send();
    eventually("it is well again", || (get().status == 200).then_some(()));
}

#[test]
fn a_killed_connection_is_replaced_without_a_failed_request() {
    let service = Service::start(Backend::Redis);
    let (id, _) = service.admin().issue("x", "1h");
    service.redis.as_ref().unwrap().cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(service.admin().get(&format!("{TOKEN}/{id}")).send().status, 200);
}

#[test]
fn requests_in_flight_finish_after_sigterm() {
    let mut service = Service::start(Backend::Redis);
    let address = service.address().to_owned();
    let credentials = BASE64_STANDARD.encode(format!("admin:{ADMIN_PASSWORD}"));
    let body = r#"{"jwt_token_description": "x", "jwt_token_life": "1h"}"#;
    let mut request = TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    request.write_all(head.as_bytes()).unwrap();
    // The server has asked for the body, so the request is in flight.
    let mut go_on = [0; 25];
    request.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    service.process.signal(Signal::SIGTERM);
    eventually("nothing new is accepted", || TcpStream::connect(&address).is_err().then_some(()));
    request.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    request.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(service.process.wait().code(), Some(0));
}

#[test]
fn a_shutdown_is_delayed_until_load_balancers_notice_it() {
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_SHUTDOWN_DELAY", "2s");
    });
    service.client().get("/readyz").send();
    let begun = Instant::now();
    service.process.signal(Signal::SIGTERM);
    let unready =
        eventually("it says so", || Some(service.client().get("/readyz").send()).filter(|answer| answer.status == 503));
    assert_eq!(unready.problem(503), "The service is shutting down.");
    let answer = service.admin().get(TOKEN).send();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(service.process.wait().code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(2), "gone after {:?}", begun.elapsed());
}

#[test]
fn idle_and_stalled_clients_do_not_prevent_a_shutdown() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut service = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_SHUTDOWN_GRACE", "100ms");
        });
        let address = service.address().to_owned();
        let _idle = TcpStream::connect(&address).unwrap();
        let mut stalled = TcpStream::connect(&address).unwrap();
        stalled.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(service.client().get("/livez").send().status, 200);
        service.process.signal(signal);
        assert_eq!(service.process.wait().code(), Some(0));
    }
}

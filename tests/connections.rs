//! Slow clients, idle clients, and many of them.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Backend, Log, Service, eventually};

const HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n";

/// Longer than anything here takes: it only keeps a test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(service: &Service) -> TcpStream {
    let stream = service.connect();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the server has hung up.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    match stream.read(&mut [0; 1024]) {
        Ok(length) => length == 0,
        Err(error) => !is_about_time(&error),
    }
}

fn is_about_time(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An answer whose body is no longer than its head's packet.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn a_head_that_drips_is_answered_with_408() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    // The connection has served a request before: what counts is the time of each head.
    stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
    let begun = Instant::now();
    stream.write_all(HEAD).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = Vec::new();
    while stream.read_to_end(&mut answer).is_err_and(|error| is_about_time(&error)) {
        assert!(begun.elapsed() < PATIENCE);
        // It may be closed in this moment.
        let _ = stream.write_all(b"x");
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(head.contains("content-type: application/problem+json\r\n"), "{answer}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["status"], &problem["message"]), (&408.into(), &problem["detail"]));
    assert!(head.contains(&format!("x-request-id: {}", problem["request_id"].as_str().unwrap())), "{answer}");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
}

#[test]
fn a_pause_between_requests_is_no_end() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    for _ in 0..2 {
        // Two at once, and the second not whole: what was read ahead is not forgotten while the client is quiet.
        stream.write_all(&[HEAD, b"\r\n", HEAD].concat()).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
        stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "nothing to say for longer than a second");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\r\n").unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn a_body_that_nobody_read_is_no_request() {
    let service = Service::start(Backend::Memory);
    let hidden = [HEAD, b"\r\n"].concat();
    for length in [format!("Content-Length: {}", hidden.len()), "Transfer-Encoding: chunked".into()] {
        let mut stream = connect(&service);
        let head = format!("POST /api/v1alpha/token HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let answer = answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close\r\n"), "{answer}");
        // Not even once the connection has been quiet for so long that it is put away.
        stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = stream.write_all(&hidden);
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{length}");
    }
}

/// The head of a request whose body is larger than any that is read.
fn large(length: usize) -> Vec<u8> {
    let form = "Content-Type: application/x-www-form-urlencoded";
    format!("POST /oauth2/revoke HTTP/1.1\r\nHost: localhost\r\n{form}\r\nContent-Length: {length}\r\n\r\n").into()
}

#[test]
fn who_sends_too_much_is_told_and_not_cut_off() {
    let service = Service::start(Backend::Memory);
    // More than sockets hold.
    let body = vec![b'x'; 7 << 20];
    let endless_head = [HEAD, b"x: ", &body[..], b"\r\n\r\n"].concat();
    for (request, status) in [([&large(body.len()), &body[..]].concat(), 413), (endless_head, 431)] {
        for _ in 0..20 {
            let mut stream = connect(&service);
            stream.write_all(&request).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }
}

#[test]
fn who_goes_on_sending_is_cut_off() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    stream.write_all(&large(1 << 40)).unwrap();
    let part = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while stream.write_all(&part).is_ok() {
        sent += part.len();
    }
    // What is read in the end, and what sockets hold of what is not.
    assert!(sent < 32 << 20, "{sent}");
}

#[test]
fn where_all_places_are_taken_an_idle_connection_makes_room() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "8").stderr(log.stdio());
    });
    // Those that are in use stay.
    let mut used: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(&service);
            stream.write_all(HEAD).unwrap();
            stream
        })
        .collect();
    let mut idle: Vec<TcpStream> = (0..32).map(|_| connect(&service)).collect();
    let begun = Instant::now();
    for _ in 0..8 {
        let mut stream = connect(&service);
        stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
        idle.push(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "nobody waited for a time-out");
    let closed = eventually("room was made", || {
        let closed = idle.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
        (closed >= idle.len() + used.len() - 8).then_some(closed)
    });
    assert!(closed < idle.len(), "no more than needed");
    for stream in &mut used {
        stream.write_all(b"\r\n").unwrap();
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    assert!(log.text().contains("all connections are taken"), "{}", log.text());
}

#[test]
fn a_place_that_came_of_itself_leaves_nobody_to_be_shown_out() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "2");
    });
    let in_use = [0, 1].map(|_| {
        let mut stream = connect(&service);
        stream.write_all(HEAD).unwrap();
        stream
    });
    // Let in when one of those hangs up, and again when the place is taken back that nobody needed to give up.
    let waiting = connect(&service);
    drop(in_use);
    drop(waiting);
    for _ in 0..3 {
        let mut stream = connect(&service);
        assert!(!is_closed(&mut stream));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn the_rest_of_a_body_that_nobody_wants_is_no_head() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "1");
    });
    let mut quiet = connect(&service);
    let length = 12_000;
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    quiet.write_all(&[request.as_bytes(), &vec![b'x'; length], b"\r\n"].concat()).unwrap();
    assert!(answer(&mut quiet).starts_with("HTTP/1.1 200 "));
    // It makes room once it is quiet, and no later.
    let begun = Instant::now();
    let mut stream = connect(&service);
    stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() < Duration::from_secs(9), "nobody waited for a time-out");
}

#[test]
fn the_limit_of_open_files_is_raised_and_respected() {
    let open_files = |service: &Service| {
        let limits = fs::read_to_string(format!("/proc/{}/limits", service.process.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    let limited = |limits: &str, log: &Log| {
        Service::start_with(Backend::Memory, |command| {
            let mut shell = Command::new("bash");
            shell.args(["-c", &format!("{limits}; exec \"$0\""), env!("CARGO_BIN_EXE_mayfly")]);
            shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            shell.stdout(std::process::Stdio::piped()).stderr(log.stdio());
            *command = shell;
        })
    };
    let log = Log::new();
    let service = limited("ulimit -Sn 100; ulimit -Hn 1000", &log);
    assert_eq!(open_files(&service), "1000");
    let complaint = "there is room for 872 connections instead of 16384";
    eventually("it says so", || log.text().contains(complaint).then_some(()));
    drop(service);

    let log = Log::new();
    let service = limited("ulimit -n 1000; export MAYFLY_MAX_CONNECTIONS=872", &log);
    assert_eq!(open_files(&service), "1000");
    assert!(!log.text().contains("there is room"), "{}", log.text());
}

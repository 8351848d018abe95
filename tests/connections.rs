//! Slow clients, idle clients, and many of them.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rstest::rstest;
use tokio::net::TcpSocket;

use crate::support::{Answer, Backend, Client, Log, Service, eventually, run};

const HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n";

/// Longer than any step of a test: only keeps a test from hanging.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn connect(service: &Service) -> TcpStream {
    let stream = service.connect();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

/// Connects from the loopback address with this number.
fn connect_from(service: &Service, number: u8) -> TcpStream {
    try_connect_from(service, number).unwrap()
}

fn try_connect_from(service: &Service, number: u8) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 1, number), 0).into()).unwrap();
        socket.connect(service.address().parse().unwrap()).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    Ok(stream)
}

/// Asserts that a request on this connection is answered before the time-outs of others, which are 10 s.
#[track_caller]
fn assert_answered_at_once(mut stream: TcpStream) {
    let begun = Instant::now();
    stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
    assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

/// Returns whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    match stream.read(&mut [0; 1024]) {
        Ok(length) => length == 0,
        Err(error) => !is_timeout(&error),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads a response whose head and body are one packet.
fn read_response(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn a_head_that_arrives_byte_by_byte_times_out_with_408() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    // The connection has served a request before: each head has its own timeout.
    stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
    assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
    let begun = Instant::now();
    stream.write_all(HEAD).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = Vec::new();
    while stream.read_to_end(&mut answer).is_err_and(|error| is_timeout(&error)) {
        assert!(begun.elapsed() < TEST_TIMEOUT);
        // The connection may be closed at this moment.
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
fn a_connection_survives_a_pause_between_requests() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    for _ in 0..2 {
        // The second head is incomplete: bytes that were read ahead are kept while the client pauses.
        stream.write_all(&[HEAD, b"\r\n", HEAD].concat()).unwrap();
        assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
        stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "nothing to say for longer than a second");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.write_all(b"\r\n").unwrap();
        assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn an_unread_body_is_not_parsed_as_a_request() {
    let service = Service::start(Backend::Memory);
    let hidden = [HEAD, b"\r\n"].concat();
    for (length, is_last) in [
        (format!("Content-Length: {}", hidden.len()), false),
        ("Content-Length: 65537".into(), true),
        ("Transfer-Encoding: chunked".into(), true),
        (format!("Expect: 100-continue\r\nContent-Length: {}", hidden.len()), true),
    ] {
        let mut stream = connect(&service);
        let head = format!("POST /api/v1alpha/token HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let answer = read_response(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert_eq!(answer.contains("connection: close\r\n"), is_last, "{length}: {answer}");
        // Not even after the pause in which hyper's part of the connection is dropped.
        stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = stream.write_all(&hidden);
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{length}");
    }
}

/// Returns the head of a request with a body of this length, which the endpoint reads.
fn large_request_head(length: usize) -> Vec<u8> {
    let form = "Content-Type: application/x-www-form-urlencoded";
    format!("POST /oauth2/revoke HTTP/1.1\r\nHost: localhost\r\n{form}\r\nContent-Length: {length}\r\n\r\n").into()
}

#[test]
fn a_client_that_sends_too_much_can_read_the_response() {
    let service = Service::start(Backend::Memory);
    // More than the buffers of sockets.
    let body = vec![b'x'; 7 << 20];
    let endless_head = [HEAD, b"x: ", &body[..], b"\r\n\r\n"].concat();
    for (request, status) in [([&large_request_head(body.len()), &body[..]].concat(), 413), (endless_head, 431)] {
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
fn a_client_that_does_not_stop_sending_is_disconnected() {
    let service = Service::start(Backend::Memory);
    let mut stream = connect(&service);
    stream.write_all(&large_request_head(1 << 40)).unwrap();
    let part = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while stream.write_all(&part).is_ok() {
        sent += part.len();
    }
    // The 8 MiB that are read and dropped, and the buffers of sockets.
    assert!(sent < 32 << 20, "{sent}");
}

#[test]
fn an_idle_connection_is_closed_for_a_new_one_at_the_limit() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "8").env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").stderr(log.stdio());
    });
    let mut idle: Vec<TcpStream> = (0..32).map(|_| connect(&service)).collect();
    let begun = Instant::now();
    for _ in 0..8 {
        let mut stream = connect(&service);
        stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
        assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
        idle.push(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "nobody waited for a time-out");
    let closed = eventually("room was made", || {
        let closed = idle.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
        (closed >= idle.len() - 8).then_some(closed)
    });
    assert!(closed < idle.len(), "no more than needed");
    eventually("it says so", || log.text().contains("all connections are taken").then_some(()));
}

#[test]
fn no_connection_is_closed_if_another_one_ends_by_itself() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "2").env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    });
    let in_use = [0, 1].map(|_| {
        let mut stream = connect(&service);
        stream.write_all(HEAD).unwrap();
        stream
    });
    // Gets its slot when one of the others closes; the eviction that was due is then cancelled.
    let waiting = connect(&service);
    drop(in_use);
    drop(waiting);
    for _ in 0..3 {
        let mut stream = connect(&service);
        assert!(!is_closed(&mut stream));
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
        assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn the_rest_of_an_unread_body_is_not_parsed_as_a_head() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "1").env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    });
    let mut quiet = connect(&service);
    let length = 12_000;
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    quiet.write_all(&[request.as_bytes(), &vec![b'x'; length], b"\r\n"].concat()).unwrap();
    assert!(read_response(&mut quiet).starts_with("HTTP/1.1 200 "));
    // The connection can be evicted as soon as it is idle.
    let begun = Instant::now();
    let mut stream = connect(&service);
    stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
    assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
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

/// Returns the first bytes of a slow client.
fn first_bytes(kind: &str) -> Vec<u8> {
    match kind {
        "head" => HEAD.to_vec(),
        "body" => large_request_head(1000),
        // The responses are larger than the kernel's buffers, and are not read.
        "answer" => b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8),
        "rest" => b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".to_vec(),
        _ => unreachable!(),
    }
}

#[rstest]
fn a_slow_connection_is_closed_for_a_new_one_at_the_limit(#[values("head", "body", "answer", "rest")] kind: &str) {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "8");
    });
    let slow: Vec<_> = (0..8).map(|number| connect_from(&service, 100 + number)).collect();
    for mut stream in &slow {
        stream.write_all(&first_bytes(kind)).unwrap();
    }
    if matches!(kind, "answer" | "rest") {
        // Otherwise the service may still consider one of them idle.
        for stream in &slow {
            assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
        }
    }
    for number in 0..4 {
        assert_answered_at_once(connect_from(&service, number));
    }
    eventually("one of the slow clients hears of it", || {
        slow.iter().find(|stream| is_disconnected(stream, kind)).map(|_| ())
    });
}

/// Returns whether a slow client was disconnected: by a response, or by a reset if it takes none, which leaves nothing
/// in the kernel.
fn is_disconnected(mut stream: &TcpStream, kind: &str) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut bytes = vec![0; 1 << 20];
    match (stream.read(&mut bytes), kind) {
        (Ok(_), "head" | "body") => bytes.starts_with(b"HTTP/1.1 408 "),
        (Ok(length), "rest") => length == 0,
        (Err(error), "answer") => error.kind() == io::ErrorKind::ConnectionReset,
        _ => false,
    }
}

#[test]
fn slow_heads_of_one_client_do_not_delay_other_clients() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "64");
    });
    thread::scope(|scope| {
        // The slow client stops when this scope ends, even by a panic.
        let going_on = Arc::new(());
        let going = Arc::downgrade(&going_on);
        let service = &service;
        scope.spawn(move || {
            let mut heads = Vec::new();
            while going.strong_count() > 0 {
                if let Ok(mut stream) = try_connect_from(service, 100) {
                    let _ = stream.write_all(HEAD);
                    heads.push(stream);
                }
                // 83 a second.
                thread::sleep(Duration::from_millis(12));
            }
        });
        for number in 0..20 {
            assert_answered_at_once(connect_from(service, number));
            thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn a_client_may_hold_half_of_all_connections_and_a_trusted_proxy_all() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_MAX_CONNECTIONS", "8").env("MAYFLY_TRUSTED_PROXIES", "127.0.1.9").stderr(log.stdio());
    });
    let hold = |number, count| -> Vec<_> {
        let held = (0..count).filter_map(|_| {
            let mut stream = try_connect_from(&service, number).ok()?;
            stream.write_all(HEAD).ok().map(|()| stream)
        });
        held.collect()
    };
    // Returns the number of connections that were answered and are still open.
    let served = |mut held: Vec<TcpStream>| {
        let is_answered = |stream: &mut TcpStream| {
            let mut answer = [0; 1024];
            let read = stream.write_all(b"\r\n").and_then(|()| stream.read(&mut answer));
            read.is_ok() && answer.starts_with(b"HTTP/1.1 200 ")
        };
        held.retain_mut(is_answered);
        held.iter_mut().filter_map(|stream| (!is_closed(stream)).then_some(())).count()
    };
    eventually("half of the places are one client's", || {
        let is_logged = || log.text().contains("a client holds half of all connections");
        (served(hold(1, 8)) == 4 && is_logged()).then_some(())
    });
    eventually("all places are the proxy's", || (served(hold(9, 8)) == 8).then_some(()));
}

#[rstest]
fn the_request_after_an_unread_body_is_answered(#[values(10, 16 << 10, 64 << 10)] length: usize) {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    let body = vec![b'x'; length];
    for (path, status) in [("/api/v1alpha/verify", 200), ("/nothing", 404), ("/livez", 405)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {jwt}\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = connect(&service);
        stream.set_nodelay(true).unwrap();
        for number in 0..500 {
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            let answer = read_response(&mut stream);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}, {number}: {answer}");
        }
    }
}

#[test]
fn curl_reads_the_response_to_a_large_unread_body() {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    let mut body = tempfile::NamedTempFile::new().unwrap();
    body.write_all(&vec![b'x'; 5 << 20]).unwrap();
    for (path, status) in [("/api/v1alpha/verify", "200"), ("/nothing", "404"), ("/oauth2/revoke", "413")] {
        for _ in 0..5 {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Expect:"]);
            curl.arg("--data-binary").arg(format!("@{}", body.path().display()));
            curl.arg("-H").arg(format!("Authorization: Bearer {jwt}")).arg(format!("{}{path}", service.url));
            let output = run(&mut curl, "");
            assert!(output.status.success(), "{path}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), status, "{path}");
        }
    }
}

#[test]
fn a_malformed_request_gets_a_dated_problem_with_an_id_that_is_logged_and_counted() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes();
    let target = format!("/{}", "x".repeat(65_000));
    for (request, status) in [
        (get("/livez", &"X: y\r\n".repeat(100)), 431),
        (get("/livez", &format!("X-Long: {}\r\n", "y".repeat(300_000))), 431),
        (get("/livez", "X-A: b\r\n c\r\n"), 400),
        (get("/livez", "X-A : b\r\n"), 400),
        (get("/livez", "Content-Length: x\r\n"), 400),
        (get(&format!("{target}{}", "y".repeat(500)), ""), 404),
        (get(&format!("{target}{}", "y".repeat(534)), ""), 414),
        (get(&format!("{target}{}", "y".repeat(5_000)), ""), 414),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        (b"nonsense\r\n\r\n".to_vec(), 400),
    ] {
        // As the first request on a connection, and after another one.
        for is_first in [true, false] {
            let mut stream = connect(&service);
            if !is_first {
                stream.write_all(&[HEAD, b"\r\n"].concat()).unwrap();
                assert!(read_response(&mut stream).starts_with("HTTP/1.1 200 "));
            }
            stream.write_all(&request).unwrap();
            let text = String::from_utf8_lossy(&request[..request.len().min(90)]).into_owned();
            let problem = read_whole_response(&mut stream);
            problem.problem(status);
            let id = problem.header("x-request-id");
            // RFC 9110, section 6.6.1.
            assert!(problem.header("date").ends_with(" GMT"), "{text}: {problem:?}");
            assert!(status == 404 || problem.header("connection") == "close", "{is_first}, {text}: {problem:?}");
            let line = eventually("it is logged", || {
                log.lines().into_iter().find(|line| line["span"]["request_id"] == id && line["message"] == "request")
            });
            assert_eq!((&line["status"], &line["span"]["client"]), (&status.into(), &"127.0.0.1".into()), "{text}");
        }
    }
    let metrics = Client::new(&service.metrics_url).get("").send().text;
    for (status, count) in [(400, 10), (414, 4), (431, 4)] {
        let labels = format!("http_request_method=\"_OTHER\",http_response_status_code=\"{status}\"");
        let line = format!("http_server_request_duration_seconds_count{{{labels}}} {count}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

/// Reads a response with its body.
fn read_whole_response(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let head = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)));
        bytes.push(byte[0]);
        if bytes.ends_with(b"\r\n\r\n") {
            break String::from_utf8(bytes).unwrap();
        }
    };
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers: ureq::http::HeaderMap = fields
        .map(|(name, value)| (name.parse().unwrap(), value.parse::<ureq::http::HeaderValue>().unwrap()))
        .collect();
    let mut body = vec![0; headers["content-length"].to_str().unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Answer { status, headers, text: String::from_utf8(body).unwrap() }
}

/// The memory of the service that is in RAM, in bytes.
fn resident(service: &Service) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// A part of a body that is kept as it was read keeps a whole buffer in memory.
#[test]
fn a_body_that_arrives_byte_by_byte_takes_little_memory() {
    const BODY_BYTES: usize = 100;
    let service = Service::start(Backend::Memory);
    let head = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {BODY_BYTES}\r\n\r\n"
    );
    let begin = |_| {
        let mut stream = connect(&service);
        stream.set_nodelay(true).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut streams: Vec<_> = (0..50).map(begin).collect();
    let port = service.address().rsplit_once(':').unwrap().1;
    // The second column is what the service has not read yet.
    let has_read_all = || {
        let output = run(Command::new("ss").args(["-tnH", "sport", "=", &format!(":{port}")]), "");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().all(|line| line.split_whitespace().nth(1) == Some("0")).then_some(())
    };
    eventually("the heads are read", has_read_all);
    let before = resident(&service);
    for _ in 1..BODY_BYTES {
        for stream in &mut streams {
            stream.write_all(b"x").unwrap();
        }
        eventually("each byte is read by itself", has_read_all);
    }
    let more = resident(&service).saturating_sub(before);
    println!("{more} bytes more");
    assert!(more < 10 << 20, "{more} bytes more");
    for mut stream in streams {
        stream.write_all(b"x").unwrap();
        assert!(read_response(&mut stream).starts_with("HTTP/1.1 400 "));
    }
}

#[test]
fn the_kernel_buffers_little_for_clients_that_do_not_read() {
    let service = Service::start(Backend::Memory);
    let port = service.address().rsplit_once(':').unwrap().1;
    // Returns the bytes of the service's sockets: received, to be sent, and reserved for either.
    let buffered = || {
        let output = run(Command::new("ss").args(["-tmnH", "sport", "=", &format!(":{port}")]), "");
        let text = String::from_utf8(output.stdout).unwrap();
        let pools = text.split("skmem:(").skip(1).map(|pool| pool.split(')').next().unwrap());
        let bytes = pools
            .flat_map(|pool| pool.split(','))
            .filter_map(|field| field.strip_prefix(['r', 'w', 'f']).and_then(|bytes| bytes.parse::<usize>().ok()));
        bytes.sum::<usize>()
    };
    assert_eq!(service.client().get("/docs").send().status, 200);
    let before = resident(&service);
    let _deaf: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = connect(&service);
            stream.write_all(&first_bytes("answer")).unwrap();
            stream
        })
        .collect();
    let mut last = 0;
    eventually("the kernel takes no more", || {
        thread::sleep(Duration::from_millis(300));
        let now = buffered();
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(())
    });
    let more = resident(&service).saturating_sub(before);
    println!("{} KiB in the kernel, {} KiB in the process", last >> 10, more >> 10);
    assert!(last + more < 64 << 20, "{last} bytes in the kernel, {more} in the process");
}

//! The log: one line for each request.

use std::{
    io::{PipeReader, Read, pipe},
    sync::{Arc, Mutex},
    thread,
};

use mayfly::domain::password::Password;
use nix::sys::signal::Signal;
use secrecy::ExposeSecret;

use crate::support::{ADMIN_PASSWORD, Backend, Client, Log, Service, eventually};

const TOKEN: &str = "/api/v1alpha/token";

#[test]
fn a_request_is_one_line_of_json() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    let (id, _) = service.admin().issue("x", "1h");
    let answer = service.admin().get(&format!("{TOKEN}/{id}?a=b")).header("x-request-id", "deploy-42").send();
    assert_eq!(answer.header("x-request-id"), "deploy-42");
    let odd = b"BREW /no/such/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: odd\r\n\r\n";
    assert!(service.raw(odd).starts_with("HTTP/1.1 404 "));

    let of = |id: &str| {
        eventually("the line", || {
            let lines = log.lines().into_iter().filter(|line| line["message"] == "request");
            let mut lines: Vec<_> = lines.filter(|line| line["span"]["request_id"] == id).collect();
            assert!(lines.len() < 2, "{lines:?}");
            lines.pop()
        })
    };
    let line = of("deploy-42");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["route"], "/api/v1alpha/token/{id}");
    assert_eq!(line["status"], 200);
    assert!(line["duration_us"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(line["span"]["user"], "admin");
    assert_eq!(line["span"]["client"], "127.0.0.1");
    // Nothing that a client chooses freely is logged.
    let line = of("odd");
    assert_eq!((&line["method"], &line["route"], &line["span"]["user"]), (&"_OTHER".into(), &().into(), &().into()));
    assert!(!log.text().contains("BREW") && !log.text().contains("/no/such/path"));
}

#[test]
fn the_text_format_can_be_chosen() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_LOG_FORMAT", "text").stderr(log.stdio());
    });
    service.admin().get(TOKEN).header("x-request-id", "readable").send();
    eventually("the line", || {
        log.text().contains(r#"request{request_id="readable" client=127.0.0.1 user=admin}: "#).then_some(())
    });
}

#[test]
fn a_client_cannot_write_into_the_log() {
    for format in ["json", "text"] {
        let log = Log::new();
        let service = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_LOG", "trace").env("MAYFLY_LOG_FORMAT", format).stderr(log.stdio());
        });
        let forged = "x\u{1b}[2K\n2026-01-01T00:00:00Z INFO forged";
        let body = serde_json::json!({"jwt_token_description": forged, "jwt_token_life": forged});
        service.admin().post(TOKEN, &body).send().problem(400);
        service.client().with_basic(forged, "x").get(TOKEN).send().problem(401);
        service.client().get("/%1b%5b2K%0aforged").header("user-agent", "forged").send().problem(404);
        service.client().with_basic("admin", Password::generate().expose_secret()).get(TOKEN).send().problem(401);
        let text =
            eventually("the last line is written", || Some(log.text()).filter(|text| text.contains("login.failed")));
        assert!(!text.contains('\u{1b}') && text.lines().all(|line| !line.starts_with("2026-01-01")), "{text}");
        assert!(!text.contains(ADMIN_PASSWORD));
    }
}

#[test]
fn a_verification_is_logged_at_debug() {
    for (filter, expected) in [("info", false), ("info,mayfly::request=debug", true)] {
        let log = Log::new();
        let service = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_LOG", filter).stderr(log.stdio());
        });
        let (_, jwt) = service.admin().issue("x", "1h");
        let verify = |path: &str| service.client().with_bearer(&jwt).get(&format!("/api/v1alpha/verify{path}"));
        assert_eq!(verify("").send().status, 200);
        assert_eq!(verify("/a/secret").header("x-request-id", "hot").send().status, 200);
        service.admin().get(TOKEN).header("x-request-id", "last").send();
        let lines = eventually("the last line is written", || {
            let lines = log.lines();
            lines.iter().any(|line| line["span"]["request_id"] == "last").then_some(lines)
        });
        let hot = lines.iter().find(|line| line["request_id"] == "hot");
        assert_eq!(hot.is_some(), expected, "{filter}");
        if let Some(line) = hot {
            assert_eq!(line["level"], "DEBUG");
            assert_eq!((&line["route"], &line["status"]), (&"/api/v1alpha/verify".into(), &200.into()));
            assert_eq!((&line["method"], &line["client"]), (&"GET".into(), &"127.0.0.1".into()));
        }
        assert!(!log.text().contains("secret"));
    }
}

/// A service that has dropped lines of its log, and the unread end of the pipe that is its standard error.
fn unread() -> (Service, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(writer);
    });
    let client = service.client();
    eventually("the pipe and the queue are full", || {
        for _ in 0..1000 {
            assert_eq!(client.get("/livez").send().status, 200);
        }
        (dropped_lines(&service) > 0).then_some(())
    });
    (service, reader)
}

fn dropped_lines(service: &Service) -> u64 {
    let page = Client::new(&service.metrics_url).get("").send().text;
    let value = page.lines().find_map(|line| line.strip_prefix("mayfly_log_lines_dropped_total "));
    value.expect("the series is there from the start").parse().unwrap()
}

#[test]
fn an_unread_standard_error_blocks_nothing_and_dropped_lines_are_counted() {
    let (mut service, mut reader) = unread();
    service.admin().issue("x", "1h");
    let dropped = dropped_lines(&service);
    let read = Arc::<Mutex<Vec<u8>>>::default();
    let reading = thread::spawn({
        let read = Arc::clone(&read);
        move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                read.lock().unwrap().extend(&bytes[..length]);
            }
        }
    });
    let lines = || {
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let report = eventually("the log reports the dropped lines", || {
        let message = "dropped lines of the log: standard error was not read in time";
        lines().into_iter().find(|line| line["message"] == message)
    });
    assert_eq!((&report["level"], &report["lines"]), (&"WARN".into(), &dropped.into()));
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.process.wait().code(), Some(0));
    reading.join().unwrap();
    assert!(
        lines().iter().any(|line| line["message"] == "shutting down"),
        "the shutdown writes the lines in the queue"
    );
}

#[test]
fn an_unread_standard_error_does_not_prevent_the_shutdown() {
    let (mut service, _reader) = unread();
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.process.wait().code(), Some(0));
}

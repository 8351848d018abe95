//! The export to a collector.

use std::{
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::support::{Backend, Collector, Log, Service, Span, eventually};

const TOKEN: &str = "/api/v1alpha/token/{id}";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{CALLER}-{flags}")
}

/// Has the service export all signals to this collector every 50 ms.
fn send_to(collector: &Collector) -> impl FnOnce(&mut Command) {
    let url = collector.url.clone();
    move |command| {
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .env("OTEL_BLRP_SCHEDULE_DELAY", "50")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "50");
    }
}

/// Waits for this many spans of a trace.
fn spans(collector: &Collector, trace_id: &str, count: usize) -> Vec<Span> {
    eventually("the spans arrive", || {
        let spans: Vec<_> = collector.received().spans().into_iter().filter(|span| span.trace_id == trace_id).collect();
        (spans.len() >= count).then_some(spans)
    })
}

#[test]
fn a_trace_leads_from_the_caller_to_redis() {
    let collector = Collector::start();
    let service = Service::start_with(Backend::Redis, |command| {
        send_to(&collector)(command);
        // With a lease, the round trips would depend on the time of the hash.
        command.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test").env("MAYFLY_LEASE", "0");
    });
    // Redis now has the scripts of a login.
    assert_eq!(service.admin().get("/api/v1alpha/token").send().status, 200);
    service.add_user("bob", "user");
    let bob = service.client().with_basic("bob", "secret");
    let request = bob.get("/api/v1alpha/token/b56929f3-54f1-4dc2-9984-9bba615e26e6");
    request.header("traceparent", &traceparent("01")).header("x-request-id", "traced").send().problem(404);

    let spans = spans(&collector, TRACE_ID, 7);
    let named = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.unwrap_or_else(|| panic!("{name} is not in {spans:#?}"))
    };
    let server = named(&format!("GET {TOKEN}"));
    assert_eq!((&*server.parent_id, server.kind), (CALLER, 2));
    for (attribute, expected) in [
        ("http.request.method", "GET"),
        ("http.route", TOKEN),
        ("http.response.status_code", "404"),
        ("http.response.header.x-request-id", "traced"),
        ("client.address", "127.0.0.1"),
        ("url.scheme", "http"),
    ] {
        assert_eq!(server.attributes[attribute], expected, "{attribute}");
    }
    for (attribute, expected) in [
        ("service.name", "mayfly"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(server.resource[attribute], expected, "{attribute}");
    }
    assert!(uuid::Uuid::parse_str(&server.resource["service.instance.id"]).is_ok());
    // The user is read, the attempt counted, the password hashed, the attempt refunded and the user read again. Then
    // the token is read together with its remaining life.
    for (name, operation) in [
        ("EVALSHA reserve_attempt", Some("EVALSHA")),
        ("hash password", None),
        ("EVALSHA login_succeeded", Some("EVALSHA")),
        ("PIPELINE", Some("PIPELINE")),
    ] {
        let span = named(name);
        assert_eq!((&span.parent_id, span.kind), (&server.id, if operation.is_some() { 3 } else { 1 }), "{name}");
        assert_eq!(span.attributes.get("db.operation.name").map(String::as_str), operation);
        assert_eq!(span.attributes.get("db.system.name").map(String::as_str), operation.map(|_| "redis"));
    }
    assert_eq!(spans.len(), 7, "{spans:#?}");
    assert_eq!(spans.iter().filter(|span| span.name == "PIPELINE").count(), 3, "{spans:#?}");

    // The line of the log belongs to the trace, and has the fields of its span.
    let (_, fields, trace_id) = eventually("the line arrives", || {
        let lines = collector.received().log_lines();
        lines.into_iter().find(|(body, fields, _)| body == "request" && fields["request_id"] == "traced")
    });
    assert_eq!((&*trace_id, &*fields["user"], &*fields["client"]), (TRACE_ID, "bob", "127.0.0.1"));
    assert_eq!((&*fields["route"], &*fields["status"]), (TOKEN, "404"));
    eventually("metrics arrive", || {
        collector.received().metric_names().contains(&"http.server.request.duration").then_some(())
    });
}

#[test]
fn a_verification_is_traced_if_its_caller_is() {
    let collector = Collector::start();
    let service = Service::start_with(Backend::Redis, send_to(&collector));
    let (_, jwt) = service.admin().issue("x", "1h");
    let verify = service.client().with_bearer(&jwt).get("/api/v1alpha/verify/some/path");
    assert_eq!(verify.header("traceparent", &traceparent("01")).send().status, 200);
    let spans = spans(&collector, TRACE_ID, 2);
    let server = spans.iter().find(|span| span.name == "GET /api/v1alpha/verify").unwrap();
    let redis = spans.iter().find(|span| span.name == "PIPELINE").unwrap();
    assert_eq!((&*server.parent_id, &redis.parent_id), (CALLER, &server.id));
    assert_eq!(redis.attributes["db.operation.batch.size"], "2");
    assert!(!format!("{spans:?}").contains("some/path"), "{spans:#?}");
}

#[test]
fn the_run_of_a_script_has_its_name_and_loading_it_is_a_span() {
    let collector = Collector::start();
    let service = Service::start_with(Backend::Redis, |command| {
        send_to(&collector)(command);
        command.env("MAYFLY_LEASE", "0");
    });
    // The login is remembered after this.
    service.admin().get("/api/v1alpha/token/b56929f3-54f1-4dc2-9984-9bba615e26e6").send().problem(404);
    let list = service.admin().get("/api/v1alpha/token").header("traceparent", &traceparent("01"));
    assert_eq!(list.send().status, 200);
    let spans = spans(&collector, TRACE_ID, 5);
    let mut names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    let list = "EVALSHA list_tokens";
    assert_eq!(names, [list, list, "GET /api/v1alpha/token", "PIPELINE", "SCRIPT"]);
    let run = spans.iter().find(|span| span.name == list).unwrap();
    assert_eq!(run.attributes["db.stored_procedure.name"], "list_tokens");
}

#[test]
fn only_sampled_requests_are_exported() {
    let collector = Collector::start();
    let service = Service::start_with(Backend::Memory, |command| {
        send_to(&collector)(command);
        command.env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    });
    let get = || service.client().get("/livez");
    assert_eq!(get().header("traceparent", &traceparent("00")).send().status, 200);
    assert_eq!(get().header("traceparent", "nonsense").send().status, 200);
    assert_eq!(get().send().status, 200);
    assert_eq!(get().header("traceparent", &traceparent("01")).send().status, 200);
    spans(&collector, TRACE_ID, 1);
    assert_eq!(collector.received().spans().len(), 1);
}

#[test]
fn a_shutdown_exports_the_last_data() {
    let collector = Collector::start();
    let mut service = Service::start_with(Backend::Memory, |command| {
        let never = "3600000";
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
            .env("OTEL_BSP_SCHEDULE_DELAY", never)
            .env("OTEL_BLRP_SCHEDULE_DELAY", never)
            .env("OTEL_METRIC_EXPORT_INTERVAL", never);
    });
    assert_eq!(service.client().get("/livez").header("traceparent", &traceparent("01")).send().status, 200);
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.process.wait().code(), Some(0));
    let received = collector.received();
    assert!(received.spans().iter().any(|span| span.trace_id == TRACE_ID));
    assert!(received.log_lines().iter().any(|(body, ..)| body == "shutting down"));
    assert!(received.metric_names().contains(&"http.server.request.duration"));
}

#[test]
fn a_collector_that_does_not_answer_delays_no_request() {
    // One accepts connections and answers nothing, one refuses connections.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), absent] {
        let log = Log::new();
        let mut service = Service::start_with(Backend::Memory, |command| {
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
                .env("OTEL_BSP_SCHEDULE_DELAY", "10")
                .env("OTEL_BLRP_SCHEDULE_DELAY", "10")
                .env("OTEL_METRIC_EXPORT_INTERVAL", "10")
                .env("OTEL_BSP_MAX_QUEUE_SIZE", "16")
                .stderr(log.stdio());
        });
        let begun = Instant::now();
        for _ in 0..200 {
            assert_eq!(service.client().get("/livez").send().status, 200);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let begun = Instant::now();
        service.process.signal(Signal::SIGTERM);
        assert_eq!(service.process.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }
}

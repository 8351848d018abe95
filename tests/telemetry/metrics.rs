//! The metrics, as Prometheus, the dashboard and the alerts read them.

use std::fs;

use serde_json::Value;

use crate::support::{ADMIN_PASSWORD, Backend, Client, Prometheus, RedisServer, Service, eventually, promtool};

const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";
const OBSERVABILITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/observability");

/// The page that Prometheus scrapes.
fn page(service: &Service) -> String {
    let answer = Client::new(&service.metrics_url).get("").send();
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; version=0.0.4"));
    answer.text
}

/// The value of a series by its name on the page, or 0 without such a series.
fn value(service: &Service, series: &str) -> f64 {
    let page = page(service);
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Has tokens issued, verified, rotated and revoked, and logins fail.
fn exercise(service: &Service) {
    let (id, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    for _ in 0..3 {
        assert_eq!(bearer.get(VERIFY).send().status, 200);
    }
    service.client().with_basic("admin", "wrong").get(TOKEN).send().problem(401);
    service.client().with_basic("stranger", ADMIN_PASSWORD).get(TOKEN).send().problem(401);
    service.client().with_bearer("nonsense").get(VERIFY).send().problem(401);
    let (rotated, _) = service.admin().issue("y", "1h");
    assert_eq!(service.admin().post(&format!("{TOKEN}/{rotated}/rotate"), &serde_json::json!({})).send().status, 201);
    assert_eq!(service.admin().delete(&format!("{TOKEN}/{id}")).send().status, 200);
    bearer.get(VERIFY).send().problem(401);
    service.client().get("/no/such/path").send().problem(404);
}

/// Has three tokens revoked: with a disabled user, a changed password and a removed user.
fn exercise_users(service: &Service) {
    let (user, alice) = ("/api/v1alpha/user/alice", service.client().with_basic("alice", "secret"));
    service.admin().add_user("alice", "user");
    alice.issue("x", "1h");
    for disabled in [true, false] {
        let change = service.admin().patch(user, &serde_json::json!({"disabled": disabled}));
        assert_eq!(change.send().status, 200);
    }
    alice.issue("x", "1h");
    let password = serde_json::json!({"password": "secret", "revoke_tokens": true});
    assert_eq!(alice.put(&format!("{user}/password"), &password).send().status, 200);
    alice.issue("x", "1h");
    assert_eq!(service.admin().delete(user).send().status, 200);
}

/// Asks for changes without a cursor, with that of the answer, and with another one.
fn exercise_changes(service: &Service) {
    let changes = "/api/v1alpha/changes";
    let first = eventually("there is a watch", || {
        let answer = service.admin().get(changes).send();
        (answer.status == 200).then(|| answer.json())
    });
    for cursor in [first["cursor"].as_str().unwrap(), "other"] {
        assert_eq!(service.admin().get(&format!("{changes}?after={cursor}")).send().status, 200);
    }
}

#[test]
fn requests_tokens_and_logins_are_counted() {
    let service = Service::start(Backend::Redis);
    exercise(&service);
    exercise_users(&service);
    exercise_changes(&service);
    assert_eq!(service.admin().get("/api/v1alpha/user").send().status, 200);
    let requests = |labels: &str| value(&service, &format!("http_server_request_duration_seconds_count{{{labels}}}"));
    let labels = |method: &str, status: u16, route: &str| {
        format!("http_request_method=\"{method}\",http_response_status_code=\"{status}\",http_route=\"{route}\"")
    };
    for (series, expected) in [
        (labels("POST", 201, TOKEN), 5.0),
        (labels("GET", 401, TOKEN), 2.0),
        (labels("GET", 200, VERIFY), 3.0),
        (labels("GET", 401, VERIFY), 2.0),
        (labels("DELETE", 200, "/api/v1alpha/token/{id}"), 1.0),
        (labels("PATCH", 200, "/api/v1alpha/user/{name}"), 2.0),
        (labels("PUT", 200, "/api/v1alpha/user/{name}/password"), 1.0),
        ("http_request_method=\"GET\",http_response_status_code=\"404\"".into(), 1.0),
    ] {
        assert!((requests(&series) - expected).abs() < 0.1, "{series}: {} in {}", requests(&series), page(&service));
    }
    for (series, expected) in [
        ("mayfly_token_verifications_total{result=\"active\"}", 3.0),
        ("mayfly_token_verifications_total{result=\"revoked\"}", 1.0),
        ("mayfly_token_verifications_total{result=\"invalid\"}", 1.0),
        ("mayfly_token_verifications_total{result=\"expired\"}", 0.0),
        ("mayfly_token_verifications_total{result=\"unavailable\"}", 0.0),
        ("mayfly_login_failures_total{reason=\"wrong_password\"}", 1.0),
        ("mayfly_login_failures_total{reason=\"unknown_user\"}", 1.0),
        ("mayfly_login_failures_total{reason=\"disabled\"}", 0.0),
        ("mayfly_tokens_issued_total", 5.0),
        ("mayfly_tokens_rotated_total", 1.0),
        ("mayfly_tokens_revoked_total", 4.0),
        ("mayfly_changes_answers_total{result=\"first\"}", 1.0),
        ("mayfly_changes_answers_total{result=\"continued\"}", 1.0),
        ("mayfly_changes_answers_total{result=\"reset\"}", 1.0),
        ("mayfly_password_hash_refusals_total", 0.0),
        ("mayfly_password_hash_waiting", 0.0),
        ("http_server_active_requests", 0.0),
    ] {
        assert!((value(&service, series) - expected).abs() < 0.1, "{series} in {}", page(&service));
    }
    // The share of hits depends on the time between the lookups.
    let lookups =
        |result: &str| value(&service, &format!("mayfly_lease_lookups_total{{kind=\"token\",result=\"{result}\"}}"));
    assert!((lookups("hit") + lookups("miss") - 4.0).abs() < 0.1, "{}", page(&service));
    assert!(!page(&service).contains("db_operation_name=\"OTHER\""), "{}", page(&service));
    for series in [
        "db_client_operation_duration_seconds_count{db_operation_name=\"EVALSHA\",db_system_name=\"redis\"}",
        "db_client_operation_duration_seconds_count{db_operation_name=\"PIPELINE\",db_system_name=\"redis\"}",
        "mayfly_password_hash_duration_seconds_count",
        "mayfly_redis_connects_total{result=\"ok\"}",
        "mayfly_redis_connections_open",
        "process_cpu_time_seconds_total{cpu_mode=\"user\"}",
        "process_memory_usage_bytes",
        "mayfly_process_file_descriptors",
        "process_uptime_seconds",
    ] {
        assert!(value(&service, series) > 0.0, "{series} in {}", page(&service));
    }
}

#[test]
fn failures_of_redis_are_counted() {
    // Leases are renewed by commands that are not measured, and those could find the broken connection first.
    let mut service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_LEASE", "0");
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    let (_, short) = service.admin().issue("x", "1s");
    drop(service.redis.take());
    service.client().with_bearer(&jwt).get(VERIFY).send().problem(503);
    eventually("the token expires", || {
        (service.client().with_bearer(&short).get(VERIFY).send().status == 401).then_some(())
    });
    for series in [
        "mayfly_token_verifications_total{result=\"unavailable\"}",
        "mayfly_token_verifications_total{result=\"expired\"}",
        "mayfly_redis_connects_total{result=\"failed\"}",
    ] {
        assert!(value(&service, series) > 0.0, "{series} in {}", page(&service));
    }
    // The command that was first on the broken connection.
    let broken = |line: &str| line.starts_with("db_client_operation_") && line.contains("error_type=\"connection\"");
    assert!(page(&service).lines().any(broken), "{}", page(&service));
}

#[test]
fn a_write_that_waits_for_replicas_reserves_a_connection() {
    let redis = RedisServer::start();
    // Without a replica, adding the administrator waits again and again.
    let service = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_REDIS_WAIT_REPLICAS", "1").env("MAYFLY_REDIS_WAIT_TIMEOUT", "900ms");
    });
    let reserved = || value(&service, "mayfly_redis_connections_reserved");
    eventually("the write has a connection of its own", || (reserved() > 0.0).then_some(()));
    eventually("the connection is free again", || (reserved() < 0.1).then_some(()));
    assert!(page(&service).contains("\nmayfly_redis_connections_pending 0\n"));
}

#[test]
fn the_page_is_valid_and_has_no_user_token_or_path() {
    let service = Service::start(Backend::Redis);
    let (id, jwt) = service.admin().issue("x", "1h");
    exercise(&service);
    service.client().with_bearer(&jwt).get(&format!("{VERIFY}/some/path")).send();
    service.client().request("PATCH", "/some/path").send();
    let page = page(&service);
    promtool(&["check", "metrics"], &page);
    for text in ["admin", "stranger", &id, "some/path", "127.0.0.1"] {
        assert!(!page.contains(text), "{text} in {page}");
    }
}

#[test]
fn metrics_have_a_port_of_their_own_and_can_be_off() {
    let service = Service::start(Backend::Memory);
    service.client().get("/metrics").send().problem(404);
    assert_eq!(Client::new(service.metrics_url.trim_end_matches("/metrics")).get(TOKEN).send().status, 404);
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_METRICS_LISTEN", "off");
    });
    assert_eq!(service.metrics_url, "");
}

/// Each query of the dashboard, with the title of its panel. Its variables match everything.
fn queries() -> Vec<(String, String)> {
    let dashboard = fs::read_to_string(format!("{OBSERVABILITY}/grafana/mayfly.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let queries = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().iter();
        let title = panel["title"].as_str().unwrap();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().unwrap().to_owned()))
    });
    queries.map(|(title, query)| (title, query.replace("$__rate_interval", "1m").replace("$instance", ".*"))).collect()
}

#[test]
fn each_query_of_the_dashboard_has_a_result() {
    let service = Service::start(Backend::Redis);
    exercise(&service);
    let target = service.metrics_url.trim_start_matches("http://").trim_end_matches("/metrics");
    let prometheus = Prometheus::scraping(&[target]);
    eventually("Prometheus scrapes the service", || {
        (!prometheus.query("rate(process_uptime_seconds[1m])").is_empty()).then_some(())
    });
    exercise(&service);
    let queries = queries();
    assert!(queries.len() > 15);
    for (title, query) in queries {
        eventually(&format!("{title}: {query}"), || (!prometheus.query(&query).is_empty()).then_some(()));
    }
    // The result is the number of tokens that were issued.
    let issued = || prometheus.query("sum(mayfly_tokens_issued_total)")[0]["value"][1].as_str().unwrap() == "4";
    eventually("the tokens are counted", || issued().then_some(()));
}

#[test]
fn promtool_accepts_the_alerts() {
    promtool(&["check", "rules", &format!("{OBSERVABILITY}/prometheus/rules.yml")], "");
    promtool(&["test", "rules", &format!("{OBSERVABILITY}/prometheus/rules_test.yml")], "");
    promtool(&["check", "config", &format!("{OBSERVABILITY}/prometheus/prometheus.yml")], "");
}

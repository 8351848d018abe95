//! Users whom a trusted proxy names in a header (`MAYFLY_TRUSTED_USER_HEADER`).

use std::{process::Command, thread};

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Answer, Backend, Client, Draft, RedisServer, Service, run};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";
const VERIFY: &str = "/api/v1alpha/verify";

/// Settings with which the tests' own address is a trusted proxy.
fn trusting(command: &mut Command) {
    command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").env("MAYFLY_TRUSTED_USER_HEADER", "Remote-User");
}

fn service(backend: Backend) -> Service {
    Service::start_with(backend, trusting)
}

/// A request as the proxy passes it on.
fn by(request: Draft, user: &str) -> Draft {
    request.header("remote-user", user)
}

fn body() -> Value {
    json!({"jwt_token_description": "x", "jwt_token_life": "1h"})
}

fn issue(service: &Service, user: &str) -> Answer {
    by(service.client().post(TOKEN, &body()), user).send()
}

/// The id and the JWT of a new token.
fn issued(service: &Service, user: &str) -> (String, String) {
    let answer = issue(service, user);
    assert_eq!(answer.status, 201, "{answer:?}");
    let text = |field: &str| answer.json()[field].as_str().unwrap().to_owned();
    (text("jwt_token_id"), text("jwt_token"))
}

fn verify(service: &Service, jwt: &str) -> u16 {
    service.client().with_bearer(jwt).get(VERIFY).send().status
}

/// The user as administrators see it.
fn details(service: &Service, name: &str) -> Answer {
    service.admin().get(&format!("{USER}/{name}")).send()
}

#[rstest]
fn the_first_token_creates_the_user(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = service(backend);
    let alice = |method: &str, path: &str| by(service.client().request(method, path), "alice").send();
    // Until then, the login stands for a user who does not exist.
    let list = alice("GET", TOKEN);
    assert_eq!((list.status, list.json()), (200, json!({"message": "No tokens exist", "jwt_tokens": {}})));
    assert_eq!(list.header("cache-control"), "no-store");
    let unknown = format!("{TOKEN}/b56929f3-54f1-4dc2-9984-9bba615e26e6");
    alice("GET", &unknown).problem(404);
    alice("DELETE", &unknown).problem(404);
    let rotate = || by(service.client().post(&format!("{unknown}/rotate"), &json!({})), "alice");
    rotate().send().problem(404);
    rotate().header("idempotency-key", "a").send().problem(404);
    assert_eq!(alice("DELETE", &format!("{TOKEN}?all=true")).json()["jwt_tokens_deleted"], 0);
    alice("GET", USER).problem(403);
    by(service.client().put(&format!("{USER}/alice/password"), &json!({"password": "x"})), "alice").send().problem(409);
    details(&service, "alice").problem(404);

    let (id, jwt) = issued(&service, "alice");
    let user = details(&service, "alice").json();
    assert_eq!((&user["role"], &user["origin"], &user["disabled"]), (&json!("user"), &json!("proxy"), &json!(false)));
    let listed = service.admin().get(USER).send().json();
    let origins: Vec<_> = listed["users"].as_array().unwrap().iter().map(|user| &user["origin"]).collect();
    assert_eq!(origins, ["password", "proxy"]);
    assert_eq!(verify(&service, &jwt), 200);
    assert!(alice("GET", TOKEN).json()["jwt_tokens"][&id].is_object());
    assert_eq!(alice("GET", &format!("{TOKEN}/{id}")).status, 200);
    let rotated = by(service.client().post(&format!("{TOKEN}/{id}/rotate"), &json!({})), "alice").send();
    assert_eq!(rotated.status, 201, "{rotated:?}");
    assert_eq!(verify(&service, &jwt), 401);
    let successor = rotated.json()["jwt_token"].as_str().unwrap().to_owned();
    let introspected = by(service.client().post_form("/oauth2/introspect", &[("token", &successor)]), "alice");
    assert_eq!(introspected.header("x-requested-with", "XMLHttpRequest").send().json()["active"], true);
    assert_eq!(alice("DELETE", &format!("{TOKEN}?all=true")).json()["jwt_tokens_deleted"], 1);
    assert_eq!(verify(&service, &successor), 401);
    // Only a token is "self".
    alice("GET", &format!("{TOKEN}/self")).problem(403);
}

#[rstest]
fn a_user_of_a_proxy_is_one_like_any_other(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = service(backend);
    let (admin, path) = (service.admin(), format!("{USER}/alice"));
    let (_, jwt) = issued(&service, "alice");
    assert_eq!(admin.post(USER, &json!({"username": "alice", "password": "x"})).send().status, 409);

    // Disabled, the user stays out, whatever the proxy says.
    assert_eq!(admin.patch(&path, &json!({"disabled": true})).send().status, 200);
    assert_eq!(verify(&service, &jwt), 401);
    issue(&service, "alice").problem(403);
    by(service.client().get(TOKEN), "alice").send().problem(403);
    assert_eq!(admin.patch(&path, &json!({"disabled": false})).send().status, 200);
    let (_, jwt) = issued(&service, "alice");

    // The role is an administrator's to give and to take.
    let may_administer = || by(service.client().get(USER), "alice").send().status == 200;
    assert!(!may_administer());
    assert_eq!(admin.patch(&path, &json!({"role": "admin"})).send().status, 200);
    assert!(may_administer());
    let write = by(service.client().patch(&format!("{USER}/admin"), &json!({"role": "admin"})), "alice").send();
    assert_eq!(write.status, 200, "{write:?}");
    assert_eq!(admin.patch(&path, &json!({"role": "user"})).send().status, 200);
    assert!(!may_administer());

    // Removed, the user is a new one at the next login.
    assert_eq!(admin.delete(&path).send().json()["jwt_tokens_deleted"], 1);
    assert_eq!(verify(&service, &jwt), 401);
    details(&service, "alice").problem(404);
    assert_eq!(by(service.client().get(TOKEN), "alice").send().status, 200);
    let (_, jwt) = issued(&service, "alice");
    assert_eq!(verify(&service, &jwt), 200);
}

#[rstest]
fn a_user_of_a_proxy_has_no_password(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = service(backend);
    issued(&service, "alice");
    let change = json!({"password": "secret", "revoke_tokens": true});
    let path = format!("{USER}/alice/password");
    let refused = service.admin().put(&path, &change).send().problem(409);
    assert!(refused.contains("without a password"), "{refused}");
    by(service.client().put(&path, &change), "alice").send().problem(409);
    // Basic gets what an unknown name gets, and hashes as much.
    let try_basic = |name: &str| {
        let before = service.hashes();
        let answer = service.client().with_basic(name, "secret").get(TOKEN).send();
        let detail = answer.problem(401);
        (detail, service.hashes() - before)
    };
    assert_eq!(try_basic("alice"), try_basic("nobody"));
    if let Some(redis) = &service.redis {
        let command = |arguments: &[&str]| {
            let mut command = Service::command();
            command.env("MAYFLY_REDIS_URL", redis.url()).args(["user"]).args(arguments);
            run(&mut command, "secret")
        };
        let refused = command(&["password", "alice", "--password-stdin"]);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("alice logs in without a password"), "{refused:?}");
        let listed = String::from_utf8(command(&["list"]).stdout).unwrap();
        assert_eq!(listed, "admin\tadmin\tenabled\tpassword\nalice\tuser\tenabled\tproxy\n");
    }
}

/// A proxy never logs in as a user who has a password, whether or not that user is disabled.
#[rstest]
fn a_user_with_a_password_is_not_logged_in(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = service(backend);
    service.admin().add_user("bob", "user");
    for disabled in [false, true] {
        service.admin().patch(&format!("{USER}/bob"), &json!({"disabled": disabled})).send();
        for name in ["admin", "bob"] {
            issue(&service, name).problem(409);
            by(service.client().get(TOKEN), name).send().problem(409);
            by(service.client().get(USER), name).send().problem(409);
        }
    }
    assert_eq!(service.admin().get(&format!("{USER}/bob/token")).send().json()["message"], "No tokens exist");
}

#[test]
fn basic_and_bearer_go_first() {
    let service = service(Backend::Memory);
    let (_, jwt) = issued(&service, "alice");
    let basic = |password: &str| by(service.client().with_basic("admin", password).get(USER), "alice").send();
    assert_eq!(basic(ADMIN_PASSWORD).status, 200);
    // A login that fails does not fall back to the header.
    basic("wrong").problem(401);
    let bearer = |jwt: &str| by(service.client().with_bearer(jwt).get(TOKEN), "alice").send();
    bearer(&jwt).problem(403);
    bearer("nonsense").problem(401);
    for (authorization, status) in [("Basic %", 401), ("Basic YWxpY2U", 401), ("Bearer x", 401), ("Negotiate x", 200)] {
        let answer = by(service.client().get(TOKEN), "alice").header("authorization", authorization).send();
        assert_eq!(answer.status, status, "{authorization}: {answer:?}");
    }
    // Verification knows tokens alone.
    assert_eq!(by(service.client().get(VERIFY), "alice").send().status, 401);
}

/// Sends a request with these lines, byte by byte, and returns the status.
fn raw(service: &Service, lines: &str) -> u16 {
    let answer = service.raw(format!("GET {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n").as_bytes());
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect(&answer)
}

#[test]
fn only_one_exact_header_with_a_valid_name_logs_in() {
    let service = service(Backend::Memory);
    for exact in ["Remote-User: alice\r\n", "remote-user:alice\r\n", "REMOTE-USER:  alice \r\n"] {
        assert_eq!(raw(&service, exact), 200, "{exact:?}");
    }
    for nobody in [
        "",
        "Remote-User:\r\n",
        "Remote-User:   \r\n",
        "Remote_User: alice\r\n",
        "REMOTE_USER: alice\r\n",
        "Remote.User: alice\r\n",
        "RemoteUser: alice\r\n",
        "X-Remote-User: alice\r\n",
        "Remote-Users: alice\r\n",
        "HTTP_REMOTE_USER: alice\r\n",
    ] {
        assert_eq!(raw(&service, nobody), 401, "{nobody:?}");
    }
    for bad in [
        "Remote-User: alice\r\nRemote-User: alice\r\n",
        "Remote-User: alice\r\nremote-user: admin\r\n",
        "Remote-User:\r\nRemote-User: alice\r\n",
        "Remote-User: alice, admin\r\n",
        "Remote-User: alice admin\r\n",
        "Remote-User: DOMAIN\\alice\r\n",
        "Remote-User: al{ice}\r\n",
        "Remote-User: ..\r\n",
        "Remote-User: \u{430}lice\r\n",
        "Remote-User: alice%00\r\n",
        "Remote-User : alice\r\n",
        "Remote-User: al\r\n ice\r\n",
        "Remote-User: al\0ice\r\n",
    ] {
        assert_eq!(raw(&service, bad), 400, "{bad:?}");
    }
    assert_eq!(raw(&service, &format!("Remote-User: {}\r\n", "x".repeat(65))), 400);
    // Another spelling beside the header changes nothing, and naming it in Connection gives no other user.
    assert_eq!(raw(&service, "Remote_User: admin\r\nRemote-User: alice\r\n"), 200);
    assert_eq!(raw(&service, "Remote-User: admin\r\nRemote_User: alice\r\n"), 409);
    // The trailers of a body are no headers.
    let trailers = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nTrailer: Remote-User\r\n\r\n2\r\n{{}}\r\n0\r\nRemote-User: alice\r\n\r\n"
    );
    assert!(service.raw(trailers.as_bytes()).starts_with("HTTP/1.1 401"));
}

#[test]
fn only_trusted_proxies_are_believed() {
    for trusted in ["10.0.0.1", "127.0.0.2/32, ::1"] {
        let service = Service::start_with(Backend::Memory, |command| {
            trusting(command);
            command.env("MAYFLY_TRUSTED_PROXIES", trusted);
        });
        for header in ["Remote-User: alice\r\n", "Remote-User: admin\r\n"] {
            assert_eq!(raw(&service, header), 401, "{trusted}");
            // A peer does not become one by what it says.
            assert_eq!(raw(&service, &format!("{header}X-Forwarded-For: 10.0.0.1, 127.0.0.2\r\n")), 401);
            assert_eq!(raw(&service, &format!("{header}Forwarded: for=10.0.0.1\r\n")), 401);
        }
        issue(&service, "alice").problem(401);
        // The header changes no other login.
        assert_eq!(by(service.admin().get(USER), "alice").send().status, 200);
    }
    // Without the setting, a trusted proxy is not believed, either.
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    });
    assert_eq!(raw(&service, "Remote-User: alice\r\n"), 401);
}

#[test]
fn the_header_is_refused_at_the_start_without_proxies() {
    let start = |variables: &[(&str, &str)]| {
        let mut command = Service::command();
        command.env("MAYFLY_LISTEN", "127.0.0.1:0").envs(variables.iter().copied());
        let output = run(&mut command, "");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let header = ("MAYFLY_TRUSTED_USER_HEADER", "Remote-User");
    let error = start(&[header]);
    assert!(error.contains("MAYFLY_TRUSTED_USER_HEADER (--trusted-user-header): goes with"), "{error}");
    for everybody in ["0.0.0.0/0", "10.0.0.1, ::/0", "::ffff:0.0.0.0/96"] {
        let error = start(&[header, ("MAYFLY_TRUSTED_PROXIES", everybody)]);
        assert!(error.contains("anybody could log in"), "{everybody}: {error}");
    }
    for bad in ["Remote_User", "Remote User", "Remote-User:", "Ремоте-User"] {
        let error = start(&[("MAYFLY_TRUSTED_USER_HEADER", bad), ("MAYFLY_TRUSTED_PROXIES", "127.0.0.1")]);
        assert!(error.contains("letters, digits and hyphens"), "{bad}: {error}");
    }
}

/// A browser sends its login at the proxy with every request, whichever site's page asks for it.
#[rstest]
#[case::own_page(&[("sec-fetch-site", "same-origin")], true)]
#[case::typed_in(&[("sec-fetch-site", "none")], true)]
#[case::other_site(&[("sec-fetch-site", "cross-site")], false)]
#[case::other_subdomain(&[("sec-fetch-site", "same-site")], false)]
#[case::nonsense(&[("sec-fetch-site", "Same-Origin, cross-site")], false)]
#[case::no_metadata_own_page(&[("origin", "http://mayfly.example:8000")], true)]
#[case::no_metadata_other_site(&[("origin", "http://evil.example")], false)]
#[case::no_metadata_other_port(&[("origin", "http://mayfly.example")], false)]
#[case::no_metadata_similar(&[("origin", "http://mayfly.example:8000.evil.example")], false)]
#[case::no_metadata_sandbox(&[("origin", "null")], false)]
#[case::metadata_decides(&[("sec-fetch-site", "cross-site"), ("origin", "http://mayfly.example:8000")], false)]
#[case::cors_page(&[("sec-fetch-site", "cross-site"), ("origin", "https://console.example")], false)]
#[case::cors_page_of_a_subdomain(&[("sec-fetch-site", "same-site"), ("origin", "https://console.example")], false)]
#[case::no_metadata_cors_page(&[("origin", "https://console.example")], false)]
#[case::form(&[("content-type", "text/plain")], false)]
#[case::form_of_another_type(&[("content-type", "text/plain; application/json")], false)]
#[case::no_browser(&[("content-type", "application/json; charset=utf-8")], true)]
#[case::script(&[("x-requested-with", "XMLHttpRequest")], true)]
#[case::unknown(&[], false)]
fn other_sites_cannot_write(#[case] headers: &[(&str, &str)], #[case] is_accepted: bool) {
    for origins in ["", "https://console.example"] {
        let service = Service::start_with(Backend::Memory, |command| {
            trusting(command);
            command.env("MAYFLY_CORS_ORIGINS", origins);
        });
        let (id, _) = issued(&service, "alice");
        let send = |method: &str, path: &str| {
            let request = by(service.client().request(method, path), "alice").header("host", "mayfly.example:8000");
            let is_json = headers.iter().any(|(_, value)| value.starts_with("application/json"));
            let request = if is_json && method == "POST" { request.body("{}") } else { request };
            headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
        };
        // The one write that needs no body.
        let rotated = send("POST", &format!("{TOKEN}/{id}/rotate"));
        // With that setting, the origins of all other pages are dropped, this service's own among them.
        let is_dropped = !origins.is_empty() && headers == [("origin", "http://mayfly.example:8000")];
        let expected = if is_accepted && !is_dropped { 201 } else { 403 };
        assert_eq!(rotated.status, expected, "{origins:?}: {rotated:?}");
        // What another site reads, its browser keeps from it.
        let read = send("GET", TOKEN);
        assert_eq!((read.status, read.header("access-control-allow-credentials")), (200, ""), "{read:?}");
    }
}

#[test]
fn nobody_is_logged_in_before_the_store_is_prepared() {
    let redis = RedisServer::start();
    // With this setting, the service adds no first administrator.
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let service = Service::launch(Some(&redis.url()), trusting);
    by(service.client().get(TOKEN), "alice").send().problem(503);
    issue(&service, "alice").problem(503);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    service.wait_until_ready();
    issued(&service, "alice");
    details(&service, "admin").json();
}

#[test]
fn many_first_tokens_at_once_are_all_issued() {
    let service = service(Backend::Redis);
    let issued: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(|| issued(&service, "alice").1)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(issued.iter().all(|jwt| verify(&service, jwt) == 200));
    let list = by(service.client().get(TOKEN), "alice").send().json();
    assert_eq!(list["jwt_tokens"].as_object().unwrap().len(), 12);
}

#[test]
fn metrics_say_how_users_logged_in() {
    let service = service(Backend::Memory);
    issued(&service, "alice");
    issue(&service, "admin").problem(409);
    service.client().with_basic("alice", "x").get(TOKEN).send().problem(401);
    let page = Client::new(&service.metrics_url).get("").send().text;
    for line in [
        "mayfly_logins_total{method=\"proxy\"} 1",
        "mayfly_logins_total{method=\"issuer\"} 0",
        "mayfly_login_failures_total{reason=\"other_origin\"} 1",
        "mayfly_login_failures_total{reason=\"no_password\"} 1",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
}

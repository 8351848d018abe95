//! The examples of `deploy/examples`: real proxies in front of a real WSGI application.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    slice,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Answer, Backend, Client, Process, Service, eventually, free_port, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A WSGI application that answers with its request headers. WSGI, like CGI, writes them in capitals with `_` for `-`.
const APPLICATION: &str = r#"
import json, socketserver, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass

def application(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {name: value for name, value in environ.items() if name.startswith(("HTTP_", "REQUEST_"))}
    body = json.dumps(headers).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]

make_server("127.0.0.1", int(sys.argv[1]), application, Server, Handler).serve_forever()
"#;

/// Writes the smallest wheel that pip takes.
const WHEEL: &str = r#"
import sys, zipfile

with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("moth.py", "")
    wheel.writestr("moth-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: moth\nVersion: 1.0\n")
    wheel.writestr("moth-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("moth-1.0.dist-info/RECORD", "")
"#;

/// The characters that RFC 9110, section 5.6.2, allows in a header name beside letters and digits.
const BETWEEN: &str = "-_.!#$%&'*+^`|~";

/// A server process, its port and its files.
pub(crate) struct Server {
    pub(crate) port: u16,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts `command` in a directory with these files, and waits until `port` answers.
    pub(crate) fn start(port: u16, files: &[(&str, String)], command: impl FnOnce(&Path) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut command = command(directory.path());
        command.current_dir(&directory).env("HOME", directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(&mut command);
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        // Traefik answers 404 until it has read its routes.
        let serves = |answer: &Answer| answer.status != 404;
        eventually("the server serves", || client.get("/").try_send().ok().filter(serves));
        Self { port, _process: process, _directory: directory }
    }

    fn application() -> Self {
        let port = free_port();
        Self::start(port, &[], |_| command("python3", &["-c", APPLICATION, &port.to_string()]))
    }
}

pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The files of an example, with these addresses instead of their own.
fn example<'a>(files: &[&'a str], port: u16, mayfly: &str, application: u16) -> Vec<(&'a str, String)> {
    let addresses = [
        ("8000", port.to_string()),
        ("25441", mayfly.rsplit(':').next().unwrap().to_owned()),
        ("8080", application.to_string()),
    ];
    let read = |name: &&'a str| (*name, fs::read_to_string(format!("{ROOT}/deploy/examples/{name}")).unwrap());
    let mut files: Vec<_> = files.iter().map(read).collect();
    for (of_the_example, of_this_test) in addresses {
        // Envoy has the port in a field of its own.
        for prefix in ["127.0.0.1:", "address: 127.0.0.1, port_value: "] {
            let address = format!("{prefix}{of_the_example}");
            for (_, text) in &mut files {
                *text = text.replace(&address, &format!("{prefix}{of_this_test}"));
            }
        }
        let changed = files.iter().any(|(_, text)| text.contains(&of_this_test));
        assert!(changed, "no file names port {of_the_example}");
    }
    files
}

/// Sends a request byte by byte, because an HTTP library would normalise some header names.
fn raw(port: u16, method: &str, path: &str, headers: &[String]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let headers = headers.join("\r\n");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    // The JSON, in chunks or not.
    let text = body.find('{').map_or("", |start| &body[start..=body.rfind('}').unwrap()]);
    Answer { status, headers: ureq::http::HeaderMap::new(), text: text.to_owned() }
}

/// The headers that the application reads as `X-Auth-…`, in any spelling.
fn identity(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut told: Vec<_> = answer.json().as_object().unwrap().clone().into_iter().collect();
    for (name, _) in &mut told {
        *name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    }
    told.retain(|(name, _)| name.starts_with("HTTP_X_AUTH"));
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, value) in &mut told {
        if name == "HTTP_X_AUTH_EXPIRES_IN" && value.as_str().unwrap().starts_with("35") {
            *value = json!("35..");
        }
    }
    json!(told)
}

/// Headers that only the proxy may set, in all spellings.
fn forgeries() -> Vec<String> {
    let between = |first: char| BETWEEN.chars().map(move |second| (first, second));
    let mut forged = Vec::new();
    for (first, second) in BETWEEN.chars().flat_map(between) {
        forged.push(format!("x{first}auth{second}user: root"));
    }
    for third in BETWEEN.chars() {
        forged.push(format!("x-auth-token{third}id: root"));
        forged.push(format!("X-AUTH{third}EXPIRES-IN: root"));
        forged.push(format!("X{third}Auth-Scope: root"));
    }
    forged.extend(["X-Auth-User: root".to_owned(), "X_AUTH_USER: root".to_owned(), "X-Auth_User: root".to_owned()]);
    forged
}

/// The properties of every example.
fn protects(service: &mut Service, proxy: &Server) {
    let client = Client::new(&format!("http://127.0.0.1:{}", proxy.port));
    let (id, jwt) = service.admin().issue("x", "1h");

    let stranger = client.get("/orders/7").send();
    assert_eq!(stranger.status, 401);
    assert_eq!(stranger.header("www-authenticate"), r#"Bearer realm="mayfly""#);

    let bearer = client.with_bearer(&jwt);
    let owner =
        json!([["HTTP_X_AUTH_EXPIRES_IN", "35.."], ["HTTP_X_AUTH_TOKEN_ID", id], ["HTTP_X_AUTH_USER", "admin"],]);
    for request in [bearer.get("/orders/7?x=1"), bearer.request("POST", "/orders").body("x".repeat(100_000))] {
        let answer = request.header("x-auth-user", "root").header("cookie", &"x".repeat(6000)).send();
        assert_eq!(identity(&answer), owner);
        assert_eq!(answer.json()["HTTP_AUTHORIZATION"], Value::Null);
    }

    // The application gets the owner of the token, whatever headers a client sends.
    let authorization = format!("Authorization: Bearer {jwt}");
    for forged in forgeries().chunks(40) {
        let mut headers = forged.to_vec();
        assert_eq!(raw(proxy.port, "GET", "/orders/7", &headers).status, 401);
        headers.push(authorization.clone());
        assert_eq!(identity(&raw(proxy.port, "GET", "/orders/7", &headers)), owner, "{forged:?}");
    }
    // A client cannot have the proxy drop these headers by naming them in Connection.
    let named = "Connection: X-Auth-User, x-auth-token-id, X-Auth-Expires-In".to_owned();
    assert_eq!(identity(&raw(proxy.port, "GET", "/orders/7", &[authorization.clone(), named])), owner);

    // A preflight has no token. It reaches the application without an identity.
    let preflight = ["Origin: https://console.example".to_owned(), "Access-Control-Request-Method: PUT".to_owned()];
    for forged in forgeries().chunks(40) {
        let answer =
            raw(proxy.port, "OPTIONS", "/orders/7", &[&preflight, forged, &[authorization.clone()][..]].concat());
        assert_eq!(identity(&answer), json!([]), "{forged:?}");
        assert_eq!(
            (&answer.json()["REQUEST_METHOD"], &answer.json()["HTTP_AUTHORIZATION"]),
            (&json!("OPTIONS"), &Value::Null)
        );
    }
    // Any other request needs a token.
    for (method, headers) in [("OPTIONS", &preflight[..1]), ("OPTIONS", &preflight[1..]), ("GET", &preflight[..])] {
        assert_eq!(raw(proxy.port, method, "/orders/7", headers).status, 401, "{method} {headers:?}");
    }

    assert_eq!(service.admin().delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
    let revoked = bearer.get("/orders/7").send();
    assert_eq!(revoked.status, 401);
    assert!(revoked.header("www-authenticate").contains("invalid_token"), "{revoked:?}");

    let (_, jwt) = service.admin().issue("x", "1h");
    drop(service.redis.take());
    let in_doubt = client.with_bearer(&jwt).get("/orders/7").send();
    assert_eq!((in_doubt.status, in_doubt.header("retry-after")), (503, "1"));

    service.process.signal(Signal::SIGKILL);
    service.process.wait();
    let unanswered = client.with_bearer(&jwt).get("/orders/7").send();
    assert!((500..600).contains(&unanswered.status), "{unanswered:?}");
}

/// A service that believes its proxy about the address of the client.
fn start_behind_proxy() -> Service {
    Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
    })
}

/// Asks for a token with these fields, and returns the status and the JWT.
fn issue(service: &Service, fields: &Value) -> (u16, String) {
    let mut body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = service.admin().post("/api/v1alpha/token", &body).send();
    (answer.status, answer.json()["jwt_token"].as_str().unwrap_or_default().to_owned())
}

/// A part of each example is only for tokens with a scope, and tokens are limited to networks.
fn demands_a_scope(service: &Service, proxy: &Server) {
    let client = Client::new(&format!("http://127.0.0.1:{}", proxy.port));
    // Envoy reports the address of its machine in the place of a client on the same machine.
    let everywhere = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];
    for (fields, elsewhere, reports) in [
        (json!({}), 200, 403),
        (json!({"jwt_token_scopes": ["reports:write"]}), 200, 403),
        (json!({"jwt_token_scopes": ["reports:write", "reports:read"]}), 200, 200),
        (json!({"jwt_token_scopes": ["reports:read"], "jwt_token_networks": everywhere}), 200, 200),
        (json!({"jwt_token_scopes": ["reports:read"], "jwt_token_networks": ["203.0.113.0/24"]}), 403, 403),
    ] {
        let bearer = client.with_bearer(&issue(service, &fields).1);
        assert_eq!(bearer.get("/orders/7").send().status, elsewhere, "{fields}");
        let answer = bearer.get("/reports/2026?page=2").header("x-auth-require-scope", "reports:write").send();
        assert_eq!(answer.status, reports, "{fields}");
    }
    assert_eq!(client.get("/reports/2026").send().status, 401);
    // Spellings of the same path, which the application may read alike.
    let authorization = format!("Authorization: Bearer {}", issue(service, &json!({})).1);
    for path in [
        "/reports/2026",
        "/%72eports/2026",
        "/reports%2F2026",
        "//reports/2026",
        "/./reports/2026",
        "/orders/../reports/2026",
        "/orders/%2e%2e/reports/2026",
        "/orders/..%2Freports/2026",
    ] {
        let answer = raw(proxy.port, "GET", path, slice::from_ref(&authorization));
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
    }
}

/// A request fails soon while Mayfly accepts connections and answers none.
fn gives_up_soon(service: &Service, proxy: &Server) {
    service.process.signal(Signal::SIGSTOP);
    let sent = Instant::now();
    let answer = Client::new(&format!("http://127.0.0.1:{}", proxy.port)).with_bearer("x").get("/orders/7").send();
    let waited = sent.elapsed();
    service.process.signal(Signal::SIGCONT);
    assert!((500..600).contains(&answer.status), "{answer:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

fn nginx(directory: &Path) -> Command {
    let path = directory.to_str().unwrap();
    let configuration = format!("{path}/nginx.conf");
    command("nginx", &["-p", path, "-c", &configuration, "-e", "stderr", "-g", "daemon off; pid nginx.pid;"])
}

#[test]
fn nginx_lets_live_tokens_through() {
    let mut service = start_behind_proxy();
    let (application, port) = (Server::application(), free_port());
    let proxy = Server::start(port, &example(&["nginx.conf"], port, &service.url, application.port), nginx);
    // Large cookies are not passed on to Mayfly.
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = Client::new(&format!("http://127.0.0.1:{port}")).with_bearer(&jwt);
    let many = (0..4).fold(bearer.get("/"), |request, _| request.header("cookie", &"x".repeat(6000)));
    assert_eq!(many.send().status, 200);
    gives_up_soon(&service, &proxy);
    demands_a_scope(&service, &proxy);
    protects(&mut service, &proxy);
}

#[test]
fn nginx_takes_the_longest_token() {
    let service = Service::start(Backend::Redis);
    let (application, port) = (Server::application(), free_port());
    let _proxy = Server::start(port, &example(&["nginx.conf"], port, &service.url, application.port), nginx);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    // A token with all attributes at their limits, and beyond: what is issued can be presented, as a password, too.
    let scopes: Vec<_> = (100..131).map(|number| format!("{number:x>31}")).chain(["reports:read".to_owned()]).collect();
    let audiences: Vec<_> = (1..8).map(|number| format!("{number:x>256}")).collect();
    let mut longest = String::new();
    // A backslash takes two bytes in JSON.
    for backslashes in 0..256 {
        let last = "\\".repeat(backslashes) + &"y".repeat(256 - backslashes);
        let (status, jwt) = issue(
            &service,
            &json!({
                "jwt_token_description": "🜁".repeat(256), "jwt_token_scopes": scopes,
                "jwt_token_audiences": ([&audiences[..], &[last]].concat()),
            }),
        );
        if status != 201 {
            assert_eq!(status, 400);
            break;
        }
        longest = jwt;
    }
    assert!((5990..=6000).contains(&longest.len()), "{}", longest.len());
    for answer in [client.with_bearer(&longest), client.with_basic(&"x".repeat(64), &longest)] {
        assert_eq!(answer.get("/reports/2026").send().status, 200);
    }
}

/// `git` over HTTP, `pip` and the request of `docker login`, as people use them: with the token as the password.
#[test]
fn nginx_takes_a_token_as_a_basic_password() {
    let service = Service::start(Backend::Redis);
    let files = tempfile::tempdir().unwrap();
    let packages = files.path().join("packages");
    let in_packages = |program: &str, arguments: &[&str]| {
        let output = run(Command::new(program).args(arguments).current_dir(&packages), "");
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    };
    fs::create_dir_all(packages.join("simple/moth")).unwrap();
    fs::create_dir_all(packages.join("v2")).unwrap();
    in_packages("git", &["init", "--quiet", "source"]);
    let author = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
    in_packages("git", &[&["-C", "source"][..], &author, &["commit", "-qm", "One", "--allow-empty"]].concat());
    in_packages("git", &["clone", "--quiet", "--bare", "source", "moth.git"]);
    in_packages("git", &["-C", "moth.git", "update-server-info"]);
    in_packages("python3", &["-c", WHEEL, "simple/moth/moth-1.0-py3-none-any.whl"]);

    let (application, port) = (free_port(), free_port());
    let _application = Server::start(application, &[], |_| {
        let directory = files.path().to_str().unwrap();
        command("python3", &["-m", "http.server", "--bind", "127.0.0.1", "-d", directory, &application.to_string()])
    });
    let _proxy = Server::start(port, &example(&["nginx.conf"], port, &service.url, application), nginx);
    let (id, jwt) = service.admin().issue("x", "1h");
    let hashes = service.hashes();
    let clone = |password: &str, into: &str| {
        let url = format!("http://x-token:{password}@127.0.0.1:{port}/packages/moth.git");
        let mut git = Command::new("git");
        git.args(["-c", "credential.helper=", "clone", "--quiet", &url, into]).current_dir(files.path());
        run(git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_GLOBAL", "/dev/null"), "").status.success()
    };
    let download = |password: &str| {
        let index = format!("http://x-token:{password}@127.0.0.1:{port}/packages/simple/");
        let mut pip = Command::new(format!("{ROOT}/tests/.tools/bin/pip"));
        pip.args([
            "download",
            "--no-deps",
            "--no-cache-dir",
            "--no-input",
            "--retries=0",
            "--index-url",
            &index,
            "moth",
        ]);
        run(pip.current_dir(files.path()).env("PIP_CONFIG_FILE", "/dev/null"), "").status.success()
    };
    let log_in = |password: &str| {
        let client = Client::new(&format!("http://127.0.0.1:{port}")).with_basic("x-token", password);
        let agent = "docker/24.0.7 go/go1.20.10 UpstreamClient(Docker-Client/24.0.7 (linux))";
        client.get("/packages/v2/").header("user-agent", agent).send().status
    };
    let answer = Client::new(&format!("http://127.0.0.1:{port}")).get("/packages/v2/").send();
    let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(answer.status, 401);
    assert!(challenges.iter().any(|challenge| challenge.to_str().unwrap().starts_with("Basic ")), "{challenges:?}");

    assert!(clone(&jwt, "cloned") && files.path().join("cloned/.git").exists());
    assert!(download(&jwt) && files.path().join("moth-1.0-py3-none-any.whl").exists());
    assert_eq!(log_in(&jwt), 200);
    // A user's password is none of these.
    assert!(!clone(ADMIN_PASSWORD, "with a password") && !download(ADMIN_PASSWORD));
    assert_eq!(log_in(ADMIN_PASSWORD), 401);
    assert_eq!(service.hashes(), hashes, "a password was looked at");

    assert_eq!(service.admin().delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
    assert!(!clone(&jwt, "revoked") && !download(&jwt));
    assert_eq!(log_in(&jwt), 401);
    service.process.signal(Signal::SIGSTOP);
    assert_eq!(log_in(&jwt), 503);
    service.process.signal(Signal::SIGCONT);
}

#[test]
fn caddy_lets_live_tokens_through() {
    let mut service = start_behind_proxy();
    let (application, port) = (Server::application(), free_port());
    let mut files = example(&["Caddyfile"], port, &service.url, application.port);
    // Without its administration interface, whose port is fixed.
    files[0].1.insert_str(0, "{\n\tadmin off\n}\n");
    let proxy = Server::start(port, &files, |_| command("caddy", &["run", "--config", "Caddyfile"]));
    gives_up_soon(&service, &proxy);
    demands_a_scope(&service, &proxy);
    protects(&mut service, &proxy);
}

#[test]
fn haproxy_lets_live_tokens_through() {
    let mut service = start_behind_proxy();
    let (application, port) = (Server::application(), free_port());
    let files = example(&["haproxy.cfg", "verify.lua"], port, &service.url, application.port);
    let proxy = Server::start(port, &files, |_| command("haproxy", &["-db", "-f", "haproxy.cfg"]));
    gives_up_soon(&service, &proxy);
    demands_a_scope(&service, &proxy);
    protects(&mut service, &proxy);
}

#[test]
fn envoy_lets_live_tokens_through() {
    let mut service = start_behind_proxy();
    let (application, port) = (Server::application(), free_port());
    let files = example(&["envoy.yaml"], port, &service.url, application.port);
    // Without the shared memory that other instances use.
    let alone = ["--config-path", "envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1"];
    let proxy = Server::start(port, &files, |_| command(&format!("{ROOT}/tests/.tools/bin/envoy"), &alone));
    gives_up_soon(&service, &proxy);
    demands_a_scope(&service, &proxy);
    protects(&mut service, &proxy);
}

#[test]
#[ignore = "`make traefik` builds it, for minutes"]
fn traefik_lets_live_tokens_through() {
    let mut service = start_behind_proxy();
    let (application, port) = (Server::application(), free_port());
    let files = example(&["traefik.yaml", "traefik-routes.yaml"], port, &service.url, application.port);
    let traefik = format!("{ROOT}/target/traefik/traefik");
    let proxy = Server::start(port, &files, |_| command(&traefik, &["--configfile", "traefik.yaml"]));
    demands_a_scope(&service, &proxy);
    protects(&mut service, &proxy);
}

//! The examples of `deploy/examples`: real proxies in front of a real application.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::support::{Backend, Client, Process, Service, eventually, free_port};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples");

/// An application that says who it was told the user is, and what else it got.
const APPLICATION: &str = r#"
events {}
http {
    underscores_in_headers on;
    large_client_header_buffers 4 32k;
    server {
        listen 127.0.0.1:PORT;
        set $told "user=$http_x_auth_user id=$http_x_auth_token_id seconds=$http_x_auth_expires_in";
        location / { return 200 "$told authorization=$http_authorization\n"; }
    }
}
"#;

/// A process on a port, with the files it needs.
struct Server {
    port: u16,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts the command that `command` makes of the file with this configuration, and waits until `port` is served.
    fn start(port: u16, configuration: &str, command: impl FnOnce(&tempfile::TempDir) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("configuration"), configuration).unwrap();
        let process = Process::spawn(command(&directory).stdout(Stdio::null()).stderr(Stdio::null()));
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { port, _process: process, _directory: directory }
    }

    fn nginx(port: u16, configuration: &str) -> Self {
        Self::start(port, configuration, |directory| {
            let path = directory.path();
            let mut command = Command::new("nginx");
            command.arg("-c").arg(path.join("configuration")).arg("-p").arg(path).args(["-e", "stderr", "-g"]);
            command.arg(format!("daemon off; pid {}/pid;", path.display()));
            command
        })
    }

    fn caddy(port: u16, configuration: &str) -> Self {
        // Without its interface for administration, which has one port for all.
        Self::start(port, &format!("{{\n\tadmin off\n}}\n{configuration}"), |directory| {
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(directory.path().join("configuration"));
            command.env("HOME", directory.path());
            command
        })
    }

    fn application() -> Self {
        let port = free_port();
        Self::nginx(port, &APPLICATION.replace("PORT", &port.to_string()))
    }
}

/// The configuration of an example, with these addresses in the place of its own.
fn example(file: &str, port: u16, mayfly: &str, application: u16) -> String {
    let text = fs::read_to_string(format!("{EXAMPLES}/{file}")).unwrap();
    for address in ["127.0.0.1:8000", "127.0.0.1:25441", "127.0.0.1:8080"] {
        assert_eq!(text.matches(address).count(), 1, "{file} names {address} once");
    }
    text.replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"))
        .replace("127.0.0.1:25441", mayfly.trim_start_matches("http://"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{application}"))
}

/// What a protected application sees, and what it does not.
fn protects(service: &mut Service, proxy: &Server) {
    let client = Client::new(&format!("http://127.0.0.1:{}", proxy.port));
    let (id, jwt) = service.admin().issue("x", "1h");

    let stranger = client.get("/orders/7").send();
    assert_eq!(stranger.status, 401);
    assert_eq!(stranger.header("www-authenticate"), r#"Bearer realm="mayfly""#);

    let bearer = client.with_bearer(&jwt);
    for request in [bearer.get("/orders/7?x=1"), bearer.request("POST", "/orders").body("x".repeat(100_000))] {
        // Headers that only the proxy may set, in each of the ways that an application may take for them.
        let forged = ["x-auth-user", "x_auth_user", "x-auth-token-id", "x_auth_token_id", "x-auth-expires-in"];
        let request = forged.into_iter().fold(request, |request, name| request.header(name, "forged"));
        let answer = request.header("cookie", &"x".repeat(6000)).send();
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.text.strip_prefix(&format!("user=admin id={id} seconds=35")).expect(&answer.text);
        assert!(told.ends_with(" authorization=\n") && !answer.text.contains("forged"), "{}", answer.text);
    }

    assert_eq!(service.admin().delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
    let revoked = bearer.get("/orders/7").send();
    assert_eq!(revoked.status, 401);
    assert!(revoked.header("www-authenticate").contains("invalid_token"), "{revoked:?}");

    let (_, jwt) = service.admin().issue("x", "1h");
    drop(service.redis.take());
    let in_doubt = client.with_bearer(&jwt).get("/orders/7").send();
    assert_eq!((in_doubt.status, in_doubt.header("retry-after")), (503, "1"));
}

#[test]
fn nginx_lets_live_tokens_through() {
    let mut service = Service::start(Backend::Redis);
    let application = Server::application();
    let port = free_port();
    let proxy = Server::nginx(port, &example("nginx.conf", port, &service.url, application.port));
    // However much else a client sends, the question is a small one.
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = Client::new(&format!("http://127.0.0.1:{port}")).with_bearer(&jwt);
    let many = (0..4).fold(bearer.get("/"), |request, _| request.header("cookie", &"x".repeat(6000)));
    assert_eq!(many.send().status, 200);
    protects(&mut service, &proxy);
}

#[test]
fn caddy_lets_live_tokens_through() {
    let mut service = Service::start(Backend::Redis);
    let application = Server::application();
    let port = free_port();
    let proxy = Server::caddy(port, &example("Caddyfile", port, &service.url, application.port));
    protects(&mut service, &proxy);
}

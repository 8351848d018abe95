//! `deploy/examples/login-nginx.conf`: a real nginx asks who is logged in, and tells Mayfly.

use serde_json::json;

use crate::{
    forward_auth::{Server, command},
    support::{Backend, Client, Draft, Service, free_port},
};

const TOKEN: &str = "/api/v1alpha/token";

/// Answers as oauth2-proxy does with `--set-xauthrequest`: the user of a session, which is in a cookie.
const LOGIN_PROXY: &str = r#"
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        user = self.headers.get("Cookie", "").removeprefix("session=")
        self.send_response(202 if user else 401)
        if user:
            self.send_header("X-Auth-Request-Preferred-Username", user)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Mayfly behind nginx, which is its trusted proxy.
struct Login {
    mayfly: Service,
    nginx: Server,
    _login_proxy: Server,
}

impl Login {
    fn start() -> Self {
        let mayfly = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").env("MAYFLY_TRUSTED_USER_HEADER", "Remote-User");
        });
        let port = free_port();
        let login_proxy = Server::start(port, &[], |_| command("python3", &["-c", LOGIN_PROXY, &port.to_string()]));
        let text = include_str!("../deploy/examples/login-nginx.conf");
        let nginx_port = free_port();
        let own = mayfly.address().rsplit(':').next().unwrap().to_owned();
        let text = [("8000", nginx_port.to_string()), ("25441", own), ("4180", port.to_string())]
            .iter()
            .fold(text.to_owned(), |text, (from, to)| {
                text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"))
            });
        let nginx = Server::start(nginx_port, &[("nginx.conf", text)], |directory| {
            let directory = directory.to_str().unwrap();
            let arguments = ["-p", directory, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; pid nginx.pid;"];
            command("nginx", &arguments)
        });
        Self { mayfly, nginx, _login_proxy: login_proxy }
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.nginx.port))
    }
}

fn with_session(request: Draft, user: &str) -> Draft {
    request.header("cookie", &format!("session={user}"))
}

#[test]
fn a_person_who_is_logged_in_at_the_proxy_issues_a_token() {
    let login = Login::start();
    let client = login.client();
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    // Without a session, the answer is the login proxy's.
    assert_eq!(client.get(TOKEN).send().status, 401);
    let issued = with_session(client.post(TOKEN, &body), "alice").send();
    assert_eq!(issued.status, 201, "{issued:?}");
    let user = login.mayfly.admin().get("/api/v1alpha/user/alice").send().json();
    assert_eq!(user["origin"], "proxy");
    let jwt = issued.json()["jwt_token"].as_str().unwrap().to_owned();
    let verified = client.with_bearer(&jwt).get("/api/v1alpha/verify").send();
    assert_eq!((verified.status, verified.header("x-auth-user")), (200, "alice"));
    // A name that is none here, and one that has a password.
    assert_eq!(with_session(client.get(TOKEN), "al ice").send().status, 400);
    assert_eq!(with_session(client.get(TOKEN), "admin").send().status, 409);
}

#[test]
fn a_client_of_the_proxy_cannot_name_the_user() {
    let login = Login::start();
    let client = login.client();
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    for forged in ["remote-user", "Remote-User", "REMOTE_USER", "Remote_User", "remote-User"] {
        // Neither without a session, nor beside one, nor where nobody has to be logged in.
        assert_eq!(client.post(TOKEN, &body).header(forged, "mallory").send().status, 401, "{forged}");
        let issued = with_session(client.post(TOKEN, &body), "alice").header(forged, "mallory").send();
        assert_eq!(issued.status, 201, "{forged}: {issued:?}");
        let open = client.post_form("/oauth2/introspect", &[("token", "x")]).header(forged, "mallory");
        open.header("x-requested-with", "XMLHttpRequest").send().problem(401);
    }
    let twice = with_session(client.post(TOKEN, &body), "alice").header("remote-user", "a").header("remote-user", "b");
    assert_eq!(twice.send().status, 201);
    for name in ["mallory", "a", "b"] {
        login.mayfly.admin().get(&format!("/api/v1alpha/user/{name}")).send().problem(404);
    }
}

#[test]
fn a_page_of_another_site_cannot_use_the_session() {
    let login = Login::start();
    let client = login.client();
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let own = format!("http://127.0.0.1:{}", login.nginx.port);
    for (origin, status) in [(&*own, 201), ("https://evil.example", 403), ("null", 403), ("http://127.0.0.1", 403)] {
        let answer = with_session(client.post(TOKEN, &body), "alice").header("origin", origin).send();
        assert_eq!(answer.status, status, "{origin}: {answer:?}");
    }
    for (site, status) in [("same-origin", 201), ("same-site", 403), ("cross-site", 403)] {
        let answer = with_session(client.post(TOKEN, &body), "alice").header("sec-fetch-site", site).send();
        assert_eq!(answer.status, status, "{site}: {answer:?}");
    }
    // A form can be sent without a question, and has no body that this API takes.
    let form = with_session(client.request("POST", TOKEN), "alice").header("content-type", "text/plain");
    assert_eq!(form.body(body.to_string()).send().status, 403);
}

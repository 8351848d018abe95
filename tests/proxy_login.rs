//! `deploy/examples/login-nginx.conf`: a real nginx asks who is logged in, and tells Mayfly.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    forward_auth::{Server, command},
    support::{
        Answer, Backend, Browser, Client, Draft, Service, free_port,
        issuer::{LocalIssuer, Reply},
    },
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
        let server = |port| Server::start(port, &[], |_| command("python3", &["-c", LOGIN_PROXY, &port.to_string()]));
        Self::behind(server, "preferred_username")
    }

    /// Starts all with this login proxy, which names the user in `X-Auth-Request-…`.
    fn behind(login_proxy: impl FnOnce(u16) -> Server, header: &str) -> Self {
        let mayfly = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").env("MAYFLY_TRUSTED_USER_HEADER", "Remote-User");
        });
        let port = free_port();
        let login_proxy = login_proxy(port);
        let text = include_str!("../deploy/examples/login-nginx.conf");
        let nginx_port = free_port();
        let own = mayfly.address().rsplit(':').next().unwrap().to_owned();
        let text = text.replace("x_auth_request_preferred_username", &format!("x_auth_request_{header}"));
        let text = [("8000", nginx_port.to_string()), ("25441", own), ("4180", port.to_string())]
            .iter()
            .fold(text, |text, (from, to)| text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}")));
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

/// What a page of another site can have a browser send: a script that is run there. `URL` and `ID` are replaced.
const OTHER_SITES: [&str; 4] = [
    "fetch('URL', {method: 'POST', mode: 'no-cors', credentials: 'include', body: BODY})",
    "fetch('URL', {method: 'POST', credentials: 'include', headers: {'content-type': 'application/json'}, body: BODY})",
    "fetch('URL/ID/rotate', {method: 'POST', mode: 'no-cors', credentials: 'include'})",
    "fetch('URL?all=true', {method: 'DELETE', credentials: 'include'})",
];

#[tokio::test]
async fn in_a_browser_only_mayflys_own_page_writes() {
    let login = Login::start();
    let evil = LocalIssuer::start(&[]);
    let html = vec![("Content-Type", "text/html".to_owned())];
    evil.answer("/", Reply { headers: html, ..Reply::bytes("<!doctype html><title>x</title>") });
    let evil_port = evil.url.rsplit(':').next().unwrap();
    let browser = Browser::start().await;
    // A browser says by Sec-Fetch-Site who sends a request, but over plain HTTP to this machine alone.
    for host in ["127.0.0.1", "mayfly.example"] {
        let mayfly = format!("http://{host}:{}", login.nginx.port);
        browser.client.goto(&format!("{mayfly}/.well-known/jwks.json")).await.unwrap();
        browser.evaluate("document.cookie = 'session=alice; path=/'").await;
        // The page asks for no password.
        browser.client.goto(&mayfly).await.unwrap();
        browser
            .wait_until("she is logged in", "return document.querySelector('h1')?.textContent === 'Your tokens'")
            .await;
        let own = "const done = arguments[1]; fetch('/api/v1alpha/token', {method: 'POST', body: arguments[0], \
                   headers: {'content-type': 'application/json'}}).then(answer => answer.json()).then(done)";
        let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"}).to_string();
        let issued = browser.client.execute_async(own, vec![json!(body)]).await.unwrap();
        let (id, jwt) = (issued["jwt_token_id"].as_str().unwrap(), issued["jwt_token"].as_str().unwrap());

        let tokens = || {
            let list = login.mayfly.admin().get("/api/v1alpha/user/alice/token").send().json();
            list["jwt_tokens"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        let before = tokens();
        let with_urls = |script: &str| script.replace("URL", &format!("{mayfly}{TOKEN}")).replace("ID", id);
        for site in [host, "evil.example"] {
            let evil = format!("http://{site}:{evil_port}/");
            browser.client.goto(&evil).await.unwrap();
            for script in OTHER_SITES {
                let script = with_urls(script).replace("BODY", "arguments[0]");
                let script = format!("const done = arguments[1]; {script}.then(() => done(1), () => done(0))");
                browser.client.execute_async(&script, vec![json!(body)]).await.unwrap();
                assert_eq!(tokens(), before, "{evil}: {script}");
            }
            // The browser adds its cookie to a form, whichever site has it.
            for action in ["URL", "URL/ID/rotate", "URL/ID/rotate?overlap=1h"] {
                browser.client.goto(&evil).await.unwrap();
                let form = "const form = document.createElement('form'); form.method = 'POST'; form.action = 'ACTION'; \
                            document.body.append(form); form.submit()";
                browser.evaluate(&form.replace("ACTION", &with_urls(action))).await;
                let refused = "return document.body?.textContent.includes('Another site may not write here') ?? false";
                browser.wait_until("Mayfly refuses it", refused).await;
                assert_eq!(tokens(), before, "{evil}: {action}");
            }
        }
        let verified = login.client().with_bearer(jwt).get("/api/v1alpha/verify").send();
        assert_eq!((verified.status, verified.header("x-auth-user")), (200, "alice"));
    }
    browser.client.clone().close().await.unwrap();
}

const OAUTH2_PROXY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/oauth2-proxy/oauth2-proxy");

/// The password of each user of [`oauth2_proxy`].
const PASSWORD: &str = "secret";

/// A real oauth2-proxy, whose users are in a file: they need no provider.
fn oauth2_proxy(port: u16, arguments: &[&str]) -> Server {
    let users = ["alice", "admin"].map(|name| format!("{name}:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")).concat();
    Server::start(port, &[("users", users)], |_: &Path| {
        let mut command = command(OAUTH2_PROXY, &["--htpasswd-file=users", "--provider=github", "--email-domain=*"]);
        let secret = "0123456789abcdef0123456789abcdef";
        command.args([&format!("--http-address=127.0.0.1:{port}"), &format!("--cookie-secret={secret}")]);
        command.args(["--client-id=x", "--client-secret=x", "--cookie-secure=false"]).args(arguments);
        command
    })
}

/// Signs in at oauth2-proxy, and returns the cookie of the session; `None`: it gives none.
fn sign_in(client: &Client, path: &str, name: &str, password: &str) -> Option<String> {
    let answer = client.post_form(path, &[("username", name), ("password", password), ("rd", "/")]).send();
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let cookies: Vec<_> = set.filter_map(|cookie| cookie.split(';').next()).collect();
    cookies.into_iter().find(|cookie| cookie.starts_with("_oauth2_proxy=") && cookie.len() > 20).map(str::to_owned)
}

/// Has the session of a user issue a token, whatever else the client claims about itself.
fn issue(client: &Client, cookie: &str, forged: &[(&str, &str)]) -> Answer {
    let body: Value = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let request = client.post(TOKEN, &body).header("cookie", cookie);
    forged.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

#[test]
#[ignore = "`make login-proxy` builds it, for minutes"]
fn oauth2_proxy_and_nginx_name_whom_they_have_logged_in() {
    let arguments = ["--reverse-proxy", "--set-xauthrequest"];
    let login = Login::behind(|port| oauth2_proxy(port, &arguments), "user");
    let client = login.client();
    let page = client.get("/").header("accept", "text/html").send();
    assert!(page.status == 401 && page.text.contains("/oauth2/sign_in"), "{page:?}");
    assert_eq!(sign_in(&client, "/oauth2/sign_in", "alice", "wrong"), None);
    let cookie = sign_in(&client, "/oauth2/sign_in", "alice", PASSWORD).unwrap();
    for forged in [&[][..], &[("remote-user", "mallory")], &[("x-auth-request-user", "mallory")]] {
        let issued = issue(&client, &cookie, forged);
        assert_eq!(issued.status, 201, "{forged:?}: {issued:?}");
        let jwt = issued.json()["jwt_token"].as_str().unwrap().to_owned();
        let verified = client.with_bearer(&jwt).get("/api/v1alpha/verify").send();
        assert_eq!((verified.status, verified.header("x-auth-user")), (200, "alice"));
        assert_eq!(issue(&client, "_oauth2_proxy=x", forged).status, 401);
    }
    // Who has a password here is not logged in by the proxy.
    let admin = sign_in(&client, "/oauth2/sign_in", "admin", PASSWORD).unwrap();
    issue(&client, &admin, &[]).problem(409);
    let users = login.mayfly.admin().get("/api/v1alpha/user").send().json();
    assert_eq!(users["users"].as_array().unwrap().len(), 2, "{users}");
}

#[test]
#[ignore = "`make login-proxy` builds it, for minutes"]
fn oauth2_proxy_alone_names_whom_it_has_logged_in() {
    let mayfly = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1").env("MAYFLY_TRUSTED_USER_HEADER", "X-Forwarded-User");
    });
    let port = free_port();
    // Its own pages are not at /oauth2, where Mayfly has some.
    let _proxy = oauth2_proxy(port, &[&format!("--upstream={}", mayfly.url), "--proxy-prefix=/login"]);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let cookie = sign_in(&client, "/login/sign_in", "alice", PASSWORD).unwrap();
    for name in ["x-forwarded-user", "X-Forwarded-User", "X_Forwarded_User", "x.forwarded.user"] {
        let issued = issue(&client, &cookie, &[(name, "mallory")]);
        assert_eq!(issued.status, 201, "{name}: {issued:?}");
        let jwt = issued.json()["jwt_token"].as_str().unwrap().to_owned();
        let verified = mayfly.client().with_bearer(&jwt).get("/api/v1alpha/verify").send();
        assert_eq!(verified.header("x-auth-user"), "alice");
        assert_eq!(issue(&client, "_oauth2_proxy=x", &[(name, "mallory")]).status, 403);
    }
    let site = [("sec-fetch-site", "cross-site")];
    issue(&client, &cookie, &site).problem(403);
    mayfly.admin().get("/api/v1alpha/user/mallory").send().problem(404);
}

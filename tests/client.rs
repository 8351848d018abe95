//! The commands that call a service by its API.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    ADMIN_PASSWORD, Authority, Backend, Direction, Process, Proxy, Service, Terminal, eventually, run,
};

/// A person's machine: a home directory with a `.netrc` and a file with the password of the administrator.
struct Home {
    directory: tempfile::TempDir,
    url: String,
}

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Home {
    fn new(url: &str) -> Self {
        let home = Self { directory: tempfile::tempdir().unwrap(), url: url.to_owned() };
        fs::write(home.password_file(), format!("{ADMIN_PASSWORD}\n")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn password_file(&self) -> PathBuf {
        self.path("password")
    }

    /// A command of somebody whose `.netrc` may name a user.
    fn stranger(&self, arguments: &[&str]) -> Command {
        let mut command = Service::command();
        command.args(arguments).env("MAYFLY_URL", &self.url).env("HOME", self.directory.path());
        for name in ["NETRC", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command
    }

    /// A command of the administrator.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stranger(arguments);
        command.env("MAYFLY_USER", "admin").env("MAYFLY_PASSWORD_FILE", self.password_file());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(&mut self.command(arguments), "")
    }

    /// The output of a command of the administrator that succeeds, without its line end.
    #[track_caller]
    fn output(&self, arguments: &[&str]) -> String {
        let Outcome { code, stdout, stderr } = self.run(arguments);
        assert_eq!((code, &*stderr), (0, ""), "{arguments:?}");
        stdout.strip_suffix('\n').expect("the output ends a line").to_owned()
    }
}

fn outcome(command: &mut Command, input: &str) -> Outcome {
    let output = run(command, input);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Outcome { code: output.status.code().unwrap(), stdout, stderr }
}

/// A server that gives each request the next of these answers, and all further ones the last.
struct Scripted {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&stream);
                let index = received.lock().unwrap().len().min(answers.len() - 1);
                received.lock().unwrap().push(request);
                // The client may be gone.
                let _ = stream.write_all(answers[index].as_bytes());
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut request).unwrap(), 0, "{request}");
    }
    request.make_ascii_lowercase();
    let length = request.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    request + &String::from_utf8(body).unwrap()
}

fn http(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn a_script_gets_a_token_and_does_all_with_it() {
    let service = Service::start(Backend::Memory);
    let home = Home::new(&service.url);
    let jwt = home.output(&["token", "issue", "CI", "1 hour", "--scope=deploy", "--scope", "read", "--audience=shop"]);
    assert_eq!((jwt.matches('.').count(), jwt.contains(char::is_whitespace)), (2, false), "{jwt}");
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify?scope=deploy").send().status, 200);

    let verify = |jwt: &str, more: &[&str]| outcome(&mut home.stranger(&[&["token", "verify"], more].concat()), jwt);
    let valid = verify(&format!("{jwt}\n"), &["--scope=deploy", "--scope=read", "--audience=shop"]);
    assert_eq!(valid.code, 0, "{valid:?}");
    let lines: Vec<_> = valid.stdout.lines().map(|line| line.split_once('\t').unwrap()).collect();
    let [("user", "admin"), ("id", id), ("remaining", seconds), ("scopes", "deploy read")] = lines[..] else {
        panic!("{valid:?}")
    };
    assert!((3590..=3600).contains(&seconds.parse().unwrap()), "{seconds}");
    let json: Value = serde_json::from_str(&verify(&jwt, &["--json"]).stdout).unwrap();
    assert_eq!((&json["jwt_token_id"], &json["jwt_token_scopes"][1]), (&id.into(), &"read".into()));
    let empty = verify("\n", &[]);
    assert_eq!((empty.code, &*empty.stderr), (2, "mayfly: standard input has no token\n"));
    let other = verify(&jwt, &["--scope=admin"]);
    assert_eq!((other.code, &*other.stdout), (1, ""), "{other:?}");

    let list = home.output(&["token", "list"]);
    let columns: Vec<_> = list.split('\t').collect();
    assert_eq!((columns[0], &columns[2..]), (id, &["3600", "CI", "deploy read"][..]), "{list}");
    let details = home.output(&["token", "show", id]);
    assert!(details.starts_with("description\tCI\nlife\t3600\nremaining\t35"), "{details}");
    assert!(details.ends_with("scopes\tdeploy read\naudiences\tshop"), "{details}");
    let json: Value = serde_json::from_str(&home.output(&["token", "list", "--json"])).unwrap();
    assert_eq!(json["jwt_tokens"][id]["jwt_token_description"], "CI");

    // The token alone shows and revokes itself.
    let itself = |action: &str| outcome(&mut home.stranger(&["token", action, "self"]), &jwt);
    assert!(itself("show").stdout.starts_with("description\tCI\n"));

    let successor = home.output(&["token", "rotate", id, "--overlap", "10 minutes"]);
    assert_ne!(successor, jwt);
    assert_eq!(itself("revoke").stdout, "Token deleted\n");
    assert_eq!((verify(&jwt, &[]).code, verify(&successor, &[]).code), (1, 0));
    home.output(&["token", "issue", "second", "1h"]);
    assert_eq!(home.output(&["token", "revoke", "--all"]), "Tokens deleted: 2");
    assert_eq!((verify(&successor, &[]).code, home.run(&["token", "list"]).stdout), (1, String::new()));

    assert_eq!(home.output(&["whoami"]), "admin\tadmin\t1000\t31557600");
    let json: Value = serde_json::from_str(&home.output(&["whoami", "--json"])).unwrap();
    assert_eq!(json["role"], "admin");
}

#[test]
fn a_revocation_needs_to_say_what() {
    let service = Service::start(Backend::Memory);
    let home = Home::new(&service.url);
    let jwt = home.output(&["token", "issue", "CI", "1 hour"]);
    fs::write(home.path("token"), &jwt).unwrap();
    // A script whose variable is empty revokes nothing, and not the token in the file.
    for arguments in [&["token", "revoke"][..], &["token", "revoke", ""], &["token", "revoke", "self", "--all"]] {
        let result = outcome(home.command(arguments).env("MAYFLY_TOKEN_FILE", home.path("token")), "");
        assert_eq!((result.code, &*result.stdout), (2, ""), "{arguments:?}: {result:?}");
    }
    let result = home.run(&["token", "revoke"]);
    assert!(result.stderr.contains("self") && result.stderr.contains("--all"), "{result:?}");
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
}

#[test]
fn the_user_and_the_password_come_from_netrc() {
    let service = Service::start(Backend::Memory);
    service.admin().add_user("bob", "user");
    let home = Home::new(&service.url);
    let netrc = format!(
        "machine elsewhere login eve password no\nmachine 127.0.0.1 login bob password secret\n\
         machine 127.0.0.1 login admin password \"{ADMIN_PASSWORD}\"\nmachine 127.0.0.1 login carol\n"
    );
    fs::write(home.path(".netrc"), &netrc).unwrap();
    let whoami = |user: &str| outcome(home.stranger(&["whoami"]).env("MAYFLY_USER", user), "");
    assert_eq!(whoami("").stdout, "bob\tuser\t1000\t31557600\n");
    assert_eq!(whoami("admin").stdout, "admin\tadmin\t1000\t31557600\n");
    let carol = whoami("carol");
    assert_eq!((carol.code, carol.stderr.contains("there is no password")), (2, true), "{carol:?}");
    fs::rename(home.path(".netrc"), home.path("elsewhere")).unwrap();
    let elsewhere = outcome(home.stranger(&["whoami"]).env("NETRC", home.path("elsewhere")), "");
    assert_eq!(elsewhere.stdout, "bob\tuser\t1000\t31557600\n");
    let nobody = whoami("");
    assert_eq!((nobody.code, nobody.stderr.contains("there is no user")), (2, true), "{nobody:?}");
}

#[test]
fn a_terminal_gets_a_prompt_and_a_table_in_colours() {
    let service = Service::start(Backend::Memory);
    let home = Home::new(&service.url);
    for (description, life) in [("backup 配置", "6 hours"), ("CI", "30 days")] {
        home.output(&["token", "issue", description, life, "--scope=deploy"]);
    }
    let list = |no_color: &str| {
        let terminal = Terminal::open();
        let mut command = home.stranger(&["token", "list", "--user=admin"]);
        let before = terminal.settings();
        let mut process = terminal.spawn(command.env("TERM", "xterm-256color").env("NO_COLOR", no_color));
        terminal.wait_for(&format!("Password of admin at {}: ", service.url));
        eventually("it hides what is typed", || (terminal.settings() != before).then_some(()));
        terminal.write(format!("{ADMIN_PASSWORD}\n").as_bytes());
        assert!(process.wait().success(), "{}", terminal.text());
        terminal.wait_for("6 hours");
        assert_eq!(terminal.settings(), before);
        assert!(!terminal.text().contains(ADMIN_PASSWORD));
        eventually("the table is whole", || {
            let text = terminal.text();
            (text.matches("deploy").count() == 2).then_some(text)
        })
    };
    let coloured = list("");
    assert!(coloured.contains("\u{1b}[1mDESCRIPTION\u{1b}[0m"), "{coloured:?}");
    assert!(coloured.contains("\u{1b}[32m29 days 23 hours\u{1b}[0m"), "{coloured:?}");
    let plain = list("1");
    assert!(!plain.contains('\u{1b}') && plain.contains("29 days 23 hours    30 days"), "{plain:?}");
    assert!(plain.contains("backup 配置  5 hours 59 minutes"), "{plain:?}");
    // A verification says its result first.
    fs::write(home.path("token"), home.output(&["token", "issue", "CI", "1 hour"])).unwrap();
    let terminal = Terminal::open();
    let mut command = home.stranger(&["token", "verify"]);
    let mut process = terminal.spawn(command.env("MAYFLY_TOKEN_FILE", home.path("token")));
    assert!(process.wait().success(), "{}", terminal.text());
    terminal.wait_for("remaining");
    assert!(terminal.text().starts_with("valid\r\n"), "{:?}", terminal.text());
    // The README shows the same columns.
    let columns = |text: &str| {
        let heading = text.lines().find(|line| line.starts_with("ID ")).unwrap();
        heading.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert_eq!(columns(&readme), columns(&plain));
}

#[test]
fn exit_codes_tell_refused_from_wrong_and_from_not_reached() {
    let service = Service::start(Backend::Memory);
    let home = Home::new(&service.url);
    let id = "0b9ae62a-7a5c-4e0c-a54d-0f4f4a4a0b3e";
    for (arguments, code, expected) in [
        (&["token", "show", id][..], 1, "mayfly: "),
        (&["token", "issue", "x", "1M"], 1, "jwt_token_life: "),
        (&["whoami", "--user=nobody"], 1, "mayfly: "),
        (&["token", "show", "x"], 2, "neither the id of a token nor self"),
        (&["token", "issue", "x"], 2, "error: "),
        (&["whoami", "--user=a:b"], 2, "a user name is"),
        (&["whoami", "--password-file=/nowhere"], 2, "cannot read /nowhere"),
        (&["whoami", "--ca-file=/nowhere"], 2, "MAYFLY_CA_FILE (--ca-file): /nowhere: "),
        (&["whoami", "--url=http://mayfly.example"], 2, "is plain HTTP"),
        (&["whoami", "--url=ftp://mayfly.example"], 2, "it is not a URL such as"),
        (&["whoami", "--url=http://127.0.0.1:1"], 3, "cannot connect to http://127.0.0.1:1"),
        (&["whoami", "--url=https://127.0.0.1:1"], 3, "cannot connect to https://127.0.0.1:1"),
        (&["whoami", "--url=http://mayfly.invalid", "--allow-http"], 3, "cannot connect to http://mayfly.invalid"),
    ] {
        let result = home.run(arguments);
        assert_eq!((result.code, &*result.stdout), (code, ""), "{arguments:?}: {result:?}");
        assert!(result.stderr.contains(expected), "{arguments:?}: {result:?}");
    }
    let (help, expected) =
        (home.output(&["token", "--help"]), ["refused it", "was not reached", "NO_COLOR", "MAYFLY_URL"]);
    assert!(expected.iter().all(|words| help.contains(words)), "{help}");
    // A service that gets the settings of its clients starts.
    Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_URL", "https://mayfly.example").env("MAYFLY_ALLOW_HTTP", "on");
    });
}

#[test]
fn what_does_not_answer_as_mayfly_does_is_not_believed() {
    let target = Scripted::start(vec![http("200 OK", &[], "{}")]);
    let redirect = format!("Location: {}/", target.url);
    for (answer, expected) in [
        ("nonsense\r\n\r\n".to_owned(), "is not Mayfly"),
        (http("200 OK", &["Content-Type: text/html"], "<h1>Welcome</h1>"), "does not answer as Mayfly does"),
        (http("200 OK", &["Content-Type: application/json"], "{}"), "does not answer as Mayfly does"),
        (http("401 Unauthorized", &[], "no"), "answers 401 Unauthorized, and not as Mayfly does"),
        (http("307 Temporary Redirect", &[&redirect], ""), "Passwords and tokens are not sent elsewhere"),
        (http("502 Bad Gateway", &[], "bad"), "answers 502 Bad Gateway"),
        (String::new(), "the connection to"),
        (http("200 OK", &[], "{}").replace("Length: 2", "Length: 9"), "the connection to"),
    ] {
        let server = Scripted::start(vec![answer.clone()]);
        let home = Home::new(&server.url);
        let verify = outcome(&mut home.stranger(&["token", "verify"]), "a.b.c");
        for result in [verify, home.run(&["whoami"]), home.run(&["token", "list"]), home.run(&["user", "list"])] {
            assert_eq!((result.code, &*result.stdout), (3, ""), "{answer:?}: {result:?}");
            assert!(result.stderr.contains(expected), "{answer:?}: {result:?}");
        }
    }
    assert_eq!(target.requests(), Vec::<String>::new());

    let problem = r#"{"detail":"no\u001b[2J"}"#;
    let server = Scripted::start(vec![http("403 Forbidden", &["Content-Type: application/problem+json"], problem)]);
    let result = Home::new(&server.url).run(&["whoami"]);
    assert_eq!((result.code, &*result.stderr), (1, "mayfly: no\u{fffd}[2J\n"));
}

#[test]
fn a_slow_answer_is_given_up_and_a_signal_ends_the_wait() {
    let service = Service::start(Backend::Memory);
    let proxy = Proxy::to(service.address().rsplit(':').next().unwrap().parse().unwrap());
    proxy.stall(Direction::ToClient, true);
    let home = Home::new(&format!("http://127.0.0.1:{}", proxy.port));
    let result = home.run(&["whoami", "--timeout=200ms"]);
    assert_eq!((result.code, &*result.stderr), (3, "mayfly: no answer within 200ms\n"));
    let mut process = Process::spawn(&mut home.command(&["whoami", "--timeout=1h"]));
    eventually("it is connected", || (proxy.connections() == 2).then_some(()));
    process.signal(Signal::SIGINT);
    assert_eq!(process.wait().code(), Some(130));
}

#[test]
fn nothing_is_created_twice_after_a_lost_answer() {
    let service = Service::start(Backend::Redis);
    let proxy = Proxy::to(service.address().rsplit(':').next().unwrap().parse().unwrap());
    let home = Home::new(&format!("http://127.0.0.1:{}", proxy.port));
    proxy.drop_next_response();
    let jwt = home.output(&["token", "issue", "CI", "1 hour"]);
    assert_eq!(proxy.connections(), 2);
    let list = home.output(&["token", "list"]);
    assert_eq!(list.lines().count(), 1, "{list}");
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);

    proxy.drop_next_response();
    let successor = home.output(&["token", "rotate", list.split('\t').next().unwrap()]);
    assert_eq!(home.output(&["token", "list"]).lines().count(), 1);
    assert_eq!(service.client().with_bearer(&successor).get("/api/v1alpha/verify").send().status, 200);
}

#[test]
fn a_create_is_repeated_with_its_key_while_the_service_is_unavailable() {
    let unavailable = |headers: &[&str]| {
        let headers = [&["Content-Type: application/problem+json"], headers].concat();
        http("503 Service Unavailable", &headers, r#"{"detail":"Redis is away."}"#)
    };
    let issued = r#"{"jwt_token_id":"1","jwt_token":"a.b.c","jwt_token_life":60}"#;
    let server =
        Scripted::start(vec![unavailable(&["Retry-After: 1"]), unavailable(&[]), http("201 Created", &[], issued)]);
    let home = Home::new(&server.url);
    assert_eq!(home.output(&["token", "issue", "CI", "1m", "--network=10.0.0.0/8"]), "a.b.c");
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
    assert!(requests[0].contains("idempotency-key: "), "{requests:?}");
    assert!(requests[0].ends_with(r#""jwt_token_networks":["10.0.0.0/8"]}"#), "{requests:?}");

    // Not for ever, not after a wait of minutes, and only what has a key.
    for (retry_after, arguments, count) in [
        ("Retry-After: 0", &["token", "issue", "CI", "1m"][..], 5),
        ("Retry-After: 600", &["token", "issue", "CI", "1m"], 1),
        ("Retry-After: 0", &["token", "revoke", "--all"], 1),
        ("Retry-After: 0", &["user", "remove", "bob"], 1),
    ] {
        let server = Scripted::start(vec![unavailable(&[retry_after])]);
        let result = Home::new(&server.url).run(arguments);
        assert_eq!((result.code, server.requests().len()), (3, count), "{arguments:?}: {result:?}");
        assert!(result.stderr.contains("Redis is away"), "{result:?}");
    }
}

#[test]
fn users_are_managed_through_the_api() {
    let service = Service::start(Backend::Memory);
    let home = Home::new(&service.url);
    let user = |arguments: &[&str], input: &str| outcome(&mut home.command(&[&["user"], arguments].concat()), input);
    let status = |name: &str, password: &str| {
        service.client().with_basic(name, password).get("/api/v1alpha/token").send().status
    };
    let add = |name: &str| user(&["add", name, "--password-stdin"], "first\n").stdout;
    assert_eq!((add("bob"), add("b+c@d")), ("added user bob\n".into(), "added user b+c@d\n".into()));
    assert_eq!(user(&["role", "b+c@d", "introspector"], "").stdout, "made b+c@d introspector\n");
    assert_eq!(
        user(&["list"], "").stdout,
        "admin\tadmin\tenabled\tpassword\nb+c@d\tintrospector\tenabled\tpassword\nbob\tuser\tenabled\tpassword\n"
    );
    let again = user(&["add", "bob", "--password-stdin"], "stolen");
    assert_eq!((again.code, &*again.stderr), (1, "mayfly: There is a user of this name already.\n"));

    service.client().with_basic("bob", "first").issue("x", "1h");
    let changed = user(&["password", "bob", "--revoke-tokens", "--password-stdin"], "second");
    assert_eq!(changed.stdout, "changed the password of bob and revoked 1 tokens\n");
    assert_eq!((status("bob", "first"), status("bob", "second")), (401, 200));
    assert_eq!(user(&["disable", "bob"], "").stdout, "disabled bob and revoked all tokens\n");
    assert_eq!(status("bob", "second"), 401);
    assert_eq!(user(&["enable", "bob"], "").stdout, "enabled bob\n");
    assert_eq!(user(&["remove", "bob"], "").stdout, "removed bob and revoked 0 tokens\n");
    assert_eq!((user(&["remove", "bob"], "").code, user(&["remove", "admin"], "").code), (1, 1));
    // A user who is no administrator is refused.
    fs::write(home.password_file(), "first").unwrap();
    assert_eq!(home.run(&["user", "list", "--user=b+c@d"]).code, 1);
}

#[test]
fn all_pages_of_users_are_listed() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_PASSWORD_COST", "m=64,t=1,p=1");
    });
    let admin = service.admin();
    for number in 0..510 {
        admin.add_user(&format!("user+{number:03}"), "user");
    }
    let list = Home::new(&service.url).output(&["user", "list"]);
    let names: Vec<_> = list.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[510]), (511, "admin", "user+509"));
}

#[test]
fn a_private_authority_is_trusted_where_it_is_named() {
    let authority = Authority::new();
    let identity = authority.identify("127.0.0.1");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    identity.write_certificate(file("tls.crt"));
    identity.write_key(file("tls.key"));
    fs::write(file("ca.crt"), authority.pem()).unwrap();
    let service = Service::launch(None, |command| {
        command.env("MAYFLY_TLS_CERT", file("tls.crt")).env("MAYFLY_TLS_KEY", file("tls.key"));
    });
    let home = Home::new(&service.url);
    let whoami = |authority: &Path| outcome(home.command(&["whoami"]).env("MAYFLY_CA_FILE", authority), "");
    eventually("the service is ready", || (whoami(&file("ca.crt")).code == 0).then_some(()));
    let strange = home.run(&["whoami"]);
    assert_eq!((strange.code, strange.stderr.contains("cannot connect to https://")), (3, true), "{strange:?}");
    let empty = whoami(&file("tls.key"));
    assert_eq!((empty.code, empty.stderr.contains("no certificate")), (2, true), "{empty:?}");
    let create = home.run(&["token", "issue", "CI", "1h"]);
    assert_eq!((create.code, create.stderr.contains("may have been made")), (3, false), "{create:?}");
}

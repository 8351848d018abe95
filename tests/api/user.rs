//! `/api/v1alpha/user`: managing users, their passwords and their tokens.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use mayfly::domain::password::{HashCost, PasswordHash};
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Service};

const USER: &str = "/api/v1alpha/user";
const TOKEN: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

/// Sets the least cost of password hashes: many users are added here.
fn cheap(command: &mut Command) {
    command.env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1");
}

fn start(backend: Backend) -> Service {
    Service::start_with(backend, cheap)
}

fn log_in(service: &Service, name: &str, password: &str) -> u16 {
    service.client().with_basic(name, password).get(TOKEN).send().status
}

fn verify(service: &Service, jwt: &str) -> u16 {
    service.client().with_bearer(jwt).get(VERIFY).send().status
}

/// The fields of a user, without the time of creation.
fn user(answer: &Answer) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    let mut body = answer.json();
    let created_at = body.as_object_mut().unwrap().remove("created_at").unwrap();
    assert!(created_at.as_u64().unwrap() > 1_700_000_000, "{answer:?}");
    body
}

/// The status, body and headers of a response, without the request id and the date.
fn anonymous(mut answer: Answer) -> (u16, String, BTreeMap<String, String>) {
    for volatile in ["x-request-id", "date"] {
        answer.headers.remove(volatile);
    }
    let id = answer.json()["request_id"].take();
    let headers =
        answer.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (answer.status, answer.text.replace(id.as_str().unwrap(), ""), headers)
}

/// The pages of a list, from the first on.
fn pages(client: &Client, first: &str) -> Vec<Value> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let page = client.get(&path).send();
        assert_eq!(page.status, 200, "{page:?}");
        pages.push(page.json());
        let link = page.header("link").strip_prefix('<');
        next = link.map(|link| link.strip_suffix(">; rel=\"next\"").unwrap().to_owned());
    }
    pages
}

fn names(page: &Value) -> Vec<&str> {
    page["users"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect()
}

#[rstest]
fn administrators_manage_users(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    let added = admin.post(USER, &json!({"username": "alice", "password": "first"})).send();
    assert_eq!((added.status, added.header("location")), (201, "/api/v1alpha/user/alice"));
    assert_eq!(added.header("cache-control"), "no-store");
    let alice = |message: &str, role: &str, disabled: bool| {
        json!({
            "message": message, "username": "alice", "role": role, "disabled": disabled, "origin": "password",
        })
    };
    assert_eq!(user(&added), alice("User created", "user", false));
    assert_eq!(log_in(&service, "alice", "first"), 200);
    assert_eq!(user(&admin.get("/api/v1alpha/user/alice").send()), alice("User exists", "user", false));

    let again = admin.post(USER, &json!({"username": "alice", "role": "admin", "password": "stolen"})).send();
    assert!(again.problem(409).contains("already"));
    assert_eq!((log_in(&service, "alice", "first"), log_in(&service, "alice", "stolen")), (200, 401));

    let change = |change: Value| user(&admin.patch("/api/v1alpha/user/alice", &change).send());
    assert_eq!(change(json!({"role": "introspector"})), alice("User changed", "introspector", false));
    assert_eq!(change(json!({})), alice("User changed", "introspector", false));
    assert_eq!(change(json!({"disabled": true})), alice("User changed", "introspector", true));
    assert_eq!(log_in(&service, "alice", "first"), 401);
    assert_eq!(change(json!({"disabled": false, "role": "admin"})), alice("User changed", "admin", false));
    let alice_in = service.client().with_basic("alice", "first");
    assert_eq!(user(&alice_in.get("/api/v1alpha/user/alice").send()), alice("User exists", "admin", false));

    let list = admin.get(USER).send();
    assert_eq!(
        (&*list.json()["message"].to_string(), names(&list.json())),
        ("\"Users exist\"", vec!["admin", "alice"])
    );
    assert_eq!(list.json()["users"][1]["role"], "admin");

    let removed = admin.delete("/api/v1alpha/user/alice").send();
    assert_eq!((removed.status, &*removed.text), (200, r#"{"message":"User deleted","jwt_tokens_deleted":0}"#));
    assert_eq!(log_in(&service, "alice", "first"), 401);
    assert_eq!(names(&admin.get(USER).send().json()), ["admin"]);
}

#[rstest]
fn only_administrators_manage_users(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    service.admin().add_user("alice", "user");
    service.admin().add_user("ines", "introspector");
    let (id, jwt) = service.admin().issue("x", "1h");
    let requests = |login: &dyn Fn(Client) -> Client, name: &str| {
        // A rejection before the body was read closes the connection.
        let client = || login(service.client());
        let path = |rest: &str| format!("{USER}/{name}{rest}");
        [
            client().get(USER),
            client().get("/api/v1alpha/user?limit=0"),
            client().post(USER, &json!({"username": name, "password": "x"})),
            client().post(USER, &json!({})),
            client().get(&path("")),
            client().patch(&path(""), &json!({"role": "admin"})),
            client().put(&path("/password"), &json!({"password": "x"})),
            client().delete(&path("")),
            client().get(&path("/token")),
            client().delete(&path("/token?all=true")),
            client().delete(&path(&format!("/token/{id}"))),
        ]
        .map(|draft| anonymous(draft.send()))
    };
    let as_user = |name: &'static str| move |client: Client| client.with_basic(name, "secret");
    let refused = requests(&as_user("alice"), "admin");
    for (status, text, _) in &refused {
        assert_eq!(*status, 403);
        assert!(text.contains("Only an administrator"), "{text}");
    }
    // The responses do not reveal whether a user exists.
    for name in ["nobody", "a:b", "*", &"x".repeat(65)] {
        assert_eq!(requests(&as_user("alice"), name), refused, "{name}");
        assert_eq!(requests(&as_user("ines"), name), refused, "{name}");
    }
    for (status, _, headers) in requests(&|client| client.with_bearer(&jwt), "alice") {
        assert_eq!(status, 403);
        assert!(headers["www-authenticate"].contains("error=\"insufficient_scope\""), "{headers:?}");
    }
    assert!(requests(&|client| client, "alice").iter().all(|(status, ..)| *status == 401));
    assert_eq!(names(&service.admin().get(USER).send().json()), ["admin", "alice", "ines"]);
    assert_eq!(verify(&service, &jwt), 200);
}

#[rstest]
fn users_change_their_own_passwords(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    service.admin().add_user("alice", "user");
    service.admin().add_user("bob", "user");
    let alice = |password: &str| service.client().with_basic("alice", password);
    let path = "/api/v1alpha/user/alice/password";
    let (_, jwt) = alice("secret").issue("x", "1h");

    let changed = alice("secret").put(path, &json!({"password": "second"})).send();
    assert_eq!((changed.status, &*changed.text), (200, r#"{"message":"Password changed","jwt_tokens_deleted":0}"#));
    assert_eq!((log_in(&service, "alice", "secret"), log_in(&service, "alice", "second")), (401, 200));
    assert_eq!(verify(&service, &jwt), 200);

    let changed = alice("second").put(path, &json!({"password": "third", "revoke_tokens": true})).send();
    assert_eq!((changed.status, &*changed.text), (200, r#"{"message":"Password changed","jwt_tokens_deleted":1}"#));
    assert_eq!((log_in(&service, "alice", "second"), log_in(&service, "alice", "third")), (401, 200));
    assert_eq!(verify(&service, &jwt), 401);
    // The new password can create tokens.
    let (_, jwt) = alice("third").issue("x", "1h");

    alice("third").put("/api/v1alpha/user/bob/password", &json!({"password": "x"})).send().problem(403);
    assert_eq!(log_in(&service, "bob", "secret"), 200);
    service.client().with_bearer(&jwt).put(path, &json!({"password": "x"})).send().problem(403);
    alice("wrong").put(path, &json!({"password": "x"})).send().problem(401);
    assert_eq!(service.admin().put(path, &json!({"password": "secret"})).send().status, 200);
    assert_eq!(log_in(&service, "alice", "secret"), 200);
}

#[rstest]
fn unknown_and_malformed_names_have_the_same_404(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    let requests = |name: &str| {
        let path = |rest: &str| format!("{USER}/{name}{rest}");
        [
            admin.get(&path("")),
            admin.patch(&path(""), &json!({"role": "user"})),
            admin.patch(&path(""), &json!({"disabled": true})),
            admin.patch(&path(""), &json!({"disabled": false})),
            admin.put(&path("/password"), &json!({"password": "x"})),
            admin.put(&path("/password"), &json!({"password": "x", "revoke_tokens": true})),
            admin.delete(&path("")),
            admin.get(&path("/token")),
            admin.delete(&path("/token?all=true")),
            admin.delete(&path("/token/b56929f3-54f1-4dc2-9984-9bba615e26e6")),
        ]
        .map(|draft| anonymous(draft.send()))
    };
    let expected = requests("nobody");
    for (status, text, _) in &expected {
        assert_eq!(*status, 404);
        assert!(text.contains("There is no such user."), "{text}");
    }
    for name in ["Admin", "a:b", "a%20b", "*", "%2A", "%00", "%ff", "a%2Fb", "%7B%7D", &"x".repeat(65)] {
        for (answer, expected) in requests(name).iter().zip(&expected) {
            assert_eq!(answer, expected, "{name}");
        }
    }
    assert_eq!(names(&admin.get(USER).send().json()), ["admin"]);
}

#[test]
fn malformed_requests_are_rejected() {
    let service = start(Backend::Memory);
    let admin = service.admin();
    for (body, hint) in [
        (json!({"username": "a:b", "password": "x"}), "username: a user name is 1 to 64"),
        (json!({"username": "..", "password": "x"}), "neither \".\" nor \"..\""),
        (json!({"username": "", "password": "x"}), "username: a user name is 1 to 64"),
        (json!({"username": "alice", "password": ""}), "password: a password is 1 to 1024 bytes"),
        (json!({"username": "alice", "password": "x".repeat(1025)}), "password: a password is 1 to 1024 bytes"),
        (json!({"username": "alice", "password": "ü".repeat(513)}), "password: a password is 1 to 1024 bytes"),
        (json!({"username": "alice", "password": "secret\n"}), "without control characters"),
        (json!({"username": "alice", "password": "a\u{0}b"}), "without control characters"),
        (json!({"username": "alice", "password": "\u{feff}secret"}), "without control characters or byte order marks"),
        (json!({"username": "alice", "role": "root", "password": "x"}), "unknown variant `root`"),
        (json!({"username": "alice", "role": "Admin", "password": "x"}), "unknown variant `Admin`"),
        (json!({"username": "alice", "role": null, "password": "x"}), "expected value"),
        (json!({"username": "alice"}), "missing field `password`"),
        (json!({"password": "x"}), "missing field `username`"),
        (json!({"username": "alice", "password": "x", "disabled": true}), "unknown field `disabled`"),
    ] {
        let detail = admin.post(USER, &body).send().problem(400);
        assert!(detail.contains(hint), "{body}: {detail}");
    }
    admin.add_user("alice", "user");
    let path = "/api/v1alpha/user/alice";
    for (body, hint) in [
        (json!({"role": "root"}), "unknown variant"),
        (json!({"disabled": "yes"}), "invalid type"),
        (json!({"disabled": null}), "invalid type"),
        (json!({"role": null}), "expected value"),
        (json!({"password": "x"}), "unknown field"),
        (json!([]), "must be a JSON object"),
    ] {
        let detail = admin.patch(path, &body).send().problem(400);
        assert!(detail.contains(hint), "{body}: {detail}");
    }
    for (body, hint) in [
        (json!({}), "missing field `password`"),
        (json!({"password": ""}), "1 to 1024 bytes"),
        (json!({"password": "two\nlines"}), "without control characters"),
        (json!({"password": "x", "revoke_tokens": "yes"}), "invalid type"),
    ] {
        let detail = admin.put(&format!("{path}/password"), &body).send().problem(400);
        assert!(detail.contains(hint), "{body}: {detail}");
    }
    assert_eq!(log_in(&service, "alice", "secret"), 200);
    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "after=a:b", "after=..", "after="] {
        admin.get(&format!("{USER}?{query}")).send().problem(400);
    }
    let odd = format!("p:ä ß \"{}", "x".repeat(1000));
    assert_eq!(admin.put(&format!("{path}/password"), &json!({"password": odd})).send().status, 200);
    assert_eq!(log_in(&service, "alice", &odd), 200);
}

#[test]
fn a_password_from_before_control_characters_were_rejected_still_logs_in() {
    let service = start(Backend::Redis);
    service.admin().add_user("alice", "user");
    let old = "two\nlines\n";
    let hash = PasswordHash::of(&old.parse().unwrap(), HashCost::default());
    let redis = service.redis.as_ref().unwrap();
    redis.cli(&["HSET", "mayfly:{alice}:user", "password", hash.expose_secret()]);
    assert_eq!(log_in(&service, "alice", old), 200);
}

#[rstest]
fn users_are_listed_in_pages(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    let mut expected = vec!["admin".to_owned(), "a+b@example.org".to_owned()];
    expected.extend((0..99).map(|number| format!("user{number:03}")));
    for name in &expected[1..] {
        admin.add_user(name, "user");
    }
    expected.sort_unstable();
    for (first, sizes) in [
        (USER, vec![100, 1]),
        ("/api/v1alpha/user?limit=1000", vec![101]),
        ("/api/v1alpha/user/?limit=50", vec![50, 50, 1]),
        ("/api/v1alpha/user?limit=1", vec![1; 101]),
    ] {
        let pages = pages(&admin, first);
        assert_eq!(pages.iter().map(|page| names(page).len()).collect::<Vec<_>>(), sizes, "{first}");
        assert_eq!(pages.iter().flat_map(names).collect::<Vec<_>>(), expected, "{first}");
    }
    // `after` need not name a user that exists.
    let rest = admin.get("/api/v1alpha/user?limit=1&after=user0").send();
    assert_eq!(names(&rest.json()), ["user000"]);
    let none = admin.get("/api/v1alpha/user?after=zoe").send();
    assert_eq!(none.json(), json!({"message": "Users exist", "users": []}), "they are on other pages");
    assert_eq!(none.header("link"), "");
}

#[rstest]
fn the_last_enabled_administrator_stays(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    admin.add_user("alice", "user");
    let stays = || {
        for refused in [
            admin.patch("/api/v1alpha/user/admin", &json!({"role": "user"})),
            admin.patch("/api/v1alpha/user/admin", &json!({"disabled": true})),
            admin.patch("/api/v1alpha/user/admin", &json!({"role": "introspector", "disabled": true})),
            admin.delete("/api/v1alpha/user/admin"),
        ] {
            assert!(refused.send().problem(409).contains("last enabled administrator"));
        }
        assert_eq!(admin.get(USER).send().status, 200);
    };
    stays();
    admin.add_user("bob", "admin");
    assert_eq!(admin.patch("/api/v1alpha/user/bob", &json!({"disabled": true})).send().status, 200);
    stays();
    // Any enabled administrator is enough.
    assert_eq!(admin.patch("/api/v1alpha/user/alice", &json!({"role": "admin"})).send().status, 200);
    assert_eq!(admin.patch("/api/v1alpha/user/admin", &json!({"role": "user"})).send().status, 200);
    admin.get(USER).send().problem(403);
    let alice = service.client().with_basic("alice", "secret");
    alice.delete("/api/v1alpha/user/alice").send().problem(409);
    assert_eq!(alice.delete("/api/v1alpha/user/admin").send().status, 200);
    alice.patch("/api/v1alpha/user/alice", &json!({"role": "user"})).send().problem(409);
}

#[rstest]
fn administrators_list_and_revoke_the_tokens_of_users(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    admin.add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let path = "/api/v1alpha/user/alice/token";
    assert_eq!(admin.get(path).send().json(), json!({"message": "No tokens exist", "jwt_tokens": {}}));
    let tokens: Vec<_> = (0..3).map(|number| alice.issue(&format!("{number}"), "1h")).collect();
    let (own, own_jwt) = admin.issue("the admin's own", "1h");

    let ids = |pages: &[Value]| -> Vec<String> {
        pages.iter().flat_map(|page| page["jwt_tokens"].as_object().unwrap().keys().cloned()).collect()
    };
    let newest_first: Vec<_> = tokens.iter().rev().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids(&pages(&admin, path)), newest_first);
    let two = pages(&admin, &format!("{path}?limit=2"));
    assert_eq!((two.len(), ids(&two)), (2, newest_first));
    admin.get(&format!("{path}?after={own}")).send().problem(404);

    let (first, jwt) = &tokens[0];
    assert_eq!(verify(&service, jwt), 200);
    let revoked = admin.delete(&format!("{path}/{first}")).send();
    assert_eq!((revoked.status, &*revoked.text), (200, r#"{"message":"Token deleted"}"#));
    assert_eq!(verify(&service, jwt), 401);
    for missing in [first, &own, "x", "%ff"] {
        assert!(admin.delete(&format!("{path}/{missing}")).send().problem(404).contains("There is no such token."));
    }
    assert_eq!(
        admin.delete(&format!("{path}?all=true")).send().text,
        r#"{"message":"Tokens deleted","jwt_tokens_deleted":2}"#
    );
    for (_, jwt) in &tokens {
        assert_eq!(verify(&service, jwt), 401);
    }
    assert_eq!(verify(&service, &own_jwt), 200);
    alice.issue("x", "1h");
}

#[rstest]
fn removing_a_user_revokes_the_tokens(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    admin.add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let tokens: Vec<_> = (0..2).map(|_| alice.issue("x", "1h").1).collect();
    let gone = |tokens: &[String]| {
        for jwt in tokens {
            assert_eq!(verify(&service, jwt), 401);
        }
    };
    assert_eq!(admin.patch("/api/v1alpha/user/alice", &json!({"disabled": true})).send().status, 200);
    gone(&tokens);
    assert_eq!(admin.patch("/api/v1alpha/user/alice", &json!({"disabled": false})).send().status, 200);
    gone(&tokens);
    let tokens: Vec<_> = (0..2).map(|_| alice.issue("x", "1h").1).collect();
    assert_eq!(admin.delete("/api/v1alpha/user/alice").send().json()["jwt_tokens_deleted"], 2);
    gone(&tokens);
    admin.add_user("alice", "user");
    gone(&tokens);
    assert_eq!(alice.get(TOKEN).send().json()["message"], "No tokens exist");
}

#[test]
fn paths_with_slashes_and_other_methods() {
    let service = start(Backend::Memory);
    let admin = service.admin();
    admin.post("/api/v1alpha/user/", &json!({"username": "alice", "password": "x"})).send();
    for path in ["/", "/alice/", "/alice/token/"] {
        assert_eq!(admin.get(&format!("{USER}{path}")).send().status, 200, "{path}");
    }
    for (method, path, allow) in [
        ("DELETE", "", "GET, HEAD, POST"),
        ("PUT", "/alice", "GET, HEAD, PATCH, DELETE"),
        ("GET", "/alice/password", "PUT"),
        ("POST", "/alice/token", "GET, HEAD, DELETE"),
        ("GET", "/alice/token/b56929f3-54f1-4dc2-9984-9bba615e26e6", "DELETE"),
    ] {
        let answer = admin.request(method, &format!("{USER}{path}")).send();
        answer.problem(405);
        let sorted = |allow: &str| {
            let mut methods: Vec<_> = allow.split(", ").map(str::to_owned).collect();
            methods.sort_unstable();
            methods
        };
        assert_eq!(sorted(answer.header("allow")), sorted(allow), "{method} {path}");
    }
}

/// A request whose client is logged in and has not sent the body.
struct Held {
    stream: TcpStream,
    body: String,
}

impl Held {
    fn begin(service: &Service, login: &str, request: &str, media_type: &str, body: impl Into<String>) -> Self {
        let (mut stream, body) = (service.connect(), body.into());
        let (login, length) = (BASE64_STANDARD.encode(login), body.len());
        let head = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic {login}\r\n\
             Content-Type: {media_type}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"HTTP/1.1 100 Continue\r\n\r\n", "the body is asked for");
        Self { stream, body }
    }

    fn finish(mut self) -> u16 {
        self.stream.write_all(self.body.as_bytes()).unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).unwrap();
        answer["HTTP/1.1 ".len()..][..3].parse().unwrap()
    }
}

#[rstest]
fn authority_is_checked_again_when_the_body_has_arrived(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = start(backend);
    let admin = service.admin();
    let json = "application/json";
    let begin = |login: &str, request: &str, body: Value| Held::begin(&service, login, request, json, body.to_string());
    let backdoor = json!({"username": "backdoor", "password": "x", "role": "admin"});
    let token = json!({"jwt_token_description": "late", "jwt_token_life": "1 hour"});
    let another = json!({"password": "thief's"});

    for (change, name) in [("removed", "eve"), ("disabled", "mal"), ("demoted", "dan"), ("password", "pat")] {
        admin.add_user(name, "admin");
        let login = format!("{name}:secret");
        let (id, _) = service.client().with_basic(name, "secret").issue("kept", "1 hour");
        let mut held = vec![
            begin(&login, "POST /api/v1alpha/user", backdoor.clone()),
            begin(&login, &format!("PATCH {USER}/{name}"), json!({"role": "admin", "disabled": false})),
            begin(&login, &format!("PUT {USER}/admin/password"), another.clone()),
        ];
        if change != "demoted" {
            held.push(begin(&login, &format!("PUT {USER}/{name}/password"), another.clone()));
            held.push(begin(&login, &format!("POST {TOKEN}"), token.clone()));
            held.push(begin(&login, &format!("POST {TOKEN}/{id}/rotate"), json!({})));
            let form = "application/x-www-form-urlencoded";
            held.push(Held::begin(&service, &login, "POST /oauth2/introspect", form, "token=x"));
        }
        let path = format!("{USER}/{name}");
        let answer = match change {
            "removed" => admin.delete(&path),
            "disabled" => admin.patch(&path, &json!({"disabled": true})),
            "demoted" => admin.patch(&path, &json!({"role": "user"})),
            _ => admin.put(&format!("{path}/password"), &json!({"password": "new"})),
        };
        assert_eq!(answer.send().status, 200);
        let statuses: Vec<u16> = held.into_iter().map(Held::finish).collect();
        // A removed or disabled user has no tokens left to rotate; a former administrator still has a valid login.
        let refusal = if change == "demoted" { 403 } else { 401 };
        let is_gone = ["removed", "disabled"].contains(&change);
        let is_refused = |status: &u16| *status == refusal || (*status == 404 && is_gone);
        assert!(statuses.iter().all(is_refused), "{change}: {statuses:?}");
    }
    assert_eq!(admin.get(&format!("{USER}/backdoor")).send().status, 404);
    assert_eq!(log_in(&service, "pat", "new"), 200);
    assert_eq!(user(&admin.get(&format!("{USER}/dan")).send())["role"], "user");
}

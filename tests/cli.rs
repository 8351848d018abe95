//! The command line.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    process::Command,
    thread::{self, sleep},
    time::Duration,
};

use crate::support::{Backend, RedisServer, Service, eventually, run};

/// Exit code, standard output, standard error.
fn mayfly(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> (i32, String, String) {
    let mut command: Command = Service::command();
    let output = run(command.args(arguments).envs(environment.iter().copied()), input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_help_documents_every_setting() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let (code, help, _) = mayfly(arguments, &[], "");
        assert_eq!(code, 0);
        for setting in [
            "--listen <ADDRESS>",
            "[env: MAYFLY_LISTEN=]",
            "[default: 127.0.0.1:25441]",
            "[env: MAYFLY_REDIS_URL]",
            "[env: MAYFLY_REDIS_PASSWORD_FILE=]",
            "[env: MAYFLY_REDIS_CA_FILE=]",
            "[env: MAYFLY_REDIS_CERT_FILE=]",
            "[env: MAYFLY_REDIS_KEY_FILE=]",
            "[env: MAYFLY_REDIS_TIMEOUT=]",
            "[default: 1s]",
            "[env: MAYFLY_REDIS_WAIT_REPLICAS=]",
            "[env: MAYFLY_REDIS_WAIT_TIMEOUT=]",
            "[env: MAYFLY_UNREADY_AFTER=]",
            "[env: MAYFLY_SHUTDOWN_DELAY=]",
            "[env: MAYFLY_JWT_KEYS_FILE=]",
            "[env: MAYFLY_JWT_ISSUER=]",
            "[env: MAYFLY_LEASE=]",
            "[default: 250ms]",
            "[env: MAYFLY_TOKEN_MAX_LIFE=]",
            "[default: \"1 year\"]",
            "[env: MAYFLY_TOKEN_QUOTA=]",
            "[default: 1000]",
            "[env: MAYFLY_ADMIN_NAME=]",
            "[default: admin]",
            "MAYFLY_ADMIN_PASSWORD\n",
            "[env: MAYFLY_ADMIN_PASSWORD_FILE=]",
            "[env: MAYFLY_PASSWORD_COST=]",
            "[default: m=19456,t=2,p=1]",
            "[env: MAYFLY_DOCS=]",
            "[env: MAYFLY_CORS_ORIGINS=]",
            "[env: MAYFLY_SHUTDOWN_GRACE=]",
            "[default: 25s]",
            "[env: MAYFLY_METRICS_LISTEN=]",
            "[default: 127.0.0.1:25442]",
            "[env: MAYFLY_LOG=]",
            "[default: info]",
            "[env: MAYFLY_LOG_FORMAT=]",
            "[default: auto]",
            "OTEL_EXPORTER_OTLP_ENDPOINT\n",
        ] {
            assert!(help.contains(setting), "{setting} is not in:\n{help}");
        }
    }
}

#[test]
fn a_wrong_configuration_lists_all_mistakes_and_exits_with_2() {
    let environment =
        [("MAYFLY_LISTEN", "nowhere"), ("MAYFLY_TOKEN_QUOTA", "many"), ("MAYFLY_REDIS_URL", "redis://:hunter2@")];
    let (code, stdout, stderr) = mayfly(&["--token-max-life", "1M"], &environment, "");
    assert_eq!((code, &*stdout), (2, ""));
    for setting in ["MAYFLY_LISTEN", "MAYFLY_TOKEN_QUOTA", "MAYFLY_TOKEN_MAX_LIFE", "MAYFLY_JWT_KEYS_FILE"] {
        assert!(stderr.contains(setting), "{setting} is not in:\n{stderr}");
    }
    assert!(!stderr.contains("hunter2"), "{stderr}");
    assert_eq!(mayfly(&["--no-such-flag"], &[], "").0, 2);
}

#[test]
fn with_redis_a_key_file_is_required_and_checked() {
    let redis = ("MAYFLY_REDIS_URL", "redis://127.0.0.1:1");
    let (code, _, stderr) = mayfly(&[], &[redis], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("`mayfly key generate > keys.json`"), "{stderr}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, r#"{"keys":[{"kty":"oct","alg":"HS256","kid":"a","k":"c2hvcnQtc2VjcmV0"}]}"#).unwrap();
    let (code, _, stderr) = mayfly(&[], &[("MAYFLY_JWT_KEYS_FILE", file.to_str().unwrap())], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("12 bytes, and at least 32 are needed"), "{stderr}");
    assert!(!stderr.contains("c2hvcnQtc2VjcmV0"), "{stderr}");
}

#[test]
fn a_taken_port_is_said() {
    let service = Service::start(Backend::Memory);
    let address = service.address();
    let (code, stdout, stderr) = mayfly(&["--listen", address], &[], "");
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains(&format!("cannot listen on {address}: ")), "{stderr}");
    let environment = [("MAYFLY_LISTEN", "127.0.0.1:0"), ("MAYFLY_METRICS_LISTEN", address)];
    let (code, stdout, stderr) = mayfly(&[], &environment, "");
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains("MAYFLY_METRICS_LISTEN"), "{stderr}");
}

#[test]
fn what_the_collector_cannot_take_is_said() {
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    for arguments in [&[][..], &["user", "list"]] {
        let (code, stdout, stderr) = mayfly(arguments, &environment, "");
        assert_eq!((code, &*stdout), (2, ""));
        let expected = "OTEL_EXPORTER_OTLP_PROTOCOL: \"grpc\" is not built in; use \"http/protobuf\"";
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_generated_key_is_one_hs256_key_of_32_random_bytes() {
    let (code, first, _) = mayfly(&["key", "generate"], &[], "");
    assert_eq!(code, 0);
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&first).unwrap();
    assert_eq!(set.keys.len(), 1);
    let jsonwebtoken::jwk::AlgorithmParameters::OctetKey(key) = &set.keys[0].algorithm else { panic!("{first}") };
    assert_eq!(key.value.len(), 43);
    assert_ne!(mayfly(&["key", "generate"], &[], "").1, first);
}

#[test]
fn users_are_managed_while_the_service_runs() {
    let service = Service::start(Backend::Redis);
    let url = service.redis.as_ref().unwrap().url();
    let user = |arguments: &[&str], input: &str| {
        mayfly(&[&["user"], arguments].concat(), &[("MAYFLY_REDIS_URL", &url)], input)
    };
    let status = |name: &str, password: &str| {
        service.client().with_basic(name, password).get("/api/v1alpha/token").send().status
    };

    assert_eq!(user(&["add", "bob", "--password-stdin"], "first\n").1, "added user bob\n");
    assert_eq!(user(&["add", "carol", "--role=admin", "--password-stdin"], "x").1, "added admin carol\n");
    assert_eq!(user(&["list"], "").1, "admin\tadmin\tenabled\nbob\tuser\tenabled\ncarol\tadmin\tenabled\n");
    assert_eq!((status("bob", "first"), status("bob", "wrong")), (200, 401));

    let (code, _, stderr) = user(&["add", "bob", "--password-stdin"], "stolen");
    assert_eq!((code, &*stderr), (1, "mayfly: there is a user bob already\n"));
    assert_eq!(status("bob", "first"), 200);

    assert_eq!(user(&["password", "bob", "--password-stdin"], "second").1, "changed the password of bob\n");
    assert_eq!((status("bob", "first"), status("bob", "second")), (401, 200));

    let bob = service.client().with_basic("bob", "second");
    let (_, jwt) = bob.issue("x", "1h");
    let is_live = |jwt: &str| service.client().with_bearer(jwt).get("/api/v1alpha/verify").send().status == 200;
    let changed = user(&["password", "bob", "--revoke-tokens", "--password-stdin"], "second").1;
    assert_eq!((&*changed, is_live(&jwt)), ("changed the password of bob and revoked 1 tokens\n", false));

    let (_, jwt) = bob.issue("x", "1h");
    assert_eq!(user(&["disable", "bob"], "").1, "disabled bob and revoked 1 tokens\n");
    assert_eq!((status("bob", "second"), is_live(&jwt)), (401, false));
    assert_eq!(user(&["list"], "").1, "admin\tadmin\tenabled\nbob\tuser\tdisabled\ncarol\tadmin\tenabled\n");
    assert_eq!(user(&["enable", "bob"], "").1, "enabled bob\n");
    assert_eq!(status("bob", "second"), 200);

    assert_eq!(user(&["role", "carol", "introspector"], "").1, "made carol introspector\n");
    for arguments in [&["role", "admin", "user"][..], &["disable", "admin"], &["remove", "admin"]] {
        let (code, _, stderr) = user(arguments, "");
        let expected = "mayfly: admin is the last enabled administrator: make another one first\n";
        assert_eq!((code, &*stderr), (1, expected), "{arguments:?}");
    }

    let (_, jwt) = bob.issue("x", "1h");
    assert_eq!(user(&["remove", "bob"], "").1, "removed bob and revoked 1 tokens\n");
    assert_eq!(status("bob", "second"), 401);
    service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().problem(401);
    for arguments in [
        &["remove", "bob"][..],
        &["password", "bob", "--password-stdin"],
        &["role", "bob", "admin"],
        &["disable", "bob"],
        &["enable", "bob"],
    ] {
        let (code, _, stderr) = user(arguments, "x");
        assert_eq!((code, &*stderr), (1, "mayfly: there is no user bob\n"));
    }
}

#[test]
fn what_is_wrong_with_a_user_command_is_said() {
    let redis = RedisServer::start();
    let redis = redis.url();
    for (arguments, url, input, expected) in [
        (&["add", "a:b", "--password-stdin"][..], &*redis, "x", "a user name is 1 to 64 of the characters"),
        (
            &["add", "bob", "--role=root", "--password-stdin"],
            &redis,
            "x",
            "a role is \"user\", \"introspector\" or \"admin\"",
        ),
        (&["role", "bob", "root"], &redis, "", "a role is \"user\", \"introspector\" or \"admin\""),
        (&["add", "bob", "--password-stdin"], &redis, "", "a password is 1 to 1024 bytes"),
        (&["add", "bob"], &redis, "x", "use --password-stdin"),
        (&["list"], "http://", "", "MAYFLY_REDIS_URL (--redis-url): not a URL"),
    ] {
        let (code, stdout, stderr) = mayfly(&[&["user"], arguments].concat(), &[("MAYFLY_REDIS_URL", url)], input);
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = mayfly(&["user", "list"], &[], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("no other process can reach them"), "{stderr}");
    let (code, _, stderr) = mayfly(&["user", "list"], &[("MAYFLY_REDIS_URL", "redis://127.0.0.1:1")], "");
    assert_eq!(code, 1);
    assert!(stderr.contains("the store is unavailable"), "{stderr}");
}

#[test]
fn a_healthcheck_tells_whether_the_service_is_ready() {
    let service = Service::start_with(Backend::Redis, |command| {
        command.env("MAYFLY_UNREADY_AFTER", "1ms");
    });
    let address = service.address();
    let check = || mayfly(&["healthcheck"], &[("MAYFLY_LISTEN", address)], "");
    assert_eq!(check(), (0, String::new(), String::new()));
    service.redis.as_ref().unwrap().cli(&["SHUTDOWN", "NOSAVE"]);
    let (_, _, stderr) = eventually("it is unready", || Some(check()).filter(|(code, ..)| *code == 1));
    assert_eq!(stderr, "mayfly: not ready: 503 Service Unavailable\n");
    let (code, _, stderr) = mayfly(&["healthcheck", "--listen", "127.0.0.1:1"], &[], "");
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot connect to 127.0.0.1:1"), "{stderr}");
}

#[test]
fn a_healthcheck_waits_for_no_answer_that_drips() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dripping = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Until the other side hangs up, or should have by far.
        let drops = (0..100).take_while(|_| {
            sleep(Duration::from_millis(100));
            stream.write_all(b"H").is_ok()
        });
        drops.count()
    });
    let (code, stdout, stderr) = mayfly(&["healthcheck", "--listen", &address], &[], "");
    assert_eq!((code, &*stdout, &*stderr), (1, "", "mayfly: no answer within 2s\n"));
    assert!(dripping.join().unwrap() < 100);
}

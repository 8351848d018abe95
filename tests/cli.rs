//! The command line.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::{Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::support::{
    Backend, Client, Collector, Log, Process, RedisServer, Service, Terminal, eventually, free_port, run,
};

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
    assert!(stderr.contains("`mayfly key generate --out keys.json`"), "{stderr}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, r#"{"keys":[{"kty":"oct","alg":"HS256","kid":"a","k":"c2hvcnQtc2VjcmV0"}]}"#).unwrap();
    let (code, _, stderr) = mayfly(&[], &[("MAYFLY_JWT_KEYS_FILE", file.to_str().unwrap())], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("12 bytes, and at least 32 are needed"), "{stderr}");
    assert!(!stderr.contains("c2hvcnQtc2VjcmV0"), "{stderr}");
}

#[test]
fn a_port_in_use_is_an_error() {
    let service = Service::start(Backend::Memory);
    let address = service.address();
    let (code, stdout, stderr) = mayfly(&["--listen", address], &[], "");
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains(&format!("cannot listen on {address}: ")), "{stderr}");
    let environment = [("MAYFLY_LISTEN", "127.0.0.1:0"), ("MAYFLY_METRICS_LISTEN", address)];
    let (code, stdout, stderr) = mayfly(&[], &environment, "");
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains("set MAYFLY_METRICS_LISTEN to another address, or off"), "{stderr}");
}

#[test]
fn each_unsupported_variable_of_opentelemetry_is_one_warning_and_ignored() {
    let wrong = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_LOGS_EXPORTER", "lgos"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "many"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_SDK_DISABLED", "maybe"),
    ];
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio()).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").envs(wrong);
    });
    assert_eq!(service.admin().get("/api/v1alpha/token").send().status, 200);
    // The SDK reads some of them once for each signal.
    for (name, _) in wrong {
        let warnings = || {
            let lines = log.lines().into_iter().filter(|line| line["level"] == "WARN");
            let names = |text: String| text.contains(name) && !text.contains(&format!("{name}_"));
            lines.filter(|line| names(line.to_string())).count()
        };
        eventually(&format!("{name} is in the log"), || (warnings() > 0).then_some(()));
        assert_eq!(warnings(), 1, "{name}: {}", log.text());
    }
    // Commands ignore these variables.
    for arguments in [&["user", "list"][..], &["key", "generate"]] {
        let (_, _, stderr) = mayfly(arguments, &wrong, "");
        assert!(!stderr.contains("OTEL_"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn variables_of_opentelemetry_are_read_in_any_case() {
    let log = Log::new();
    let collector = Collector::start();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio()).envs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/Protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "NONE"),
            ("OTEL_TRACES_EXPORTER", "OTLP"),
            ("OTEL_METRICS_EXPORTER", "None"),
            ("OTEL_TRACES_SAMPLER", "ParentBased_Always_On"),
            ("OTEL_PROPAGATORS", "TraceContext,Baggage"),
            ("OTEL_SDK_DISABLED", "False"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ]);
    });
    let warnings = |line: &serde_json::Value| line["level"] == "WARN";
    assert!(!log.lines().iter().any(warnings), "{}", log.text());
    service.admin().get("/api/v1alpha/token").send();
    eventually("a span comes", || (!collector.received().traces.is_empty()).then_some(()));
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
    assert_eq!(
        user(&["list"], "").1,
        "admin\tadmin\tenabled\tpassword\nbob\tuser\tenabled\tpassword\ncarol\tadmin\tenabled\tpassword\n"
    );
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
    assert_eq!(
        user(&["list"], "").1,
        "admin\tadmin\tenabled\tpassword\nbob\tuser\tdisabled\tpassword\ncarol\tadmin\tenabled\tpassword\n"
    );
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
fn errors_of_user_commands_are_explained() {
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
    assert!(stderr.contains("set MAYFLY_URL (--url) to change them by its API"), "{stderr}");
    let (code, _, stderr) = mayfly(&["user", "list"], &[("MAYFLY_REDIS_URL", "redis://127.0.0.1:1")], "");
    assert_eq!(code, 1);
    assert!(stderr.contains("the store is unavailable"), "{stderr}");
}

#[test]
fn the_healthcheck_succeeds_if_the_service_is_ready() {
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
fn the_healthcheck_times_out_on_a_slow_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dripping = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 ").unwrap();
        // Until the client closes the connection, or long after its timeout.
        let drops = (0..100).take_while(|_| {
            sleep(Duration::from_millis(100));
            stream.write_all(b"K").is_ok()
        });
        drops.count()
    });
    let (code, stdout, stderr) = mayfly(&["healthcheck", "--listen", &address], &[], "");
    assert_eq!((code, &*stdout, &*stderr), (1, "", "mayfly: no answer within 2s\n"));
    assert!(dripping.join().unwrap() < 100);
}

#[test]
fn a_password_is_one_line_from_every_source() {
    let redis = RedisServer::start();
    let url = redis.url();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let from_file = |text: &str| fs::write(&file, text).unwrap();
    for written in ["secret\r\n", "secret\n\n", "\u{feff}secret", "\u{feff}secret\n"] {
        let service = Service::start_with(Backend::Memory, |command| {
            command.env("MAYFLY_ADMIN_PASSWORD", written);
        });
        assert_eq!(service.client().with_basic("admin", "secret").get("/api/v1alpha/token").send().status, 200);
        from_file(written);
        let service = Service::start_with(Backend::Memory, |command| {
            command.env_remove("MAYFLY_ADMIN_PASSWORD").env("MAYFLY_ADMIN_PASSWORD_FILE", &file);
        });
        assert_eq!(service.client().with_basic("admin", "secret").get("/api/v1alpha/token").send().status, 200);
    }
    for written in ["two\nlines", "a\ttab", "\u{1b}[A", "next\u{85}line\n"] {
        let environment = [("MAYFLY_ADMIN_PASSWORD", written)];
        let (code, _, stderr) = mayfly(&[], &environment, "");
        assert_eq!(code, 2, "{written:?}");
        assert!(stderr.contains("MAYFLY_ADMIN_PASSWORD: ") && stderr.contains("control character"), "{stderr}");
        from_file(written);
        let (code, _, stderr) = mayfly(&[], &[("MAYFLY_ADMIN_PASSWORD_FILE", file.to_str().unwrap())], "");
        assert_eq!(code, 2, "{written:?}");
        assert!(stderr.contains("MAYFLY_ADMIN_PASSWORD_FILE") && stderr.contains("control character"), "{stderr}");
        let (code, _, stderr) = mayfly(&["user", "--redis-url", &url, "add", "bob", "--password-stdin"], &[], written);
        assert_eq!(code, 2, "{written:?}");
        assert!(stderr.contains("control character"), "{stderr}");
    }
}

/// The variables of all settings, as the help names them.
fn variables() -> Vec<String> {
    let (_, help, _) = mayfly(&["--help"], &[], "");
    let names = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned());
    let names: Vec<_> = names.chain(["MAYFLY_ADMIN_PASSWORD".to_owned()]).collect();
    assert!(names.len() > 25, "{names:?}");
    names
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let service = Service::start_with(Backend::Memory, |command| {
        for name in variables() {
            let kept = ["MAYFLY_LISTEN", "MAYFLY_METRICS_LISTEN"].contains(&&*name);
            command.env(&name, if kept { "127.0.0.1:0" } else { "" });
        }
    });
    assert!(service.greeting.contains("Administrator: admin, password "), "{}", service.greeting);
    let (code, _, stderr) = mayfly(&["user", "list"], &[("MAYFLY_REDIS_URL", ""), ("MAYFLY_REDIS_CA_FILE", "")], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("MAYFLY_REDIS_URL (--redis-url) is missing"), "{stderr}");
    assert!(stderr.contains("set MAYFLY_URL (--url)"), "{stderr}");
    let address = service.address();
    let empty = [("MAYFLY_LISTEN", ""), ("MAYFLY_TLS_CERT", "")];
    assert_eq!(mayfly(&["healthcheck", "--listen", address], &empty, "").0, 0);
}

#[test]
fn invalid_variables_are_reported_together() {
    for name in variables().iter().filter(|name| !name.ends_with("_FILE") && !name.starts_with("MAYFLY_TLS")) {
        let mut command = Service::command();
        command.env(name, OsStr::from_bytes(b"\xff")).env("MAYFLY_TOKEN_QUOTA", "none");
        let output = run(&mut command, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
        assert!(stderr.contains(&**name) && stderr.contains("MAYFLY_TOKEN_QUOTA"), "{name}: {stderr}");
        assert!(stderr.contains("in the settings:") && !stderr.contains("error: "), "{name}: {stderr}");
    }
    let (code, _, stderr) = mayfly(&["healthcheck"], &[("MAYFLY_LISTEN", "nowhere")], "");
    assert_eq!(code, 2);
    assert!(stderr.contains("MAYFLY_LISTEN (--listen): \"nowhere\" is not an address"), "{stderr}");
}

#[test]
fn settings_are_accepted_before_and_after_command_names() {
    let redis = RedisServer::start();
    let url = redis.url();
    // No server listens at the variable's address: the flag overrides the variable in either position.
    let elsewhere = [("MAYFLY_REDIS_URL", "redis://127.0.0.1:1")];
    for arguments in [
        &["user", "--redis-url", &*url, "list"][..],
        &["user", "list", "--redis-url", &*url],
        &["user", "list", "--redis-url", &*url, "--redis-timeout=5s"],
        &["user", "--redis-timeout=5s", "list", "--redis-url", &*url],
        &["--redis-url", &*url, "user", "list"],
        &["--redis-timeout=5s", "--redis-url", &*url, "user", "list"],
        &["--redis-timeout=5s", "user", "--redis-url", &*url, "list"],
        // A setting that the command does not have is ignored, as its variable is.
        &["--listen", "nowhere", "--redis-url", &*url, "user", "list"],
    ] {
        assert_eq!(mayfly(arguments, &elsewhere, ""), (0, String::new(), String::new()), "{arguments:?}");
    }
    for arguments in [&["--redis-url", &*url, "key", "generate"][..], &["--redis-timeout=never", "openapi"]] {
        assert_eq!(mayfly(arguments, &[], "").0, 0, "{arguments:?}");
    }
    for arguments in [&["--listen", "nowhere", "serve"][..], &["serve", "--listen", "nowhere"]] {
        let (code, _, stderr) = mayfly(arguments, &[], "");
        assert_eq!(code, 2);
        assert!(stderr.contains("MAYFLY_LISTEN (--listen): \"nowhere\""), "{arguments:?}: {stderr}");
    }
    for arguments in
        [&["--no-such-flag", "user", "list"][..], &["--redis-url"], &["user", "list", "--listen=x"], &["usr"]]
    {
        let (code, _, stderr) = mayfly(arguments, &[], "");
        assert_eq!(code, 2);
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
    let add = ["user", "add", "bob", "--password-cost=m=64,t=1,p=1", "--password-stdin", "--redis-url", &*url];
    assert_eq!(mayfly(&add, &elsewhere, "secret").1, "added user bob\n");
    assert!(redis.cli(&["HGET", "mayfly:{bob}:user", "password"]).contains("m=64,"));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let redis = RedisServer::start();
    let url = redis.url();
    mayfly(&["user", "add", "bob", "--redis-url", &url, "--password-stdin"], &[], "secret");
    for arguments in [&["openapi"][..], &["openapi", "--format=json"], &["key", "generate"], &["user", "list"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = Service::command();
        command.args(arguments).env("MAYFLY_REDIS_URL", &url).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_standard_output_does_not_prevent_the_start() {
    let (gone, closed) = io::pipe().unwrap();
    drop(gone);
    // Fills the pipe, so that further writes block.
    let (_reader, mut stalled) = io::pipe().unwrap();
    stalled.write_all(&vec![b'x'; 65_536]).unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (what, stdout) in
        [("closed", Stdio::from(closed)), ("stalled", Stdio::from(stalled)), ("full", Stdio::from(full))]
    {
        let address = format!("127.0.0.1:{}", free_port());
        let log = Log::new();
        let mut command = Service::command();
        command.args(["--listen", &address, "--metrics-listen=off"]).stdout(stdout).stderr(log.stdio());
        let mut process = Process::spawn(&mut command);
        let client = Client::new(&format!("http://{address}"));
        let ready = || client.get("/readyz").try_send().is_ok_and(|answer| answer.status == 200).then_some(());
        eventually(what, ready);
        if what != "stalled" {
            eventually("it says so", || log.text().contains("cannot print the greeting").then_some(()));
        }
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait().code(), Some(0), "{what}");
    }
}

#[test]
fn an_interrupted_password_prompt_restores_the_terminal() {
    let redis = RedisServer::start();
    let url = redis.url();
    for (what, code) in [("Ctrl-C", 130), ("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGQUIT", 131)] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut command = Service::command();
        command.args(["user", "add", "bob"]).env("MAYFLY_REDIS_URL", &url);
        let mut process = terminal.spawn(&command);
        terminal.wait_for("Password of bob: ");
        eventually("it hides what is typed", || (terminal.settings() != before).then_some(()));
        match what {
            "Ctrl-C" => terminal.write(b"hunt\x03"),
            "SIGINT" => terminal.signal(Signal::SIGINT),
            "SIGTERM" => terminal.signal(Signal::SIGTERM),
            "SIGHUP" => terminal.signal(Signal::SIGHUP),
            _ => terminal.signal(Signal::SIGQUIT),
        }
        let status = process.wait();
        assert_eq!(terminal.settings(), before, "{what}");
        assert_eq!(status.code(), Some(code), "{what}");
    }
    assert_eq!(redis.cli(&["EXISTS", "mayfly:{bob}:user"]), "0");
}

#[test]
fn a_password_typed_twice_is_accepted() {
    let redis = RedisServer::start();
    let url = redis.url();
    for (first, again, code) in [("secret", "secret", 0), ("secret", "other", 2)] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut command = Service::command();
        command.args(["user", "add", &format!("bob{code}")]).env("MAYFLY_REDIS_URL", &url);
        let mut process = terminal.spawn(&command);
        terminal.wait_for(&format!("Password of bob{code}: "));
        eventually("it hides what is typed", || (terminal.settings() != before).then_some(()));
        terminal.write(format!("{first}\n").as_bytes());
        terminal.wait_for("Again: ");
        terminal.write(format!("{again}\n").as_bytes());
        assert_eq!(process.wait().code(), Some(code));
        assert_eq!(terminal.settings(), before);
        assert_eq!(redis.cli(&["EXISTS", &format!("mayfly:{{bob{code}}}:user")]), if code == 0 { "1" } else { "0" });
    }
}

#[test]
fn a_key_file_is_created_once_and_private_to_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let path = file.to_str().unwrap();
    let generate = || mayfly(&["key", "generate", "--out", path], &[], "");
    assert_eq!(generate(), (0, String::new(), String::new()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let made = fs::read_to_string(&file).unwrap();
    mayfly::domain::keys::KeySet::parse(&made).unwrap();
    let (code, stdout, stderr) = generate();
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains(&format!("{path} exists already")) && stderr.contains("mayfly key rotate"), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), made);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    let (code, _, stderr) = mayfly(&["key", "generate", "--out", "/nowhere/keys.json"], &[], "");
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot write /nowhere/keys.json"), "{stderr}");
}

#[test]
fn a_pipe_is_rejected_as_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(run(Command::new("mkfifo").arg(&pipe), "").status.success());
    let pipe = pipe.to_str().unwrap();
    let redis = "--redis-url=rediss://127.0.0.1:1";
    for (arguments, code) in [
        (&["--admin-password-file", pipe][..], 2),
        (&["user", "list", redis, "--redis-password-file", pipe], 2),
        (&["user", "list", redis, "--redis-ca-file", pipe], 2),
        (&["user", "list", redis, "--redis-cert-file", pipe, "--redis-key-file", pipe], 2),
        (&["key", "rotate", pipe], 1),
        (&["key", "prune", pipe, "--older-than=1h"], 1),
    ] {
        let log = Log::new();
        let mut process = Process::spawn(Service::command().args(arguments).stderr(log.stdio()));
        assert_eq!(process.wait().code(), Some(code), "{arguments:?}: {}", log.text());
        assert!(log.text().contains(&format!("cannot read {pipe}: ")), "{arguments:?}: {}", log.text());
        assert!(log.text().contains("regular file"), "{arguments:?}: {}", log.text());
    }
}

#[test]
fn the_end_of_the_input_at_a_password_prompt_is_an_error() {
    let redis = RedisServer::start();
    let url = redis.url();
    // Ctrl-D at the beginning of a line ends the input; the second one ends it behind characters.
    for typed in [&["\x04"][..], &["secret\x04\x04"], &["secret\n", "\x04"], &["secret\n", "secret\x04\x04"]] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut command = Service::command();
        command.args(["user", "add", "bob"]).env("MAYFLY_REDIS_URL", &url);
        let mut process = terminal.spawn(&command);
        for (prompt, line) in ["Password of bob: ", "Again: "].into_iter().zip(typed) {
            terminal.wait_for(prompt);
            eventually("it hides what is typed", || (terminal.settings() != before).then_some(()));
            terminal.write(line.as_bytes());
        }
        assert_eq!(process.wait().code(), Some(2), "{typed:?}");
        terminal.wait_for("the input ended before the line");
        assert_eq!(terminal.settings(), before, "{typed:?}");
    }
    assert_eq!(redis.cli(&["EXISTS", "mayfly:{bob}:user"]), "0");
}

#[test]
fn a_password_prompt_is_not_suspended() {
    let redis = RedisServer::start();
    let url = redis.url();
    let terminal = Terminal::open();
    let before = terminal.settings();
    // Under a shell, which would take the terminal back from a command that stops.
    let mut shell = Command::new("bash");
    shell.args(["-mc", "\"$@\"; echo \"it ended with $?\"", "-"]);
    shell.arg(Service::command().get_program()).args(["user", "add", "bob"]).env("MAYFLY_REDIS_URL", &url);
    let mut process = terminal.spawn(&shell);
    terminal.wait_for("Password of bob: ");
    eventually("it hides what is typed", || (terminal.settings() != before).then_some(()));
    terminal.write(b"\x1a");
    terminal.signal(Signal::SIGTSTP);
    terminal.write(b"secret\n");
    terminal.wait_for("Again: ");
    terminal.write(b"secret\n");
    terminal.wait_for("it ended with 0");
    assert!(process.wait().success());
    assert_eq!(terminal.settings(), before);
    assert_eq!(redis.cli(&["EXISTS", "mayfly:{bob}:user"]), "1");
}

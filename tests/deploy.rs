//! The files in `deploy/` and `docker-compose.yml`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use mayfly::domain::throttle::PER_CLIENT_AND_USER;
use serde_json::json;

use crate::support::{Process, Service, eventually, free_port, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The oldest version of Kubernetes that has all used features, and the newest known one.
const KUBERNETES: [&str; 2] = ["1.31", "1.37"];

/// Runs a program of `tests/.tools`, or of the system, in the root of the project, and returns its output.
#[track_caller]
fn succeed(program: &str, arguments: &[&str]) -> String {
    let tool = format!("{ROOT}/tests/.tools/bin/{program}");
    let program = if fs::exists(&tool).unwrap() { &tool } else { program };
    let output = run(Command::new(program).args(arguments).current_dir(ROOT), "");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{program} {arguments:?}: {stdout}{stderr}");
    stdout
}

fn yaml(path: &str) -> serde_yaml::Value {
    serde_yaml::from_str(&fs::read_to_string(format!("{ROOT}/{path}")).unwrap()).unwrap()
}

#[test]
fn the_compose_file_and_the_dockerfile_are_valid() {
    succeed("check-jsonschema", &["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]);
    succeed("hadolint", &["deploy/Dockerfile"]);
    succeed("haproxy", &["-c", "-f", "deploy/haproxy.cfg"]);
}

#[test]
fn the_redis_of_the_compose_file_serves_the_service_and_nobody_else() {
    let compose = yaml("docker-compose.yml");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("redis-password"), "hunter2").unwrap();
    let port = free_port();
    // The command of the file, with the paths and the port of this test.
    let script = compose["services"]["redis"]["command"][2].as_str().unwrap();
    let script = script
        .replace("$$", "$")
        .replace("/run/secrets/redis-password", &path("redis-password"))
        .replace("/redis-acl", &format!("{ROOT}/deploy/redis-acl"))
        .replace("/tmp/users.acl", &path("users.acl"))
        .replace("--dir /data", &format!("--bind 127.0.0.1 --port {port} --dir {}", directory.path().display()));
    let _redis = Process::spawn(Command::new("sh").args(["-ec", &script]).stdout(Stdio::null()));
    let cli = |arguments: &[&str]| {
        let output = run(Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments), "");
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("its health check passes", || (cli(&["ping"]) == "PONG\n").then_some(()));
    for forbidden in [&["GET", "mayfly:usernames"][..], &["INFO"], &["FLUSHALL"]] {
        assert!(cli(forbidden).contains("NOPERM"), "{forbidden:?}");
    }
    let as_mayfly =
        |command: &[&str]| cli(&[&["--user", "mayfly", "--pass", "hunter2", "--no-auth-warning"], command].concat());
    for forbidden in [&["FLUSHALL"][..], &["KEYS", "*"], &["GET", "other"], &["CONFIG", "GET", "*"]] {
        assert!(as_mayfly(forbidden).contains("NOPERM"), "{forbidden:?}");
    }
    let service = Service::launch(Some(&format!("redis://mayfly@127.0.0.1:{port}")), |command| {
        command.env("MAYFLY_REDIS_PASSWORD_FILE", path("redis-password"));
    });
    service.wait_until_ready();
    assert_eq!(service.client().get("/readyz").send().json()["warnings"], json!([]));
    let (id, jwt) = service.admin().issue("x", "1h");
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/token/self").send().status, 200);
    assert_eq!(service.admin().get("/api/v1alpha/token").send().status, 200);
    assert_eq!(service.admin().delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
}

#[test]
fn the_compose_file_trusts_the_load_balancer_and_nobody_else() {
    let compose = yaml("docker-compose.yml");
    let (services, range) = (&compose["services"], &compose["networks"]["web"]["ipam"]["config"][0]);
    let address = services["load-balancer"]["networks"]["web"]["ipv4_address"].as_str().unwrap();
    assert_eq!(services["mayfly"]["environment"]["MAYFLY_TRUSTED_PROXIES"], address);
    let holds = |range: &serde_yaml::Value| {
        let range: ipnet::IpNet = range.as_str().unwrap().parse().unwrap();
        range.contains(&address.parse::<std::net::IpAddr>().unwrap())
    };
    assert!(holds(&range["subnet"]) && !holds(&range["ip_range"]), "Docker may give it to another");
    assert_ne!(range["gateway"], address);
}

#[test]
fn a_rotated_key_reaches_the_containers() {
    // A rotation replaces the file. A container with the single file mounted would keep the old one.
    let compose = yaml("docker-compose.yml");
    let keys = compose["services"]["mayfly"]["environment"]["MAYFLY_JWT_KEYS_FILE"].as_str().unwrap();
    let (target, file) = keys.rsplit_once('/').unwrap();
    let mounts = compose["services"]["mayfly"]["volumes"].as_sequence().unwrap();
    let source =
        mounts.iter().find_map(|mount| mount.as_str().unwrap().strip_suffix(&format!(":{target}:ro"))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let secrets = directory.path().join("deploy/secrets");
    fs::create_dir_all(&secrets).unwrap();
    let script = secrets.join("create");
    fs::copy(format!("{ROOT}/deploy/secrets/create"), &script).unwrap();
    assert!(run(&mut Command::new(&script), "").status.success());
    let others_read = || fs::metadata(directory.path().join(source).join(file)).unwrap().mode() & 0o004 != 0;
    assert_eq!(others_read(), !nix::unistd::geteuid().is_root());
    let read = || fs::read_to_string(directory.path().join(source).join(file)).unwrap();
    let before = read();
    run_documented("**With compose.**", directory.path(), &[]);
    assert_eq!(others_read(), !nix::unistd::geteuid().is_root());
    assert!(read().contains("\"nbf\"") && read().len() > before.len(), "{}", read());
}

/// Runs the commands that stand in deploy/README.md below this text, in this directory. `docker run … mayfly` runs the
/// binary of this build, with the directory that it mounts; `stubs` are further commands, as scripts of the shell.
pub(crate) fn run_documented(below: &str, directory: &Path, stubs: &[(&str, String)]) {
    let guide = fs::read_to_string(format!("{ROOT}/deploy/README.md")).unwrap();
    let block = guide.split(below).nth(1).unwrap().split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let docker = format!(
        "while [ \"${{1%%:*}}\" != mayfly ]; do [ \"$1\" = --volume ] && keys=${{2%:/keys}}; shift; done; shift\n\
         for word; do shift; case $word in /keys/*) word=$keys/${{word#/keys/}};; esac; set -- \"$@\" \"$word\"; done\n\
         exec {} \"$@\"",
        env!("CARGO_BIN_EXE_mayfly")
    );
    let functions = [&[("docker", docker)], stubs].concat();
    let functions: Vec<_> = functions.iter().map(|(name, body)| format!("{name}() (\n{body}\n)\n")).collect();
    let script = format!("set -eu\n{}{block}", functions.concat());
    let output = run(Command::new("bash").args(["-c", &script]).current_dir(directory), "");
    assert!(output.status.success(), "{output:?}\n{script}");
}

#[test]
fn a_password_that_comes_to_all_replicas_at_once_is_not_slowed() {
    let most = &yaml("deploy/kubernetes/components/autoscaling/autoscaler.yaml")["spec"]["maxReplicas"];
    let surge = &yaml("deploy/kubernetes/base/deployment.yaml")["spec"]["strategy"]["rollingUpdate"]["maxSurge"];
    assert!(most.as_u64().unwrap() + surge.as_u64().unwrap() < u64::from(PER_CLIENT_AND_USER.free_failures));
}

#[test]
fn the_user_in_redis_may_do_what_the_scripts_do() {
    let allowed = fs::read_to_string(format!("{ROOT}/deploy/redis-acl")).unwrap().to_uppercase();
    for entry in fs::read_dir(format!("{ROOT}/src/store/redis")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "lua") {
            let script = fs::read_to_string(&entry).unwrap();
            for call in script.split("call('").skip(1) {
                let command = call.split('\'').next().unwrap();
                assert!(allowed.split_whitespace().any(|rule| rule == format!("+{command}")), "{command} in {entry:?}");
            }
        }
    }
}

#[test]
fn the_secrets_that_are_made_are_good_and_not_made_twice() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("create");
    fs::copy(format!("{ROOT}/deploy/secrets/create"), &script).unwrap();
    let create = || assert!(run(&mut Command::new(&script), "").status.success());
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    create();
    let keys = read("keys/jwt-keys.json");
    mayfly::domain::keys::KeySet::parse(&keys).unwrap();
    assert_eq!((read("redis-password").len(), read("admin-password").len()), (32, 32));
    create();
    assert_eq!(read("keys/jwt-keys.json"), keys);
}

#[test]
fn an_image_is_built_from_what_is_pinned() {
    let dockerfile = fs::read_to_string(format!("{ROOT}/deploy/Dockerfile")).unwrap();
    let instructions = dockerfile.lines().filter(|line| !line.starts_with('#'));
    for line in instructions {
        if let Some(image) = line.strip_prefix("FROM ").filter(|image| *image != "scratch") {
            let tag = image.split([' ', ':', '$']).nth(1).unwrap();
            assert_eq!(tag.split('-').next().unwrap().split('.').count(), 3, "{line} names no release");
            assert!(image.contains("_DIGEST}"), "{line} has no place for a digest");
        }
        let is_cargo = ["cargo build", "cargo install", "auditable build"].iter().any(|words| line.contains(words));
        assert!(!is_cargo || line.contains("--locked"), "{line}");
        // A binary says which dependencies it was built from.
        assert!(!line.contains("cargo build"), "{line}");
        for tool in
            line.split_once("cargo install --locked").map(|(_, tools)| tools.split_whitespace()).into_iter().flatten()
        {
            assert!(tool.contains('@'), "{tool} names no release");
        }
    }
}

#[test]
fn pods_connect_only_to_what_a_policy_names() {
    for overlay in ["development", "production"] {
        let rendered = succeed("kubectl", &["kustomize", &format!("deploy/kubernetes/overlays/{overlay}")]);
        let objects =
            rendered.split("\n---\n").map(|object| serde_yaml::from_str::<serde_yaml::Value>(object).unwrap());
        let policies = objects.filter(|object| object["kind"] == "NetworkPolicy");
        let rules: Vec<_> =
            policies.filter_map(|policy| policy["spec"]["egress"].as_sequence().cloned()).flatten().collect();
        assert!(rules.iter().any(|rule| rule["ports"][0]["port"] == 53), "{overlay}: {rules:?}");
        assert!(rules.iter().all(|rule| rule["to"].is_sequence()), "{overlay}: {rules:?}");
    }
}

#[test]
fn what_redis_answered_is_on_the_disk() {
    for file in ["docker-compose.yml", "deploy/kubernetes/overlays/development/redis.yaml"] {
        let text = fs::read_to_string(format!("{ROOT}/{file}")).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        let started = words.iter().filter(|word| word.ends_with("redis-server")).count();
        let safe =
            words.windows(4).filter(|words| *words == ["--appendonly", "yes", "--appendfsync", "always"]).count();
        assert_eq!((started, safe), (1, 1), "{file}");
    }
}

#[test]
fn kubernetes_accepts_every_overlay_and_nothing_in_it_is_careless() {
    let directory = tempfile::tempdir_in(format!("{ROOT}/target")).unwrap();
    // Production with every component.
    let complete = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
                    resources: [../../deploy/kubernetes/overlays/production]\n\
                    components: [../../deploy/kubernetes/components/prometheus]\n";
    fs::write(directory.path().join("kustomization.yaml"), complete).unwrap();
    let overlays = ["deploy/kubernetes/overlays/development", directory.path().to_str().unwrap()];
    for overlay in overlays {
        let rendered = succeed("kubectl", &["kustomize", overlay]);
        let file = directory.path().join("rendered.yaml");
        fs::write(&file, &rendered).unwrap();
        let file = file.to_str().unwrap();
        for version in KUBERNETES {
            succeed("kubernetes-validate", &["--strict", "--no-warn", "--kubernetes-version", version, file]);
        }
        let settings = ["--config-file", "deploy/kubernetes/checkov.yaml", "--skip-download", "--compact", "--quiet"];
        succeed("checkov", &[&settings[..], &["--framework", "kubernetes", "--file", file]].concat());
        for promise in
            ["maxUnavailable: 0", "unhealthyPodEvictionPolicy: AlwaysAllow", "automountServiceAccountToken: false"]
        {
            assert!(rendered.contains(promise), "{promise} is not in {overlay}");
        }
        assert!(!rendered.contains("subPath"), "a rotated key would not reach the pods");
    }
}

//! Signing keys that are added, rotated and removed while the service runs.

use std::{
    fs::{self, Permissions},
    io::{Read, Seek},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::Value;

use crate::support::{Backend, Log, Service, eventually, run};

const VERIFY: &str = "/api/v1alpha/verify";

/// Runs `mayfly key` with these arguments, and returns what it printed.
#[track_caller]
fn key(arguments: &[&str]) -> String {
    let output = run(Service::command().arg("key").args(arguments), "");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn kid(jwt: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn kids(file: &Path) -> Vec<String> {
    let set: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[rstest]
#[case("HS256")]
#[case("EdDSA")]
#[case("ES256")]
fn tokens_of_each_algorithm_verify_with_the_public_key(#[case] algorithm: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, key(&["generate", "--alg", algorithm])).unwrap();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &file);
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);

    let public = service.client().get("/.well-known/jwks.json").send();
    let set: JwkSet = serde_json::from_str(&public.text).unwrap();
    if algorithm == "HS256" {
        assert_eq!(public.text, r#"{"keys":[]}"#);
    } else {
        assert!(!public.text.contains(r#""d""#), "{}", public.text);
        let jwk = set.find(&kid(&jwt)).unwrap();
        let validation = Validation::new(algorithm.parse().unwrap());
        let decoded = jsonwebtoken::decode::<Value>(&jwt, &DecodingKey::from_jwk(jwk).unwrap(), &validation).unwrap();
        assert_eq!(decoded.claims["username"], "admin");
    }
}

#[test]
fn a_key_rotation_reaches_a_running_service_without_a_failed_request() {
    let service = Service::start(Backend::Redis);
    let redis = service.redis.as_ref().unwrap();
    // A replica that has not yet reloaded the file must accept a token of the new key, too.
    let replica = Service::launch(Some(&redis.url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &service.keys_file);
    });
    let (_, old) = service.admin().issue("old", "1h");
    let file = service.keys_file.to_str().unwrap();
    for algorithm in ["EdDSA", "ES256", "HS256"] {
        let before = kids(&service.keys_file);
        key(&["rotate", file, "--alg", algorithm, "--delay", "0s"]);
        let after = kids(&service.keys_file);
        assert_eq!(after[1..], before);
        let new = eventually("the new key signs", || {
            let (_, jwt) = service.admin().issue("new", "1h");
            for replica in [&service, &replica] {
                assert_eq!(replica.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
                assert_eq!(replica.client().with_bearer(&old).get(VERIFY).send().status, 200);
            }
            (kid(&jwt) == after[0]).then_some(jwt)
        });
        assert_eq!(replica.client().with_bearer(&new).get(VERIFY).send().status, 200);
    }
}

#[test]
fn a_delayed_key_verifies_before_it_signs() {
    let service = Service::start(Backend::Memory);
    key(&["rotate", service.keys_file.to_str().unwrap(), "--alg", "EdDSA", "--delay", "1h"]);
    let public = || service.client().get("/.well-known/jwks.json").send().json()["keys"].as_array().unwrap().len();
    eventually("the new key is published", || (public() == 1).then_some(()));
    let (_, jwt) = service.admin().issue("x", "1h");
    assert_eq!(kid(&jwt), kids(&service.keys_file)[1]);
}

#[test]
fn a_public_key_is_published_for_longer_than_it_may_be_cached_before_it_signs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    let service = Service::start_with(Backend::Memory, |command| {
        fs::write(&file, key(&["generate", "--alg", "EdDSA"])).unwrap();
        command.env("MAYFLY_JWT_KEYS_FILE", &file);
    });
    let published = || service.client().get("/.well-known/jwks.json").send();
    let cached = published().header("cache-control").strip_prefix("public, max-age=").unwrap().parse::<u64>().unwrap();
    assert_eq!(cached, 300);
    for algorithm in ["EdDSA", "ES256", "HS256"] {
        key(&["rotate", file.to_str().unwrap(), "--alg", algorithm]);
        let set: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let (made, signs) = (set["keys"][0]["iat"].as_u64().unwrap(), set["keys"][0]["nbf"].as_u64());
        match signs {
            Some(signs) => assert!(signs - made > cached, "{algorithm}"),
            None => assert_eq!(algorithm, "HS256"),
        }
    }
    eventually("the new keys are published", || (published().json()["keys"].as_array()?.len() == 3).then_some(()));
}

#[rstest]
#[case::leased("250ms")]
#[case::not_leased("0")]
fn tokens_of_a_pruned_key_are_rejected(#[case] lease: &str) {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_LEASE", lease);
    });
    let file = service.keys_file.to_str().unwrap();
    let (_, old) = service.admin().issue("old", "1h");
    let bearer = service.client().with_bearer(&old);
    // The cached verification must not outlive the key.
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    key(&["rotate", file]);
    let gone = kids(&service.keys_file)[1].clone();
    assert_eq!(key(&["prune", file, "--older-than", "1 hour"]), "");
    assert_eq!(kids(&service.keys_file).len(), 2);
    // `--older-than` counts whole seconds.
    let printed = eventually("it is old enough", || {
        Some(key(&["prune", file, "--older-than", "1s"])).filter(|printed| !printed.is_empty())
    });
    assert_eq!(printed, format!("removed {gone}\n"));
    eventually("its tokens are refused", || (bearer.get(VERIFY).send().status == 401).then_some(()));
    bearer.get(VERIFY).send().problem(401);
}

#[test]
fn a_broken_file_keeps_the_old_keys_and_is_logged() {
    let mut log = tempfile::tempfile().unwrap();
    let redirected = log.try_clone().unwrap();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(redirected);
    });
    let mut logged = |needle: &str| {
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        text.contains(needle).then_some(())
    };
    let (_, jwt) = service.admin().issue("x", "1h");
    let good = fs::read(&service.keys_file).unwrap();
    for (broken, why) in [("{", "line 1, column 1"), (r#"{"keys":[]}"#, "the set has no key")] {
        fs::write(&service.keys_file, broken).unwrap();
        eventually("the mistake is logged", || logged(why));
        assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
        service.admin().issue("y", "1h");
    }
    fs::remove_file(&service.keys_file).unwrap();
    service.process.signal(Signal::SIGHUP);
    eventually("the mistake is logged", || logged("cannot read"));
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
    fs::write(&service.keys_file, good).unwrap();
    service.process.signal(Signal::SIGHUP);
    eventually("it is read again", || logged("read the signing keys"));
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
}

#[test]
fn a_pipe_in_place_of_the_key_file_blocks_no_request() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("TOKIO_WORKER_THREADS", "1").stderr(log.stdio());
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    let (good, pipe) = (fs::read(&service.keys_file).unwrap(), service.keys_file.with_extension("pipe"));
    assert!(run(Command::new("mkfifo").arg(&pipe), "").status.success());
    fs::rename(&pipe, &service.keys_file).unwrap();
    let complaints = || log.text().matches("it is not a regular file").count();
    eventually("the mistake is logged", || (complaints() == 1).then_some(()));
    // A token of an unknown key reloads the file, too.
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256","kid":"another"}"#);
    let unknown = format!("{header}.{}", jwt.split_once('.').unwrap().1);
    service.client().with_bearer(&unknown).get(VERIFY).send().problem(401);
    service.process.signal(Signal::SIGHUP);
    eventually("the mistake is logged again", || (complaints() == 2).then_some(()));
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);

    // A symbolic link to a file is accepted again.
    let file = service.keys_file.with_extension("good");
    fs::write(&file, good).unwrap();
    std::os::unix::fs::symlink(&file, &pipe).unwrap();
    fs::rename(&pipe, &service.keys_file).unwrap();
    eventually("it is read again", || log.text().contains("read the signing keys").then_some(()));
    assert_eq!(service.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
}

#[test]
fn a_pipe_is_refused_as_key_file() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(run(Command::new("mkfifo").arg(&pipe), "").status.success());
    let output = run(Service::command().env("MAYFLY_JWT_KEYS_FILE", &pipe), "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is not a regular file"), "{output:?}");
}

#[test]
fn a_rotation_replaces_the_file_in_one_step_and_keeps_its_permissions() {
    use std::os::unix::fs::{MetadataExt, symlink};

    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("keys.json"), directory.path().join("link.json"));
    fs::write(&file, key(&["generate"])).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    // The user of the tests may give the file to another group, or, as root, to any user.
    let another = nix::unistd::getgroups().unwrap().last().map(|group| group.as_raw());
    let owner = if nix::unistd::geteuid().is_root() { (Some(65534), Some(65534)) } else { (None, another) };
    chown(&file, owner.0, owner.1).unwrap();
    symlink("keys.json", &link).unwrap();
    let before = fs::metadata(&file).unwrap();
    key(&["rotate", link.to_str().unwrap()]);
    let after = fs::metadata(&file).unwrap();
    assert_ne!(after.ino(), before.ino(), "a new file takes the place of the old one");
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(kids(&link).len(), 2);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left behind");

    for (arguments, expected) in [
        (&["rotate", "/nowhere/keys.json"][..], "cannot read /nowhere/keys.json"),
        (&["prune", "Cargo.toml", "--older-than", "1d"], "Cargo.toml: not a JWK Set"),
    ] {
        let output = run(Command::new(env!("CARGO_BIN_EXE_mayfly")).arg("key").args(arguments), "");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
    for arguments in [&["generate", "--alg", "RS256"][..], &["prune", "x"], &["rotate", "x", "--delay", "1 6 h"]] {
        let output = run(Command::new(env!("CARGO_BIN_EXE_mayfly")).arg("key").args(arguments), "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn concurrent_rotations_keep_the_keys_of_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, key(&["generate"])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| key(&["rotate", file.to_str().unwrap()]));
        }
    });
    assert_eq!(kids(&file).len(), 9);
}

#[test]
fn a_token_in_use_is_rejected_once_its_key_is_gone() {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    let bearer = service.client().with_bearer(&jwt);
    assert_eq!(bearer.get(VERIFY).send().status, 200);
    fs::write(&service.keys_file, key(&["generate"])).unwrap();
    eventually("it is refused", || (bearer.get(VERIFY).send().status == 401).then_some(()));
    for _ in 0..20 {
        bearer.get(VERIFY).send().problem(401);
    }
}

#[test]
fn a_replica_revokes_tokens_of_keys_that_it_does_not_know() {
    let service = Service::start(Backend::Redis);
    let url = service.redis.as_ref().unwrap().url();
    // A service with other keys and another issuer.
    let stranger = Service::launch(Some(&url), |command| {
        command.env("MAYFLY_JWT_ISSUER", "https://elsewhere.example");
    });
    stranger.wait_until_ready();
    for by_form in [true, false] {
        let (_, jwt) = service.admin().issue("x", "1h");
        let bearer = service.client().with_bearer(&jwt);
        assert_eq!(bearer.get(VERIFY).send().status, 200);
        let revocation = if by_form {
            stranger.client().post_form("/oauth2/revoke", &[("token", &jwt)])
        } else {
            stranger.client().with_bearer(&jwt).delete("/api/v1alpha/token/self")
        };
        assert_eq!(revocation.send().status, 200);
        bearer.get(VERIFY).send().problem(401);
    }
}

#[test]
fn a_key_file_that_others_can_write_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.json");
    fs::write(&file, key(&["generate"])).unwrap();
    for mode in [0o620, 0o602, 0o666] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let output = run(Service::command().env("MAYFLY_JWT_KEYS_FILE", &file), "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{mode:o}: {stderr}");
        assert!(stderr.contains("others can write") && stderr.contains("chmod go-w"), "{mode:o}: {stderr}");
    }
    // A file that replaces another one is checked, too.
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    let before = service.admin().issue("x", "1h").1;
    fs::set_permissions(&file, Permissions::from_mode(0o622)).unwrap();
    fs::rename(&file, &service.keys_file).unwrap();
    let line = log.wait_for("ERROR", "the old signing keys stay in force");
    assert!(line["error"].as_str().unwrap().contains("others can write"), "{line}");
    assert_eq!(kid(&service.admin().issue("x", "1h").1), kid(&before));
}

#[test]
fn a_key_file_that_others_can_read_is_warned_about() {
    let own = nix::unistd::getegid().as_raw();
    let mut files = vec![
        (0o600, own, 0),
        (0o400, own, 0),
        // As Kubernetes mounts a Secret for the group of the pod.
        (0o440, own, 0),
        (0o640, own, 0),
        (0o644, own, 1),
        (0o604, own, 1),
    ];
    if nix::unistd::geteuid().is_root() {
        files.push((0o640, 12_345, 1));
    }
    for (mode, group, expected) in files {
        let log = Log::new();
        let service = Service::start_with(Backend::Memory, |command| {
            let file = command.get_envs().find(|(name, _)| *name == "MAYFLY_JWT_KEYS_FILE").unwrap().1.unwrap();
            chown(file, None, Some(group)).unwrap();
            fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
            command.stderr(log.stdio());
        });
        // Logged once for each version of the file.
        fs::write(&service.keys_file, key(&["generate"])).unwrap();
        log.wait_for("INFO", "read the signing keys");
        assert_eq!(log.count("others can read the signing keys"), 2 * expected, "{mode:o} {group}");
    }
}

#[test]
fn the_loss_of_a_key_is_logged_if_it_signed_or_verified_tokens() {
    let logs = [Log::new(), Log::new()];
    let service = Service::start_with(Backend::Redis, |command| {
        command.stderr(logs[0].stdio());
    });
    let replica = Service::launch(Some(&service.redis.as_ref().unwrap().url()), |command| {
        command.env("MAYFLY_JWT_KEYS_FILE", &service.keys_file).stderr(logs[1].stdio());
    });
    let (_, jwt) = service.admin().issue("x", "1h");
    assert_eq!(replica.client().with_bearer(&jwt).get(VERIFY).send().status, 200);
    let file = &service.keys_file;
    let good = fs::read_to_string(file).unwrap();
    // A second `mayfly key generate > keys.json`.
    fs::write(file, key(&["generate"])).unwrap();
    for log in &logs {
        let line = log.wait_for("ERROR", "a key that signed tokens is gone");
        assert_eq!(line["kid"], kid(&jwt), "{line}");
    }
    // The key in between has signed nothing, and neither has a delayed key that is removed early.
    fs::write(file, &good).unwrap();
    for log in &logs {
        let line = log.wait_for("INFO", "a key that signed tokens is back");
        assert_eq!(line["kid"], kid(&jwt), "{line}");
    }
    key(&["rotate", file.to_str().unwrap(), "--delay", "1h"]);
    let log = &logs[0];
    eventually("the new key is read", || (log.count("read the signing keys") == 3).then_some(()));
    fs::write(file, &good).unwrap();
    eventually("the old file is read", || (log.count("read the signing keys") == 4).then_some(()));
    assert_eq!(log.count("a key that signed tokens is gone"), 1);
}

#[test]
fn keys_have_not_changed_when_only_the_permissions_of_their_file_did() {
    let log = Log::new();
    let service = Service::start_with(Backend::Memory, |command| {
        command.stderr(log.stdio());
    });
    let reads = |count| (log.count("read the signing keys") == count).then_some(());
    fs::set_permissions(&service.keys_file, Permissions::from_mode(0o640)).unwrap();
    eventually("the file is read", || reads(1));
    service.process.signal(Signal::SIGHUP);
    eventually("the file is read again", || reads(2));
    assert_eq!(log.count("keys.changed"), 0);
    fs::write(&service.keys_file, key(&["generate"])).unwrap();
    log.wait_for("INFO", "keys.changed");
}

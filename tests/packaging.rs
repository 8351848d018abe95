//! What is installed beside the service: completions, manual, settings, the unit for systemd and the Debian package.

use std::{fs, io::Read, os::unix::net::UnixDatagram, path::Path, process::Command};

use flate2::read::ZlibDecoder;
use nix::sys::signal::Signal;

use crate::support::{Backend, Client, Process, RedisServer, Service, eventually, free_port, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The output of a command that succeeds.
#[track_caller]
fn output(command: &mut Command, input: &str) -> String {
    let output = run(command, input);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn the_references_of_all_settings_are_current() {
    for (format, file) in [("markdown", "deploy/settings.md"), ("env", "deploy/systemd/mayfly.env")] {
        let printed = output(Service::command().args(["settings", "--format", format]), "");
        let committed = fs::read_to_string(format!("{ROOT}/{file}")).unwrap();
        assert!(printed == committed, "{file} has drifted: run `make settings`");
    }
}

#[test]
fn bash_completes_commands_and_settings() {
    let script = output(Service::command().args(["completions", "bash"]), "");
    for (words, expected) in
        [("mayfly user a", "add"), ("mayfly --redis-u", "--redis-url"), ("mayfly comp", "completions")]
    {
        let complete = format!(
            "{script}\nCOMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE='{words}'\n\
             _mayfly mayfly \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let candidates = output(Command::new("bash").args(["--norc", "-s"]), &complete);
        assert_eq!(candidates.trim(), expected, "{words}");
    }
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = output(Service::command().args(["completions", shell]), "");
        assert!(script.contains("healthcheck") && script.contains("redis-url"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let manual = directory.path().join("man1");
    output(Service::command().arg("manual").arg(&manual), "");
    for page in fs::read_dir(&manual).unwrap() {
        let page = page.unwrap().path();
        let warnings = run(Command::new("groff").args(["-man", "-ww", "-z"]).arg(&page), "");
        assert_eq!(String::from_utf8(warnings.stderr).unwrap(), "", "{}", page.display());
    }
    let read =
        |page: &str| output(Command::new("groff").args(["-man", "-Tascii", "-P-cbou"]).arg(manual.join(page)), "");
    assert!(read("mayfly.1").contains("the MAYFLY_DOCS environment variable"));
    assert!(read("mayfly-user-add.1").contains("--password-stdin"));
}

#[test]
fn the_unit_is_valid_and_confined() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("mayfly.service");
    let text = fs::read_to_string(format!("{ROOT}/deploy/systemd/mayfly.service")).unwrap();
    let binary = Service::command().get_program().to_owned().into_string().unwrap();
    fs::write(&unit, text.replace("/usr/bin/mayfly", &binary)).unwrap();
    output(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit), "");
    // The exposure is at most 2.0 of 10.
    output(Command::new("systemd-analyze").args(["security", "--offline=yes", "--threshold=20"]).arg(&unit), "");
}

#[test]
fn systemd_is_told_when_the_service_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let receive = || {
        let mut message = [0; 256];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(receive().trim(), "READY=1");
    service.process.signal(Signal::SIGTERM);
    assert_eq!(receive().trim(), "STOPPING=1");
}

/// Makes a package of a newer version, with other settings, in the returned directory.
fn newer_version(package: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let [content, newer] = ["content", "newer.deb"].map(|name| directory.path().join(name));
    output(Command::new("dpkg-deb").arg("--raw-extract").args([package, &content]), "");
    let edit = |file: &str, change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(content.join(file)).unwrap();
        fs::write(content.join(file), change(text)).unwrap();
    };
    edit("DEBIAN/control", &|text| text.replacen("\nVersion: ", "\nVersion: 99+", 1));
    edit("etc/mayfly/mayfly.env", &|text| text + "# New\n");
    output(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&content, &newer]), "");
    directory
}

/// `make deb` builds the package. Installs it, starts the service by hand as the unit would, and removes the package.
#[test]
#[ignore = "`make deb` builds the package, for minutes"]
fn the_debian_package_installs_a_service_that_starts() {
    let packages = fs::read_dir(format!("{ROOT}/target/debian")).unwrap().map(|entry| entry.unwrap().path());
    let package = &packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).last().unwrap();
    let dpkg = |arguments: &[&str]| output(Command::new("dpkg").args(arguments), "");
    dpkg(&["--install", package.to_str().unwrap()]);
    let installed = scopeguard::guard((), |()| drop(dpkg(&["--purge", "mayfly"])));

    let contents = dpkg(&["--listfiles", "mayfly"]);
    for file in ["/usr/bin/mayfly", "/lib/systemd/system/mayfly.service", "/usr/share/man/man1/mayfly.1.gz"] {
        assert!(contents.lines().any(|line| line.ends_with(file)), "{file} is not in\n{contents}");
    }
    assert!(output(Command::new("man").arg("--where").arg("mayfly"), "").contains("mayfly.1"));
    let mode = |path: &str| output(Command::new("stat").args(["--format=%U:%G %a", path]), "").trim().to_owned();
    assert_eq!(mode("/etc/mayfly/keys.json"), "root:mayfly 640");
    assert_eq!(mode("/etc/mayfly/credentials"), "root:root 700");

    // The binary says what it was built from, also to who has nothing but the binary.
    let mut dump = Command::new("objcopy");
    let dependencies = tempfile::NamedTempFile::new().unwrap();
    dump.arg(format!("--dump-section=.dep-v0={}", dependencies.path().display()));
    output(dump.args(["/usr/bin/mayfly", "/dev/null"]), "");
    let mut json = String::new();
    ZlibDecoder::new(fs::File::open(dependencies.path()).unwrap()).read_to_string(&mut json).unwrap();
    assert!(json.contains(r#""name":"rustls""#), "{json}");
    let sbom = fs::read_to_string("/usr/share/doc/mayfly/mayfly.cdx.json").unwrap();
    assert!(sbom.contains("CycloneDX") && sbom.contains("pkg:cargo/rustls@"));

    // As the unit does: its variables, its user, and a copy of the credential.
    let redis = RedisServer::start();
    let credentials = tempfile::tempdir().unwrap();
    let password = fs::read_to_string("/etc/mayfly/credentials/admin-password").unwrap();
    fs::write(credentials.path().join("admin-password"), &password).unwrap();
    output(Command::new("chown").args(["--recursive", "mayfly"]).arg(credentials.path()), "");
    let address = format!("127.0.0.1:{}", free_port());
    let mut start = Command::new("setpriv");
    start.args(["--reuid=mayfly", "--regid=mayfly", "--clear-groups", "/usr/bin/mayfly", "serve"]);
    let file = |name: &str| Path::new(credentials.path()).join(name);
    start.env("MAYFLY_ADMIN_PASSWORD_FILE", file("admin-password")).env("MAYFLY_METRICS_LISTEN", "off");
    start.env("MAYFLY_REDIS_URL", redis.url()).env("MAYFLY_LISTEN", &address);
    let service = Process::spawn(start.env("MAYFLY_JWT_KEYS_FILE", "/etc/mayfly/keys.json"));
    let admin = Client::new(&format!("http://{address}")).with_basic("admin", password.trim());
    let (_, jwt) = eventually("the service answers", || {
        admin.get("/readyz").try_send().ok().filter(|answer| answer.status == 200).map(|_| admin.issue("x", "1h"))
    });
    assert_eq!(admin.with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
    drop(service);

    // An upgrade keeps the settings that were changed, the key and the password.
    let paths = ["/etc/mayfly/mayfly.env", "/etc/mayfly/keys.json", "/etc/mayfly/credentials/admin-password"];
    fs::write(paths[0], fs::read_to_string(paths[0]).unwrap() + "MAYFLY_LOG=debug\n").unwrap();
    let before = paths.map(|path| fs::read_to_string(path).unwrap());
    let newer = newer_version(package);
    dpkg(&["--force-confold", "--install", newer.path().join("newer.deb").to_str().unwrap()]);
    assert_eq!(paths.map(|path| fs::read_to_string(path).unwrap()), before);
    assert_eq!(mode("/etc/mayfly/mayfly.env"), "root:mayfly 640");
    // The new settings are beside them.
    assert!(fs::read_to_string("/etc/mayfly/mayfly.env.dpkg-dist").unwrap().ends_with("# New\n"));

    // Removed, it keeps the settings; purged, nothing.
    dpkg(&["--remove", "mayfly"]);
    assert!(!fs::exists("/usr/bin/mayfly").unwrap() && fs::exists("/etc/mayfly/mayfly.env").unwrap());
    drop(installed);
    assert!(!fs::exists("/etc/mayfly").unwrap());
}

//! The real binary as a running service.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use secrecy::ExposeSecret;

use super::{Client, Process, RedisServer, eventually, run};

/// The password of the administrator in every test.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// The store of a service.
#[derive(Debug, Clone, Copy)]
pub enum Backend {
    Memory,
    Redis,
}

/// A running service with an administrator `admin`.
pub struct Service {
    pub process: Process,
    /// The lines that the service printed at the start, up to the command to try.
    pub greeting: String,
    /// `http://127.0.0.1:port`, or `https://…`
    pub url: String,
    /// The URL of its metrics.
    pub metrics_url: String,
    /// The file with its signing keys (a JWK Set).
    pub keys_file: PathBuf,
    /// Its Redis, if any.
    pub redis: Option<RedisServer>,
    _directory: tempfile::TempDir,
}

impl Service {
    /// Starts a service and waits until it is ready.
    pub fn start(backend: Backend) -> Self {
        Self::start_with(backend, |_| {})
    }

    /// Starts a service whose command `configure` changes, and waits until it is ready.
    pub fn start_with(backend: Backend, configure: impl FnOnce(&mut Command)) -> Self {
        let redis = matches!(backend, Backend::Redis).then(RedisServer::start);
        let url = redis.as_ref().map(RedisServer::url);
        let service = Self { redis, ..Self::launch(url.as_deref(), configure) };
        service.wait_until_ready();
        service
    }

    pub fn wait_until_ready(&self) {
        eventually("the service is ready", || (self.client().get("/readyz").send().status == 200).then_some(()));
    }

    /// Returns the number of passwords that the service has hashed.
    pub fn hashes(&self) -> u64 {
        let page = Client::new(&self.metrics_url).get("").send().text;
        let count = page.lines().find_map(|line| line.strip_prefix("mayfly_password_hash_duration_seconds_count "));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// Starts a service on this Redis, and waits only until the service listens.
    pub fn launch(redis_url: Option<&str>, configure: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys_file = directory.path().join("keys.json");
        fs::write(
            &keys_file,
            mayfly::domain::key_rotation::generate(mayfly::domain::jwk::Algorithm::Hs256, 0).expose_secret(),
        )
        .unwrap();
        fs::set_permissions(&keys_file, Permissions::from_mode(0o600)).unwrap();
        let mut command = Self::command();
        command
            .env("MAYFLY_LISTEN", "127.0.0.1:0")
            .env("MAYFLY_METRICS_LISTEN", "127.0.0.1:0")
            .env("MAYFLY_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .env("MAYFLY_JWT_KEYS_FILE", &keys_file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(url) = redis_url {
            command.env("MAYFLY_REDIS_URL", url);
        }
        configure(&mut command);
        let mut process = Process::spawn(&mut command);
        let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        let mut greeting = Vec::new();
        while greeting.last().is_none_or(|line: &String| !line.contains("curl -u")) {
            greeting.push(lines.next().expect("it greets").unwrap());
        }
        // The rest is not used, but a closed pipe would be an error for the service.
        thread::spawn(move || lines.count());
        let url_in = |line: &String| Some(line.split(' ').find(|word| word.starts_with("http"))?.to_owned());
        let url = url_in(&greeting[0]).expect("it says where");
        let metrics_url =
            greeting.iter().find(|line| line.starts_with("Metrics: ")).and_then(url_in).unwrap_or_default();
        Self { process, greeting: greeting.join("\n"), url, metrics_url, keys_file, redis: None, _directory: directory }
    }

    /// Adds a user with the password "secret" by the command line.
    pub fn add_user(&self, name: &str, role: &str) {
        let url = self.redis.as_ref().expect("users are added in Redis").url();
        let mut command = Self::command();
        command.env("MAYFLY_REDIS_URL", url).args(["user", "add", name, "--role", role, "--password-stdin"]);
        let output = run(&mut command, "secret");
        assert!(output.status.success(), "{output:?}");
    }

    /// Returns a command for the binary, without settings from the environment of the tests.
    pub fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mayfly"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MAYFLY_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command
    }

    /// Returns the address and port on which the service listens.
    pub fn address(&self) -> &str {
        self.url.split_once("://").expect("a URL has a scheme").1
    }

    /// Opens a connection to the service.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    /// Sends these bytes, and returns all that the server sends until it closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // A server that does not read all input resets the connection after its response.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns a client without credentials.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }

    /// Returns a client that logs in as the administrator.
    pub fn admin(&self) -> Client {
        self.client().with_basic("admin", ADMIN_PASSWORD)
    }
}

//! A verifier in a process of its own: in Rust, or in Python with threads or asyncio.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use mayfly_verifier::{Credentials, Demands, Token, Verifier, VerifyError};

use crate::support::{ADMIN_PASSWORD, Process};

/// Set for a process that is to be a verifier: the URL of its service.
const VERIFIER_URL: &str = "MAYFLY_TEST_VERIFIER_URL";

/// The argument by which the binary of the tests becomes a verifier.
const RUST_TEST: &str = "verifiers::process::a_process_that_verifies_lines";

const PYTHON_PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/bin/python");

/// Longer than any verification takes: only keeps a test from hanging.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a verifier is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rust,
    PythonThreads,
    PythonAsyncio,
}

/// What a verifier says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted from memory.
    Leased,
    /// Accepted by an answer of the service.
    Asked,
    Rejected,
    /// Neither accepted nor rejected, for this reason.
    Unavailable(String),
}

impl Outcome {
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Leased | Self::Asked)
    }

    fn parse(text: &str) -> Self {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("leased", _) => Self::Leased,
            ("asked", _) => Self::Asked,
            ("rejected", _) => Self::Rejected,
            ("unavailable", why) => Self::Unavailable(why.to_owned()),
            _ => panic!("not an outcome: {text}"),
        }
    }
}

/// Whether this process is to be a verifier.
pub fn is_verifier() -> bool {
    env::var_os(VERIFIER_URL).is_some()
}

/// Reads lines of a number and a JWT, and answers each with `= NUMBER OUTCOME`, in any order.
/// `clients/python/tests/lines.py` does the same.
#[tokio::main]
pub async fn serve_lines() {
    let url = env::var(VERIFIER_URL).unwrap();
    let verifier = Verifier::builder(&url, Credentials::basic("admin", ADMIN_PASSWORD)).build().unwrap();
    for line in std::io::stdin().lines().map(Result::unwrap) {
        let verifier = verifier.clone();
        tokio::spawn(async move {
            let (number, jwt) = line.split_once(' ').unwrap();
            let outcome = match verifier.verify_leased(jwt, &Demands::new()) {
                Some(result) => say("leased", result.map_err(VerifyError::from)),
                None => say("asked", verifier.verify(jwt).await),
            };
            println!("= {number} {outcome}");
        });
    }
}

fn say(accepted: &str, result: Result<Token, VerifyError>) -> String {
    match result {
        Ok(_) => accepted.to_owned(),
        Err(VerifyError::Rejected(_)) => "rejected".to_owned(),
        Err(VerifyError::Unavailable(why)) => format!("unavailable {why}").replace('\n', " "),
    }
}

/// A verifier in a process of its own, which callers may use at the same time.
pub struct VerifierProcess {
    pub process: Process,
    input: Mutex<ChildStdin>,
    next_number: AtomicU64,
    /// The callers who wait, by the number of their question.
    callers: Arc<Mutex<HashMap<u64, Sender<Outcome>>>>,
}

impl VerifierProcess {
    pub fn start(kind: Kind, url: &str) -> Self {
        let mut command = match kind {
            Kind::Rust => {
                let mut command = Command::new(env::current_exe().unwrap());
                command.args(["--ignored", "--exact", "--nocapture", RUST_TEST]);
                command
            }
            Kind::PythonThreads | Kind::PythonAsyncio => {
                let mut command = Command::new(PYTHON);
                let style = if kind == Kind::PythonThreads { "threads" } else { "asyncio" };
                command.args([&format!("{PYTHON_PACKAGE}/tests/lines.py"), style, "admin", ADMIN_PASSWORD]);
                command.env("PYTHONPATH", format!("{PYTHON_PACKAGE}/src")).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
        };
        command.env(VERIFIER_URL, url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command);
        let input = Mutex::new(process.child().stdin.take().unwrap());
        let output = BufReader::new(process.child().stdout.take().unwrap());
        let callers = Arc::<Mutex<HashMap<u64, Sender<Outcome>>>>::default();
        let waiting = Arc::clone(&callers);
        thread::spawn(move || {
            // The test harness of a process in Rust prints other lines, too.
            for line in output.lines().map_while(Result::ok) {
                let Some((_, answer)) = line.split_once("= ") else { continue };
                let (number, outcome) = answer.split_once(' ').unwrap();
                let caller = waiting.lock().unwrap().remove(&number.parse().unwrap()).unwrap();
                let _ = caller.send(Outcome::parse(outcome));
            }
        });
        Self { process, input, next_number: AtomicU64::new(0), callers }
    }

    pub fn verify(&self, jwt: &str) -> Outcome {
        let (caller, answer) = mpsc::channel();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        self.callers.lock().unwrap().insert(number, caller);
        writeln!(self.input.lock().unwrap(), "{number} {jwt}").unwrap();
        answer.recv_timeout(PATIENCE).expect("the verifier answers")
    }
}

#[test]
#[ignore = "a process of other tests"]
fn a_process_that_verifies_lines() {
    serve_lines();
}

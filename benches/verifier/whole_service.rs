//! A whole small service with axum: open, behind the layer, and asking about each request. Each is this binary again,
//! in a process of its own.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::get,
};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mayfly_verifier::{Credentials, Verifier, VerifyLayer};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    cpu_seconds,
    support::{ADMIN_PASSWORD, Process, Service, run},
};

/// Set for a process that is to be a service: its variant and the URL of Mayfly.
const VARIANT: &str = "MAYFLY_BENCH_VARIANT";
const URL: &str = "MAYFLY_BENCH_URL";

const VARIANTS: [(&str, &str); 3] = [
    ("open", "without verification"),
    ("layer", "with the layer"),
    ("asking", "asking for each request, on kept connections"),
];

const ROUNDS: usize = 5;
const SECONDS: u32 = 2;
const CONNECTIONS: u32 = 16;

/// Asks Mayfly, as a proxy does with forward-auth.
struct Asking {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

/// Serves a variant until the process is killed, if this process is to be a service.
pub fn serve_if_wanted() {
    let (Ok(variant), Ok(url)) = (env::var(VARIANT), env::var(URL)) else { return };
    Runtime::new().unwrap().block_on(async {
        let app = Router::new().route("/", get(async || "hello"));
        let app = match &*variant {
            "layer" => {
                let credentials = Credentials::basic("admin", ADMIN_PASSWORD);
                app.layer(VerifyLayer::new(Verifier::connect(&url, credentials).await.unwrap()))
            }
            "asking" => {
                let client = Client::builder(TokioExecutor::new()).build_http();
                let asking = Asking { client, url: format!("{url}/api/v1alpha/verify") };
                app.layer(from_fn_with_state(std::sync::Arc::new(asking), ask))
            }
            _ => app,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}", listener.local_addr().unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

async fn ask(
    State(asking): State<std::sync::Arc<Asking>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    let question = Request::get(&asking.url).header(header::AUTHORIZATION, &headers[header::AUTHORIZATION]);
    let answer = asking.client.request(question.body(Full::default()).unwrap()).await;
    match answer.map_or(StatusCode::SERVICE_UNAVAILABLE, |answer| answer.status()) {
        StatusCode::OK => Ok(next.run(request).await),
        status => Err(status),
    }
}

/// Prints the CPU time of each variant, and of Mayfly, for each request of `wrk`.
pub fn compare(mayfly: &Service, jwt: &str) {
    let services = VARIANTS.map(|(variant, _)| {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut process = Process::spawn(command.env(VARIANT, variant).env(URL, &mayfly.url).stdout(Stdio::piped()));
        let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        let url = lines.next().expect("it listens").unwrap();
        (process, url)
    });
    let mut rows = VARIANTS.map(|_| [(); 3].map(|()| Vec::new()));
    for _ in 0..ROUNDS {
        for ((process, url), row) in services.iter().zip(&mut rows) {
            let before = [process, &mayfly.process].map(cpu_seconds);
            let requests = load(url, jwt);
            let after = [process, &mayfly.process].map(cpu_seconds);
            let micros = |index: usize| (after[index] - before[index]) * 1e6 / requests;
            let values = [micros(0), micros(1), requests / f64::from(SECONDS)];
            row.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
    }
    println!(
        "\n| a whole service, axum, {CONNECTIONS} connections | CPU per request, µs | of Mayfly, µs | requests/s |"
    );
    println!("|---|---|---|---|");
    for ((_, name), row) in VARIANTS.iter().zip(rows) {
        let [own, of_mayfly, rate] = row.map(|mut column| {
            column.sort_by(f64::total_cmp);
            column[ROUNDS / 2]
        });
        println!("| {name} | {own:.1} | {of_mayfly:.1} | {rate:.0} |");
    }
}

/// The number of requests that `wrk` sent, which must all be answered with 200.
fn load(url: &str, jwt: &str) -> f64 {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads=1", &format!("--connections={CONNECTIONS}"), &format!("--duration={SECONDS}s")]);
    let output = run(wrk.args(["--header", &format!("Authorization: Bearer {jwt}"), url]), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let line = text.lines().find(|line| line.contains(" requests in ")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

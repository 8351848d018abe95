//! `mayfly serve`: run the service.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::outcome::Failure;
use crate::{
    app,
    config::{AdminPassword, Config, ConfigErrors, Settings, StoreConfig, environment},
    telemetry::{self, metrics::Prometheus},
};

/// Open files besides the connections of clients to the API: connections to Redis and a collector, those of Prometheus,
/// and files being read.
const OTHER_OPEN_FILES: usize = 64 + app::MAX_METRICS_CONNECTIONS;

#[tokio::main]
pub(super) async fn run(settings: Settings, errors: ConfigErrors) -> Result<(), Failure> {
    let mut config = Config::load(settings, &environment(), errors)?;
    let prometheus = config.network.metrics_listen.map(|address| (address, Prometheus::default()));
    let telemetry = telemetry::init(&config.telemetry, prometheus.as_ref().map(|(_, prometheus)| prometheus));

    config.network.max_connections = fit_into_open_files(config.network.max_connections)?;
    let listener = listen("set MAYFLY_LISTEN to another address", config.network.endpoint.listen).await?;
    let metrics = match prometheus {
        Some((address, prometheus)) => {
            let listener = listen("set MAYFLY_METRICS_LISTEN to another address, or off", address).await?;
            Some((listener, prometheus))
        }
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        notify_systemd(NotifyState::Stopping);
    };
    let metrics_address = metrics.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
    print_greeting(greeting(&config, listener.local_addr()?, metrics_address));
    // Connections are accepted from here on: they wait until they are served.
    notify_systemd(NotifyState::Ready);
    let metrics = metrics.map(|(listener, prometheus)| tokio::spawn(app::serve_metrics(listener, prometheus)));
    let result = app::serve(config, listener, shutdown).await;
    if let Some(task) = metrics {
        task.abort();
    }
    telemetry.shutdown().await;
    Ok(result?)
}

/// Tells systemd the state of the service, if systemd started it (`Type=notify`).
fn notify_systemd(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd the state of the service");
    }
}

/// Listens on an address; `advice` says what to do where it is taken.
async fn listen(advice: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|error| Failure::Runtime(format!("cannot listen on {address}: {error} ({advice})")))
}

/// Raises the limit of open files to the system's maximum, and lowers the number of connections to what fits into it.
fn fit_into_open_files(connections: usize) -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let open_files = limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap_or(usize::MAX));
    let room = open_files.saturating_sub(OTHER_OPEN_FILES).max(1);
    if room < connections {
        tracing::warn!(
            open_files,
            "there is room for {room} connections instead of {connections}: raise the hard limit of open files \
             (ulimit -n, LimitNOFILE) or lower MAYFLY_MAX_CONNECTIONS"
        );
    }
    Ok(room.min(connections))
}

/// Prints the greeting on a thread of its own, so that a full pipe does not block the service.
fn print_greeting(greeting: String) {
    thread::spawn(move || {
        if let Err(error) = io::stdout().write_all(greeting.as_bytes()) {
            tracing::warn!(%error, "cannot print the greeting");
        }
    });
}

/// Returns the text of the start: the addresses, the store and the administrator, and a command to try the service.
fn greeting(config: &Config, listening: SocketAddr, metrics: Option<SocketAddr>) -> String {
    let scheme = if config.certificate.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", reachable_address(listening));
    let name = &config.admin.name;
    let mut text = format!("Mayfly {} listens on {url}\n", env!("CARGO_PKG_VERSION"));
    if config.browser.page {
        writeln!(text, "Page: {url}/").expect("a string takes any text");
    }
    if config.browser.docs {
        writeln!(text, "Documentation: {url}/docs").expect("a string takes any text");
    }
    text += match config.store {
        StoreConfig::Memory => "Store: in memory, gone when the service stops (MAYFLY_REDIS_URL keeps it)\n",
        StoreConfig::Redis(_) => "Store: Redis\n",
    };
    let first = match config.store {
        StoreConfig::Memory => "",
        StoreConfig::Redis { .. } => ", where there was no user before",
    };
    let (admin, login) = match &config.admin.password {
        AdminPassword::Generated(password) => {
            let password = password.expose_secret();
            (format!("{name}, password {password}"), format!("{name}:{password}"))
        }
        // A login without a password: curl asks for it.
        AdminPassword::Variable(_) => (format!("{name}, password in MAYFLY_ADMIN_PASSWORD{first}"), name.to_string()),
        AdminPassword::File(_, file) => {
            let file = file.display();
            (format!("{name}, password in {file}{first}"), format!("\"{name}:$(cat '{file}')\""))
        }
        AdminPassword::Missing => (format!("{name}, if added before"), name.to_string()),
    };
    let metrics =
        metrics.map(|address| format!("Metrics: http://{}/metrics\n", reachable_address(address))).unwrap_or_default();
    let trust =
        config.certificate.as_ref().map(|pair| format!("--cacert '{}' ", pair.chain().display())).unwrap_or_default();
    let request = r#"{"jwt_token_description": "Token specter", "jwt_token_life": "6 hours"}"#;
    writeln!(
        text,
        "Administrator: {admin}\n{metrics}\nTry it:\n  curl -u {login} {trust}{url}/api/v1alpha/token \
         -H 'Content-Type: application/json' -d '{request}'\n"
    )
    .expect("a string takes any text");
    text
}

/// Returns the address at which this machine reaches a listener: loopback for one that listens everywhere.
pub(super) fn reachable_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

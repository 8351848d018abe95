//! `mayfly serve`: run the service.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::Args;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::Failure;
use crate::{
    app,
    config::{AdminPassword, Config, Environment, Settings, StoreConfig},
    telemetry,
};

#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    #[tokio::main]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let environment: Environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("MAYFLY_"))
            .collect();
        let config = Config::load(&self.settings, &environment)?;
        telemetry::init(&config.log);

        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| Failure::Runtime(format!("cannot listen on {}: {error}", config.listen)))?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("shutting down");
        };
        io::stdout().write_all(greeting(&config, listener.local_addr()?).as_bytes())?;
        Ok(app::serve(config, listener, shutdown).await?)
    }
}

/// Where the service is, and a command that can be pasted to try it.
fn greeting(config: &Config, listening: SocketAddr) -> String {
    let url = format!("http://{}", reachable(listening));
    let name = &config.admin.name;
    let mut text = format!("Mayfly {} listens on {url}\nDocumentation: {url}/docs\n", env!("CARGO_PKG_VERSION"));
    text += match config.store {
        StoreConfig::Memory => "Store: in memory, gone when the service stops (MAYFLY_REDIS_URL keeps it)\n",
        StoreConfig::Redis { .. } => "Store: Redis\n",
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
        // curl asks for the password.
        AdminPassword::Variable(_) => (format!("{name}, password in MAYFLY_ADMIN_PASSWORD{first}"), name.to_string()),
        AdminPassword::File(_, file) => {
            let file = file.display();
            (format!("{name}, password in {file}{first}"), format!("\"{name}:$(cat '{file}')\""))
        }
        AdminPassword::Missing => (format!("{name}, if added before"), name.to_string()),
    };
    let request = r#"{"jwt_token_description": "Token specter", "jwt_token_life": "6 hours"}"#;
    writeln!(
        text,
        "Administrator: {admin}\n\nTry it:\n  curl -u {login} {url}/api/v1alpha/token -H 'Content-Type: application/json' -d '{request}'\n"
    )
    .expect("a string takes all");
    text
}

/// The address to reach a listener at from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

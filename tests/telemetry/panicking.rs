//! A service whose clock panics, with all of its secrets in the message.

use std::{env, future::pending, sync::Arc, time::Duration};

use mayfly::{
    domain::{keys::KeySet, life::Life, password::HashCost, token::TokenPolicy, user::Role},
    http::{self, Application, Services},
    server,
    service::{
        Actor, Clock, external_login::ExternalLogins, hashing::Hashing, issuers::TrustedIssuers, login::Login,
        readiness::Readiness, signing_keys::SigningKeys, tokens::Tokens, users::Users, verifiers::Verifiers,
    },
    store::{leased::LeasedStore, memory::MemoryStore},
    telemetry::{self, LogFormat, otlp},
};
use tokio::net::TcpListener;

/// Prints the URL of the service and serves until the process ends.
#[tokio::main]
pub(super) async fn serve(password: String, keys: String) {
    let otlp = otlp::Variables(env::vars().filter(|(name, _)| name.starts_with("OTEL_")).collect());
    let settings = telemetry::Settings { log: "trace".into(), log_format: LogFormat::Json, otlp };
    let _telemetry = telemetry::init(&settings, None);

    let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), Duration::ZERO));
    let hashing = Arc::new(Hashing::new(HashCost::default()));
    let users = Users::new(Arc::clone(&store), Clock::system(), Arc::clone(&hashing));
    users.add(Actor::Operator, "admin".parse().unwrap(), Role::Admin, password.parse().unwrap()).await.unwrap();
    let signing = Arc::new(SigningKeys::fixed(KeySet::parse(&keys).unwrap()));
    let clock = Clock::new(move || panic!("it is {password} past {keys}"));
    let rules = TokenPolicy { max_life: Life::parse("1h").unwrap(), quota: 10, issuer: None };
    let services = Services {
        users,
        external_logins: ExternalLogins::new(Arc::clone(&store), Clock::system()),
        issuers: Arc::new(TrustedIssuers::none()),
        tokens: Tokens::new(Arc::clone(&store), Arc::clone(&signing), clock, rules),
        login: Login::new(Arc::clone(&store), hashing),
        verifiers: Verifiers::new(Arc::clone(&store), Arc::clone(&signing)),
        readiness: Readiness::new(store, Duration::ZERO),
        keys: signing,
        issuer: None,
    };
    services.readiness.start(true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nhttp://{}", listener.local_addr().unwrap());
    let access = http::BrowserAccess { docs: false, page: false, cors_origins: Vec::new() };
    let endpoint = http::endpoint(Arc::new(services), access, Arc::default());
    let options = server::Options {
        certificate: None,
        max_connections: 100,
        shutdown_delay: Duration::ZERO,
        shutdown_grace: Duration::ZERO,
    };
    server::serve(listener, Application::new(endpoint, Arc::default()), pending(), options).await.unwrap();
}

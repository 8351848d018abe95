//! The composition root: builds the parts of the service and runs them.

use std::{future::pending, io, mem, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    config::{AdminConfig, AdminPassword, Config},
    http::{self, Application, Services},
    server::{self, tls::Certificate},
    service::{
        Clock,
        external_login::ExternalLogins,
        hashing::Hashing,
        login::Login,
        readiness::Readiness,
        tokens::Tokens,
        users::{Bootstrap, UserError, Users},
        verifiers::Verifiers,
    },
    store::leased::LeasedStore,
    telemetry::metrics::Prometheus,
    watched_files::{CHECK_INTERVAL, Reload},
};

/// Time between two checks of the store. Checks also detect a dead connection while no request uses it.
const STORE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a shutdown waits for the store to take the last uses of tokens, after the last request.
const LAST_SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The most connections at once to the listener for metrics.
pub const MAX_METRICS_CONNECTIONS: usize = 64;

/// Runs the service on `listener` until `shutdown` completes. The service is then not ready, accepts connections for
/// `config.lifecycle.shutdown_delay`, and finishes the requests in flight.
pub async fn serve(config: Config, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let store = Arc::new(LeasedStore::with_cache_memory(config.store.open(), config.lease, config.cache_memory));
    let clock = Clock::of_store(Arc::clone(&store));
    let keys = config.keys;
    keys.warn_if_exposed();
    let hashing = Arc::new(Hashing::new(config.hash_cost));
    let issuers = Arc::new(config.issuers.with_clock(clock.clone()));
    let services = Arc::new(Services {
        users: Users::new(Arc::clone(&store), clock.clone(), Arc::clone(&hashing)),
        external_logins: ExternalLogins::new(Arc::clone(&store), clock.clone()),
        issuers: Arc::clone(&issuers),
        tokens: Tokens::new(Arc::clone(&store), Arc::clone(&keys), clock, config.token_policy.clone()),
        login: Login::new(Arc::clone(&store), hashing),
        verifiers: Verifiers::new(Arc::clone(&store), Arc::clone(&keys)),
        readiness: Readiness::new(Arc::clone(&store), config.lifecycle.unready_after),
        keys,
        issuer: config.token_policy.issuer,
    });
    // Aborted when this function returns.
    let mut background = JoinSet::new();
    background.spawn(async move { store.keep_leases().await });
    let sending = Arc::clone(&services);
    background.spawn(async move { sending.tokens.last_used().keep_sending().await });
    let hangup = signal(SignalKind::hangup())?;
    // The files with keys are read before the first request; servers are asked in the background.
    issuers.reload(Reload::IfChanged);
    background.spawn(async move { issuers.keep_keys().await });
    background.spawn(reload_files(Arc::clone(&services), config.certificate.clone(), hangup));

    let mut preparation =
        StorePreparation { services: Arc::clone(&services), admin: config.admin, preparation_failed: false };
    // Tells the time of a store that answers before the first request; one that does not answer delays nothing.
    let answers = services.readiness.check_store().await;
    // Only logins wait for it, as it may hash the first administrator's password.
    background.spawn(async move {
        if answers {
            preparation.prepare().await;
        }
        preparation.services.readiness.attempt_ended();
        let mut ticks = interval(STORE_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let readiness = &preparation.services.readiness;
            // A store that answers for the first time or has lost its data is prepared.
            if readiness.check_store().await && !readiness.is_started() {
                preparation.prepare().await;
            }
        }
    });
    let shutdown = async {
        shutdown.await;
        services.readiness.stop();
    };
    let proxies = config.network.trusted_proxies;
    let endpoint = http::endpoint(Arc::clone(&services), config.browser, Arc::clone(&proxies));
    let options = server::Options {
        certificate: config.certificate,
        max_connections: config.network.max_connections,
        shutdown_delay: config.lifecycle.shutdown_delay,
        shutdown_grace: config.lifecycle.shutdown_grace,
    };
    let result = server::serve(listener, Application::new(endpoint, proxies), shutdown, options).await;
    background.shutdown().await;
    // What is not sent by then is lost.
    let _ = timeout(LAST_SEND_TIMEOUT, services.tokens.last_used().send_all()).await;
    result
}

/// Reloads the signing keys, the trusted issuers and the certificate: within a second when their files change, and at
/// once on SIGHUP. Files are read on a thread that may block, since a network file system may.
async fn reload_files(services: Arc<Services>, certificate: Option<Arc<Certificate>>, mut hangup: Signal) {
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let when = tokio::select! {
            _ = checks.tick() => Reload::IfChanged,
            _ = hangup.recv() => Reload::Always,
        };
        let (services, certificate) = (Arc::clone(&services), certificate.clone());
        let reading = spawn_blocking(move || {
            services.keys.reload(when);
            services.issuers.reload(when);
            certificate.inspect(|certificate| certificate.reload(when));
        });
        // A panic is in the log, and the next reload may succeed.
        let _ = reading.await;
    }
}

/// Serves `/metrics` on `listener`. Never returns `Ok` by itself; dropping the future ends it, after the API's
/// shutdown, so that metrics can be read until then.
pub async fn serve_metrics(listener: TcpListener, prometheus: Prometheus) -> io::Result<()> {
    let options = server::Options {
        certificate: None,
        max_connections: MAX_METRICS_CONNECTIONS,
        shutdown_delay: Duration::ZERO,
        shutdown_grace: Duration::ZERO,
    };
    let application = Application::new(http::metrics_endpoint(prometheus), Arc::default());
    server::serve(listener, application, pending(), options).await
}

/// Prepares a store that answers: adds the first administrator.
struct StorePreparation {
    services: Arc<Services>,
    admin: AdminConfig,
    /// Set after the store could not be prepared, until it is: only the first failure is logged.
    preparation_failed: bool,
}

impl StorePreparation {
    /// Prepares the store, and records that it is prepared.
    async fn prepare(&mut self) {
        match bootstrap(&self.services.users, &self.admin).await {
            Ok(added_user) => {
                if mem::take(&mut self.preparation_failed) {
                    tracing::info!("the store is prepared");
                }
                self.services.readiness.start(added_user);
            }
            Err(error) => {
                if !mem::replace(&mut self.preparation_failed, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot prepare the store");
                }
            }
        }
    }
}

/// Adds the first administrator to a store without users, and returns whether it did.
async fn bootstrap(users: &Users, admin: &AdminConfig) -> Result<bool, UserError> {
    match &admin.password {
        AdminPassword::Variable(password) | AdminPassword::File(password, _) | AdminPassword::Generated(password) => {
            match users.bootstrap(admin.name.clone(), password.clone()).await? {
                Bootstrap::Created => {
                    tracing::info!(name = %admin.name, "added the first administrator");
                    return Ok(true);
                }
                Bootstrap::Exists { as_given: true } => {}
                Bootstrap::Exists { as_given: false } => tracing::info!(
                    name = %admin.name,
                    "MAYFLY_ADMIN_PASSWORD changed nothing: there are users, and it is not the password of this one \
                     (any more). `mayfly user password NAME` changes one"
                ),
            }
        }
        AdminPassword::Missing => {
            if !users.has_any().await? {
                tracing::warn!(
                    "there are no users: `mayfly user add --role admin NAME` adds one, or set \
                     MAYFLY_ADMIN_PASSWORD_FILE and start again"
                );
            }
        }
    }
    Ok(false)
}

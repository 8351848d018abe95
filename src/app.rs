//! The composition root: puts the parts together and runs them.

use std::{future::pending, io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{interval, sleep},
};

use crate::{
    config::{AdminConfig, AdminPassword, Config},
    http::{self, Services},
    service::{
        Clock,
        login::Login,
        readiness::Readiness,
        signing_keys::WATCH_INTERVAL,
        tokens::Tokens,
        users::{Bootstrap, Users},
    },
    store::{StoreError, leased::LeasedStore},
    telemetry::metrics::Prometheus,
};

/// How often a store that is not there yet is asked again.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Runs the service on `listener` until `shutdown` completes and the requests in flight are done.
pub async fn serve(config: Config, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let clock = Clock::system();
    let store = Arc::new(LeasedStore::new(config.store.open(), config.lease));
    let keys = Arc::new(config.keys);
    let users = Users::new(Arc::clone(&store) as _, clock.clone());
    let services = Arc::new(Services {
        tokens: Tokens::new(Arc::clone(&store), Arc::clone(&keys), clock, config.rules.clone()),
        login: Login::new(Arc::clone(&store) as _),
        readiness: Readiness::new(Arc::clone(&store) as _),
        keys,
        issuer: config.rules.issuer,
    });
    let keeping_leases = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.keep_leases().await }
    });
    let following_keys = tokio::spawn(follow_keys(Arc::clone(&services), signal(SignalKind::hangup())?));

    // A store that is there is prepared before the first request; one that is not keeps nobody waiting.
    let first_contact = match bootstrap(&users, &config.admin).await {
        Ok(()) => {
            services.readiness.started();
            None
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the store");
            let services = Arc::clone(&services);
            Some(tokio::spawn(async move {
                while bootstrap(&users, &config.admin).await.is_err() {
                    sleep(STORE_RETRY).await;
                }
                tracing::info!("the store answers");
                services.readiness.started();
            }))
        }
    };
    let stopping = async {
        shutdown.await;
        services.readiness.stopping();
    };
    let endpoint = http::endpoint(Arc::clone(&services), config.browser);
    let result = http::server::serve(listener, endpoint, stopping, config.shutdown_grace).await;
    following_keys.abort();
    keeping_leases.abort();
    if let Some(task) = first_contact {
        task.abort();
    }
    result
}

/// Keeps the signing keys those of their file: a new one is found by looking at it, and SIGHUP has it read at once.
async fn follow_keys(services: Arc<Services>, mut hangup: Signal) {
    let mut look = interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            _ = look.tick() => services.tokens.follow_keys(),
            _ = hangup.recv() => services.tokens.reload_keys(),
        };
    }
}

/// Serves `/metrics` on `listener` until the future is dropped: what goes on during a shutdown is measured, too.
pub async fn serve_metrics(listener: TcpListener, prometheus: Prometheus) -> io::Result<()> {
    http::server::serve(listener, http::metrics_endpoint(prometheus), pending(), Duration::ZERO).await
}

/// Adds the first administrator to a store without users.
async fn bootstrap(users: &Users, admin: &AdminConfig) -> Result<(), StoreError> {
    match &admin.password {
        AdminPassword::Variable(password) | AdminPassword::File(password, _) | AdminPassword::Generated(password) => {
            match users.bootstrap(admin.name.clone(), password.clone()).await? {
                Bootstrap::Created => tracing::info!(name = %admin.name, "added the first administrator"),
                Bootstrap::Exists => tracing::debug!("there are users; no administrator was added"),
            }
        }
        AdminPassword::Missing => {
            if !users.any().await? {
                tracing::warn!(
                    "there are no users: `mayfly user add --role admin NAME` adds one, or set MAYFLY_ADMIN_PASSWORD_FILE \
                     and start again"
                );
            }
        }
    }
    Ok(())
}

//! Whether requests can be sent here.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    store::{Health, Warning, leased::LeasedStore},
    telemetry::metrics::Counter,
};

/// Ready from the first contact with the store on, until a shutdown begins, the store was away for too long, or it is set
/// up so that the promises do not hold.
///
/// A short outage leaves it ready: all replicas notice it at the same time, and a load balancer without any replica
/// could answer nothing, where each of them answers 503 with `Retry-After`.
pub struct Readiness {
    store: Arc<LeasedStore>,
    patience: Duration,
    started: AtomicBool,
    stopping: AtomicBool,
    seen: Mutex<Seen>,
}

/// What the last checks of the store showed.
#[derive(Default)]
struct Seen {
    away_since: Option<Instant>,
    fault: Option<Warning>,
    warnings: Vec<Warning>,
    /// Set once the store held users, until it came back without any.
    held_users: bool,
}

impl Readiness {
    /// Not ready yet. Once it is, the store may be away for `patience`.
    pub fn new(store: Arc<LeasedStore>, patience: Duration) -> Self {
        Self {
            store,
            patience,
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// The store was reached, and all that needs doing once is done; `added_user`: it holds a user since.
    pub fn start(&self, added_user: bool) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).held_users |= added_user;
        self.started.store(true, Ordering::Release);
    }

    /// A shutdown begins.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether a shutdown has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks the store how it is, and logs what is new about it. To be called about every second, whether anybody wants
    /// to know or not: so asking for readiness costs nothing. Returns whether the store answers and nothing is wrong with it.
    ///
    /// A store that lost everything is to be prepared again as at the start, until [`Self::start`] is called.
    pub async fn check_store(&self) -> bool {
        let result = self.store.check().await;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(health) => {
                if let Some(since) = seen.away_since.take() {
                    tracing::info!(after_ms = since.elapsed().as_millis(), "the store answers");
                }
                let is_fit = health.fault.is_none();
                self.note(&mut seen, health);
                is_fit
            }
            Err(error) => {
                if seen.away_since.is_none() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the store does not answer");
                    seen.away_since = Some(Instant::now());
                }
                false
            }
        }
    }

    /// Logs what is new, and keeps what is to be said.
    fn note(&self, seen: &mut Seen, Health { fault, warnings, holds_users }: Health) {
        let (old_fault, old_warnings) =
            (mem::replace(&mut seen.fault, fault), mem::replace(&mut seen.warnings, warnings));
        if let Some(fault) = fault.filter(|_| old_fault != fault) {
            tracing::error!("{fault}");
        }
        for warning in seen.warnings.iter().filter(|warning| !old_warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let ended = old_fault.filter(|_| old_fault != fault).into_iter();
        for ended in ended.chain(old_warnings.into_iter().filter(|warning| !seen.warnings.contains(warning))) {
            tracing::info!("no longer: {ended}");
        }
        let Some(holds_users) = holds_users else { return };
        if mem::replace(&mut seen.held_users, holds_users) && !holds_users {
            tracing::error!("the store came back empty: all users and tokens are gone");
            Counter::StoreEmptied.add(1);
            self.started.store(false, Ordering::Release);
        }
    }

    /// Whether requests can be sent here, with what the operator of the store should know; or why not.
    pub fn check(&self) -> Result<Vec<Warning>, &'static str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return Err("The service is shutting down.");
        }
        match (seen.away_since, seen.fault) {
            (Some(since), _) if !self.is_started() || since.elapsed() >= self.patience => {
                Err("The token store does not answer.")
            }
            (_, Some(fault)) => Err(fault),
            _ if !self.is_started() => Err("The service is starting."),
            _ => Ok(seen.warnings.clone()),
        }
    }

    /// Whether the store was reached and prepared.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }
}

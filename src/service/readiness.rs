//! Whether requests can be sent here.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::store::{Store, Warning};

/// Ready from the first contact with the store on, until a shutdown begins or the store was away for too long.
///
/// A short outage leaves it ready: all replicas notice it at the same time, and a load balancer without any replica
/// could answer nothing, where each of them answers 503 with `Retry-After`.
pub struct Readiness {
    store: Arc<dyn Store>,
    patience: Duration,
    started: AtomicBool,
    stopping: AtomicBool,
    seen: Mutex<Seen>,
}

/// What the last checks of the store showed.
#[derive(Default)]
struct Seen {
    away_since: Option<Instant>,
    warnings: Vec<Warning>,
}

impl Readiness {
    /// Not ready yet. Once it is, the store may be away for `patience`.
    pub fn new(store: Arc<dyn Store>, patience: Duration) -> Self {
        Self {
            store,
            patience,
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// The store was reached, and all that needs doing once is done.
    pub fn start(&self) {
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
    /// to know or not: so asking for readiness costs nothing. Returns whether the store answers.
    pub async fn check_store(&self) -> bool {
        let result = self.store.check().await;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(warnings) => {
                if let Some(since) = seen.away_since.take() {
                    tracing::info!(after_ms = since.elapsed().as_millis(), "the store answers");
                }
                let known = mem::replace(&mut seen.warnings, warnings);
                for warning in seen.warnings.iter().filter(|warning| !known.contains(warning)) {
                    tracing::warn!("{warning}");
                }
                true
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

    /// Whether requests can be sent here, with what the operator of the store should know; or why not.
    pub fn check(&self) -> Result<Vec<Warning>, &'static str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return Err("The service is shutting down.");
        }
        match seen.away_since {
            Some(since) if !self.is_started() || since.elapsed() >= self.patience => {
                Err("The token store does not answer.")
            }
            _ if !self.is_started() => Err("The service is starting."),
            _ => Ok(seen.warnings.clone()),
        }
    }

    /// Whether the store was reached.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }
}

//! Readiness: whether a load balancer should send requests to this replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use crate::{
    store::{Health, Warning, leased::LeasedStore},
    telemetry::metrics::Counter,
};

/// A replica is ready once it has prepared the store and until a shutdown begins, but not while the store is empty
/// again, has been unreachable for too long, or is set up so that the promises of the service do not hold.
///
/// A short outage leaves the replica ready: all replicas notice an outage at the same time, and a load balancer without
/// a ready replica answers nothing, where each replica would answer 503 with `Retry-After`.
pub struct Readiness {
    store: Arc<LeasedStore>,
    /// A store that has been unreachable for this long makes the replica unready.
    unready_after: Duration,
    /// Set once the store was prepared; cleared when the store comes back empty.
    started: AtomicBool,
    /// Set once the first attempt to prepare the store has ended.
    attempted: SetOnce<()>,
    /// Set once a shutdown began.
    stopping: AtomicBool,
    last_check: Mutex<LastCheck>,
}

/// The findings of the checks of the store so far.
#[derive(Default)]
struct LastCheck {
    /// Set while the store does not answer.
    unreachable_since: Option<Instant>,
    /// The store's last answer; without faults before the first.
    health: Health,
    /// Set once the store held users; cleared when it comes back without any.
    held_users: bool,
}

impl Readiness {
    /// A replica that is not ready yet. Once it is, it stays ready while the store is unreachable for less than
    /// `unready_after`.
    pub fn new(store: Arc<LeasedStore>, unready_after: Duration) -> Self {
        Self {
            store,
            unready_after,
            started: AtomicBool::new(false),
            attempted: SetOnce::new(),
            stopping: AtomicBool::new(false),
            last_check: Mutex::default(),
        }
    }

    /// Records that the store was prepared, and whether that added a user. This ends the first attempt, too.
    pub fn start(&self, added_user: bool) {
        self.last_check.lock().held_users |= added_user;
        self.started.store(true, Ordering::Release);
        self.attempt_ended();
    }

    /// Records that an attempt to prepare the store ended, even without success.
    pub fn attempt_ended(&self) {
        // Set already by an earlier attempt.
        let _ = self.attempted.set(());
    }

    /// Waits until the first attempt to prepare the store has ended. A login waits: the first administrator may be
    /// about to be added.
    pub async fn first_attempt(&self) {
        self.attempted.wait().await;
    }

    /// Whether the store was prepared, and has not come back empty since.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Records that a shutdown begins.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether a shutdown has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks the store for its health, logs what changed, and returns whether the store answers and has no fault. Call
    /// it about once a second: [`Self::status`] reports the last answer, without a round trip.
    ///
    /// A store that lost its users makes the replica unready until the store is prepared again ([`Self::start`]).
    pub async fn check_store(&self) -> bool {
        let result = self.store.health().await;
        let mut last = self.last_check.lock();
        match result {
            Ok(health) => {
                if let Some(since) = last.unreachable_since.take() {
                    tracing::info!(after_ms = since.elapsed().as_millis(), "the store answers");
                }
                log_changes(&last.health, &health);
                if health.had_admin == Some(false) && last.held_users {
                    tracing::error!("the store came back empty: all users and tokens are gone");
                    Counter::StoreEmptied.add(1);
                    self.started.store(false, Ordering::Release);
                }
                last.held_users = health.had_admin.unwrap_or(last.held_users);
                last.health = health;
                last.health.fault.is_none()
            }
            Err(error) => {
                if last.unreachable_since.is_none() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the store does not answer");
                    last.unreachable_since = Some(Instant::now());
                }
                false
            }
        }
    }

    /// The warnings about the store, if the replica is ready; as the error, the reason why it is not.
    pub fn status(&self) -> Result<Vec<Warning>, &'static str> {
        if self.is_stopping() {
            return Err("The service is shutting down.");
        }
        let last = self.last_check.lock();
        match (last.unreachable_since, last.health.fault) {
            (Some(since), _) if !self.is_started() || since.elapsed() >= self.unready_after => {
                Err("The token store does not answer.")
            }
            (_, Some(fault)) => Err(fault),
            _ if !self.is_started() => Err("The service is starting."),
            _ => Ok(last.health.warnings.clone()),
        }
    }
}

/// Logs each fault and warning once when it appears, and once when it is gone.
fn log_changes(old: &Health, new: &Health) {
    if let Some(fault) = new.fault.filter(|_| new.fault != old.fault) {
        tracing::error!("{fault}");
    }
    for warning in new.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
        tracing::warn!("{warning}");
    }
    let fault = old.fault.iter().filter(|_| new.fault != old.fault);
    for gone in fault.chain(old.warnings.iter().filter(|warning| !new.warnings.contains(warning))) {
        tracing::info!("no longer: {gone}");
    }
}

//! Whether requests can be sent here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::store::Store;

/// Ready from the first contact with the store on, whenever the store answers, until a shutdown begins.
pub struct Readiness {
    store: Arc<dyn Store>,
    started: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// Not ready yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, started: AtomicBool::new(false), stopping: AtomicBool::new(false) }
    }

    /// The store was reached, and all that needs doing once is done.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// A shutdown begins.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether requests can be sent here, and why not.
    pub async fn check(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Err("The service is shutting down.")
        } else if self.store.ping().await.is_err() {
            Err("The token store does not answer.")
        } else if !self.started.load(Ordering::Acquire) {
            Err("The service is starting.")
        } else {
            Ok(())
        }
    }
}

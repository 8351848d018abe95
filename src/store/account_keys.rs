//! The Idempotency-Keys of one account in the embedded store.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::domain::{
    idempotency::{IdempotencyKey, Issuance, MAX_KEYS},
    life::Life,
};

/// The records of keys, and when each expires: at most [`MAX_KEYS`].
#[derive(Debug, Default)]
pub(super) struct AccountKeys(HashMap<IdempotencyKey, (Issuance, Instant)>);

impl AccountKeys {
    /// The record of this key, unless it has expired by `now`.
    pub(super) fn find(&self, key: &IdempotencyKey, now: Instant) -> Option<&Issuance> {
        self.0.get(key).filter(|(_, expires_at)| *expires_at > now).map(|(issuance, _)| issuance)
    }

    /// Whether one more key can be kept. Drops those that have expired by `now`.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.0.retain(|_, (_, expires_at)| *expires_at > now);
        self.0.len() < MAX_KEYS
    }

    /// Keeps the record of a key whose token has this life.
    pub(super) fn insert(&mut self, key: &IdempotencyKey, issuance: &Issuance, life: Life, now: Instant) {
        self.0.insert(key.clone(), (issuance.clone(), now + Issuance::retention(life)));
    }
}

//! Tell verifiers which tokens have changed: libraries in the services that receive tokens, which hold leases of their
//! own.

use std::sync::Arc;

use super::signing_keys::SigningKeys;
use crate::{
    domain::user::User,
    store::leased::{ChangesSince, LeasedStore},
    telemetry::{
        events::ChangesAnswer,
        metrics::{self, Counter},
    },
};

/// The use case of verifiers.
pub struct Verifiers {
    store: Arc<LeasedStore>,
    keys: Arc<SigningKeys>,
}

/// Why a verifier is told of no changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// The user has no role that may introspect tokens of other users.
    #[error("the user may not introspect")]
    Forbidden,
    /// This replica has no watch: Redis does not answer, or leases are off.
    #[error("there is no watch for changes")]
    NoWatch,
}

impl Verifiers {
    /// Reports the changes in `store`, and resets verifiers when `keys` change.
    pub fn new(store: Arc<LeasedStore>, keys: Arc<SigningKeys>) -> Self {
        Self { store, keys }
    }

    /// The tokens that have changed since this cursor, from memory. A text that is no cursor of this replica is
    /// answered with a reset.
    ///
    /// Nothing else has to be told. What introspection answers depends on the token's key in Redis, the signing keys,
    /// and the caller. All that ends a token deletes its key: a user who is disabled or removed, or whose password
    /// change revokes tokens, loses the keys of all tokens. Other signing keys are a reset. A caller who loses the
    /// right to introspect gets an error here, so that nothing is renewed.
    pub fn changes(&self, caller: &User, cursor: Option<&str>) -> Result<ChangesSince, ChangesError> {
        if !caller.role.may_introspect() {
            return Err(ChangesError::Forbidden);
        }
        let changes = self.store.changes_since(cursor, self.keys.current_keys().generation);
        metrics::changes_answered(match (&changes, cursor) {
            (None, _) => ChangesAnswer::Unavailable,
            (Some(_), None) => ChangesAnswer::First,
            (Some(ChangesSince { tokens: None, .. }), _) => ChangesAnswer::Reset,
            (Some(ChangesSince { tokens: Some(tokens), .. }), _) => {
                Counter::ChangesTold.add(tokens.len() as u64);
                ChangesAnswer::Continued
            }
        });
        changes.ok_or(ChangesError::NoWatch)
    }
}

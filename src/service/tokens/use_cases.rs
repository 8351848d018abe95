//! What the use cases of tokens share; inspect and list tokens.

use std::sync::Arc;

use crate::{
    domain::{
        life::Life,
        listing::{Listing, PageRequest},
        token::{InspectedToken, TokenId, TokenPolicy},
        user::UserName,
    },
    service::{Caller, Clock, last_used::LastUsed, signing_keys::SigningKeys},
    store::{StoreError, leased::LeasedStore},
    telemetry::audit::{Outcome, Unconfirmed},
};

/// The use cases of tokens.
pub struct Tokens {
    pub(super) store: Arc<LeasedStore>,
    pub(super) keys: Arc<SigningKeys>,
    /// Dates new tokens, and tells whether a token's `exp` has passed.
    pub(super) clock: Clock,
    pub(super) policy: TokenPolicy,
    pub(super) last_used: LastUsed,
}

impl Tokens {
    /// Keeps tokens in `store` and signs them with `keys`.
    pub fn new(store: Arc<LeasedStore>, keys: Arc<SigningKeys>, clock: Clock, policy: TokenPolicy) -> Self {
        let last_used = LastUsed::new(Arc::clone(&store));
        Self { store, keys, clock, policy, last_used }
    }

    /// The uses of tokens that have to be sent to the store.
    pub fn last_used(&self) -> &LastUsed {
        &self.last_used
    }

    /// The maximum life of a token of this caller.
    pub fn max_life(&self, caller: &Caller) -> Life {
        caller.limits.max_life.unwrap_or(self.policy.max_life).min(self.policy.max_life)
    }

    /// The maximum number of live tokens of each user.
    pub fn quota(&self) -> usize {
        self.policy.quota
    }

    /// Finds a live token of this user.
    pub async fn inspect(&self, owner: &UserName, id: TokenId) -> Result<Option<InspectedToken>, StoreError> {
        self.store.inspect_token(owner, id).await
    }

    /// Lists a page of this user's live tokens. `None`: `page.after` is not a live token.
    pub async fn list(
        &self,
        owner: &UserName,
        page: PageRequest,
    ) -> Result<Option<Listing<InspectedToken>>, StoreError> {
        self.store.list_tokens(owner, page).await
    }
}

/// The outcome for the audit event of a change; `None`: nothing changed, so that no event is written.
pub(super) fn audit_outcome<T>(
    change: &Result<T, StoreError>,
    is_change: impl FnOnce(&T) -> bool,
) -> Option<Outcome<&T>> {
    match change {
        Ok(done) => is_change(done).then_some(Ok(done)),
        Err(error) => error.is_unconfirmed().then_some(Err(Unconfirmed)),
    }
}

//! Revoke tokens: on every replica, before the answer.

use std::{collections::HashSet, sync::Arc};

use super::{
    use_cases::{Tokens, audit_outcome},
    verify::VerifyError,
};
use crate::{
    domain::{
        claims::Claims,
        token::{TokenDigest, TokenId},
        user::UserName,
    },
    service::{Actor, run_to_completion},
    store::StoreError,
    telemetry::audit,
};

impl Tokens {
    /// Revokes a token on every replica before it returns. `false`: the user has no such live token.
    pub async fn revoke(&self, by: Actor, owner: &UserName, id: TokenId) -> Result<bool, StoreError> {
        if by.is_new_user() {
            return Ok(false);
        }
        let (store, owner) = (Arc::clone(&self.store), owner.clone());
        let revocation = async move {
            let by = by.account_authority(&owner);
            let revoked = store.write(|store| store.revoke_token(&by, &owner, id)).await;
            if let Some(outcome) = audit_outcome(&revoked, |revoked| *revoked) {
                audit::token_revoked(&owner, id, &outcome);
            }
            revoked
        };
        run_to_completion(revocation).await
    }

    /// Revokes all tokens of this user on every replica before it returns, and returns their number.
    pub async fn revoke_all(&self, by: Actor, owner: &UserName) -> Result<u64, StoreError> {
        if by.is_new_user() {
            return Ok(0);
        }
        let (store, owner) = (Arc::clone(&self.store), owner.clone());
        let revocation = async move {
            let by = by.account_authority(&owner);
            let revoked = store.write(|store| store.revoke_tokens(&by, &owner)).await;
            if let Some(outcome) = audit_outcome(&revoked, |_| true) {
                audit::tokens_revoked(&owner, outcome.copied());
            }
            revoked
        };
        run_to_completion(revocation).await
    }

    /// Revokes these tokens of this user on every replica before it returns, and returns the ids of those that were
    /// live. After an error, some may be revoked.
    pub async fn revoke_listed(
        &self,
        by: Actor,
        owner: &UserName,
        ids: HashSet<TokenId>,
    ) -> Result<HashSet<TokenId>, StoreError> {
        if by.is_new_user() {
            return Ok(HashSet::new());
        }
        let (store, owner) = (Arc::clone(&self.store), owner.clone());
        let revocation = async move {
            let by = by.account_authority(&owner);
            let revoked = store.write(|store| store.revoke_listed(&by, &owner, &ids)).await;
            if let Some(outcome) = audit_outcome(&revoked, |revoked| !revoked.is_empty()) {
                let (named, outcome) = outcome.map_or_else(|error| (&ids, Err(error)), |revoked| (revoked, Ok(())));
                audit::listed_tokens_revoked(&owner, &named.iter().copied().collect::<Vec<_>>(), outcome);
            }
            revoked
        };
        run_to_completion(revocation).await
    }

    /// Revokes the token of this JWT on every replica before it returns.
    ///
    /// The store has to have the digest of the JWT. No key has to verify it, as another replica may have keys that this
    /// replica lacks. A JWT that is not verified here is looked up first: if the store does not have it, its write
    /// waits for the one permit that all such JWTs share, so that they cannot take the connections of other writes.
    pub async fn revoke_presented(&self, jwt: &str) -> Result<(), VerifyError> {
        let claims = Claims::unverified(jwt);
        let (owner, id) = claims.as_ref().and_then(Claims::owner_and_id).ok_or(VerifyError::Invalid)?;
        let digest = TokenDigest::of(jwt);
        let signed = match self.cached_token(&digest) {
            Some(cached) => Some(cached.value.signed),
            None => self.verify_signature(jwt).await.ok(),
        };
        let is_ours = signed.is_some() || {
            let live = self.store.find_token(&owner, id).await?;
            live.is_some_and(|live| live.token.digest == digest)
        };
        let store = Arc::clone(&self.store);
        let revocation = async move {
            let revoked = store.write(|store| store.revoke_presented(&owner, id, digest, is_ours)).await;
            if let Some(outcome) = audit_outcome(&revoked, |revoked| *revoked) {
                audit::token_revoked(&owner, id, &outcome);
            }
            revoked
        };
        if run_to_completion(revocation).await? {
            return Ok(());
        }
        Err(signed.map_or(VerifyError::Revoked, |signed| self.why_not_stored(&signed)))
    }
}

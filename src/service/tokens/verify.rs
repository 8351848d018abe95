//! Verify tokens.

use std::{net::IpAddr, sync::Arc};

use super::use_cases::Tokens;
use crate::{
    domain::{
        claims::MAX_JWT_BYTES,
        demands::{Demands, Unmet},
        keys::InvalidToken,
        token::{InspectedToken, SharedToken, SignedToken, TokenDigest, UnsentUse, Validity},
        user::User,
    },
    service::Clock,
    store::{
        StoreError,
        leased::{ActiveToken, Cached},
    },
    telemetry::{events::Verification, metrics},
};

/// Why a JWT is not accepted. Clients are told only [`Self::Expired`] apart, which the JWT says itself; metrics count
/// each.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The JWT is malformed, no key of this service verifies it, or it has another issuer.
    #[error("not a token of this service")]
    Invalid,
    /// A key of this service verifies it, and its `exp` has passed.
    #[error("expired")]
    Expired,
    /// The store has no such token, and its `exp` has not passed: it was revoked, rotated, or never issued.
    #[error("not a live token")]
    Revoked,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token is not accepted for a request.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The JWT is not accepted.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The token is live, and does not meet a demand, or may not be used from there.
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

impl Tokens {
    /// Verifies this JWT, and reads its token from the store: with its description and the rest of its life.
    pub async fn inspect_presented(&self, jwt: &str) -> Result<InspectedToken, VerifyError> {
        let digest = TokenDigest::of(jwt);
        let signed = self.signed_token(jwt, self.cached_token(&digest)).await?;
        let found = self.store.inspect_token(&signed.owner, signed.id).await?;
        found.filter(|found| found.token.digest == digest).ok_or_else(|| self.why_not_stored(&signed))
    }

    /// Finds the token of this JWT, if a key verifies it, it has not expired, and the store has a live token with its
    /// digest: a JWT that was forged with a stolen key is not in the store. Counts the result in the metrics.
    ///
    /// While the token is cached and its lease holds ([`crate::store::leased`]), this costs neither a signature check
    /// nor a read; once the lease has lapsed, only the read.
    pub async fn verify(&self, jwt: &str) -> Result<ActiveToken, VerifyError> {
        let result = self.find_active_token(jwt).await;
        metrics::token_verified(match &result {
            Ok(_) => Verification::Active,
            Err(VerifyError::Expired) => Verification::Expired,
            Err(VerifyError::Revoked) => Verification::Revoked,
            Err(VerifyError::Invalid) => Verification::Invalid,
            Err(VerifyError::Store(_)) => Verification::Unavailable,
        });
        result
    }

    /// [`Self::verify`], and checks that the token meets these demands and may be used from the address of the client
    /// ([`Demands::check`]). Then records its use.
    pub async fn accept(
        &self,
        jwt: &str,
        demands: &Demands<'_>,
        client: impl FnOnce() -> Option<IpAddr>,
    ) -> Result<ActiveToken, AcceptError> {
        let token = self.verify(jwt).await?;
        demands.check(&token.attributes, client)?;
        self.record_use(&token);
        Ok(token)
    }

    /// Records that a service accepts this token.
    pub fn record_use(&self, token: &ActiveToken) {
        self.last_used.record(&token.signed, self.clock.unix_seconds());
    }

    /// Whole seconds until a token expires in the store or by its `exp`, whichever is first. For `exp`, the later of
    /// the store's time and this machine's counts, as the store's clock may have been set back.
    pub fn expires_in(&self, token: &ActiveToken) -> u64 {
        let now = self.clock.unix_seconds().max(Clock::system().unix_seconds());
        token.remaining().as_secs().min(token.signed.validity.expires_at().saturating_sub(now))
    }

    /// A live token, its `exp` no later than its end; `None` if it is not live, or if `user` neither owns it nor has a
    /// role that may introspect.
    pub async fn introspect(&self, user: &User, jwt: &str) -> Result<Option<ActiveToken>, StoreError> {
        let mut token = match self.verify(jwt).await {
            Ok(token) => token,
            Err(VerifyError::Store(error)) => return Err(error),
            Err(VerifyError::Invalid | VerifyError::Expired | VerifyError::Revoked) => return Ok(None),
        };
        if *token.signed.owner != user.name && !user.role.may_introspect() {
            return Ok(None);
        }
        self.record_use(&token);
        // A rotated token expires earlier than its `exp`.
        let ends_at = self.clock.unix_seconds() + token.remaining().as_secs() + 1;
        let signed = SharedToken::make_mut(&mut token.signed);
        signed.validity = signed.validity.until(ends_at);
        Ok(Some(token))
    }

    /// [`Self::verify`], without the metrics.
    async fn find_active_token(&self, jwt: &str) -> Result<ActiveToken, VerifyError> {
        if jwt.len() > MAX_JWT_BYTES {
            return Err(VerifyError::Invalid);
        }
        let digest = TokenDigest::of(jwt);
        match self.cached_token(&digest) {
            Some(Cached { value, confirmed_at: Some(_) }) => {
                self.check_expiry(&value.signed)?;
                Ok(value)
            }
            // Boxed, so that the future of a cache hit does not have the size of the future of a read.
            cached => {
                let read = async {
                    let signed = self.signed_token(jwt, cached).await?;
                    let active = self.store.find_active_token(digest, SharedToken::clone(&signed)).await?;
                    active.ok_or_else(|| self.why_not_stored(&signed))
                };
                Box::pin(read).await
            }
        }
    }

    /// The cached token of this JWT, if the keys in force verified it.
    pub(super) fn cached_token(&self, digest: &TokenDigest) -> Option<Cached<ActiveToken>> {
        let cached = self.store.cached_token(digest)?;
        (cached.value.signed.key_generation == self.keys.current_keys().generation).then_some(cached)
    }

    /// The content of a JWT, from its cached token or after a check of its signature. An error if it has expired.
    async fn signed_token(&self, jwt: &str, cached: Option<Cached<ActiveToken>>) -> Result<SharedToken, VerifyError> {
        let signed = match cached {
            Some(cached) => cached.value.signed,
            None => self.verify_signature(jwt).await?,
        };
        self.check_expiry(&signed)?;
        Ok(signed)
    }

    /// Rejects a token whose `exp` has passed. An `iat` in the future is accepted: the store's clock may have been set
    /// back.
    fn check_expiry(&self, signed: &SignedToken) -> Result<(), VerifyError> {
        if signed.is_expired(self.clock.unix_seconds()) { Err(VerifyError::Expired) } else { Ok(()) }
    }

    /// Why the store does not have a token. In the second `exp`, which [`Self::check_expiry`] still accepts, it has
    /// expired in the store.
    pub(super) fn why_not_stored(&self, signed: &SignedToken) -> VerifyError {
        if signed.validity.expires_at() <= self.clock.unix_seconds() {
            VerifyError::Expired
        } else {
            VerifyError::Revoked
        }
    }

    /// Checks the signature and the issuer of a JWT, and returns its content. Reads the key file again if a key is
    /// unknown.
    pub(super) async fn verify_signature(&self, jwt: &str) -> Result<SharedToken, VerifyError> {
        let mut keys = Arc::clone(&self.keys.current_keys());
        let mut verified = keys.set.verify(jwt);
        // Another replica may have read a new key, and signed with it, before this replica read it.
        if verified == Err(InvalidToken::UnknownKey) && self.keys.changed_since(keys.generation).await {
            keys = Arc::clone(&self.keys.current_keys());
            verified = keys.set.verify(jwt);
        }
        let claims = verified.ok().filter(|claims| claims.iss == self.policy.issuer).ok_or(VerifyError::Invalid)?;
        let (owner, id) = claims.owner_and_id().ok_or(VerifyError::Invalid)?;
        Ok(SharedToken::new(SignedToken {
            owner: self.store.shared_owner(owner),
            id,
            validity: Validity::new(claims.iat, claims.exp),
            key_generation: keys.generation,
            unsent_use: UnsentUse::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use secrecy::{ExposeSecret, SecretString};

    use super::*;
    use crate::{
        domain::{
            attributes::Attributes,
            jwk::Algorithm,
            key_rotation::generate,
            keys::KeySet,
            life::Life,
            password::{HashCost, PasswordHash},
            token::TokenPolicy,
            user::Role,
        },
        service::signing_keys::SigningKeys,
        store::{
            Authority,
            leased::{LEASE, LeasedStore},
            memory::MemoryStore,
        },
    };

    const NOW: u64 = 1_662_720_135;

    /// A token with a life of an hour from `NOW` on, and the time that the clock shows.
    async fn issued(lease: Duration) -> (Tokens, SecretString, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(NOW));
        let clock = {
            let now = Arc::clone(&now);
            Clock::new(move || Duration::from_secs(now.load(Ordering::Relaxed)))
        };
        let user = User::new("alice".parse().unwrap(), Role::User, PasswordHash::dummy(HashCost::default()), 0);
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), lease));
        assert!(store.create_user(&Authority::Until(tokio::time::Instant::now() + LEASE), &user).await.unwrap());
        let keys = SigningKeys::fixed(KeySet::parse(generate(Algorithm::Hs256, 0).expose_secret()).unwrap());
        let policy = TokenPolicy { max_life: Life::parse("1h").unwrap(), quota: 1, issuer: None };
        let tokens = Tokens::new(store, Arc::new(keys), clock, policy);
        let jwt = tokens.issue(&user.into(), "x", "1h", Attributes::default(), None).await.unwrap().jwt;
        (tokens, jwt, now)
    }

    #[tokio::test]
    async fn a_cached_token_expires_by_the_clock() {
        for lease in [Duration::ZERO, LEASE] {
            let (tokens, jwt, now) = issued(lease).await;
            for (seconds, is_accepted) in [(0, true), (3_600, true), (3_601, false)] {
                now.store(NOW + seconds, Ordering::Relaxed);
                let result = tokens.verify(jwt.expose_secret()).await;
                assert_eq!(result.is_ok(), is_accepted, "{result:?}");
                assert!(is_accepted || matches!(result, Err(VerifyError::Expired)), "{result:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_signature_is_cached_for_exactly_these_bytes() {
        for lease in [Duration::ZERO, LEASE] {
            let (tokens, jwt, _) = issued(lease).await;
            tokens.verify(jwt.expose_secret()).await.unwrap();
            let cached = tokens.cached_token(&TokenDigest::of(jwt.expose_secret())).unwrap();
            assert_eq!(cached.is_leased(), !lease.is_zero());
            let (message, signature) = jwt.expose_secret().rsplit_once('.').unwrap();
            for signature in ["", &signature[1..], &"A".repeat(signature.len())] {
                let result = tokens.verify(&format!("{message}.{signature}")).await;
                // Without the signature check, the store would answer that it is revoked.
                assert!(matches!(result, Err(VerifyError::Invalid)), "{result:?}");
            }
        }
    }
}

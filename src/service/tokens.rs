//! Issue, inspect, list, rotate, revoke and verify tokens.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

use super::{
    Actor, Caller, Clock, ScopeNotAllowed,
    idempotency::{IdempotencyError, sign_again},
    last_used::LastUsed,
    run_to_completion,
    signing_keys::SigningKeys,
};
use crate::{
    domain::{
        attributes::{Attributes, SharedAttributes},
        claims::{Claims, MAX_JWT_BYTES},
        demands::{Demands, Unmet},
        duration::{self, DurationError},
        idempotency::{self, IdempotencyKey, Issuance, RequestFingerprint},
        keys::InvalidToken,
        life::{Life, LifeError},
        listing::{Listing, PageRequest},
        token::{
            Description, DescriptionError, InspectedToken, SharedToken, SignedToken, Token, TokenDigest, TokenId,
            TokenPolicy, UnsentUse, Validity,
        },
        user::{User, UserName},
    },
    store::{
        Creation, NewToken, Repetition, Rotation, StoreError,
        leased::{ActiveToken, Cached, LeasedStore},
    },
    telemetry::{
        audit::{self, Outcome, Unconfirmed},
        events::Verification,
        metrics,
    },
};

/// The use cases of tokens.
pub struct Tokens {
    store: Arc<LeasedStore>,
    keys: Arc<SigningKeys>,
    /// Dates new tokens, and tells whether a token's `exp` has passed.
    clock: Clock,
    policy: TokenPolicy,
    last_used: LastUsed,
}

/// A new token with its JWT, which this service keeps nowhere.
pub struct IssuedToken {
    /// The JWT.
    pub jwt: SecretString,
    /// The token, with the digest of the JWT.
    pub token: Token,
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The life is malformed or too long.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// The description is malformed.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The JWT would be longer than the service accepts.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The login may not issue tokens with one of the scopes.
    #[error(transparent)]
    Scope(#[from] ScopeNotAllowed),
    /// The owner has as many live tokens as the quota allows: this number.
    #[error("the quota of {0} live tokens is reached")]
    QuotaReached(usize),
    /// The Idempotency-Key was used before, or is one too many.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A JWT of this number of bytes would be longer than [`MAX_JWT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the JWT would have {0} bytes, and {MAX_JWT_BYTES} are allowed: shorten the description or the lists")]
pub struct TooLong(pub usize);

/// Why a token was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The overlap is not a duration.
    #[error(transparent)]
    Overlap(#[from] DurationError),
    /// The overlap is not a whole number of seconds.
    #[error("must be whole seconds")]
    FractionOfOverlap,
    /// The life of the token is longer than this login may issue.
    #[error(transparent)]
    Life(LifeError),
    /// This login may not issue tokens with one of the token's scopes.
    #[error(transparent)]
    Scope(#[from] ScopeNotAllowed),
    /// The user has no such live token.
    #[error("no such token")]
    NoSuchToken,
    /// The token was rotated already, and this is its successor; `None`: it was rotated during this call.
    #[error("the token has a successor")]
    AlreadyRotated(Option<TokenId>),
    /// The successor's JWT would be longer than the service accepts, as the issuer or the key has changed.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The owner has as many live tokens as the quota allows, this number, and the overlap needs one more.
    #[error("the quota of {0} live tokens is reached")]
    QuotaReached(usize),
    /// The Idempotency-Key was used before, or is one too many.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

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

    /// Issues a token. Its life begins when the store creates it: as a rule in the second of its `iat` or the next. A
    /// repetition with the same `key` returns the same token and JWT.
    pub async fn issue(
        &self,
        owner: &Caller,
        description: &str,
        life: &str,
        attributes: Attributes,
        key: Option<IdempotencyKey>,
    ) -> Result<IssuedToken, IssueError> {
        let description: Description = description.parse()?;
        let life = Life::parse_up_to(life, self.max_life(owner))?;
        owner.limits.check_scopes(&attributes.scopes)?;
        let request = RequestFingerprint::of(&("issue", description.as_str(), life.seconds(), attributes.entries()));
        let (issued, issuance) = self.sign_token(&owner.name, description, life, attributes.into(), request.clone())?;
        let (store, caller, quota) = (Arc::clone(&self.store), owner.clone(), self.policy.quota);
        let creation = async move {
            let idempotency = key.as_ref().map(|key| (key, &issuance));
            let (name, login) = (&caller.name, caller.login_epoch);
            let new = NewToken { owner: name, login, token: &issued.token, quota, idempotency };
            let created = caller.create_token(&store, new).await;
            if let Some(outcome) = audit_outcome(&created, |creation| *creation == Creation::Created) {
                audit::token_issued(name, &issued.token, &outcome);
            }
            created.map(|created| (created, issued))
        };
        match run_to_completion(creation).await? {
            (Creation::Created, issued) => Ok(issued),
            (Creation::Repeated(repetition), _) => Ok(self.repeat(&owner.name, &request, repetition)?),
            (Creation::QuotaReached, _) => Err(IssueError::QuotaReached(quota)),
            (Creation::TooManyKeys, _) => Err(IdempotencyError::TooManyKeys(idempotency::MAX_KEYS).into()),
        }
    }

    /// Replaces a token by one with the same description, life and attributes. The old token expires after `overlap` at
    /// the latest; without an overlap, it is revoked at once. A repetition with the same `key` returns the same
    /// successor and JWT. Costs two round trips to the store: the first reads what the new token is signed with.
    pub async fn rotate(
        &self,
        owner: &Caller,
        id: TokenId,
        overlap: Option<&str>,
        key: Option<IdempotencyKey>,
    ) -> Result<IssuedToken, RotateError> {
        let overlap = overlap.map(duration::parse).transpose()?.unwrap_or_default();
        if overlap.subsec_nanos() > 0 {
            return Err(RotateError::FractionOfOverlap);
        }
        if owner.is_new() {
            return Err(RotateError::NoSuchToken);
        }
        let limits = owner.limits.clone();
        let (owner, login) = (owner.name.clone(), owner.login_epoch);
        let request = RequestFingerprint::of(&("rotate", id.to_string(), overlap.as_secs()));
        let token = self.store.find_token(&owner, id).await?.map(|live| live.token);
        let token = match token {
            Some(token) if token.successor.is_none() => token,
            // An earlier request may have rotated or revoked the token and been answered with an error, because too
            // few Redis replicas had the write. This answer says that it took place, so it waits for them.
            rotated => {
                let repetition = match &key {
                    Some(key) => self.store.write(|store| store.find_repetition(&owner, login, key)).await?,
                    None => self.store.write(|store| store.wait_for_replication(&owner)).await.map(|()| None)?,
                };
                if let Some(repetition) = repetition {
                    return Ok(self.repeat(&owner, &request, repetition)?);
                }
                let successor = rotated.and_then(|token| token.successor);
                return Err(successor.map_or(RotateError::NoSuchToken, |id| RotateError::AlreadyRotated(Some(id))));
            }
        };
        if let Some(max_life) = limits.max_life.filter(|max_life| token.life > *max_life) {
            return Err(RotateError::Life(LifeError::TooLong(max_life)));
        }
        limits.check_scopes(&token.attributes.scopes)?;
        let (description, attributes) = (token.description.clone(), token.attributes.clone());
        let (issued, issuance) = self.sign_token(&owner, description, token.life, attributes, request.clone())?;
        let (store, quota, owner_name) = (Arc::clone(&self.store), self.policy.quota, owner.clone());
        let rotation = async move {
            let idempotency = key.as_ref().map(|key| (key, &issuance));
            let successor = NewToken { owner: &owner_name, login, token: &issued.token, quota, idempotency };
            let rotated = store.write(|store| store.rotate_token(&token, overlap, successor)).await;
            if let Some(outcome) = audit_outcome(&rotated, |rotation| *rotation == Rotation::Rotated) {
                audit::token_rotated(&owner_name, id, issued.token.id, overlap, &outcome);
            }
            rotated.map(|rotated| (rotated, issued))
        };
        match run_to_completion(rotation).await? {
            (Rotation::Rotated, issued) => Ok(issued),
            (Rotation::Repeated(repetition), _) => Ok(self.repeat(&owner, &request, repetition)?),
            (Rotation::AlreadyRotated, _) => Err(RotateError::AlreadyRotated(None)),
            (Rotation::QuotaReached, _) => Err(RotateError::QuotaReached(quota)),
            (Rotation::TooManyKeys, _) => Err(IdempotencyError::TooManyKeys(idempotency::MAX_KEYS).into()),
            (Rotation::NoSuchToken, _) => Err(RotateError::NoSuchToken),
        }
    }

    /// A new token with a random id and its signed JWT, not stored yet, and the record for the request's
    /// Idempotency-Key, if it has one.
    fn sign_token(
        &self,
        owner: &UserName,
        description: Description,
        life: Life,
        attributes: SharedAttributes,
        request: RequestFingerprint,
    ) -> Result<(IssuedToken, Issuance), TooLong> {
        let id = TokenId::random();
        let issued_at = self.clock.unix_seconds();
        let claims = Claims::new(owner, id, &description, life, issued_at, self.policy.issuer.clone());
        let keys = self.keys.current_keys();
        let jwt = keys.set.sign(&claims.with_attributes(&attributes));
        let kid = keys.set.signing_kid(issued_at).to_owned();
        let length = jwt.expose_secret().len();
        if length > MAX_JWT_BYTES {
            return Err(TooLong(length));
        }
        let digest = TokenDigest::of(jwt.expose_secret());
        let token = Token { id, description, life, attributes, digest, successor: None };
        Ok((IssuedToken { jwt, token }, Issuance { token_id: id, issued_at, kid, request }))
    }

    /// Answers a request whose Idempotency-Key was used before.
    fn repeat(
        &self,
        owner: &UserName,
        request: &RequestFingerprint,
        repetition: Repetition,
    ) -> Result<IssuedToken, IdempotencyError> {
        let issuer = self.policy.issuer.as_deref();
        let (jwt, token) = sign_again(&self.keys.current_keys().set, issuer, owner, request, repetition)?;
        audit::token_repeated(owner, token.id);
        Ok(IssuedToken { jwt, token })
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
    fn cached_token(&self, digest: &TokenDigest) -> Option<Cached<ActiveToken>> {
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
    fn why_not_stored(&self, signed: &SignedToken) -> VerifyError {
        if signed.validity.expires_at() <= self.clock.unix_seconds() {
            VerifyError::Expired
        } else {
            VerifyError::Revoked
        }
    }

    /// Checks the signature and the issuer of a JWT, and returns its content. Reads the key file again if a key is
    /// unknown.
    async fn verify_signature(&self, jwt: &str) -> Result<SharedToken, VerifyError> {
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

/// The outcome for the audit event of a change; `None`: nothing changed, so that no event is written.
fn audit_outcome<T>(change: &Result<T, StoreError>, is_change: impl FnOnce(&T) -> bool) -> Option<Outcome<&T>> {
    match change {
        Ok(done) => is_change(done).then_some(Ok(done)),
        Err(error) => error.is_unconfirmed().then_some(Err(Unconfirmed)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        domain::{
            jwk::Algorithm,
            key_rotation::generate,
            keys::KeySet,
            password::{HashCost, PasswordHash},
            user::Role,
        },
        store::{Authority, leased::LEASE, memory::MemoryStore},
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

//! Issue and rotate tokens.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::use_cases::{Tokens, audit_outcome};
use crate::{
    domain::{
        attributes::{Attributes, SharedAttributes},
        claims::{Claims, MAX_JWT_BYTES},
        duration::{self, DurationError},
        idempotency::{self, IdempotencyKey, Issuance, RequestFingerprint},
        life::{Life, LifeError},
        token::{Description, DescriptionError, Token, TokenDigest, TokenId},
        user::UserName,
    },
    service::{
        Caller, ScopeNotAllowed,
        idempotency::{IdempotencyError, sign_again},
        run_to_completion,
    },
    store::{Creation, NewToken, Repetition, Rotation, StoreError},
    telemetry::audit,
};

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

impl Tokens {
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
}

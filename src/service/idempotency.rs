//! Answers to requests whose Idempotency-Key was used before: with the same token, whose JWT is signed again.

use secrecy::{ExposeSecret, SecretString};

use crate::{
    domain::{
        claims::Claims,
        idempotency::RequestFingerprint,
        keys::KeySet,
        token::{Token, TokenDigest, TokenId},
        user::UserName,
    },
    store::Repetition,
};

/// Why a request with an Idempotency-Key gets no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyError {
    /// The key was used before, for a request that asked for something else.
    #[error("the Idempotency-Key belongs to another request")]
    OtherRequest,
    /// The key was used before, and its token, which this is, was revoked or rotated since, or has expired.
    #[error("the token of the Idempotency-Key is gone")]
    TokenGone(TokenId),
    /// The key was used before, and the JWT of its token, which this is, cannot be signed again: the algorithm gives
    /// another signature each time, or the signing key or the issuer is another by now.
    #[error("the JWT of the token cannot be signed again")]
    NotSignedAgain(TokenId),
    /// As many keys of the user as possible are kept: this number.
    #[error("{0} Idempotency-Keys are in use")]
    TooManyKeys(usize),
}

/// The token that was issued for the first request, and its JWT, the same to the byte: the digest in the token's record
/// proves it.
pub(super) fn sign_again(
    keys: &KeySet,
    issuer: Option<&str>,
    owner: &UserName,
    request: &RequestFingerprint,
    Repetition { issuance, token }: Repetition,
) -> Result<(SecretString, Token), IdempotencyError> {
    if issuance.request != *request {
        return Err(IdempotencyError::OtherRequest);
    }
    let id = issuance.token_id;
    let token = token.filter(|token| token.successor.is_none()).ok_or(IdempotencyError::TokenGone(id))?;
    let issuer = issuer.map(str::to_owned);
    let claims = Claims::new(owner, id, &token.description, token.life, issuance.issued_at, issuer);
    let jwt = keys.sign_again(&issuance.kid, &claims.with_attributes(&token.attributes));
    let jwt = jwt.filter(|jwt| TokenDigest::of(jwt.expose_secret()) == token.digest);
    Ok((jwt.ok_or(IdempotencyError::NotSignedAgain(id))?, token))
}

//! Issue, inspect, list, revoke and verify tokens.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::Clock;
use crate::{
    domain::{
        claims::Claims,
        keys::KeySet,
        life::{Life, LifeError},
        token::{DescriptionError, LiveToken, Token, TokenDigest, TokenId, TokenRules},
        user::UserName,
    },
    store::{Creation, Listing, Page, Store, StoreError},
};

/// The tokens of all users.
pub struct Tokens {
    store: Arc<dyn Store>,
    keys: Arc<KeySet>,
    clock: Clock,
    rules: TokenRules,
}

/// A token that has just been made: the one moment at which its JWT is known.
pub struct Issued {
    /// The JWT.
    pub jwt: SecretString,
    /// What remains of it here.
    pub token: Token,
}

/// A JWT that was checked and found alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub owner: UserName,
    /// Which it is.
    pub live: LiveToken,
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The life is none, or too long.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// The description is none.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// As many live tokens as allowed.
    #[error("the quota of {0} live tokens is reached")]
    QuotaReached(usize),
    /// The user was removed or disabled since the login.
    #[error("the user is gone")]
    NoSuchUser,
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a JWT is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not signed by us, not for us, never issued, expired or revoked. Which of these is nobody's business.
    #[error("not a live token")]
    Refused,
    /// Nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    /// Tokens in `store`, signed with `keys`.
    pub fn new(store: Arc<dyn Store>, keys: Arc<KeySet>, clock: Clock, rules: TokenRules) -> Self {
        Self { store, keys, clock, rules }
    }

    /// Issues a token. It lives from the moment the store has it; by its `exp`, a fraction of a second less.
    pub async fn issue(&self, owner: &UserName, description: &str, life: &str) -> Result<Issued, IssueError> {
        let description = description.parse()?;
        let life = Life::parse_up_to(life, self.rules.max_life)?;
        let id = TokenId::random();
        let issued_at = self.clock.unix_seconds();
        let claims = Claims::new(owner, id, &description, life, issued_at, self.rules.issuer.clone());
        let jwt = self.keys.sign(&claims);
        let token = Token { id, description, life, issued_at, digest: TokenDigest::of(jwt.expose_secret()) };
        match self.store.create_token(owner, &token, self.rules.quota).await? {
            Creation::Created => Ok(Issued { jwt, token }),
            Creation::QuotaReached => Err(IssueError::QuotaReached(self.rules.quota)),
            Creation::NoSuchUser => Err(IssueError::NoSuchUser),
        }
    }

    /// A live token of this user.
    pub async fn inspect(&self, owner: &UserName, id: TokenId) -> Result<Option<LiveToken>, StoreError> {
        self.store.find_token(owner, id).await
    }

    /// The live tokens of this user. `None`: there is no live token that is `page.after`.
    pub async fn list(&self, owner: &UserName, page: Page) -> Result<Option<Listing>, StoreError> {
        self.store.list_tokens(owner, page).await
    }

    /// Ends a token on every replica before it returns. `false`: there was none to end.
    pub async fn revoke(&self, owner: &UserName, id: TokenId) -> Result<bool, StoreError> {
        self.store.revoke_token(owner, id).await
    }

    /// Who presents this JWT. It is accepted if one of our keys signed it, it has not expired, and exactly these bytes
    /// were issued under a key that still lives: a token forged with a stolen key was never issued.
    pub async fn verify(&self, jwt: &str) -> Result<Verified, VerifyError> {
        let claims = self.keys.verify(jwt).map_err(|_| VerifyError::Refused)?;
        let now = self.clock.unix_seconds();
        if claims.exp <= now || claims.iss != self.rules.issuer {
            return Err(VerifyError::Refused);
        }
        let (Ok(owner), Ok(id)) = (claims.username.parse(), claims.jwt_token_id.parse()) else {
            return Err(VerifyError::Refused);
        };
        match self.store.find_token(&owner, id).await? {
            Some(live) if live.token.digest == TokenDigest::of(jwt) => Ok(Verified { owner, live }),
            _ => Err(VerifyError::Refused),
        }
    }
}

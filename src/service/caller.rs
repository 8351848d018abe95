//! The user who logged in, and what the login may do.

use derive_more::Deref;

use crate::{
    domain::{
        attributes::{Attribute, Scopes},
        life::Life,
        user::{Role, User},
    },
    store::{Creation, NewToken, StoreError, StoreResult, leased::LeasedStore},
    telemetry::audit::{self, Unconfirmed},
};

/// A user who logged in.
#[derive(Debug, Clone, Deref)]
pub struct Caller {
    /// The user as stored, but with the role of this login, which may be lesser.
    #[deref]
    user: User,
    /// What tokens this login may issue.
    pub limits: LoginLimits,
    /// Whether the store has no such user yet. The first token creates the user.
    is_new: bool,
}

/// What tokens a login may issue, within the policy of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginLimits {
    /// The maximum life of a token; `None`: that of the service.
    pub max_life: Option<Life>,
    /// The scopes that a token may have; `None`: any.
    pub scopes: Option<Vec<String>>,
}

/// A login may not issue tokens with this scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this login may not issue tokens with the scope {0:?}")]
pub struct ScopeNotAllowed(String);

impl LoginLimits {
    /// Checks that a token may have these scopes.
    pub(super) fn check_scopes(&self, scopes: &Scopes) -> Result<(), ScopeNotAllowed> {
        let is_forbidden = |scope: &String| self.scopes.as_ref().is_some_and(|allowed| !allowed.contains(scope));
        scopes.entries().find(is_forbidden).map_or(Ok(()), |scope| Err(ScopeNotAllowed(scope)))
    }
}

/// A user who logged in by a password or a token.
impl From<User> for Caller {
    fn from(user: User) -> Self {
        Self { user, limits: LoginLimits::default(), is_new: false }
    }
}

impl Caller {
    /// A user of the store who was logged in by another party, with at most this role.
    pub(super) fn known(user: User, max_role: Role, limits: LoginLimits) -> Self {
        let role = user.role.min(max_role);
        Self { user: User { role, ..user }, limits, is_new: false }
    }

    /// A user who was logged in by another party and whom the store does not have yet.
    pub(super) fn new(user: User, limits: LoginLimits) -> Self {
        Self { user, limits, is_new: true }
    }

    /// Whether the store has no such user yet: then the user has no tokens.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the user may administer now. A new user may not, whatever the role: the store has no such administrator
    /// yet.
    pub fn is_administrator(&self) -> bool {
        !self.is_new && self.user.is_enabled_admin()
    }

    /// Creates a token of this user, and with it the user, if new. If another request created the user meanwhile, the
    /// login counts as one of that user, unless the user is of another origin. The store rejects it if the user is
    /// disabled.
    pub(super) async fn create_token(&self, store: &LeasedStore, new: NewToken<'_>) -> StoreResult<Creation> {
        if !self.is_new {
            return store.create_token(new).await;
        }
        let created = store.create_first_token(&self.user, new).await;
        match &created {
            Ok(Some(Creation::Created)) => audit::user_added(&self.user, &Ok(())),
            Err(error) if error.is_unconfirmed() => audit::user_added::<()>(&self.user, &Err(Unconfirmed)),
            _ => {}
        }
        if let Some(creation) = created? {
            return Ok(creation);
        }
        let user = store.find_user(&self.user.name).await?;
        let user = user.filter(|user| user.origin() == self.user.origin());
        let login = user.ok_or(StoreError::LoginEnded)?.login_epoch;
        store.create_token(NewToken { login, ..new }).await
    }
}

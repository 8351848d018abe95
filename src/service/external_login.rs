//! Log in by the word of another party: a trusted issuer, or a proxy that has logged the user in.

use std::sync::Arc;

use super::{Caller, Clock, LoginLimits};
use crate::{
    domain::{
        origin::Origin,
        throttle::{ClientAndUser, ClientNetwork},
        user::{Role, User, UserName},
    },
    store::{StoreError, leased::LeasedStore},
    telemetry::{
        audit,
        events::{LoginFailure, LoginMethod},
        logs, metrics,
    },
};

/// The word of another party about who a user is, after a check: of the JWT's signature, or of the proxy's address.
#[derive(Debug, Clone)]
pub struct ExternalLogin {
    /// The name of the user.
    pub name: UserName,
    /// The party.
    pub origin: Origin,
    /// The role of the user, if new.
    pub role: Role,
    /// The greatest role of the login. The role that the store has for the user may be greater, and then has no effect.
    pub max_role: Role,
    /// What tokens the login may issue.
    pub limits: LoginLimits,
}

/// Why the word of another party logs nobody in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExternalLoginError {
    /// There is a user of this name, who has a password or came from another party.
    #[error("there is a user of this name who does not come from there")]
    OtherOrigin,
    /// The user is disabled.
    #[error("the user is disabled")]
    Disabled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Logs users in by the word of other parties.
///
/// A user who is not in the store yet is logged in as a [new](Caller::is_new) one: the first token creates the user. A
/// user of the store is logged in only by the party that the user came from, and with the lesser of two roles: the
/// role that the store has, which an administrator may lower at any time, and the greatest role of the login, which
/// its party's rule may lower. Neither needs a write at the login, and neither can be undone by the other.
pub struct ExternalLogins {
    store: Arc<LeasedStore>,
    clock: Clock,
}

impl ExternalLogins {
    /// Logs users of `store` in.
    pub fn new(store: Arc<LeasedStore>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Returns the user of this login. Also writes the name and the origin into the request's span.
    pub async fn log_in(&self, login: ExternalLogin, client: ClientNetwork) -> Result<Caller, ExternalLoginError> {
        let ExternalLogin { name, origin, role, max_role, limits } = login;
        let known = self.store.cached_user(&name).await?;
        let failure = match &known {
            Some(user) if user.origin() != Some(&origin) => {
                Some((LoginFailure::OtherOrigin, ExternalLoginError::OtherOrigin))
            }
            Some(user) if user.disabled => Some((LoginFailure::Disabled, ExternalLoginError::Disabled)),
            _ => None,
        };
        if let Some((reason, error)) = failure {
            audit::login_failed(reason, &ClientAndUser { user: name, client }, Some(&origin));
            return Err(error);
        }
        logs::add_user_to_span(&name);
        logs::add_origin_to_span(&origin);
        metrics::logged_in(match origin {
            Origin::Issuer(_) => LoginMethod::Issuer,
            Origin::Proxy => LoginMethod::Proxy,
        });
        Ok(match known {
            Some(user) => Caller::known(user, max_role, limits),
            None => Caller::new(User::new(name, role.min(max_role), origin, self.clock.unix_seconds()), limits),
        })
    }
}

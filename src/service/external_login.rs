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

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        domain::{
            attributes::SharedAttributes,
            life::Life,
            token::{Token, TokenDigest},
            user::UserUpdate,
        },
        store::{Authority, Creation, NewToken, leased::LEASE, memory::MemoryStore},
    };

    const ROLES: [Role; 3] = [Role::User, Role::Introspector, Role::Admin];

    fn login(issuer: &str, role: Role) -> ExternalLogin {
        let origin = Origin::Issuer(issuer.parse().unwrap());
        let limits = LoginLimits { max_life: Some(Life::parse("1h").unwrap()), scopes: None };
        ExternalLogin { name: "ci".parse().unwrap(), origin, role, max_role: role, limits }
    }

    fn client() -> ClientNetwork {
        IpAddr::from([192, 0, 2, 1]).into()
    }

    #[tokio::test]
    async fn the_lesser_of_both_roles_counts() {
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), Duration::ZERO));
        let logins = ExternalLogins::new(Arc::clone(&store), Clock::system());
        let by = Authority::Until(Instant::now() + Duration::from_mins(1));
        let bounded = ExternalLogin { max_role: Role::User, ..login("https://idp.example", Role::Admin) };
        assert_eq!(logins.log_in(bounded, client()).await.unwrap().role, Role::User);
        let new = logins.log_in(login("https://idp.example", Role::Admin), client()).await.unwrap();
        assert!(new.is_new() && new.role == Role::Admin && !new.is_administrator());
        assert!(store.create_user(&by, &new).await.unwrap());
        for stored in ROLES {
            let other = User::new("other".parse().unwrap(), Role::Admin, Origin::Proxy, 0);
            store.create_user(&by, &other).await.unwrap();
            let update = UserUpdate { role: Some(stored), disabled: None };
            store.write(|store| store.update_user(&by, &new.name, update)).await.unwrap();
            for role in ROLES {
                let caller = logins.log_in(login("https://idp.example", role), client()).await.unwrap();
                assert_eq!((caller.role, caller.is_new()), (stored.min(role), false));
                assert_eq!(caller.is_administrator(), stored == Role::Admin && role == Role::Admin);
                assert_eq!(caller.limits.max_life.unwrap().seconds(), 3600);
            }
        }
    }

    /// Several parties may log in a user of one name before there is one.
    #[tokio::test]
    async fn the_first_token_decides_whose_user_it_is() {
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), Duration::ZERO));
        let logins = ExternalLogins::new(Arc::clone(&store), Clock::system());
        let mut callers = Vec::new();
        for issuer in ["https://a.example", "https://b.example", "https://a.example", "https://a.example"] {
            callers.push(logins.log_in(login(issuer, Role::User), client()).await.unwrap());
        }
        let issue = async |caller: &Caller, id: u8| {
            let token = Token {
                id: format!("00000000-0000-4000-8000-0000000000{id:02}").parse().unwrap(),
                description: "x".parse().unwrap(),
                life: Life::parse("1h").unwrap(),
                digest: TokenDigest::of(&id.to_string()),
                attributes: SharedAttributes::default(),
                successor: None,
            };
            let (owner, login) = (&caller.name, caller.login_epoch);
            caller.create_token(&store, NewToken { owner, login, token: &token, quota: 9, idempotency: None }).await
        };
        assert!(matches!(issue(&callers[0], 0).await, Ok(Creation::Created)));
        assert!(matches!(issue(&callers[1], 1).await, Err(StoreError::LoginEnded)));
        assert!(matches!(issue(&callers[2], 2).await, Ok(Creation::Created)));
        let by = Authority::Until(Instant::now() + Duration::from_mins(1));
        let disabled = UserUpdate { role: None, disabled: Some(true) };
        store.write(|store| store.update_user(&by, &callers[0].name, disabled)).await.unwrap();
        assert!(matches!(issue(&callers[3], 3).await, Err(StoreError::LoginEnded)));
    }

    #[tokio::test]
    async fn only_the_exact_issuer_logs_its_users_in() {
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), LEASE));
        let logins = ExternalLogins::new(Arc::clone(&store), Clock::system());
        let by = Authority::Until(Instant::now() + Duration::from_mins(1));
        let caller = logins.log_in(login("https://idp.example", Role::User), client()).await.unwrap();
        assert!(store.create_user(&by, &caller).await.unwrap());
        for issuer in ["https://idp.example/", "https://idp.example.evil", "https://idp", "http://idp.example", "proxy"]
        {
            let refused = logins.log_in(login(issuer, Role::User), client()).await;
            assert!(matches!(refused, Err(ExternalLoginError::OtherOrigin)), "{issuer}: {refused:?}");
        }
        let proxy = ExternalLogin { origin: Origin::Proxy, ..login("proxy", Role::User) };
        assert!(matches!(logins.log_in(proxy, client()).await, Err(ExternalLoginError::OtherOrigin)));
        assert!(logins.log_in(login("https://idp.example", Role::User), client()).await.is_ok());
    }
}

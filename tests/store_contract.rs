//! The contract of every store, tested on the embedded store and on real Redis: one server, Sentinel and a Cluster.

use std::{any::Any, collections::HashSet, sync::Arc, time::Duration};

use mayfly::{
    domain::{
        attributes::{Attribute, Attributes, SharedAttributes},
        life::Life,
        listing::PageRequest,
        origin::Origin,
        password::{HashCost, Password, PasswordHash},
        token::{Token, TokenDigest, TokenId, TokenUse},
        user::{Credential, LoginEpoch, Role, User, UserName, UserUpdate},
    },
    store::{
        Authority, Changes, Creation, NewToken, RevokingWrites, Rotation, Store, StoreError, UpdatedUser, UserChange,
        Watch,
        memory::MemoryStore,
        redis::{RedisOptions, RedisStore},
    },
};
use rstest::rstest;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Cluster, Direction, Proxy, RedisServer, Sentinel, Version, eventually, free_port, patient_options,
};

mod admins;
mod authority;
mod cluster;
mod idempotency;
mod origin;
mod redis;
mod throttle;
mod token_index;
mod tokens;
mod users;
mod uses;
mod watch;

const QUOTA: usize = 10;

/// Later than every write of a test.
fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn operator() -> Authority {
    Authority::Until(soon())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Redis,
    /// Writes wait for a replica.
    Sentinel,
    /// Three primaries.
    Cluster,
}

/// A store and its servers.
struct Fixture {
    store: Arc<dyn RevokingWrites>,
    _servers: Box<dyn Any>,
}

impl Fixture {
    fn new(kind: Kind) -> Self {
        let with = |store: Arc<dyn RevokingWrites>, servers: Box<dyn Any>| Self { store, _servers: servers };
        let in_redis = |url: &str, wait_replicas: u32, servers: Box<dyn Any>| {
            // Longer than any operation takes on the slowest machine.
            let options = RedisOptions {
                timeout: Duration::from_secs(5),
                wait_timeout: Duration::from_secs(4),
                wait_replicas,
                ..RedisOptions::at(url)
            };
            with(Arc::new(RedisStore::new(&options).unwrap()), servers)
        };
        match kind {
            Kind::Memory => with(Arc::new(MemoryStore::default()), Box::new(())),
            Kind::Redis => {
                let redis = RedisServer::start();
                in_redis(&redis.url(), 0, Box::new(redis))
            }
            Kind::Sentinel => {
                let sentinel = Sentinel::start(1, 1);
                in_redis(&sentinel.url(), 1, Box::new(sentinel))
            }
            Kind::Cluster => {
                let cluster = Cluster::start(false);
                in_redis(&cluster.url(), 0, Box::new(cluster))
            }
        }
    }

    /// A store with one user.
    async fn with_user(kind: Kind, name: &str) -> (Self, UserName) {
        let fixture = Self::new(kind);
        assert!(fixture.store.create_user(&operator(), &user(name)).await.unwrap());
        (fixture, name.parse().unwrap())
    }

    async fn ids(&self, owner: &UserName, page: PageRequest) -> Option<Vec<TokenId>> {
        let listing = self.store.list_tokens(owner, page).await.unwrap()?;
        Some(listing.items.iter().map(|live| live.token.id).collect())
    }
}

fn user(name: &str) -> User {
    User {
        name: name.parse().unwrap(),
        credential: PasswordHash::dummy(HashCost::default()).into(),
        role: Role::User,
        created_at: 1_662_720_135,
        disabled: false,
        login_epoch: epoch(),
    }
}

fn admin(name: &str) -> User {
    User { role: Role::Admin, ..user(name) }
}

/// The login epoch of the users that [`user`] makes.
fn epoch() -> LoginEpoch {
    "b56929f354f14dc299849bba615e26e6".parse().unwrap()
}

const PROMOTE: UserUpdate = UserUpdate { role: Some(Role::Admin), disabled: None };
const DEMOTE: UserUpdate = UserUpdate { role: Some(Role::User), disabled: None };
const DISABLE: UserUpdate = UserUpdate { role: None, disabled: Some(true) };
const ENABLE: UserUpdate = UserUpdate { role: None, disabled: Some(false) };

fn token(life_seconds: u64) -> Token {
    let id = TokenId::random();
    Token {
        id,
        description: "Tökèn \"specter\" 🜁 {}".parse().unwrap(),
        life: Life::from_seconds(life_seconds).unwrap(),
        digest: TokenDigest::of(&id.to_string()),
        attributes: SharedAttributes::default(),
        successor: None,
    }
}

fn attributes(scopes: &[&str], audiences: &[&str], networks: &[&str]) -> SharedAttributes {
    fn read<A: Attribute + Default>(entries: &[&str]) -> A {
        if entries.is_empty() { A::default() } else { A::parse(entries.iter().copied()).unwrap() }
    }
    Attributes { scopes: read(scopes), audiences: read(audiences), networks: read(networks) }.into()
}

fn new_token<'a>(owner: &'a UserName, login: LoginEpoch, token: &'a Token) -> NewToken<'a> {
    NewToken { owner, login, token, quota: QUOTA, idempotency: None }
}

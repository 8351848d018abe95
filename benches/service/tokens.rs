//! Stores users and tokens as the service does, but without its requests.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, stream};
use mayfly::{
    domain::{
        attributes::SharedAttributes,
        claims::Claims,
        keys::KeySet,
        life::Life,
        password::{HashCost, PasswordHash},
        token::{Token, TokenDigest, TokenId},
        user::{LoginEpoch, Role, User, UserName},
    },
    store::{
        Authority, Creation, NewToken, Store,
        redis::{RedisOptions, RedisStore},
    },
};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

use crate::runtime;

/// Users in Redis whose tokens are stored without the service.
pub struct Filler {
    store: RedisStore,
    /// Drives the connections of the store, too.
    runtime: Runtime,
    keys: KeySet,
    users: Vec<UserName>,
    login: LoginEpoch,
}

impl Filler {
    /// Creates this many users, for the service whose keys are in this file.
    pub fn new(redis_url: &str, keys_file: &Path, users: usize) -> Self {
        let options = RedisOptions { timeout: Duration::from_secs(30), ..RedisOptions::at(redis_url) };
        let filler = Self {
            store: RedisStore::new(&options).unwrap(),
            runtime: runtime(),
            keys: KeySet::parse(&fs::read_to_string(keys_file).unwrap()).unwrap(),
            users: (0..users).map(|number| format!("user{number:04}").parse().unwrap()).collect(),
            login: LoginEpoch::begin(),
        };
        filler.runtime.block_on(filler.create_users());
        filler
    }

    async fn create_users(&self) {
        for name in &self.users {
            let user = User {
                name: name.clone(),
                credential: PasswordHash::dummy(HashCost::default()).into(),
                role: Role::User,
                created_at: 1_662_720_135,
                disabled: false,
                login_epoch: self.login,
            };
            let authority = Authority::Until((Instant::now() + Duration::from_mins(1)).into());
            assert!(self.store.create_user(&authority, &user).await.unwrap());
        }
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Stores tokens of all users in turn, and writes their JWTs to the file, one a line.
    pub fn fill(&self, count: usize, file: &Path) {
        eprintln!("storing {count} tokens …");
        let out = Mutex::new(std::io::BufWriter::new(fs::File::create(file).unwrap()));
        self.block_on(stream::iter(0..count).for_each_concurrent(256, async |number| {
            let jwt = self.create(number).await;
            writeln!(out.lock().unwrap(), "{jwt}").unwrap();
        }));
    }

    /// Stores a token of one of the users, and returns its JWT.
    pub async fn create(&self, number: usize) -> String {
        let owner = &self.users[number % self.users.len()];
        let (id, life) = (TokenId::random(), Life::from_seconds(86_400).unwrap());
        let description = "a token of 20 letter".parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let jwt = self.keys.sign(&Claims::new(owner, id, &description, life, now, None));
        let token = Token {
            id,
            description,
            life,
            digest: TokenDigest::of(jwt.expose_secret()),
            attributes: SharedAttributes::default(),
            successor: None,
        };
        let new = NewToken { owner, login: self.login, token: &token, quota: usize::MAX, idempotency: None };
        assert_eq!(self.store.create_token(new).await.unwrap(), Creation::Created);
        jwt.expose_secret().to_owned()
    }
}

//! The store in Redis 7.0 or later: a token is one key with a native TTL.
//!
//! Every operation is one round trip: a command, or a script where several keys change together. A script is sent by its
//! hash; only the first use on a server that does not know it costs two more trips.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::redis::{
    self, RedisError, RedisResult, Script, ScriptInvocation, aio::MultiplexedConnection, pipe,
};

use self::{connection::Connection, observed::Observed};
use super::{
    Creation, Listing, LiveToken, Page, PasswordHash, Rotation, Store, StoreError, Token, TokenDigest, TokenId, User,
    UserName,
};

mod connection;
mod keys;
mod observed;
mod records;

/// A Redis server, not necessarily there.
pub struct RedisStore {
    connection: Connection,
    scripts: Scripts,
}

struct Scripts {
    create_token: Script,
    list_tokens: Script,
    revoke_token: Script,
    revoke_tokens: Script,
    create_user: Script,
    update_user: Script,
    remove_user: Script,
}

impl RedisStore {
    /// Prepares a store at `url` (`redis://[user:password@]host[:port][/db]`); nothing is connected yet. No operation
    /// takes longer than `timeout`. Fails where the URL is none.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, RedisError> {
        Ok(Self {
            connection: Connection::new(url, timeout)?,
            scripts: Scripts {
                create_token: Script::new(include_str!("create_token.lua")),
                list_tokens: Script::new(include_str!("list_tokens.lua")),
                revoke_token: Script::new(include_str!("revoke_token.lua")),
                revoke_tokens: Script::new(include_str!("revoke_tokens.lua")),
                create_user: Script::new(include_str!("create_user.lua")),
                update_user: Script::new(include_str!("update_user.lua")),
                remove_user: Script::new(include_str!("remove_user.lua")),
            },
        })
    }
}

/// The answer of a script that reports a success as 1 and its absence as 0.
async fn invoke<T: redis::FromRedisValue>(
    invocation: &ScriptInvocation<'_>,
    mut connection: Observed<MultiplexedConnection>,
) -> RedisResult<T> {
    invocation.invoke_async(&mut connection).await
}

#[async_trait]
impl Store for RedisStore {
    async fn create_token(&self, owner: &UserName, token: &Token, quota: usize) -> Result<Creation, StoreError> {
        let script = self.creation(owner, token, quota);
        match self.connection.repeat(|connection| invoke(&script, connection)).await? {
            1 => Ok(Creation::Created),
            0 => Ok(Creation::QuotaReached),
            _ => Ok(Creation::NoSuchUser),
        }
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> Result<Option<LiveToken>, StoreError> {
        let key = keys::token(owner, id);
        let mut request = pipe();
        request.get(&key).pttl(&key);
        let (record, pttl): (Option<Vec<u8>>, i64) =
            self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        record.map_or(Ok(None), |record| records::decode_live_token(id, &record, pttl))
    }

    async fn are_unchanged(&self, owner: &UserName, tokens: &[&Token]) -> Result<Vec<bool>, StoreError> {
        let mut request = redis::cmd("MGET");
        for token in tokens {
            request.arg(keys::token(owner, token.id));
        }
        let found: Vec<Option<Vec<u8>>> =
            self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        let is_unchanged = |(token, found): (&&Token, Option<Vec<u8>>)| {
            found.is_some_and(|record| record == records::encode_token(token).as_bytes())
        };
        Ok(tokens.iter().zip(found).map(is_unchanged).collect())
    }

    async fn list_tokens(&self, owner: &UserName, page: Page) -> Result<Option<Listing>, StoreError> {
        let mut script = self.scripts.list_tokens.prepare_invoke();
        script
            .key(keys::token_index(owner))
            .arg(keys::token_prefix(owner))
            .arg(page.after.map(|id| id.to_string()).unwrap_or_default())
            .arg(page.limit.map(|limit| limit.to_string()).unwrap_or_default());
        let found: Option<Vec<(String, Vec<u8>, i64)>> =
            self.connection.repeat(|connection| invoke(&script, connection)).await?;
        let Some(mut found) = found else { return Ok(None) };
        let limit = page.limit.unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        // One record that nobody can read hides no others.
        let read = |(id, record, pttl): &(String, Vec<u8>, i64)| {
            let token = id.parse().map_err(|_| StoreError::Corrupt("token index"));
            token.and_then(|id| records::decode_live_token(id, record, *pttl)).unwrap_or_else(|error| {
                tracing::error!(%error, %owner, id, "a token is left out of a list");
                None
            })
        };
        let tokens = found.iter().filter_map(read).collect();
        Ok(Some(Listing { tokens, more }))
    }

    async fn revoke_token(&self, owner: &UserName, id: TokenId) -> Result<bool, StoreError> {
        let mut script = self.scripts.revoke_token.prepare_invoke();
        script.key(keys::token(owner, id)).key(keys::token_index(owner)).arg(id.to_string()).arg("");
        self.connection.once(|connection| invoke(&script, connection)).await
    }

    async fn revoke_presented(&self, owner: &UserName, id: TokenId, digest: TokenDigest) -> Result<bool, StoreError> {
        let mut script = self.scripts.revoke_token.prepare_invoke();
        script.key(keys::token(owner, id)).key(keys::token_index(owner)).arg(id.to_string()).arg(digest.to_base64());
        self.connection.once(|connection| invoke(&script, connection)).await
    }

    async fn revoke_tokens(&self, owner: &UserName) -> Result<u64, StoreError> {
        let mut script = self.scripts.revoke_tokens.prepare_invoke();
        script.key(keys::token_index(owner)).arg(keys::token_prefix(owner));
        self.connection.once(|connection| invoke(&script, connection)).await
    }

    async fn rotate_token(
        &self,
        owner: &UserName,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> Result<Rotation, StoreError> {
        let rotated = Token { successor: Some(successor.id), ..token.clone() };
        let mut script = self.creation(owner, successor, quota);
        script
            .key(keys::token(owner, token.id))
            .arg(token.id.to_string())
            .arg(records::encode_token(&rotated))
            .arg(u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
        match self.connection.repeat(|connection| invoke(&script, connection)).await? {
            1 => Ok(Rotation::Rotated),
            0 => Ok(Rotation::QuotaReached),
            -3 => Ok(Rotation::AlreadyRotated),
            _ => Ok(Rotation::NoSuchToken),
        }
    }

    async fn create_user(&self, user: &User) -> Result<bool, StoreError> {
        let mut script = self.scripts.create_user.prepare_invoke();
        script.key(keys::user(&user.name)).arg(records::encode_user(user));
        let created = self.connection.once(|connection| invoke(&script, connection)).await?;
        // The set of names lives in a slot of its own. Written after the user and even for one who exists, it is whole
        // again when a creation that broke off in between is repeated.
        self.add_name(&user.name).await?;
        Ok(created)
    }

    async fn find_user(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        let request = redis::Cmd::hgetall(keys::user(name));
        let fields = self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        records::decode_user(name, &fields)
    }

    async fn has_users(&self) -> Result<bool, StoreError> {
        let request = redis::Cmd::exists(keys::USERS);
        self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await
    }

    async fn list_users(&self) -> Result<Vec<User>, StoreError> {
        let request = redis::Cmd::smembers(keys::USERS);
        let names: BTreeSet<String> =
            self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        let names: Vec<UserName> = names
            .iter()
            .map(|name| name.parse().map_err(|_| StoreError::Corrupt("user name")))
            .collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut request = pipe();
        for name in &names {
            request.hgetall(keys::user(name));
        }
        let users: Vec<HashMap<String, String>> =
            self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        let users = names.iter().zip(&users);
        users.filter_map(|(name, fields)| records::decode_user(name, fields).transpose()).collect()
    }

    async fn set_password(&self, name: &UserName, hash: &PasswordHash) -> Result<bool, StoreError> {
        let mut script = self.scripts.update_user.prepare_invoke();
        script.key(keys::user(name)).arg(&records::password_field(hash)[..]);
        self.connection.repeat(|connection| invoke(&script, connection)).await
    }

    async fn remove_user(&self, name: &UserName) -> Result<bool, StoreError> {
        let mut script = self.scripts.remove_user.prepare_invoke();
        script.key(keys::user(name)).key(keys::token_index(name)).arg(keys::token_prefix(name));
        let removed = self.connection.once(|connection| invoke(&script, connection)).await?;
        let request = redis::Cmd::srem(keys::USERS, name.as_str());
        () = self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await?;
        // Somebody may have created the user again in between.
        if self.find_user(name).await?.is_some() {
            self.add_name(name).await?;
        }
        Ok(removed)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let request = redis::cmd("PING");
        self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await
    }
}

impl RedisStore {
    /// The script that creates a token, ready to be told of a predecessor.
    fn creation(&self, owner: &UserName, token: &Token, quota: usize) -> ScriptInvocation<'_> {
        let mut script = self.scripts.create_token.prepare_invoke();
        script
            .key(keys::token(owner, token.id))
            .key(keys::token_index(owner))
            .key(keys::user(owner))
            .arg(token.id.to_string())
            .arg(records::encode_token(token))
            .arg(token.life.seconds() * 1000)
            .arg(quota);
        script
    }

    async fn add_name(&self, name: &UserName) -> Result<(), StoreError> {
        let request = redis::Cmd::sadd(keys::USERS, name.as_str());
        self.connection.repeat(async |mut connection| request.query_async(&mut connection).await).await
    }
}

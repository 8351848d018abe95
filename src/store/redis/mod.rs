//! The store in Redis 7.0 or later: a token is one key with a native TTL.
//!
//! Every operation on tokens is one round trip: a command, or a script where several keys change together. Those on users
//! that need to know of others, whose keys live in other slots, take a few more: all names ([`keys::NAMES`]), and who is an
//! administrator ([`admins`]). A script is sent by its hash; only the first use on a server that does not know it costs two
//! more trips.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::redis::{Cmd, Pipeline, Script, cmd, pipe};
use futures_util::future::join_all;

pub use self::address::{AddressError, RedisOptions, TlsFiles};
use self::{
    admins::{Ends, Reply},
    connection::Connection,
    keys::LoginCounts,
    scripts::Scripts,
    watch::RedisWatch,
    write::Write,
};
use super::{
    AttemptScope, Authority, Creation, Health, Listing, LiveToken, LoginAttempt, LoginEpoch, Page, PasswordHash,
    Reservation, Rotation, Store, StoreError, StoreResult, StrictWrites, Token, TokenDigest, TokenId, UpdatedUser,
    User, UserChange, UserName, UserUpdate, Watch, throttle::Throttle,
};
use crate::domain::throttle::{self, Backoff};

mod address;
mod admins;
mod clock;
mod connection;
mod keys;
mod link;
mod observed;
mod records;
mod scripts;
mod server;
mod watch;
mod write;

/// How many names are read at once to see whether there is any user.
const NAMES_AT_ONCE: usize = 100;

/// From when on it is worth a warning that the clocks of this machine and of Redis differ.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// A Redis, not necessarily there: one server, the primary that Sentinel names, or a cluster.
pub struct RedisStore {
    connection: Arc<Connection>,
    scripts: Scripts,
    /// What is counted while Redis has no memory for it. It cannot grow faster than passwords are hashed.
    throttle_here: Mutex<Throttle>,
}

impl RedisStore {
    /// Prepares a store; nothing is connected yet. No round trip takes longer than `options.timeout`.
    pub fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        Ok(Self {
            connection: Arc::new(Connection::new(options)?),
            scripts: Scripts::load(),
            throttle_here: Mutex::default(),
        })
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        quota: usize,
    ) -> StoreResult<Creation> {
        match self.connection.write(self.creation(owner, login, token, quota)).await? {
            0 => Ok(Creation::QuotaReached),
            _ => Ok(Creation::Created),
        }
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>> {
        let key = keys::token(owner, id);
        let mut request = pipe();
        // GETEX without an option is GET, except that a replica refuses it: after a failover no answer comes from a node
        // that is no primary any more and may not know of a revocation. `min-replicas-to-write` makes it refuse where a
        // primary is cut off, too.
        request.cmd("GETEX").arg(&key).pttl(&key);
        let (record, pttl): (Option<Vec<u8>>, i64) =
            self.connection.read(async |mut link| request.query_async(&mut link).await).await?;
        record.map_or(Ok(None), |record| records::decode_live_token(id, &record, pttl))
    }

    async fn list_tokens(&self, owner: &UserName, page: Page) -> StoreResult<Option<Listing<LiveToken>>> {
        let mut script = self.scripts.list_tokens.prepare_invoke();
        script
            .key(keys::token_index(owner))
            .arg(keys::token_prefix(owner))
            .arg(page.after.map(|id| id.to_string()).unwrap_or_default())
            .arg(page.limit.map(|limit| limit.to_string()).unwrap_or_default());
        let found: Option<Vec<(String, Vec<u8>, i64)>> = self.connection.read_script(&script).await?;
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
        Ok(Some(Listing { items: tokens, more }))
    }

    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool> {
        // The set of names lives in a slot of its own. Whatever breaks off, nobody exists whose name it misses.
        self.change_name(&self.scripts.add_name, by, &user.name).await?;
        let mut write = self.to_user(&self.scripts.create_user, &user.name, by);
        write.key(keys::user(&user.name)).arg(records::encode_user(user));
        let created = self.connection.write(write).await?;
        self.finish_creation(user).await.map_err(StoreError::in_the_middle)?;
        Ok(created)
    }

    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        let mut request = at_primary(keys::user_probe(name));
        request.hgetall(keys::user(name));
        let (fields,) = self.connection.read(async |mut link| request.query_async(&mut link).await).await?;
        records::decode_user(name, &fields)
    }

    async fn has_users(&self) -> StoreResult<bool> {
        let mut after = None;
        loop {
            let names = self.names(after.as_ref(), NAMES_AT_ONCE).await?;
            for user in join_all(names.iter().map(|name| self.find_user(name))).await {
                match user {
                    Ok(None) => {}
                    // Nobody can read the record, but it is somebody's.
                    Ok(Some(_)) | Err(StoreError::Corrupt(_)) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            // Names without a user are what broke off, and few.
            after = names.last().filter(|_| names.len() == NAMES_AT_ONCE).cloned();
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>> {
        let mut users: Vec<User> = Vec::new();
        let mut behind = after.cloned();
        loop {
            // One more than asked for says that there is more.
            let wanted = limit.saturating_add(1) - users.len();
            let names = self.names(behind.as_ref(), wanted).await?;
            // Sent at once, they are one round trip, and a cluster has each where its slot is.
            let read = join_all(names.iter().map(|name| self.find_user(name))).await;
            for (name, user) in names.iter().zip(read) {
                match user {
                    Ok(user) => users.extend(user),
                    // One record that nobody can read hides no others.
                    Err(error @ StoreError::Corrupt(_)) => {
                        tracing::error!(%error, %name, "a user is left out of a list");
                    }
                    Err(error) => return Err(error),
                }
            }
            if users.len() > limit {
                users.truncate(limit);
                return Ok(Listing { items: users, more: true });
            }
            // Names without a user are skipped: others take their place.
            behind = names.last().filter(|_| names.len() == wanted).cloned();
            if behind.is_none() {
                return Ok(Listing { items: users, more: false });
            }
        }
    }

    async fn reserve_attempt(&self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> StoreResult<Reservation> {
        let LoginCounts { known, failures } = keys::login_counts(attempt, epoch);
        let backoffs = [throttle::PER_CLIENT_AND_USER, throttle::PER_USER, throttle::PER_CLIENT, throttle::PER_SITE];
        let mut script = self.scripts.reserve_attempt.prepare_invoke();
        script.key(known).arg(milliseconds(throttle::MAX_RETENTION)).arg(milliseconds(throttle::MAX_DELAY));
        for (key, Backoff { free_failures, first_delay, failures_per_doubling }) in failures.into_iter().zip(backoffs) {
            script.key(key).arg(free_failures).arg(milliseconds(first_delay)).arg(failures_per_doubling);
        }
        match self.connection.run_script(&script).await? {
            -2 => Ok(match self.throttle_here().reserve_attempt(attempt, epoch) {
                Reservation::Reserved(_) => Reservation::Reserved(AttemptScope::ThisReplica),
                retry_after @ Reservation::RetryAfter(_) => retry_after,
            }),
            -1 => Ok(Reservation::Reserved(AttemptScope::KnownClient)),
            0 => Ok(Reservation::Reserved(AttemptScope::AllCounters)),
            remaining_ms => Ok(Reservation::RetryAfter(Duration::from_millis(i64::unsigned_abs(remaining_ms)))),
        }
    }

    async fn login_succeeded(&self, attempt: &LoginAttempt, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()> {
        let LoginCounts { known, mut failures } = keys::login_counts(attempt, Some(epoch));
        match scope {
            AttemptScope::AllCounters => {}
            AttemptScope::KnownClient => failures.truncate(1),
            AttemptScope::ThisReplica => {
                self.throttle_here().refund_attempt(attempt, Some(epoch), AttemptScope::AllCounters);
                // To be known takes memory; to be forgiven gives some back.
                return self.connection.command(&Cmd::del(&failures[0])).await;
            }
        }
        let mut script = self.scripts.login_succeeded.prepare_invoke();
        script.key(known).key(failures).arg(milliseconds(throttle::KNOWN_CLIENT_TTL));
        self.connection.run_script(&script).await
    }

    async fn is_known_client(&self, attempt: &LoginAttempt) -> StoreResult<bool> {
        self.connection.command(&Cmd::exists(keys::known(attempt))).await
    }

    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>> {
        Ok(RedisWatch::begin(&self.connection).await?.map(|watch| Box::new(watch) as _))
    }

    fn time(&self) -> Option<Duration> {
        Some(self.connection.clock()?.now())
    }

    async fn check(&self) -> StoreResult<Health> {
        let mut probe = self.scripts.probe.prepare_invoke();
        probe.key(keys::ADMINS);
        let holds_users = match self.connection.read_script(&probe).await {
            Err(error) if server::is_forbidden(&error) => return Ok(server::without_scripts()),
            result => result?,
        };
        let info = match self.connection.command(&cmd("INFO")).await {
            Err(error) if server::is_forbidden(&error) => None,
            result => Some(result?),
        };
        let clock = self.connection.read_clock(self.connection.deadline(), &self.connection.shared()).await?;
        let seen = server::health(info.as_ref(), self.connection.survives_promotions());
        let mut health = Health { holds_users: Some(holds_users), ..seen };
        health.warnings.extend((clock.difference() >= CLOCK_DIFFERENCE).then_some(server::CLOCK));
        Ok(health)
    }
}

#[async_trait]
impl StrictWrites for RedisStore {
    async fn revoke_token(&self, by: &Authority, owner: &UserName, id: TokenId) -> StoreResult<bool> {
        // An id is never used again: a second run does nothing where the first one ran.
        let write = Write::to_user(&self.scripts.revoke_token, owner, by).repeatable();
        self.connection.delete(revocation(write, owner, id, None)).await
    }

    async fn revoke_presented(
        &self,
        owner: &UserName,
        id: TokenId,
        digest: TokenDigest,
        is_ours: bool,
    ) -> StoreResult<bool> {
        let write = Write::to_shown(&self.scripts.revoke_token, owner).repeatable();
        self.connection.write_for_stranger(revocation(write, owner, id, Some(digest)), is_ours).await
    }

    async fn confirm(&self, owner: &UserName) -> StoreResult<()> {
        if self.connection.waits_for_replicas() {
            let mut write = Write::to_shown(&self.scripts.mark, owner).repeatable();
            write.key(keys::user(owner));
            let _unchanged: u8 = self.connection.write(write).await?;
        }
        Ok(())
    }

    async fn revoke_tokens(&self, by: &Authority, owner: &UserName) -> StoreResult<u64> {
        // Not after its answer: tokens that were created since then are not meant.
        let mut write = Write::to_user(&self.scripts.revoke_tokens, owner, by).until(self.connection.deadline());
        write.key(keys::token_index(owner)).arg(keys::token_prefix(owner));
        self.connection.write(write).await
    }

    async fn rotate_token(
        &self,
        owner: &UserName,
        login: LoginEpoch,
        token: &Token,
        successor: &Token,
        overlap: Duration,
        quota: usize,
    ) -> StoreResult<Rotation> {
        let rotated = Token { successor: Some(successor.id), ..token.clone() };
        let mut write = self.creation(owner, login, successor, quota).until(self.connection.deadline());
        write
            .key(keys::token(owner, token.id))
            .arg(token.id.to_string())
            .arg(records::encode_token(&rotated))
            .arg(milliseconds(overlap));
        match self.connection.write(write).await? {
            1 => Ok(Rotation::Rotated),
            0 => Ok(Rotation::QuotaReached),
            -3 => Ok(Rotation::AlreadyRotated),
            _ => Ok(Rotation::NoSuchToken),
        }
    }

    async fn update_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        self.change_user(by, name, update).await
    }

    async fn set_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<Option<u64>> {
        let ends = if revoke_tokens { Ends::LoginsAndTokens } else { Ends::Logins };
        let write = self.updating(by, name, None, ends, &records::password_field(hash));
        let (ended, _): Reply = self.connection.write(write).await?;
        Ok(u64::try_from(ended).ok())
    }

    async fn replace_hash(&self, name: &UserName, old: &PasswordHash, new: &PasswordHash) -> StoreResult<bool> {
        let [field, old] = records::password_field(old);
        let [_, new] = records::password_field(new);
        // The old hash is the right: nobody replaces it but whoever knows the password.
        let mut write = Write::to_shown(&self.scripts.replace_hash, name).repeatable();
        write.key(keys::user(name)).arg(field).arg(old).arg(new);
        self.connection.write(write).await
    }

    async fn remove_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let removed = self.delete_user(by, name).await?;
        if removed != UserChange::LastAdmin {
            self.finish_removal(name).await.map_err(StoreError::in_the_middle)?;
        }
        Ok(removed)
    }
}

/// A duration as scripts take it.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A pipeline that only a primary answers, which has to own this key: as for tokens, but with a key that is never there,
/// for GETEX reads nothing but strings.
fn at_primary(probe: String) -> Pipeline {
    let mut request = pipe();
    request.cmd("GETEX").arg(probe).ignore();
    request
}

impl RedisStore {
    fn throttle_here(&self) -> MutexGuard<'_, Throttle> {
        self.throttle_here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The write that creates a token, ready to be told of a predecessor.
    fn creation(&self, owner: &UserName, login: LoginEpoch, token: &Token, quota: usize) -> Write<'_> {
        let mut write = Write::to_user(&self.scripts.create_token, owner, &Authority::Login(login));
        write
            .key(keys::token(owner, token.id))
            .key(keys::token_index(owner))
            .arg(token.id.to_string())
            .arg(records::encode_token(token))
            .arg(token.life.seconds() * 1000)
            .arg(quota);
        write
    }

    /// A write to an account that does not run after its operation has failed: whoever was told so may have done something
    /// else by then.
    fn to_user<'a>(&self, script: &'a Script, name: &UserName, by: &Authority) -> Write<'a> {
        Write::to_user(script, name, by).until(self.connection.deadline())
    }

    /// A write to a key that is no user's, as a step of a change of this user, under the same condition.
    fn to_key<'a>(&self, script: &'a Script, key: &str, name: &UserName, by: &Authority) -> Write<'a> {
        Write::to_key(script, key, name, by).until(self.connection.deadline())
    }

    /// The authority of a step that completes what was done by right.
    fn completion(&self) -> Authority {
        Authority::Until(self.connection.deadline())
    }

    /// What a user who was created needs besides.
    async fn finish_creation(&self, user: &User) -> StoreResult<()> {
        // A removal of a user of this name may have taken it out since.
        self.change_name(&self.scripts.add_name, &self.completion(), &user.name).await?;
        if user.administers() {
            self.change_user(&self.completion(), &user.name, UserUpdate::default()).await?;
        }
        Ok(())
    }

    /// What a user who was removed leaves behind.
    async fn finish_removal(&self, name: &UserName) -> StoreResult<()> {
        self.change_name(&self.scripts.remove_name, &self.completion(), name).await?;
        // Somebody may have created the user again in between. Where this breaks off, repeating either mends it.
        if self.find_user(name).await?.is_some() {
            self.change_name(&self.scripts.add_name, &self.completion(), name).await?;
        }
        Ok(())
    }

    /// At most so many names, in their order, beginning behind `after`; of users, or of nobody any more or yet.
    async fn names(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Vec<UserName>> {
        let start = after.map_or_else(|| "-".to_owned(), |name| format!("({name}"));
        let mut request = at_primary(keys::NAMES_PROBE.to_owned());
        request.cmd("ZRANGE").arg(keys::NAMES).arg(start).arg("+").arg("BYLEX").arg("LIMIT").arg(0).arg(limit);
        let (names,): (Vec<String>,) =
            self.connection.read(async |mut link| request.query_async(&mut link).await).await?;
        names.iter().map(|name| name.parse().map_err(|_| StoreError::Corrupt("user name"))).collect()
    }

    async fn change_name(&self, script: &Script, by: &Authority, name: &UserName) -> StoreResult<()> {
        let mut write = self.to_key(script, keys::NAMES, name, by);
        write.arg(name.as_str());
        let _was_changed: bool = self.connection.write(write).await?;
        Ok(())
    }
}

/// The revocation of a token, if its JWT has this digest, where one is given.
fn revocation<'a>(mut write: Write<'a>, owner: &UserName, id: TokenId, digest: Option<TokenDigest>) -> Write<'a> {
    write
        .key(keys::token(owner, id))
        .key(keys::token_index(owner))
        .arg(id.to_string())
        .arg(digest.map(TokenDigest::to_base64).unwrap_or_default());
    write
}

//! The store in Redis 7.0 or later: a token is one key with a native TTL.
//!
//! Every operation on tokens is one round trip: a command, or a script where several keys change together. An operation
//! on a user takes a few more if it also concerns keys in other Cluster slots: all names ([`keys::NAMES`]) and the
//! administrators ([`admins`]). A script is sent by its hash; its first use on a server that does not have it costs two
//! more round trips.

use std::{iter, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Script, Value, cmd, pipe};

pub use self::{
    address::AddressError,
    options::{RedisOptions, TlsFiles},
};
use self::{
    cluster_watch::ClusterWatch, connections::Connections, keys::Subject, scripts::SCRIPTS, watch::RedisWatch,
    write::Write,
};
use super::{
    AttemptScope, Authority, ClientAndUser, Creation, Health, InspectedToken, Listing, LiveToken, LoginEpoch, NewToken,
    PageRequest, Repetition, Reservation, RevokingWrites, Store, StoreError, StoreResult, TokenId, TokenUse, User,
    UserName, UserUpdate, Watch, throttle::Throttle,
};
use crate::{
    domain::{
        idempotency::{self, Issuance},
        throttle::{self, CounterRule},
    },
    turns::Turns,
};

mod address;
mod admins;
mod any_connection;
mod client;
mod clock;
mod cluster_view;
mod cluster_watch;
mod connections;
mod covered_nodes;
mod failure;
mod invalidations;
mod keys;
mod options;
mod records;
mod revoking_writes;
mod scripts;
mod server;
mod watch;
mod write;

/// The least difference between the clocks of this machine and of Redis that gives a warning.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// The most tokens that one script reads: it blocks Redis for less than 2 ms.
const TOKENS_PER_SCRIPT: usize = 1000;

/// The most tokens of a list that one script reads, so that the requests of others come in between.
const LISTED_PER_SCRIPT: usize = 250;

/// The reply of `list_tokens.lua`: ids and remaining ms, each with spaces; records; parts of last uses if there are
/// any; and when the last token was created, if more may follow.
type ListedTokens = (String, String, Vec<Option<Vec<u8>>>, Vec<Option<Vec<u8>>>, Option<String>);

/// A store in Redis: in one server, in the primary that Sentinel names, or in a Cluster. It need not be reachable.
pub struct RedisStore {
    connections: Arc<Connections>,
    /// Of users who list more tokens than one script reads.
    long_lists: Turns,
    /// Counts failed logins in this process while Redis has no memory for them. It grows no faster than passwords are
    /// hashed.
    throttle_here: Mutex<Throttle>,
}

impl RedisStore {
    /// Prepares a store; nothing is connected yet.
    pub fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        let connections = Arc::new(Connections::new(options)?);
        Ok(Self { connections, long_lists: Turns::default(), throttle_here: Mutex::default() })
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create_token(&self, new: NewToken<'_>) -> StoreResult<Creation> {
        Ok(self.create_within_quota(new.owner, &creation_write(new, None)).await?.into())
    }

    async fn create_first_token(&self, owner: &User, new: NewToken<'_>) -> StoreResult<Option<Creation>> {
        // In the order of `create_user`.
        self.run_name_script(&SCRIPTS.add_name, &self.authority_to_complete(), &owner.name).await?;
        let write = creation_write(new, Some(owner)).until(self.connections.deadline());
        match self.create_within_quota(&owner.name, &write).await? {
            CreationReply::Code(1) => {}
            CreationReply::Code(-4) => return Ok(None),
            reply => return Ok(Some(reply.into())),
        }
        self.finish_creation(owner).await.map_err(StoreError::into_unconfirmed)?;
        Ok(Some(Creation::Created))
    }

    async fn find_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<LiveToken>> {
        let key = keys::token(owner, id);
        let mut request = pipe();
        // GETEX without an option is a GET that a Redis replica rejects: after a failover, a former primary, which may
        // not know of a revocation, does not answer. With `min-replicas-to-write`, a primary that is cut off rejects
        // it, too.
        request.cmd("GETEX").arg(&key).pttl(&key);
        let (record, pttl): (Option<Vec<u8>>, i64) = self.connections.read(owner, Subject::Token(id), &request).await?;
        record.map_or(Ok(None), |record| records::decode_live_token(id, &record, pttl))
    }

    async fn inspect_token(&self, owner: &UserName, id: TokenId) -> StoreResult<Option<InspectedToken>> {
        let key = keys::token(owner, id);
        let mut request = pipe();
        request.cmd("GETEX").arg(&key).pttl(&key).hget(keys::token_uses(owner), keys::use_field(id));
        let (record, pttl, uses): (Option<Vec<u8>>, i64, _) = self.connections.send_repeatable(&request).await?;
        let Some(record) = record else { return Ok(None) };
        let live = records::decode_live_token(id, &record, pttl)?;
        Ok(live.map(|live| live.with_use(records::decode_use(id, uses))))
    }

    async fn record_uses(&self, owner: &UserName, uses: &[TokenUse]) -> StoreResult<()> {
        let mut script = SCRIPTS.record_uses.prepare_invoke();
        script.key(keys::token_uses(owner));
        for used in uses {
            script.key(keys::token(owner, used.id)).arg(used.at);
        }
        let _recorded: u64 = self.connections.send_repeatable(&script).await?;
        Ok(())
    }

    async fn list_tokens(&self, owner: &UserName, page: PageRequest) -> StoreResult<Option<Listing<InspectedToken>>> {
        // One more, to know whether more follow.
        let wanted = page.limit.unwrap_or(usize::MAX).saturating_add(1);
        let (mut tokens, mut turn) = (Vec::new(), None);
        let (mut after, mut created) = (page.after.map(|id| id.to_string()).unwrap_or_default(), String::new());
        loop {
            let count = (wanted - tokens.len()).min(LISTED_PER_SCRIPT);
            let Some(part) = self.read_tokens(owner, count, &after, &created).await? else { return Ok(None) };
            let (ids, remaining, records, uses, last_created) = part;
            let uses = uses.into_iter().chain(iter::repeat(None));
            let read = ids.split(' ').zip(records).zip(remaining.split(' ')).zip(uses);
            tokens.extend(read.filter_map(|(((id, record), pttl), used)| {
                let live = decode_listed_token(owner, id, &record?, pttl)?;
                let last_used = records::decode_use(live.token.id, used);
                Some(live.with_use(last_used))
            }));
            match last_created.zip(ids.rsplit(' ').next()) {
                Some((time, last)) if tokens.len() < wanted => (after, created) = (last.to_owned(), time),
                _ => break,
            }
            if turn.is_none() {
                turn = Some(self.long_lists.wait(owner).await);
            }
        }
        let more = tokens.len() == wanted;
        tokens.truncate(wanted - 1);
        Ok(Some(Listing { items: tokens, more }))
    }

    async fn create_user(&self, by: &Authority, user: &User) -> StoreResult<bool> {
        // The set of names lives in another Cluster slot. Wherever this breaks off, each user has a name in it.
        self.run_name_script(&SCRIPTS.add_name, by, &user.name).await?;
        let write = self.write_to_user(&SCRIPTS.create_user, &user.name, by);
        let write = write.keys([keys::user(&user.name)]).arg(records::encode_user(user));
        let created = self.connections.write(&write).await?;
        self.finish_creation(user).await.map_err(StoreError::into_unconfirmed)?;
        Ok(created)
    }

    async fn find_user(&self, name: &UserName) -> StoreResult<Option<User>> {
        let (fields,) = self.connections.read(name, Subject::User(name.clone()), &records::user_query(name)).await?;
        records::decode_user(name, &fields)
    }

    async fn has_users(&self) -> StoreResult<bool> {
        let (users, skipped) = self.read_users(None, 1).await?;
        Ok(skipped || !users.is_empty())
    }

    async fn list_users(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Listing<User>> {
        let (mut users, _) = self.read_users(after, limit.saturating_add(1)).await?;
        let more = users.len() > limit;
        users.truncate(limit);
        Ok(Listing { items: users, more })
    }

    async fn reserve_attempt(&self, pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> StoreResult<Reservation> {
        let rules = [throttle::PER_CLIENT_AND_USER, throttle::PER_USER, throttle::PER_CLIENT, throttle::PER_SITE];
        let mut script = SCRIPTS.reserve_attempt.prepare_invoke();
        script.key(keys::known_client(pair));
        script.arg(milliseconds(throttle::MAX_RETENTION)).arg(milliseconds(throttle::MAX_DELAY));
        let counters = keys::failure_counters(pair, epoch).into_iter().zip(rules);
        for (key, CounterRule { free_failures, first_delay, failures_per_doubling }) in counters {
            script.key(key).arg(free_failures).arg(milliseconds(first_delay)).arg(failures_per_doubling);
        }
        match self.connections.send_unrepeatable(&script).await? {
            -2 => Ok(match self.throttle_here.lock().reserve_attempt(pair, epoch) {
                Reservation::Reserved(_) => Reservation::Reserved(AttemptScope::ThisReplica),
                retry_after @ Reservation::RetryAfter(_) => retry_after,
            }),
            -1 => Ok(Reservation::Reserved(AttemptScope::KnownClient)),
            0 => Ok(Reservation::Reserved(AttemptScope::AllCounters)),
            remaining_ms => Ok(Reservation::RetryAfter(Duration::from_millis(i64::unsigned_abs(remaining_ms)))),
        }
    }

    async fn login_succeeded(&self, pair: &ClientAndUser, epoch: LoginEpoch, scope: AttemptScope) -> StoreResult<()> {
        let mut counters = keys::failure_counters(pair, Some(epoch));
        match scope {
            AttemptScope::AllCounters => {}
            AttemptScope::KnownClient => counters.truncate(1),
            AttemptScope::ThisReplica => {
                self.throttle_here.lock().refund_attempt(pair, Some(epoch), AttemptScope::AllCounters);
                // Without memory, Redis can delete the pair's counter, but cannot make the client known.
                return self.connections.send_repeatable(&Cmd::del(&counters[0])).await;
            }
        }
        let mut script = SCRIPTS.login_succeeded.prepare_invoke();
        script.key(keys::known_client(pair)).key(counters).arg(milliseconds(throttle::KNOWN_CLIENT_TTL));
        self.connections.send_unrepeatable(&script).await
    }

    async fn is_known_client(&self, pair: &ClientAndUser) -> StoreResult<bool> {
        self.connections.send_repeatable(&Cmd::exists(keys::known_client(pair))).await
    }

    async fn watch(&self) -> StoreResult<Option<Box<dyn Watch>>> {
        let shared = self.connections.shared_connection();
        if shared.opened(self.connections.deadline()).await?.is_cluster() {
            return Ok(Some(Box::new(ClusterWatch::begin(&self.connections).await?)));
        }
        Ok(Some(Box::new(RedisWatch::begin(&self.connections).await?)))
    }

    fn time(&self) -> Option<Duration> {
        Some(self.connections.clock()?.now())
    }

    async fn health(&self) -> StoreResult<Health> {
        let mut probe = SCRIPTS.probe.prepare_invoke();
        probe.key(keys::ADMINS);
        let had_admin = match self.connections.send_repeatable(&probe).await {
            Err(error) if server::is_command_forbidden(&error) => return Ok(server::health_if_scripts_forbidden()),
            result => result?,
        };
        let info = match self.connections.send_repeatable(&cmd("INFO")).await {
            Err(error) if server::is_command_forbidden(&error) => None,
            result => Some(result?),
        };
        let (deadline, shared) = (self.connections.deadline(), self.connections.shared_connection());
        let clock = self.connections.read_clock(deadline, &shared, keys::ADMINS).await?;
        let seen = server::health_by_info(info.as_ref(), self.connections.survives_failover());
        let mut health = Health { had_admin: Some(had_admin), ..seen };
        health.warnings.extend((clock.difference() >= CLOCK_DIFFERENCE).then_some(server::CLOCKS_DIFFER));
        Ok(health)
    }
}

/// The reply of `create_token.lua`.
enum CreationReply {
    /// One of its codes.
    Code(i64),
    /// The Idempotency-Key was used before.
    Repeated(Repetition),
}

impl From<CreationReply> for Creation {
    fn from(reply: CreationReply) -> Self {
        match reply {
            CreationReply::Repeated(repetition) => Self::Repeated(repetition),
            CreationReply::Code(1) => Self::Created,
            CreationReply::Code(-5) => Self::TooManyKeys,
            CreationReply::Code(_) => Self::QuotaReached,
        }
    }
}

/// A duration in whole milliseconds, for a script.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The write that creates a token, with its owner if there is a new one. Otherwise, it rests on the owner's login, and
/// [`RevokingWrites::rotate_token`] adds the predecessor to it.
fn creation_write(
    NewToken { owner, login, token, quota, idempotency }: NewToken<'_>,
    new_owner: Option<&User>,
) -> Write {
    let mut write = match new_owner {
        Some(user) => Write::without_authority(&SCRIPTS.create_token, owner)
            .keys([keys::user(owner)])
            .arg(records::encode_user_as_json(user)),
        None => Write::to_user(&SCRIPTS.create_token, owner, &Authority::Login(login)).arg(""),
    };
    if let Some((key, _)) = idempotency {
        write = write.keys([keys::idempotency(owner, key), keys::idempotency_index(owner)]);
    }
    write
        .arg(idempotency.map(|(_, issuance)| records::encode_issuance(issuance)).unwrap_or_default())
        .arg(milliseconds(Issuance::retention(token.life)))
        .arg(idempotency::MAX_KEYS)
        .keys([keys::token(owner, token.id)])
        .keys(keys::token_records(owner))
        .arg(token.id.to_string())
        .arg(records::encode_token(token))
        .arg(token.life.seconds() * 1000)
        .arg(quota)
}

/// A token out of a list. A record that cannot be read hides no others: it is logged and left out.
fn decode_listed_token(owner: &UserName, id: &str, record: &[u8], pttl: &str) -> Option<LiveToken> {
    let id_and_pttl = id.parse().ok().zip(pttl.parse().ok()).ok_or(StoreError::Corrupt("token index"));
    id_and_pttl.and_then(|(id, pttl)| records::decode_live_token(id, record, pttl)).unwrap_or_else(|error| {
        tracing::error!(%error, %owner, id, "a token is left out of a list");
        None
    })
}

impl RedisStore {
    /// Reads at most `count` of a user's tokens, newest first, after the token with the id `after` ('' for the newest).
    /// `created`: the time in the index of a token that may be gone by now, else ''. `None`: `after` is not live.
    async fn read_tokens(
        &self,
        owner: &UserName,
        count: usize,
        after: &str,
        created: &str,
    ) -> StoreResult<Option<ListedTokens>> {
        let mut script = SCRIPTS.list_tokens.prepare_invoke();
        script.key(&keys::token_records(owner));
        script.arg(keys::token_prefix(owner)).arg(count).arg(after).arg(created);
        self.connections.send_repeatable(&script).await
    }

    /// Runs `create_token.lua`. If the quota may be reached and the index of expiries does not have the owner's tokens
    /// (the first time, or after an earlier version wrote), adds all of them to it and runs the script again.
    async fn create_within_quota(&self, owner: &UserName, write: &Write) -> StoreResult<CreationReply> {
        let reply = self.create(write).await?;
        if !matches!(reply, CreationReply::Code(-1)) {
            return Ok(reply);
        }
        let mut position = Some(0_u64);
        while let Some(first) = position {
            let mut script = SCRIPTS.index_expiries.prepare_invoke();
            script.key(&keys::token_records(owner));
            script.arg(keys::token_prefix(owner)).arg(first).arg(TOKENS_PER_SCRIPT);
            position = self.connections.send_repeatable(&script).await?;
        }
        self.create(write).await
    }

    /// Runs `create_token.lua` once.
    async fn create(&self, write: &Write) -> StoreResult<CreationReply> {
        match self.connections.write(write).await? {
            Value::Int(code) => Ok(CreationReply::Code(code)),
            reply => {
                let reply = records::RepetitionReply::from_redis_value(reply);
                let reply = reply.map_err(|_| StoreError::Corrupt("record of an Idempotency-Key"))?;
                Ok(CreationReply::Repeated(records::decode_repetition(reply)?))
            }
        }
    }

    /// A write to this user's account that does not run after its deadline, when its operation has failed: the client
    /// may have done something else by then.
    fn write_to_user(&self, script: &'static Script, name: &UserName, by: &Authority) -> Write {
        Write::to_user(script, name, by).until(self.connections.deadline())
    }

    /// The same for a write to a key that belongs to no user, as a step of a change of this user.
    fn write_to_key(&self, script: &'static Script, key: &str, name: &UserName, by: &Authority) -> Write {
        Write::to_key(script, key, name, by).until(self.connections.deadline())
    }

    /// The authority of a step that completes a change whose authority was checked in its first step.
    fn authority_to_complete(&self) -> Authority {
        Authority::Until(self.connections.deadline())
    }

    /// Adds the name of a user who was created, and registers an enabled administrator.
    async fn finish_creation(&self, user: &User) -> StoreResult<()> {
        // A removal of an earlier user of this name may have removed the name since.
        self.run_name_script(&SCRIPTS.add_name, &self.authority_to_complete(), &user.name).await?;
        if user.is_enabled_admin() {
            // An empty update registers an enabled administrator.
            self.update_user(&self.authority_to_complete(), &user.name, UserUpdate::default()).await?;
        }
        Ok(())
    }

    /// Reads users by name, after `after`: at least `wanted`, unless there are fewer. Also says whether it skipped a
    /// record that cannot be read; one such record hides no others.
    async fn read_users(&self, after: Option<&UserName>, wanted: usize) -> StoreResult<(Vec<User>, bool)> {
        let (mut users, mut skipped, mut after) = (Vec::new(), false, after.cloned());
        loop {
            // Few names have no user (yet, or any more); more names are read in their place.
            let missing = wanted - users.len();
            let names = self.read_names(after.as_ref(), missing).await?;
            // Sent at once, they take one round trip; not one pipeline, since each has another Cluster slot.
            let read = join_all(names.iter().map(|name| self.find_user(name))).await;
            for (name, user) in names.iter().zip(read) {
                match user {
                    Ok(user) => users.extend(user),
                    Err(error @ StoreError::Corrupt(_)) => {
                        tracing::error!(%error, %name, "a user is left out of a list");
                        skipped = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if users.len() >= wanted || names.len() < missing {
                return Ok((users, skipped));
            }
            after = names.last().cloned();
        }
    }

    /// At most `limit` names in their order, after `after`; a user of a name may not exist (yet, or any more).
    async fn read_names(&self, after: Option<&UserName>, limit: usize) -> StoreResult<Vec<UserName>> {
        let start = after.map_or_else(|| "-".to_owned(), |name| format!("({name}"));
        let mut request = records::primary_only_pipeline(keys::NAMES_PROBE);
        request.cmd("ZRANGE").arg(keys::NAMES).arg(start).arg("+").arg("BYLEX").arg("LIMIT").arg(0).arg(limit);
        let (names,): (Vec<String>,) = self.connections.send_repeatable(&request).await?;
        names.iter().map(|name| name.parse().map_err(|_| StoreError::Corrupt("user name"))).collect()
    }

    /// Runs `script`, which adds a name to the names of all users, or removes it.
    async fn run_name_script(&self, script: &'static Script, by: &Authority, name: &UserName) -> StoreResult<()> {
        let write = self.write_to_key(script, keys::NAMES, name, by).arg(name.as_str());
        let _was_changed: bool = self.connections.write(&write).await?;
        Ok(())
    }
}

//! The connections to Redis: one that all requests share, and a pool for writes that wait for Redis replicas.
//!
//! Concurrent requests on one multiplexed connection are pipelined, which gives 2.3 times the requests per second of
//! exclusive check-outs from a pool (measured: 60 k against 26 k on two cores); a check-out also costs a second round
//! trip, for its `PING`. A write that waits for Redis replicas takes a connection of its own from the pool, because
//! `WAIT` blocks all requests behind it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use deadpool::managed::{Object, Pool, PoolError};
use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ScriptInvocation, ServerErrorKind, cmd, pipe};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use super::{
    address::AddressError,
    any_connection::{AnyConnection, Request, Uninstrumented},
    client::Client,
    clock::ClockReading,
    covered_nodes::CoveredNodes,
    failure::Failure,
    keys::{self, Subject},
    options::RedisOptions,
    records,
    scripts::SCRIPTS,
    write::{Principal, Write},
};
use crate::{
    domain::user::UserName,
    store::{StoreError, StoreResult, leased::LEASE},
    telemetry::metrics::Gauge,
};

/// The number of connections for writes that wait for Redis replicas; more of these writes queue.
const POOL_SIZE: usize = 16;

/// The most connections of the pool for revocations by a token's holder, who does not log in, if the token is known to
/// be ours. One more is for all other holders.
const VERIFIED_HOLDER_PERMITS: usize = POOL_SIZE / 4;

/// The most time for connecting, including for sentinels that do not answer and for the list of a Cluster's slots.
/// Connecting continues after the requests that wait for it have given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The least time between the beginnings of two attempts to connect; requests in between share the first's result. So a
/// Redis that is gone gets at most ten attempts a second from each Mayfly process, however many requests there are.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// Opens connections when they are needed, and replaces broken ones.
pub(super) struct Connections {
    /// The connections for writes that wait for Redis replicas.
    pool: Pool<Client>,
    /// Opens the shared connection.
    client: Arc<Client>,
    /// The nodes of a Cluster that a watch covers; `None`: there is no watch, or no Cluster.
    pub(super) covered_nodes: ArcSwapOption<CoveredNodes>,
    /// The connection for all other requests; `None`: before the first request, and after it broke.
    shared: Mutex<Option<Arc<SharedConnection>>>,
    /// The latest reading of the server's clock, or of one node's in a Cluster.
    clock: ArcSwapOption<ClockReading>,
    /// Permits for revocations by the holder of a token that is known to be ours.
    verified_holders: Semaphore,
    /// The one permit for revocations by the holder of any other token: an honest holder, or a forger.
    unverified_holders: Semaphore,
    /// This and the next two: the options of the same name.
    timeout: Duration,
    wait_replicas: u32,
    wait_timeout: Duration,
}

/// The connection that all requests share. It exists before it is open: requests wait for that together.
pub(super) struct SharedConnection {
    /// When connecting began.
    begun_at: Instant,
    /// The latest reading of its server's clock. Always empty for a Cluster, whose nodes have a clock each.
    clock: ArcSwapOption<ClockReading>,
    /// The connection, or why connecting failed.
    opened: future::Shared<BoxFuture<'static, Result<AnyConnection, Failure>>>,
}

impl SharedConnection {
    /// Begins to connect.
    fn begin(client: Arc<Client>) -> Self {
        // A task continues after the requests that wait for it have given up.
        let opening = async move {
            let task = tokio::spawn(async move { timeout(CONNECT_TIMEOUT, client.connect()).await });
            match task.await {
                Ok(Ok(opened)) => opened.map_err(Failure::Unconnected),
                _ => Err(StoreError::Timeout.into()),
            }
        };
        Self { begun_at: Instant::now(), clock: ArcSwapOption::empty(), opened: opening.boxed().shared() }
    }

    /// Whether requests get this connection: it is open or being opened, or it failed and connecting began less than
    /// [`CONNECT_INTERVAL`] ago.
    fn is_usable(&self) -> bool {
        !matches!(self.opened.peek(), Some(Err(_))) || self.begun_at.elapsed() < CONNECT_INTERVAL
    }

    /// Waits for the connection until the deadline, as the timeouts of redis-rs do not cover everything.
    pub(super) async fn opened(&self, deadline: Instant) -> Result<&AnyConnection, Failure> {
        if self.opened.peek().is_none() {
            timeout_at(deadline, self.opened.clone()).await??;
        }
        self.opened.peek().expect("it was waited for").as_ref().map_err(Clone::clone)
    }
}

impl Connections {
    /// Prepares connections; nothing is connected yet. A request takes at most `options.timeout`, and twice that if it
    /// is a [`Self::delete`] whose connection breaks or a [`Self::write_for_holder`] that waits for its permit.
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        // rustls needs a default where several providers are compiled in. `install_default` fails if a provider is
        // installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(Self {
            pool: Pool::builder(Client::new(options)?).max_size(POOL_SIZE).build().expect("it needs no runtime"),
            // A client of its own: a Sentinel client opens one connection at a time, and the pool would block it.
            client: Arc::new(Client::new(options)?),
            covered_nodes: ArcSwapOption::empty(),
            shared: Mutex::default(),
            clock: ArcSwapOption::empty(),
            verified_holders: Semaphore::new(VERIFIED_HOLDER_PERMITS),
            unverified_holders: Semaphore::new(1),
            timeout: options.timeout,
            wait_replicas: options.wait_replicas,
            wait_timeout: options.wait_timeout,
        })
    }

    /// Sends a request that may run twice. The request is sent again once, after a broken connection or a Redis
    /// replica's rejection.
    pub(super) async fn send_repeatable<T: FromRedisValue>(&self, request: &impl Request) -> StoreResult<T> {
        let deadline = self.deadline();
        let attempt = || async { self.send_on(&self.shared_connection(), deadline, request).await };
        Ok(repeat_if(|failure| failure.is_dropped() || failure.is_demoted(), attempt).await?)
    }

    /// Sends a read of keys of this user, whose result may be leased until `subject` changes: where a watch covers the
    /// nodes of a Cluster, to the node that has the keys.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        owner: &UserName,
        subject: Subject,
        request: &impl Request,
    ) -> StoreResult<T> {
        if let Some(nodes) = self.covered_nodes.load_full() {
            match nodes.read(owner, request, self.deadline()).await.map_err(StoreError::from) {
                Err(StoreError::Timeout) => return Err(StoreError::Timeout),
                Err(_) => nodes.read_elsewhere(subject),
                answer => return answer,
            }
        }
        self.send_repeatable(request).await
    }

    /// Opens a connection to one node of a Cluster; see [`Client::connect_to_node`].
    pub(super) async fn connect_to_node(
        &self,
        host: Option<&str>,
        port: u16,
        deadline: Instant,
    ) -> Result<AnyConnection, Failure> {
        timeout_at(deadline, self.client.connect_to_node(host, port)).await?.map_err(Failure::Unconnected)
    }

    /// Sends a request again only if a Redis replica rejected it, which did nothing, and does not `WAIT`. In a Cluster,
    /// redis-rs may resend it after a broken connection: a login attempt may be counted or removed twice.
    pub(super) async fn send_unrepeatable<T: FromRedisValue>(&self, request: &impl Request) -> StoreResult<T> {
        let deadline = self.deadline();
        let attempt = || async { self.send_on(&self.shared_connection(), deadline, request).await };
        Ok(repeat_if(Failure::is_demoted, attempt).await?)
    }

    /// Runs a script that writes, and waits until as many Redis replicas as configured have acknowledged the write.
    ///
    /// Unless the write is repeatable, the script runs at most once: it is sent again, once, only if it was rejected
    /// before it ran, by a Redis replica or as too late, which a stepped clock can cause. In a Cluster, redis-rs may
    /// resend a script after a broken connection: then the guard rejects the id of a run that it has seen.
    pub(super) async fn write<T: FromRedisValue>(&self, write: &Write) -> StoreResult<T> {
        Ok(self.try_write(write).await?)
    }

    /// As [`Self::write`], but returns the failure, so that the caller can tell why.
    async fn try_write<T: FromRedisValue>(&self, write: &Write) -> Result<T, Failure> {
        let deadline = self.deadline();
        repeat_if(|failure| failure.is_demoted() || failure.is_too_late(), || self.run_guarded(deadline, write)).await
    }

    /// Runs a script that deletes a key whose name is never used again, and says whether the key was there. If the
    /// connection breaks, as one that was idle for long may, the script is sent again. If the second run fails or finds
    /// nothing, the first run's error is returned: the first run may have deleted the key.
    pub(super) async fn delete(&self, write: &Write) -> StoreResult<bool> {
        match self.try_write(write).await {
            Err(first) if first.is_dropped() => match self.try_write(write).await {
                Ok(true) => Ok(true),
                _ => Err(first.into()),
            },
            result => Ok(result?),
        }
    }

    /// Runs a script that writes, for the holder of a token, who does not log in. If writes wait for Redis replicas, it
    /// needs a permit, so that holders leave connections of the pool to users. Holders of unverified tokens (not
    /// `is_ours`) share one permit, all others four.
    pub(super) async fn write_for_holder<T: FromRedisValue>(&self, write: &Write, is_ours: bool) -> StoreResult<T> {
        let permits = if is_ours { &self.verified_holders } else { &self.unverified_holders };
        let _permit = if self.waits_for_replicas() {
            let permit = timeout_at(self.deadline(), permits.acquire()).await;
            Some(permit.map_err(|_elapsed| StoreError::Timeout)?.expect("it is never closed"))
        } else {
            None
        };
        self.write(write).await
    }

    /// Whether writes are answered only once Redis replicas have acknowledged them.
    pub(super) fn waits_for_replicas(&self) -> bool {
        self.wait_replicas > 0
    }

    /// Whether acknowledged writes have to survive a failover: writes wait for Redis replicas, which sentinels may
    /// promote.
    pub(super) fn survives_failover(&self) -> bool {
        self.waits_for_replicas() && self.client.is_sentinel()
    }

    /// The deadline of a request that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Sends a write once, with the arguments that the guard checks.
    async fn run_guarded<T: FromRedisValue>(&self, deadline: Instant, write: &Write) -> Result<T, Failure> {
        let shared = self.shared_connection();
        let (mut run_id, mut principal, mut until) = (None, write.principal.as_ref(), write.until);
        if shared.opened(deadline).await?.is_cluster() {
            run_id = write.run_id();
            // No script can read the administrator's key, in another Cluster slot, so it is read before. The role may
            // be used for one lease: a write that takes the role away waits longer.
            if let Some(administrator) = write.administrator() {
                let asked_at = Instant::now();
                self.expect_principal(deadline, administrator).await?;
                principal = None;
                until = Some(until.map_or(asked_at + LEASE, |until| until.min(asked_at + LEASE)));
            }
        }
        let window = match until {
            Some(until) => Some((self.recent_clock(deadline, &shared, &write.mark).await?, until)),
            None => None,
        };
        let script = write.invocation(run_id, principal, window);
        let result = if self.waits_for_replicas() {
            self.run_and_wait(deadline, &script).await
        } else {
            self.send_on(&shared, deadline, &script).await
        };
        if result.as_ref().is_err_and(Failure::is_too_late) {
            shared.clock.store(None);
        }
        result
    }

    /// An error, unless the user is enabled and still has the login epoch and, if one is needed, the role.
    async fn expect_principal(&self, deadline: Instant, principal: &Principal) -> Result<(), Failure> {
        let (fields,) =
            self.send_on(&self.shared_connection(), deadline, &records::user_query(&principal.name)).await?;
        let user = records::decode_user(&principal.name, &fields)?;
        let user = user.filter(|user| !user.disabled && user.login_epoch == principal.login);
        let user = user.ok_or(StoreError::LoginEnded)?;
        if principal.role.is_none_or(|role| role == user.role) { Ok(()) } else { Err(StoreError::Forbidden.into()) }
    }

    /// A recent reading of the clock of the server that has this key's Cluster slot; asks if there is none.
    async fn recent_clock(
        &self,
        deadline: Instant,
        shared: &Arc<SharedConnection>,
        key: &str,
    ) -> Result<ClockReading, Failure> {
        match shared.clock.load().as_deref() {
            Some(clock) if clock.is_fresh() => Ok(*clock),
            _ => self.read_clock(deadline, shared, key).await,
        }
    }

    /// Asks the server that has this key's Cluster slot for its time, on just this connection.
    pub(super) async fn read_clock(
        &self,
        deadline: Instant,
        shared: &Arc<SharedConnection>,
        key: &str,
    ) -> Result<ClockReading, Failure> {
        let is_cluster = shared.opened(deadline).await?.is_cluster();
        let asked_at = Instant::now();
        let answer = if is_cluster {
            let mut script = SCRIPTS.time.prepare_invoke();
            self.send_on(shared, deadline, script.key(key)).await?
        } else {
            self.send_on(shared, deadline, &Uninstrumented(&cmd("TIME"))).await?
        };
        let clock = ClockReading::new(answer, asked_at);
        if !is_cluster {
            shared.clock.store(Some(Arc::new(clock)));
        }
        // In a Cluster, the clock of one node, so that the time that the service reads does not change with the key. It
        // becomes another node's if the slot moves.
        if !is_cluster || key == keys::ADMINS {
            self.clock.store(Some(Arc::new(clock)));
        }
        Ok(clock)
    }

    /// The latest reading of the server's clock, or of one node's in a Cluster.
    pub(super) fn clock(&self) -> Option<ClockReading> {
        self.clock.load().as_deref().copied()
    }

    /// Sends a request once, on this connection. A broken connection is dropped, with all idle ones of the pool.
    async fn send_on<T: FromRedisValue>(
        &self,
        shared: &Arc<SharedConnection>,
        deadline: Instant,
        request: &impl Request,
    ) -> Result<T, Failure> {
        let mut connection = shared.opened(deadline).await?.clone();
        let sending = async { Ok(T::from_redis_value(request.send(&mut connection).await?)?) };
        let result = until_deadline(deadline, sending).await;
        if result.as_ref().is_err_and(Failure::needs_new_connection) {
            // A newer shared connection stays.
            self.shared.lock().take_if(|current| Arc::ptr_eq(current, shared));
            self.pool.retain(|_, _| false);
        }
        result
    }

    /// Sends a command that no client asked for, on just this connection, without metrics and spans.
    pub(super) async fn send_uninstrumented(
        &self,
        shared: &Arc<SharedConnection>,
        deadline: Instant,
        command: &Cmd,
    ) -> StoreResult<()> {
        Ok(self.send_on(shared, deadline, &Uninstrumented(command)).await?)
    }

    /// An error, if this connection is no longer the one that all requests share.
    pub(super) fn expect_shared(&self, shared: &Arc<SharedConnection>) -> StoreResult<()> {
        if self.shared.lock().as_ref().is_some_and(|current| Arc::ptr_eq(current, shared)) {
            Ok(())
        } else {
            Err(StoreError::unavailable("the connection was replaced"))
        }
    }

    /// Runs a script and `WAIT` on a connection of the pool, in one round trip. The script always writes something
    /// (`unchanged` in `guard.lua`), and `WAIT` counts the Redis replicas that have this write and all that the server
    /// wrote before it. So a client that repeats a write which too few Redis replicas had gets an answer once enough of
    /// them have all that the answer rests on.
    async fn run_and_wait<T: FromRedisValue>(
        &self,
        deadline: Instant,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let pending = Gauge::RedisConnectionsPending.raise();
        // The future is boxed: to open a connection, it has 10 KB, which writes without the pool would reserve, too.
        let mut connection = match timeout_at(deadline, self.pool.get().boxed()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(Failure::Unconnected(error)),
            _ => {
                // The pooled connections may hang: all are dropped, so that each does not cost a request its timeout.
                self.pool.retain(|_, _| false);
                return Err(StoreError::Timeout.into());
            }
        };
        drop(pending);
        let _reserved = Gauge::RedisConnectionsReserved.raise();
        let mut request = pipe();
        request.invoke_script(script).add_command(
            cmd("WAIT").arg(self.wait_replicas).arg(u64::try_from(self.wait_timeout.as_millis()).unwrap()).take(),
        );
        let run = async {
            match request.query_async(&mut *connection).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    script.load_async(&mut *connection).await?;
                    request.query_async(&mut *connection).await
                }
                result => result,
            }
        };
        let result: Result<(T, u32), Failure> = until_deadline(deadline, run).await;
        match result {
            Ok((result, replicas)) if replicas >= self.wait_replicas => Ok(result),
            Ok((_, replicas)) => {
                Err(StoreError::unavailable(format!("only {replicas} replicas acknowledged the write")).into())
            }
            Err(failure) => {
                if failure.needs_new_connection() {
                    drop(Object::take(connection));
                    self.pool.retain(|_, _| false);
                }
                if failure.is_demoted() {
                    *self.shared.lock() = None;
                }
                Err(failure)
            }
        }
    }

    /// Returns the shared connection; begins a new one if the last is unusable.
    pub(super) fn shared_connection(&self) -> Arc<SharedConnection> {
        let mut current = self.shared.lock();
        if let Some(shared) = current.as_ref().filter(|shared| shared.is_usable()) {
            return Arc::clone(shared);
        }
        Arc::clone(current.insert(Arc::new(SharedConnection::begin(Arc::clone(&self.client)))))
    }
}

/// Waits for the answer to a request until the deadline.
async fn until_deadline<T>(deadline: Instant, request: impl Future<Output = RedisResult<T>>) -> Result<T, Failure> {
    Ok(timeout_at(deadline, request).await??)
}

/// Makes an attempt, and one more if the first one failed in a way for which `is_repeated` is true.
async fn repeat_if<T, F>(is_repeated: impl Fn(&Failure) -> bool, attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    match attempt().await {
        Err(failure) if is_repeated(&failure) => attempt().await,
        result => result,
    }
}

//! The connections to Redis: one that all requests share, and a pool for writes that wait for replicas.
//!
//! Concurrent requests on one multiplexed connection are pipelined, which gives 2.3 times the requests per second of
//! exclusive check-outs from a pool (measured: 60 k against 26 k on two cores); a check-out also costs a second round
//! trip, for its `PING`. A write that waits for replicas takes a connection of its own, because `WAIT` blocks all
//! behind it.

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
    any_connection::{AnyConnection, Request, Uninstrumented},
    client::Client,
    clock::ClockReading,
    failure::Failure,
    keys,
    options::{AddressError, RedisOptions},
    records,
    scripts::SCRIPTS,
    write::{Principal, Write},
};
use crate::{
    store::{StoreError, StoreResult, leased::LEASE},
    telemetry::metrics::Level,
};

/// The most writes that wait for replicas at the same time; more of them queue.
const WAITING_WRITES: usize = 16;

/// The most of these that revoke a token for its holder, who does not log in.
const WAITING_HOLDERS: usize = WAITING_WRITES / 4;

/// The most time for connecting, unreachable sentinels and a Cluster's slots included. Connecting goes on when the
/// requests that began it have given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For this long after a failure to connect, all requests share the failure. So a Redis that is gone meets ten attempts
/// a second of each replica, however many requests there are.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that renew themselves.
pub(super) struct Connections {
    /// For writes that wait for replicas.
    pool: Pool<Client>,
    /// Opens the shared connection.
    client: Arc<Client>,
    shared: Mutex<Option<Arc<SharedConnection>>>,
    /// The latest reading of a server's clock.
    clock: ArcSwapOption<ClockReading>,
    /// Permits of revocations by a token's holder that wait for replicas.
    holders: Semaphore,
    /// The one permit of those whose token is not known to be ours.
    forgers: Semaphore,
    timeout: Duration,
    replicas: u32,
    wait_timeout: Duration,
}

/// The connection that all requests share. It exists before it is open: requests wait for that together.
pub(super) struct SharedConnection {
    begun: Instant,
    /// The latest reading of its server's clock. Always empty for a Cluster, whose nodes have a clock each.
    clock: ArcSwapOption<ClockReading>,
    opened: future::Shared<BoxFuture<'static, Result<AnyConnection, Failure>>>,
}

impl SharedConnection {
    fn open(client: Arc<Client>) -> Self {
        // A task, because the requests that wait for it may give up.
        let opening = async move {
            let task = tokio::spawn(async move { timeout(CONNECT_TIMEOUT, client.connect()).await });
            match task.await {
                Ok(Ok(opened)) => opened.map_err(Failure::Unconnected),
                _ => Err(StoreError::Timeout.into()),
            }
        };
        Self { begun: Instant::now(), clock: ArcSwapOption::empty(), opened: opening.boxed().shared() }
    }

    /// Whether it may still be used: it is open, being opened, or has failed just now.
    fn is_usable(&self) -> bool {
        !matches!(self.opened.peek(), Some(Err(_))) || self.begun.elapsed() < CONNECT_PAUSE
    }

    /// The open connection. It has a deadline because the timeouts of redis-rs do not cover everything.
    pub(super) async fn opened(&self, deadline: Instant) -> Result<&AnyConnection, Failure> {
        if self.opened.peek().is_none() {
            timeout_at(deadline, self.opened.clone()).await??;
        }
        self.opened.peek().expect("it was waited for").as_ref().map_err(Clone::clone)
    }
}

impl Connections {
    /// Prepares connections; nothing is connected yet. No request takes longer than `options.timeout`.
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        // rustls needs a default where several providers are compiled in. It fails where there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(Self {
            pool: Pool::builder(Client::new(options)?).max_size(WAITING_WRITES).build().expect("it needs no runtime"),
            // Not the pool's: a client of Sentinel opens one connection after the other.
            client: Arc::new(Client::new(options)?),
            shared: Mutex::default(),
            clock: ArcSwapOption::empty(),
            holders: Semaphore::new(WAITING_HOLDERS),
            forgers: Semaphore::new(1),
            timeout: options.timeout,
            replicas: options.wait_replicas,
            wait_timeout: options.wait_timeout,
        })
    }

    /// Sends a request that changes nothing, or nothing more when it runs again. It is sent again where the connection
    /// breaks.
    pub(super) async fn read<T: FromRedisValue>(&self, request: &impl Request) -> StoreResult<T> {
        let deadline = self.deadline();
        let attempt = || async { self.attempt(&self.shared(), deadline, request).await };
        Ok(repeat_if(|failure| failure.is_dropped() || failure.is_demoted(), attempt).await?)
    }

    /// Sends a request at most once, unless a replica rejects it, and waits for no replica.
    pub(super) async fn send_once<T: FromRedisValue>(&self, request: &impl Request) -> StoreResult<T> {
        let deadline = self.deadline();
        let attempt = || async { self.attempt(&self.shared(), deadline, request).await };
        Ok(repeat_if(Failure::is_demoted, attempt).await?)
    }

    /// Runs a script that writes, and waits until as many replicas as configured have acknowledged the write.
    ///
    /// The script runs at most once. It is sent again only where it was rejected before it ran: by a replica, or as too
    /// late, which a stepped clock can cause. redis-rs resends it in a Cluster; the guard rejects the name of a write
    /// that has run.
    pub(super) async fn write<T: FromRedisValue>(&self, write: &Write) -> StoreResult<T> {
        Ok(self.try_write(write).await?)
    }

    async fn try_write<T: FromRedisValue>(&self, write: &Write) -> Result<T, Failure> {
        let deadline = self.deadline();
        repeat_if(|failure| failure.is_demoted() || failure.is_too_late(), || self.run(deadline, write)).await
    }

    /// Runs a script that deletes something whose name is never used again, and says whether it was there. The script
    /// runs again where the connection broke, as a connection that was idle for long may. If the second run finds
    /// nothing, the first one may have deleted it: then the first run's error is returned.
    pub(super) async fn delete(&self, write: &Write) -> StoreResult<bool> {
        match self.try_write(write).await {
            Err(first) if first.is_dropped() => match self.try_write(write).await {
                Ok(true) => Ok(true),
                _ => Err(first.into()),
            },
            result => Ok(result?),
        }
    }

    /// Runs a script that writes, for the holder of a token, who does not log in. While it waits for replicas, it holds
    /// one of few permits, so that holders keep no user from writing; the only one, unless the token is known to be
    /// ours.
    pub(super) async fn write_for_holder<T: FromRedisValue>(&self, write: &Write, is_ours: bool) -> StoreResult<T> {
        let permits = if is_ours { &self.holders } else { &self.forgers };
        let _permit = if self.waits_for_replicas() {
            let permit = timeout_at(self.deadline(), permits.acquire()).await;
            Some(permit.map_err(|_elapsed| StoreError::Timeout)?.expect("it is never closed"))
        } else {
            None
        };
        self.write(write).await
    }

    /// Whether writes are answered only once replicas have acknowledged them.
    pub(super) fn waits_for_replicas(&self) -> bool {
        self.replicas > 0
    }

    /// Whether acknowledged writes have to survive that sentinels promote another primary.
    pub(super) fn survives_promotions(&self) -> bool {
        self.waits_for_replicas() && self.client.is_sentinel()
    }

    /// When a request that begins now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Sends a write once, with the arguments that the guard checks.
    async fn run<T: FromRedisValue>(&self, deadline: Instant, write: &Write) -> Result<T, Failure> {
        let shared = self.shared();
        let (mut name, mut principal, mut until) = (None, write.principal.as_ref(), write.until);
        if shared.opened(deadline).await?.is_cluster() {
            name = write.name();
            // No script sees the keys of another slot. Taking the role away waits out the lease that ends then.
            if let Some(administrator) = write.administrator() {
                let asked_at = Instant::now();
                self.expect_role(deadline, administrator).await?;
                principal = None;
                until = Some(until.map_or(asked_at + LEASE, |until| until.min(asked_at + LEASE)));
            }
        }
        let window = match until {
            Some(until) => Some((self.recent_clock(deadline, &shared, &write.mark).await?, until)),
            None => None,
        };
        let script = write.invocation(name, principal, window);
        let result = if self.waits_for_replicas() {
            self.run_and_wait(deadline, &script).await
        } else {
            self.attempt(&shared, deadline, &script).await
        };
        if result.as_ref().is_err_and(Failure::is_too_late) {
            shared.clock.store(None);
        }
        result
    }

    /// Checks that this user still has this login, and the role, if one is needed.
    async fn expect_role(&self, deadline: Instant, principal: &Principal) -> Result<(), Failure> {
        let (fields,) = self.attempt(&self.shared(), deadline, &records::user_request(&principal.name)).await?;
        let user = records::decode_user(&principal.name, &fields)?;
        let user = user.filter(|user| !user.disabled && user.login_epoch == principal.login);
        let user = user.ok_or(StoreError::LoginEnded)?;
        if principal.role.is_none_or(|role| role == user.role) { Ok(()) } else { Err(StoreError::Forbidden.into()) }
    }

    /// The clock of the server that has the slot of this key: a recent reading where there is one.
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

    /// Asks the server that has the slot of this key for its time, on just this connection.
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
            self.attempt(shared, deadline, script.key(key)).await?
        } else {
            self.attempt(shared, deadline, &Uninstrumented(&cmd("TIME"))).await?
        };
        let clock = ClockReading::new(answer, asked_at);
        if !is_cluster {
            shared.clock.store(Some(Arc::new(clock)));
        }
        // Of a Cluster, always the same node's.
        if !is_cluster || key == keys::ADMINS {
            self.clock.store(Some(Arc::new(clock)));
        }
        Ok(clock)
    }

    /// The latest reading of a server's clock.
    pub(super) fn clock(&self) -> Option<ClockReading> {
        self.clock.load().as_deref().copied()
    }

    /// Sends a request once, on this connection, which all requests share unless it broke.
    async fn attempt<T: FromRedisValue>(
        &self,
        shared: &Arc<SharedConnection>,
        deadline: Instant,
        request: &impl Request,
    ) -> Result<T, Failure> {
        let mut connection = shared.opened(deadline).await?.clone();
        let sending = async { Ok(T::from_redis_value(request.send(&mut connection).await?)?) };
        let result = before(deadline, sending).await;
        if result.as_ref().is_err_and(Failure::breaks_connection) {
            // Unless another connection has taken its place.
            self.shared.lock().take_if(|current| Arc::ptr_eq(current, shared));
            self.pool.retain(|_, _| false);
        }
        result
    }

    /// Sends a command on just this connection, without metrics and spans.
    pub(super) async fn send_on(
        &self,
        shared: &Arc<SharedConnection>,
        deadline: Instant,
        command: &Cmd,
    ) -> StoreResult<()> {
        Ok(self.attempt(shared, deadline, &Uninstrumented(command)).await?)
    }

    /// An error, if this connection is no longer the one that all requests share.
    pub(super) fn expect_shared(&self, shared: &Arc<SharedConnection>) -> StoreResult<()> {
        if self.shared.lock().as_ref().is_some_and(|current| Arc::ptr_eq(current, shared)) {
            Ok(())
        } else {
            Err(StoreError::unavailable("the connection was replaced"))
        }
    }

    /// Runs a script and `WAIT` on a connection of its own, in one round trip. The script always writes something
    /// (`guard.lua`), and `WAIT` counts the replicas that have this write and all that the server wrote before it. So
    /// repeating a write that too few replicas had is answered once enough replicas have what the answer rests on.
    async fn run_and_wait<T: FromRedisValue>(
        &self,
        deadline: Instant,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let pending = Level::RedisConnectionsPending.raise();
        let mut connection = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(Failure::Unconnected(error)),
            _ => {
                // The pooled connections may hang: all go, so that requests do not find that out one by one.
                self.pool.retain(|_, _| false);
                return Err(StoreError::Timeout.into());
            }
        };
        drop(pending);
        let _reserved = Level::RedisConnectionsReserved.raise();
        let mut request = pipe();
        request.invoke_script(script).add_command(
            cmd("WAIT").arg(self.replicas).arg(u64::try_from(self.wait_timeout.as_millis()).unwrap()).take(),
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
        let result: Result<(T, u32), Failure> = before(deadline, run).await;
        match result {
            Ok((result, replicas)) if replicas >= self.replicas => Ok(result),
            Ok((_, replicas)) => {
                Err(StoreError::unavailable(format!("only {replicas} replicas acknowledged the write")).into())
            }
            Err(failure) => {
                if failure.breaks_connection() {
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

    /// The connection that all requests share now.
    pub(super) fn shared(&self) -> Arc<SharedConnection> {
        let mut current = self.shared.lock();
        if let Some(shared) = current.as_ref().filter(|shared| shared.is_usable()) {
            return Arc::clone(shared);
        }
        Arc::clone(current.insert(Arc::new(SharedConnection::open(Arc::clone(&self.client)))))
    }
}

/// Gives up at the deadline.
async fn before<T>(deadline: Instant, request: impl Future<Output = RedisResult<T>>) -> Result<T, Failure> {
    Ok(timeout_at(deadline, request).await??)
}

/// Makes an attempt, and one more if the first one failed in this way.
async fn repeat_if<T, F>(is_repeated: impl Fn(&Failure) -> bool, attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    match attempt().await {
        Err(failure) if is_repeated(&failure) => attempt().await,
        result => result,
    }
}

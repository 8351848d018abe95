//! The connections to Redis: one for all that only asks, and a pool for writes that wait for replicas.
//!
//! Concurrent requests on one multiplexed connection pipeline by themselves, which gives 2.3 times the requests per
//! second of exclusive check-outs from a pool (measured: 60 k against 26 k on two cores); a check-out also costs a
//! second round trip, for deadpool's `PING`. A write that is to be on replicas before it is answered takes a connection
//! of its own nevertheless, because `WAIT` blocks all behind it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool::managed::{Object, Pool, PoolError};
use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind, cmd, pipe,
};
use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use tokio::time::{Instant as Deadline, timeout, timeout_at};

use super::{
    address::{AddressError, Manager, RedisOptions},
    link::Link,
    observed::Observed,
    watch::Told,
};
use crate::{store::StoreError, telemetry::metrics};

/// Writes that wait for replicas at the same time; more of them queue.
const WAITING_WRITES: usize = 16;

/// How long connecting may take, asking unreachable sentinels and refreshing a cluster's slots included. It goes on
/// when the requests that it was begun for have given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After a failure to connect, nobody tries again before this has passed: what asks until then shares the failure. So a
/// Redis that is gone or coming back meets ten attempts a second of each replica, however many requests there are.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Clone)]
enum Failure {
    /// No connection: nothing was sent.
    Unconnected(RedisError),
    Redis(RedisError),
    Timeout,
    /// The write took place, and fewer replicas have it than asked for.
    Unreplicated(u32),
}

/// A write that a failover may undo.
#[derive(Debug, thiserror::Error)]
#[error("only {0} replicas acknowledged the write")]
struct Unreplicated(u32);

/// What was watched has gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection was replaced")]
struct Replaced;

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Redis(error) | Failure::Unconnected(error) if !error.is_timeout() => {
                Self::Unavailable(Arc::new(error))
            }
            Failure::Redis(_) | Failure::Unconnected(_) | Failure::Timeout => Self::Timeout,
            Failure::Unreplicated(replicas) => Self::Unavailable(Arc::new(Unreplicated(replicas))),
        }
    }
}

/// Connections that renew themselves.
pub(super) struct Connection {
    pool: Pool<Manager>,
    /// What all requests share.
    shared: ArcSwapOption<Shared>,
    timeout: Duration,
    replicas: u32,
    wait_timeout: Duration,
}

/// A connection that all share, or the making of it, which all who need it wait for.
pub(super) struct Shared {
    begun: Instant,
    opened: future::Shared<BoxFuture<'static, Result<Opened, Failure>>>,
}

#[derive(Clone)]
struct Opened {
    link: Observed<Link>,
    /// What the server tells of without being asked, if it can.
    told: Option<Arc<Told>>,
}

impl Shared {
    fn open(pool: Pool<Manager>) -> Self {
        // A task, for the requests that wait may give up in the middle.
        let opening = async move {
            let task = tokio::spawn(async move { timeout(CONNECT_TIMEOUT, pool.manager().open_shared()).await });
            match task.await {
                Ok(Ok(Ok((link, told)))) => Ok(Opened { link, told }),
                Ok(Ok(Err(error))) => Err(Failure::Unconnected(error)),
                _ => Err(Failure::Timeout),
            }
        };
        Self { begun: Instant::now(), opened: opening.boxed().shared() }
    }

    /// Whether its result is not known yet, or still of use.
    fn is_fresh(&self) -> bool {
        !matches!(self.opened.peek(), Some(Err(_))) || self.begun.elapsed() < CONNECT_PAUSE
    }

    /// redis-rs has timeouts of its own, which do not cover all that it waits for.
    async fn opened(&self, deadline: Deadline) -> Result<&Opened, Failure> {
        if self.opened.peek().is_none() {
            timeout_at(deadline, self.opened.clone()).await.map_err(|_elapsed| Failure::Timeout)??;
        }
        self.opened.peek().expect("it was waited for").as_ref().map_err(Clone::clone)
    }
}

impl Connection {
    /// Prepares connections; nothing is connected yet. No request will take longer than `options.timeout`.
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        // rustls asks for it where more than one is compiled in, and whoever comes second is told so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let manager = Manager::new(options)?;
        Ok(Self {
            pool: Pool::builder(manager).max_size(WAITING_WRITES).build().expect("it needs no runtime"),
            shared: ArcSwapOption::empty(),
            timeout: options.timeout,
            replicas: options.wait_replicas,
            wait_timeout: options.wait_timeout,
        })
    }

    /// Sends requests that change nothing, and sends them again where the connection breaks.
    pub(super) async fn read<T, F>(&self, request: impl Fn(Observed<Link>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let deadline = self.deadline();
        let result = match self.attempt(deadline, &request).await {
            Err(failure) if failure.is_dropped() || failure.is_demoted() => self.attempt(deadline, &request).await,
            result => result,
        };
        Ok(result?)
    }

    /// Sends a command that changes nothing, or changes the same when it is sent again.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.read(async |mut link| command.query_async(&mut link).await).await
    }

    /// Runs a script that changes nothing that matters.
    pub(super) async fn read_script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.read(async |mut link| script.invoke_async(&mut link).await).await
    }

    /// Runs a script that writes, and waits until as many replicas as are asked for have what it wrote. It runs a second
    /// time only where it certainly did not run the first time.
    pub(super) async fn write<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.write_script(script, Failure::is_demoted).await
    }

    /// The same for a script that may run twice, and does so where the connection breaks under the first.
    pub(super) async fn write_again<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.write_script(script, |failure| failure.is_demoted() || failure.is_dropped()).await
    }

    /// Runs a script that deletes and says how much. It runs a second time where the connection breaks under the first, as
    /// one does that nobody used for a while; but what is not there any more then may have been deleted by the first, of
    /// which nobody knows: this is the error that it ended with.
    pub(super) async fn delete<T: FromRedisValue + Default + PartialEq>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let first = match self.run(self.deadline(), script).await {
            Err(failure) if failure.is_demoted() => return self.write(script).await,
            Err(failure) if failure.is_dropped() => failure,
            result => return Ok(result?),
        };
        let deleted = self.write(script).await?;
        if deleted == T::default() { Err(first.into()) } else { Ok(deleted) }
    }

    async fn write_script<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
        again: impl Fn(&Failure) -> bool,
    ) -> Result<T, StoreError> {
        let deadline = self.deadline();
        let result = match self.run(deadline, script).await {
            Err(failure) if again(&failure) => self.run(deadline, script).await,
            result => result,
        };
        Ok(result?)
    }

    /// Runs a script once.
    async fn run<T: FromRedisValue>(&self, deadline: Deadline, script: &ScriptInvocation<'_>) -> Result<T, Failure> {
        if self.replicas > 0 {
            return self.replicated(deadline, script).await;
        }
        self.attempt(deadline, async |mut link| script.invoke_async(&mut link).await).await
    }

    /// Sends a request once, on the connection that all share.
    async fn attempt<T, F>(&self, deadline: Deadline, request: impl Fn(Observed<Link>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.attempt_on(&self.shared(), deadline, request).await
    }

    async fn attempt_on<T, F>(
        &self,
        shared: &Arc<Shared>,
        deadline: Deadline,
        request: impl FnOnce(Observed<Link>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = shared.opened(deadline).await?.link.clone();
        let result = match timeout_at(deadline, request(link)).await {
            Ok(result) => result.map_err(Failure::Redis),
            Err(_elapsed) => Err(Failure::Timeout),
        };
        if result.as_ref().is_err_and(Failure::breaks_connection) {
            // Unless another has taken its place.
            self.shared.compare_and_swap(shared, None);
            self.pool.retain(|_, _| false);
        }
        result
    }

    /// What is told on a connection that all share; `None`: nothing.
    pub(super) async fn told(&self, deadline: Deadline, shared: &Shared) -> Result<Option<Arc<Told>>, StoreError> {
        Ok(shared.opened(deadline).await?.told.clone())
    }

    /// Sends a command on just this connection, observed by nobody.
    pub(super) async fn ask(&self, deadline: Deadline, shared: &Arc<Shared>, command: &Cmd) -> Result<(), StoreError> {
        Ok(self.attempt_on(shared, deadline, async |mut link| command.query_async(link.get_mut()).await).await?)
    }

    /// An error, if another connection is shared by all now.
    pub(super) fn expect_shared(&self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        if self.shared.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, shared)) {
            Ok(())
        } else {
            Err(StoreError::Unavailable(Arc::new(Replaced)))
        }
    }

    /// When a request that begins now is given up.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::now() + self.timeout
    }

    /// Runs a script and `WAIT` on a connection of its own, in one round trip. `WAIT` counts the replicas that have all
    /// that the server had written when the script ended, even where the script itself wrote nothing: so the repetition
    /// of a write that was too little replicated says whether it is by now.
    async fn replicated<T: FromRedisValue>(
        &self,
        deadline: Deadline,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let pending = metrics::redis_connection_pending();
        let mut link = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(link)) => link,
            Ok(Err(PoolError::Backend(error))) => return Err(Failure::Unconnected(error)),
            _ => {
                // It may be that those in the pool hang, and no one after the other shall find out.
                self.pool.retain(|_, _| false);
                return Err(Failure::Timeout);
            }
        };
        drop(pending);
        let _reserved = metrics::redis_connection_reserved();
        let mut request = pipe();
        request.invoke_script(script).add_command(
            cmd("WAIT").arg(self.replicas).arg(u64::try_from(self.wait_timeout.as_millis()).unwrap()).take(),
        );
        let run = async {
            match request.query_async(&mut *link).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    script.load_async(&mut *link).await?;
                    request.query_async(&mut *link).await
                }
                result => result,
            }
        };
        let result: Result<(T, u32), Failure> = match timeout_at(deadline, run).await {
            Ok(result) => result.map_err(Failure::Redis),
            Err(_elapsed) => Err(Failure::Timeout),
        };
        match result {
            Ok((result, replicas)) if replicas >= self.replicas => Ok(result),
            Ok((_, replicas)) => Err(Failure::Unreplicated(replicas)),
            Err(failure) => {
                if failure.breaks_connection() {
                    drop(Object::take(link));
                    self.pool.retain(|_, _| false);
                }
                if failure.is_demoted() {
                    self.shared.store(None);
                }
                Err(failure)
            }
        }
    }

    /// The connection that all share now.
    pub(super) fn shared(&self) -> Arc<Shared> {
        let current = self.shared.load();
        if let Some(shared) = current.as_ref().filter(|shared| shared.is_fresh()) {
            return Arc::clone(shared);
        }
        let next = Arc::new(Shared::open(self.pool.clone()));
        let previous = self.shared.compare_and_swap(&*current, Some(Arc::clone(&next)));
        match &*previous {
            // Another was faster. Nothing has begun until somebody waits for it.
            Some(other) if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, other)) => Arc::clone(other),
            _ => next,
        }
    }
}

impl Failure {
    /// Whether the next request needs another connection: this one is gone, hangs, or leads to a node that is no primary
    /// (any more).
    fn breaks_connection(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Unconnected(_) | Self::Unreplicated(_) => false,
            Self::Redis(error) => error.is_unrecoverable_error() || error.is_timeout() || self.is_demoted(),
        }
    }

    /// Whether the connection broke, and the request may or may not have arrived.
    fn is_dropped(&self) -> bool {
        matches!(self, Self::Redis(error) if error.is_connection_dropped())
    }

    /// Whether the other side is a replica, which did nothing, and another connection may lead to the primary.
    fn is_demoted(&self) -> bool {
        matches!(self, Self::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly))
    }
}

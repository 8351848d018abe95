//! The connections to Redis: one for all that only asks, and a pool for writes that wait for replicas.
//!
//! Concurrent requests on one multiplexed connection pipeline by themselves, which gives 2.3 times the requests per
//! second of exclusive check-outs from a pool (measured: 60 k against 26 k on two cores); a check-out also costs a
//! second round trip, for deadpool's `PING`. A write that is to be on replicas before it is answered takes a connection
//! of its own nevertheless, because `WAIT` blocks all behind it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool::managed::{Object, Pool, PoolError};
use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation, ServerErrorKind, cmd, pipe,
};
use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use tokio::{
    sync::Semaphore,
    time::{Instant as Deadline, timeout, timeout_at},
};

use super::{
    address::{AddressError, Manager, RedisOptions},
    clock::ClockReading,
    keys,
    link::Link,
    observed::Observed,
    records,
    scripts::Scripts,
    watch::Told,
    write::{Asker, Write},
};
use crate::{
    store::{StoreError, StoreResult, leased::LEASE},
    telemetry::metrics::Level,
};

/// Writes that wait for replicas at the same time; more of them queue.
const WAITING_WRITES: usize = 16;

/// Of these, how many may be for those who hold a token, and whom nobody else knows.
const WAITING_STRANGERS: usize = WAITING_WRITES / 4;

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
    /// The login of the user who asked has ended.
    LoginEnded,
    /// The user who asked has not the role.
    Forbidden,
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
            Failure::Unconnected(error) => Self::Refused(Arc::new(error)),
            Failure::Redis(error) if error.is_timeout() => Self::Timeout,
            Failure::Redis(error) => {
                // Of a command, or of the first in a pipeline: a script, behind which WAIT may fail for another reason.
                let errors = error.clone().into_server_errors();
                let first = errors.as_deref().and_then(<[_]>::first).filter(|(index, _)| *index == 0);
                match first.map(|(_, error)| error.code()) {
                    Some("TOOLATE") => Self::TooLate,
                    Some("LOGINENDED") => Self::LoginEnded,
                    Some("FORBIDDEN") => Self::Forbidden,
                    Some(code) if REFUSALS.contains(&code) => Self::Refused(Arc::new(error)),
                    _ => Self::Unavailable(Arc::new(error)),
                }
            }
            Failure::Timeout => Self::Timeout,
            Failure::LoginEnded => Self::LoginEnded,
            Failure::Forbidden => Self::Forbidden,
            Failure::Unreplicated(replicas) => Self::Unavailable(Arc::new(Unreplicated(replicas))),
        }
    }
}

/// The codes of errors with which Redis refuses a command before it runs.
const REFUSALS: [&str; 11] = [
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

/// Connections that renew themselves.
pub(super) struct Connection {
    pool: Pool<Manager>,
    /// What all requests share.
    shared: ArcSwapOption<Shared>,
    /// What the clock of a server showed last.
    clock: ArcSwapOption<ClockReading>,
    /// Places for writes of strangers that wait for replicas.
    strangers: Semaphore,
    /// The same for those who present a token that nobody knows.
    suspects: Semaphore,
    timeout: Duration,
    replicas: u32,
    wait_timeout: Duration,
    time: Script,
}

/// A connection that all share, or the making of it, which all who need it wait for.
pub(super) struct Shared {
    begun: Instant,
    /// What the clock of its server showed last. Never there for a cluster, of which each node has a clock of its own.
    clock: ArcSwapOption<ClockReading>,
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
        Self { begun: Instant::now(), clock: ArcSwapOption::empty(), opened: opening.boxed().shared() }
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
            clock: ArcSwapOption::empty(),
            strangers: Semaphore::new(WAITING_STRANGERS),
            suspects: Semaphore::new(1),
            timeout: options.timeout,
            replicas: options.wait_replicas,
            wait_timeout: options.wait_timeout,
            time: Scripts::load().time,
        })
    }

    /// Sends requests that change nothing, and sends them again where the connection breaks.
    pub(super) async fn read<T, F>(&self, request: impl Fn(Observed<Link>) -> F) -> StoreResult<T>
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
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> StoreResult<T> {
        self.read(async |mut link| command.query_async(&mut link).await).await
    }

    /// Runs a script that changes nothing that matters.
    pub(super) async fn read_script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> StoreResult<T> {
        self.read(async |mut link| script.invoke_async(&mut link).await).await
    }

    /// Runs a script that writes, and waits until as many replicas as are asked for have what it wrote.
    ///
    /// It runs once at the most. It is sent again only where it was refused before it ran: by a replica, or as too late, which
    /// a clock that stepped since it was read is enough for. In a cluster, redis-rs sends it again by itself where a connection
    /// breaks, and the script refuses to run under a name that it knows.
    pub(super) async fn write<T: FromRedisValue>(&self, write: Write<'_>) -> StoreResult<T> {
        Ok(self.send(&write).await?)
    }

    async fn send<T: FromRedisValue>(&self, write: &Write<'_>) -> Result<T, Failure> {
        let deadline = self.deadline();
        match self.run(deadline, write).await {
            Err(failure) if failure.is_demoted() || failure.is_too_late() => self.run(deadline, write).await,
            result => result,
        }
    }

    /// Runs a script that deletes what has a name that is never used again. It runs a second time where the connection breaks
    /// under the first, as one does that nobody used for a while; but what is not there any more then may have been deleted by
    /// the first, of which nobody knows: this is the error that it ended with.
    pub(super) async fn delete(&self, write: Write<'_>) -> StoreResult<bool> {
        match self.send(&write).await {
            Err(first) if first.is_dropped() => match self.send(&write).await {
                Ok(true) => Ok(true),
                _ => Err(first.into()),
            },
            result => Ok(result?),
        }
    }

    /// Runs a script that writes, as [`Self::write`] does, for somebody whom only a token identifies. Where it waits for
    /// replicas, it takes one of few places, so that strangers keep no user from writing; and where nobody knows the token
    /// (`is_ours`), the one place that there is for those who make tokens up.
    pub(super) async fn write_for_stranger<T: FromRedisValue>(
        &self,
        write: Write<'_>,
        is_ours: bool,
    ) -> StoreResult<T> {
        let places = if is_ours { &self.strangers } else { &self.suspects };
        let _place = if self.replicas > 0 {
            let place = timeout_at(self.deadline(), places.acquire()).await;
            Some(place.map_err(|_elapsed| StoreError::Timeout)?.expect("it is never closed"))
        } else {
            None
        };
        self.write(write).await
    }

    /// Whether a write is answered only once replicas have it.
    pub(super) fn waits_for_replicas(&self) -> bool {
        self.replicas > 0
    }

    /// Runs a script once that writes nothing that a reply rests on, and waits for no replica.
    pub(super) async fn run_script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> StoreResult<T> {
        let deadline = self.deadline();
        let send = || self.attempt(deadline, async |mut link| script.invoke_async(&mut link).await);
        let result = match send().await {
            Err(failure) if failure.is_demoted() => send().await,
            result => result,
        };
        Ok(result?)
    }

    /// Sends a write once.
    async fn run<T: FromRedisValue>(&self, deadline: Deadline, write: &Write<'_>) -> Result<T, Failure> {
        let shared = self.shared();
        let is_cluster = shared.opened(deadline).await?.link.get().is_cluster();
        let (mut name, mut asker, mut until) = (None, write.asker(), write.limit());
        if is_cluster {
            name = write.name();
            // No script sees the keys of another slot. Whoever takes the role away waits out the lease that ends then.
            if let Some(administrator) = write.stranger_to_slot() {
                let asked_at = Deadline::now();
                self.expect_role(deadline, administrator).await?;
                asker = None;
                until = Some(until.map_or(asked_at + LEASE, |until| until.min(asked_at + LEASE)));
            }
        }
        let window = match until {
            Some(until) => Some((self.clock_of(deadline, &shared, write.mark()).await?, until)),
            None => None,
        };
        let script = write.invocation(name, asker, window);
        let result = if self.replicas > 0 {
            self.replicated(deadline, &script).await
        } else {
            self.attempt_on(&shared, deadline, async |mut link| script.invoke_async(&mut link).await).await
        };
        if result.as_ref().is_err_and(Failure::is_too_late) {
            shared.clock.store(None);
        }
        result
    }

    /// Checks that a user still has a role, and the login that counts.
    async fn expect_role(&self, deadline: Deadline, asker: &Asker) -> Result<(), Failure> {
        let mut request = pipe();
        request.cmd("GETEX").arg(keys::user_probe(&asker.name)).ignore().hgetall(keys::user(&asker.name));
        let (fields,): (HashMap<String, String>,) =
            self.attempt(deadline, async |mut link| request.query_async(&mut link).await).await?;
        match records::decode_user(&asker.name, &fields) {
            Ok(Some(user)) if !user.disabled && user.login_epoch == asker.login => {
                if asker.role.is_none_or(|role| role == user.role) { Ok(()) } else { Err(Failure::Forbidden) }
            }
            Ok(_) => Err(Failure::LoginEnded),
            Err(_) => Err(Failure::Timeout),
        }
    }

    /// The clock of the server that has the slot of this key. Asked for only where no recent reading is known: of a cluster.
    async fn clock_of(&self, deadline: Deadline, shared: &Arc<Shared>, key: &str) -> Result<ClockReading, Failure> {
        if let Some(clock) = shared.clock.load().as_deref().filter(|clock| clock.is_fresh()) {
            return Ok(*clock);
        }
        if !shared.opened(deadline).await?.link.get().is_cluster() {
            return self.ask_clock(deadline, shared).await;
        }
        let asked_at = Deadline::now();
        let mut script = self.time.prepare_invoke();
        script.key(key);
        let time = self.attempt_on(shared, deadline, async |mut link| script.invoke_async(&mut link).await).await?;
        Ok(ClockReading::new(time, asked_at))
    }

    /// Reads the clock of the server at the other end of just this connection, and keeps the reading.
    async fn ask_clock(&self, deadline: Deadline, shared: &Arc<Shared>) -> Result<ClockReading, Failure> {
        if shared.opened(deadline).await?.link.get().is_cluster() {
            // Always the same node's.
            let clock = Box::pin(self.clock_of(deadline, shared, keys::ADMINS)).await?;
            self.clock.store(Some(Arc::new(clock)));
            return Ok(clock);
        }
        let asked_at = Deadline::now();
        let time = cmd("TIME");
        let answer = self.attempt_on(shared, deadline, async |mut link| time.query_async(link.get_mut()).await).await?;
        let clock = ClockReading::new(answer, asked_at);
        shared.clock.store(Some(Arc::new(clock)));
        self.clock.store(Some(Arc::new(clock)));
        Ok(clock)
    }

    /// Reads the clock of the server, on just this connection: any server's of a cluster.
    pub(super) async fn read_clock(&self, deadline: Deadline, shared: &Arc<Shared>) -> StoreResult<ClockReading> {
        Ok(self.ask_clock(deadline, shared).await?)
    }

    /// What the clock of a server showed last.
    pub(super) fn clock(&self) -> Option<ClockReading> {
        self.clock.load().as_deref().copied()
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
    pub(super) async fn told(&self, deadline: Deadline, shared: &Shared) -> StoreResult<Option<Arc<Told>>> {
        Ok(shared.opened(deadline).await?.told.clone())
    }

    /// Sends a command on just this connection, observed by nobody.
    pub(super) async fn ask(&self, deadline: Deadline, shared: &Arc<Shared>, command: &Cmd) -> StoreResult<()> {
        Ok(self.attempt_on(shared, deadline, async |mut link| command.query_async(link.get_mut()).await).await?)
    }

    /// An error, if another connection is shared by all now.
    pub(super) fn expect_shared(&self, shared: &Arc<Shared>) -> StoreResult<()> {
        if self.shared.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, shared)) {
            Ok(())
        } else {
            Err(StoreError::Unavailable(Arc::new(Replaced)))
        }
    }

    /// Whether what is answered has to survive that sentinels promote another primary.
    pub(super) fn survives_promotions(&self) -> bool {
        self.replicas > 0 && matches!(self.pool.manager(), Manager::Sentinel(..))
    }

    /// When a request that begins now is given up.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::now() + self.timeout
    }

    /// Runs a script and `WAIT` on a connection of its own, in one round trip. The script has written something in any case
    /// (`guard.lua`), and `WAIT` counts the replicas that have it and all that the server had written before: so the repetition
    /// of a write that was too little replicated is answered once enough replicas have what it rests on.
    async fn replicated<T: FromRedisValue>(
        &self,
        deadline: Deadline,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let pending = Level::RedisConnectionsPending.raise();
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
        let _reserved = Level::RedisConnectionsReserved.raise();
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
            Self::Unconnected(_) | Self::Unreplicated(_) | Self::LoginEnded | Self::Forbidden => false,
            Self::Redis(error) => error.is_unrecoverable_error() || error.is_timeout() || self.is_demoted(),
        }
    }

    /// Whether the connection broke, and the request may or may not have arrived.
    fn is_dropped(&self) -> bool {
        matches!(self, Self::Redis(error) if error.is_connection_dropped())
    }

    /// Whether the server refused a write whose authority had lapsed by its clock.
    fn is_too_late(&self) -> bool {
        matches!(self, Self::Redis(error) if error.clone().into_server_errors().is_some_and(
            |errors| errors.first().is_some_and(|(_, error)| error.code() == "TOOLATE")
        ))
    }

    /// Whether the other side is a replica, which did nothing, and another connection may lead to the primary.
    fn is_demoted(&self) -> bool {
        matches!(self, Self::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly))
    }
}

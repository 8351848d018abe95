//! A connection to any kind of Redis, with a metric and a span for each round trip.

use std::sync::Arc;

use futures_util::FutureExt;
use redis::{
    Arg, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, ScriptInvocation, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
};

use super::{invalidations::Invalidations, scripts};
use crate::telemetry::{
    metrics::{Gauge, GaugeGuard},
    redis::RoundTrip,
};

/// A connection. Its clones share the socket (concurrent requests are pipelined) and count as one open connection.
#[derive(Clone)]
pub(super) struct AnyConnection {
    endpoint: Endpoint,
    invalidations: Arc<Invalidations>,
    is_instrumented: bool,
    /// Counts this connection as open until its last clone is dropped.
    _open: Arc<GaugeGuard>,
}

/// The other end of a connection.
#[derive(Clone)]
pub(super) enum Endpoint {
    /// One server, or the primary that Sentinel named.
    Server(MultiplexedConnection),
    /// All nodes of a Cluster; redis-rs sends each request to the node that has its slot.
    Cluster(ClusterConnection),
}

impl AnyConnection {
    /// Wraps a connection that was just opened. `invalidations`: where the changes that Redis reports on it are
    /// recorded.
    pub(super) fn new(endpoint: Endpoint, invalidations: Arc<Invalidations>) -> Self {
        Self { endpoint, invalidations, is_instrumented: true, _open: Arc::new(Gauge::RedisConnectionsOpen.raise()) }
    }

    /// Whether it leads to a Cluster.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.endpoint, Endpoint::Cluster(_))
    }

    /// The changes that Redis reports on this connection; none are reported on one to a whole Cluster.
    pub(super) fn invalidations(&self) -> &Arc<Invalidations> {
        &self.invalidations
    }

    fn endpoint(&mut self) -> &mut (dyn ConnectionLike + Send) {
        match &mut self.endpoint {
            Endpoint::Server(connection) => connection,
            Endpoint::Cluster(connection) => connection,
        }
    }

    /// Adds a metric and a span to a round trip.
    fn instrument<'a, T: Send + 'a>(
        is_instrumented: bool,
        trip: RoundTrip,
        request: RedisFuture<'a, T>,
    ) -> RedisFuture<'a, T> {
        if is_instrumented { trip.observe(error_type, request).boxed() } else { request }
    }
}

/// A request that can be sent on a connection.
pub(super) trait Request: Sync {
    /// Sends the request and returns the reply.
    fn send(&self, connection: &mut AnyConnection) -> impl Future<Output = RedisResult<Value>> + Send;
}

impl Request for Cmd {
    async fn send(&self, connection: &mut AnyConnection) -> RedisResult<Value> {
        self.query_async(connection).await
    }
}

impl Request for Pipeline {
    async fn send(&self, connection: &mut AnyConnection) -> RedisResult<Value> {
        self.query_async(connection).await
    }
}

impl Request for ScriptInvocation<'_> {
    async fn send(&self, connection: &mut AnyConnection) -> RedisResult<Value> {
        self.invoke_async(connection).await
    }
}

/// A command without metrics and spans: one that no client asked for.
pub(super) struct Uninstrumented<'a>(pub(super) &'a Cmd);

impl Request for Uninstrumented<'_> {
    async fn send(&self, connection: &mut AnyConnection) -> RedisResult<Value> {
        let mut connection = AnyConnection { is_instrumented: false, ..connection.clone() };
        self.0.query_async(&mut connection).await
    }
}

impl ConnectionLike for AnyConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let (name, script) = metric_name(command);
        let trip = RoundTrip { command: name, script, commands: 1 };
        Self::instrument(self.is_instrumented, trip, self.endpoint().req_packed_command(command))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let trip = RoundTrip { command: "PIPELINE", script: None, commands: pipeline.len() };
        Self::instrument(self.is_instrumented, trip, self.endpoint().req_packed_commands(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        match &self.endpoint {
            Endpoint::Server(connection) => connection.get_db(),
            Endpoint::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The command's name for metrics and spans, and the name of the script that it runs, if any. `OTHER`: a command that
/// no request of a client sends by itself, outside a pipeline.
fn metric_name(command: &Cmd) -> (&'static str, Option<&'static str>) {
    const KNOWN: [&str; 5] = ["DEL", "EVALSHA", "EXISTS", "INFO", "SCRIPT"];
    let mut arguments = command.args_iter().map_while(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let name =
        arguments.next().and_then(|name| KNOWN.into_iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name)));
    let script = arguments.next().filter(|_| name == Some("EVALSHA")).and_then(scripts::name_by_hash);
    (name.unwrap_or("OTHER"), script)
}

/// The kind of an error, for metrics and spans.
fn error_type(error: &RedisError) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connection_dropped() || error.is_connection_refusal() || error.is_io_error() {
        "connection"
    } else {
        "refused"
    }
}

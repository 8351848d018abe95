//! A connection whose round trips are observed.

use std::sync::Arc;

use deadpool_redis::redis::{Arg, Cmd, Pipeline, RedisError, RedisFuture, Value, aio::ConnectionLike};

use super::scripts;
use crate::telemetry::{
    metrics::{Level, LevelGuard},
    redis::RoundTrip,
};

/// A connection that tells how long Redis takes for what. Its clones count as one.
#[derive(Clone)]
pub(super) struct Observed<C> {
    connection: C,
    _open: Arc<LevelGuard>,
}

impl<C> Observed<C> {
    /// Observes a connection that was just opened.
    pub(super) fn new(connection: C) -> Self {
        Self { connection, _open: Arc::new(Level::RedisConnectionsOpen.raise()) }
    }

    /// The connection, to ask what it is.
    pub(super) fn get(&self) -> &C {
        &self.connection
    }

    /// The connection, to be used unobserved.
    pub(super) fn get_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<C: ConnectionLike + Send> ConnectionLike for Observed<C> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let (command_name, script) = name(command);
        let trip = RoundTrip { command: command_name, script, commands: 1 };
        Box::pin(trip.observe(error_type, self.connection.req_packed_command(command)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let trip = RoundTrip { command: "PIPELINE", script: None, commands: pipeline.len() };
        Box::pin(trip.observe(error_type, self.connection.req_packed_commands(pipeline, offset, count)))
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// The command's name, if it is one that is sent here, and that of the script that it runs, if it does.
fn name(command: &Cmd) -> (&'static str, Option<&'static str>) {
    const KNOWN: [&str; 13] = [
        "DEL", "EVALSHA", "GETEX", "HGETALL", "HINCRBY", "INFO", "PERSIST", "PTTL", "SCRIPT", "WAIT", "ZADD", "ZRANGE",
        "ZREM",
    ];
    let mut arguments = command.args_iter().map_while(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let name =
        arguments.next().and_then(|name| KNOWN.into_iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name)));
    let script = arguments.next().filter(|_| name == Some("EVALSHA")).and_then(scripts::name);
    (name.unwrap_or("OTHER"), script)
}

fn error_type(error: &RedisError) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connection_dropped() || error.is_connection_refusal() || error.is_io_error() {
        "connection"
    } else {
        "refused"
    }
}

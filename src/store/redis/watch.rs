//! What changes in Redis, as Redis tells it: client-side caching in broadcast mode (`CLIENT TRACKING ON BCAST`).
//!
//! A push that never comes looks like nothing that changed. So none is believed to be missing before a question on the same
//! connection was answered, for what a server sends on one connection arrives in its order, or not at all.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use deadpool_redis::redis::{Cmd, PushInfo, PushKind, Value, cmd};
use tokio::time::Instant as Deadline;

use super::{
    connection::{Connection, Shared},
    keys::{self, Subject},
};
use crate::store::{Changes, StoreResult, Watch};

/// What Redis told on one connection, and nobody took yet.
#[derive(Default)]
pub(super) struct Told(Mutex<Changes>);

impl Told {
    pub(super) fn hear(&self, push: &PushInfo) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without keys, it is FLUSHALL or FLUSHDB.
        let [Value::Array(told)] = push.data.as_slice() else {
            changes.everything = true;
            return;
        };
        for key in told {
            let subject = if let Value::BulkString(key) = key { keys::subject(key) } else { None };
            match subject {
                Some(Subject::Token(id)) => drop(changes.tokens.insert(id)),
                Some(Subject::User(name)) => drop(changes.users.insert(name)),
                None => {}
            }
        }
    }

    fn take(&self) -> Changes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection that Redis tells of changes: the one that all reads share, so that they ask the server that tells.
pub(super) struct RedisWatch {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    told: Arc<Told>,
    heartbeat: Cmd,
}

impl RedisWatch {
    /// Begins to be told. `None`: nothing tells of all of a cluster.
    pub(super) async fn begin(connection: &Arc<Connection>) -> StoreResult<Option<Self>> {
        let (shared, deadline) = (connection.shared(), connection.deadline());
        let Some(told) = connection.told(deadline, &shared).await? else { return Ok(None) };
        // Redis refuses to begin twice with the same keys, and this connection may have been told before.
        connection.ask(deadline, &shared, cmd("CLIENT").arg("TRACKING").arg("OFF")).await?;
        let mut tracking = cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(keys::USER_PREFIX);
        connection.ask(deadline, &shared, &tracking).await?;
        // Refused by what is no primary (any more), as reads are.
        let heartbeat = Cmd::persist(keys::PROBE);
        Ok(Some(Self { connection: Arc::clone(connection), shared, told, heartbeat }))
    }

    async fn ask(&self, deadline: Deadline) -> StoreResult<()> {
        self.connection.ask(deadline, &self.shared, &self.heartbeat).await
    }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn changes(&mut self) -> StoreResult<Changes> {
        let deadline = self.connection.deadline();
        // Redis tells of what changed once it has worked off all that it had read, and may have answered the first question
        // by then. What changed before the first is told before the second is answered.
        self.ask(deadline).await?;
        self.connection.read_clock(deadline, &self.shared).await?;
        // Reads that were sent meanwhile asked the same server, then.
        self.connection.expect_shared(&self.shared)?;
        Ok(self.told.take())
    }
}

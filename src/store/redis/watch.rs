//! Watches one server for changes, with client-side caching (see [`super::invalidations`]).
//!
//! A lost push looks like no change: pushes are complete only once a later command on the same connection is answered,
//! because a server's messages on one connection arrive in order or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, cmd};

use super::{
    clock::{ClockReading, STEP},
    connections::{Connections, SharedConnection},
    keys,
};
use crate::store::{Changes, StoreResult, Watch};

/// A watch on the shared connection: so the server that reports the changes answers all reads, too.
pub(super) struct RedisWatch {
    connections: Arc<Connections>,
    shared: Arc<SharedConnection>,
    /// The reading of the server's clock that later ones are compared with.
    clock: ClockReading,
}

impl RedisWatch {
    /// Begins a watch, on a server that is in no Cluster.
    pub(super) async fn begin(connections: &Arc<Connections>) -> StoreResult<Self> {
        let (shared, deadline) = (connections.shared_connection(), connections.deadline());
        // Redis rejects a second ON with the same prefix, and an earlier watch may have used this connection.
        connections.send_uninstrumented(&shared, deadline, cmd("CLIENT").arg("TRACKING").arg("OFF")).await?;
        let mut tracking = cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(keys::USER_PREFIX);
        connections.send_uninstrumented(&shared, deadline, &tracking).await?;
        let clock = connections.read_clock(deadline, &shared, keys::ADMINS).await?;
        Ok(Self { connections: Arc::clone(connections), shared, clock })
    }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn changes(&mut self) -> StoreResult<Changes> {
        let deadline = self.connections.deadline();
        // Redis pushes changes only after it has run all commands that it has read, and may answer the first command
        // before. So two commands are sent: changes made before the first one are pushed before the second one is
        // answered. A Redis replica rejects PERSIST, as it rejects reads.
        self.connections.send_uninstrumented(&self.shared, deadline, &Cmd::persist(keys::WATCH_PROBE)).await?;
        let clock = self.connections.read_clock(deadline, &self.shared, keys::ADMINS).await?;
        // If it is still the shared connection, all reads since the watch began were answered by this server.
        self.connections.expect_shared(&self.shared)?;
        let mut changes = self.shared.opened(deadline).await?.invalidations().take();
        if clock.moved_since(&self.clock) >= STEP {
            (self.clock, changes.everything) = (clock, true);
        }
        Ok(changes)
    }
}

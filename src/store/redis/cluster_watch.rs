//! A watch on all primaries of a Cluster.
//!
//! A renewal by one server is as good as a read that was sent with the question, because that server answered all reads
//! (`super::watch`). In a Cluster, the same holds for each key, by these rules:
//!
//! - **A leased read is answered by a covered node.** Reads go to the node that serves the slot by its own account, on
//!   the connection on which that node reports changes. Any other answer (MOVED, ASK, CLUSTERDOWN, a broken connection)
//!   sends the read through redis-rs instead, to whichever node that finds; its subject is reported as changed in the
//!   next answer of the watch, so its lease is not renewed. That is noted before the read is sent: a renewal that
//!   does not know of it yet was asked for even earlier, so it ends no later than a lease from that read on.
//! - **A change is made at a covered node, and reported.** A key changes where its slot is served. Between covered
//!   nodes a slot may move at any time: each of them reports changes under all names, so it does not matter which one
//!   serves the slot. `MIGRATE` also deletes the key at its old node, and restores it at the new one: both report it.
//! - **To a node that is not covered**, a slot comes in one of these ways. By `MIGRATE`, key by key: the old node
//!   reports each key as changed, and the next read of the key is answered with ASK or MOVED. With the slot as a whole
//!   (`CLUSTER SETSLOT`, an atomic migration): then the old node, when it is asked, answers with another view (`CLUSTER
//!   SLOTS`), and the watch ends. By a failover: then the old primary is dead or cut off, and does not answer; or it
//!   was demoted, and rejects the question as it rejects reads (`PERSIST` is a write).
//! - **Each answer of the watch is one of all covered nodes**, asked after the moment from which leases are renewed. If
//!   one does not answer, no lease is renewed.
//!
//! What remains is the time in which a node does not know yet that it has lost a slot: a primary that is cut off from
//! the others, but not from this process, until it notices (`cluster-node-timeout`), while a Redis replica is promoted
//! no earlier than half a second after that; or a process of Redis that was stopped and goes on. Until it notices, such
//! a node answers reads, too, with or without leases. A renewal adds at most one lease, for which the write at the new
//! primary waits.
//!
//! A new watch covers only reads that are sent after it began: [`crate::store::leased`] ends all leases then.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::{Value, cmd};

use super::{cluster_view::ClusterView, connections::Connections, covered_nodes::CoveredNodes, failure::Failure};
use crate::store::{Changes, StoreError, StoreResult, Watch};

/// A watch on all primaries. Dropping it ends it: from then on, reads go through redis-rs.
pub(super) struct ClusterWatch {
    connections: Arc<Connections>,
    nodes: Arc<CoveredNodes>,
}

impl ClusterWatch {
    /// Connects to all primaries that serve slots in the view of any node, and begins a watch on each.
    pub(super) async fn begin(connections: &Arc<Connections>) -> StoreResult<Self> {
        let deadline = connections.deadline();
        let slots: Value = connections.send_repeatable(cmd("CLUSTER").arg("SLOTS")).await?;
        let view = ClusterView::parse(&slots)?;
        let primaries: HashMap<_, _> =
            view.ranges().iter().map(|range| (range.primary.id.as_str(), &range.primary)).collect();
        let connecting = primaries.into_values().map(async |primary| {
            let connection = connections.connect_to_node(primary.host.as_deref(), primary.port, deadline).await?;
            Ok::<_, Failure>((primary.clone(), connection))
        });
        let primaries = try_join_all(connecting).await?;
        let nodes = Arc::new(CoveredNodes::begin(primaries, &view, deadline).await?);
        connections.covered_nodes.store(Some(Arc::clone(&nodes)));
        Ok(Self { connections: Arc::clone(connections), nodes })
    }

    /// Whether reads are sent to these nodes: no other watch has begun since.
    fn is_in_force(&self) -> bool {
        self.connections.covered_nodes.load().as_ref().is_some_and(|nodes| Arc::ptr_eq(nodes, &self.nodes))
    }
}

#[async_trait]
impl Watch for ClusterWatch {
    async fn changes(&mut self) -> StoreResult<Changes> {
        let changes = self.nodes.changes(self.connections.deadline()).await?;
        if self.is_in_force() { Ok(changes) } else { Err(StoreError::unavailable("another watch has begun")) }
    }
}

impl Drop for ClusterWatch {
    fn drop(&mut self) {
        if self.is_in_force() {
            self.connections.covered_nodes.store(None);
        }
    }
}

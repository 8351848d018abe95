//! The primaries of a Cluster that a watch asks for changes. They answer reads on the same connections.

use std::{mem, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::future::{try_join, try_join_all};
use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind, Value, cmd};
use tokio::time::{Instant, timeout_at};

use super::{
    any_connection::{AnyConnection, Request, Uninstrumented},
    clock::{ClockReading, STEP},
    cluster_view::{ClusterView, Primary, SLOTS, slot_of},
    failure::Failure,
    invalidations::Invalidations,
    keys::{self, Subject},
};
use crate::{
    domain::user::UserName,
    store::{Changes, StoreError, StoreResult},
};

/// How often a node is asked again whose slots moved meanwhile.
const ATTEMPTS: usize = 3;

/// All primaries of a Cluster that serve slots. `super::cluster_watch` says why they are asked as they are.
pub(super) struct CoveredNodes {
    nodes: Vec<CoveredNode>,
    /// For each slot, the index of the node that serves it by its own account; `None`: no node, or unknown.
    nodes_by_slot: ArcSwap<Vec<Option<u16>>>,
    /// The subjects of reads that were sent on other connections since the last question.
    read_elsewhere: Invalidations,
}

struct CoveredNode {
    /// The id by which all nodes know it.
    id: String,
    /// The connection on which it reports changes.
    connection: AnyConnection,
    /// What it answered last.
    last: Mutex<Answer>,
}

struct Answer {
    view: ClusterView,
    /// The reading that later ones are compared with.
    clock: ClockReading,
}

impl CoveredNodes {
    /// Begins to watch these primaries, on connections on which nothing was sent. `view`: the view of any node.
    pub(super) async fn begin(
        primaries: Vec<(Primary, AnyConnection)>,
        view: &ClusterView,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let mut tracking = cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(keys::USER_PREFIX);
        let tracking = &tracking;
        let begin = async |(Primary { id, .. }, connection): (Primary, AnyConnection)| {
            let () = send(&connection, deadline, &Uninstrumented(tracking)).await?;
            let clock = read_clock(&connection, deadline).await?;
            let last = Mutex::new(Answer { view: view.clone(), clock });
            Ok::<_, Failure>(CoveredNode { id, connection, last })
        };
        let nodes = try_join_all(primaries.into_iter().map(begin)).await?;
        let none = ArcSwap::from_pointee(vec![None; SLOTS.into()]);
        let covered = Self { nodes, nodes_by_slot: none, read_elsewhere: Invalidations::default() };
        try_join_all(covered.nodes.iter().map(|node| node.ask(deadline))).await?;
        covered.adopt_views()?;
        Ok(covered)
    }

    /// Sends a read of keys of this user to the node that serves them. An error says nothing about other nodes.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        owner: &UserName,
        request: &impl Request,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let index = self.nodes_by_slot.load()[usize::from(slot_of(owner.as_str()))];
        let index = index.ok_or_else(|| StoreError::unavailable("no node is known to serve this slot"))?;
        send(&self.nodes[usize::from(index)].connection, deadline, request).await
    }

    /// Declares, before it is sent, that a read of this subject may be answered by any node: the next answer reports
    /// the subject as changed.
    pub(super) fn read_elsewhere(&self, subject: Subject) {
        self.read_elsewhere.add(subject);
    }

    /// All changes since the last call.
    pub(super) async fn changes(&self, deadline: Instant) -> Result<Changes, Failure> {
        let asked = try_join_all(self.nodes.iter().map(|node| node.ask(deadline))).await?;
        if asked.iter().any(|news| news.has_another_view) {
            self.adopt_views()?;
        }
        let mut changes = self.read_elsewhere.take();
        changes.everything |= asked.iter().any(|news| news.has_another_time);
        for node in &self.nodes {
            let Changes { everything, tokens, users } = node.connection.invalidations().take();
            changes.everything |= everything;
            changes.tokens.extend(tokens);
            changes.users.extend(users);
        }
        Ok(changes)
    }

    /// Sends reads where the slots are by now. An error if a slot is at a node that is not covered.
    fn adopt_views(&self) -> StoreResult<()> {
        let mut nodes_by_slot = vec![None; SLOTS.into()];
        for (index, node) in self.nodes.iter().enumerate() {
            let view = &node.last.lock().view;
            if view.ranges().iter().any(|range| self.nodes.iter().all(|node| node.id != range.primary.id)) {
                return Err(StoreError::unavailable("a slot has moved to a node that is not watched"));
            }
            for range in view.ranges_of(&node.id) {
                let slots = usize::from(range.first)..=usize::from(range.last);
                nodes_by_slot[slots].fill(u16::try_from(index).ok());
            }
        }
        self.nodes_by_slot.store(Arc::new(nodes_by_slot));
        Ok(())
    }
}

/// What is new in an answer.
#[derive(Default)]
struct News {
    has_another_view: bool,
    has_another_time: bool,
}

impl Answer {
    /// Replaces the view, and the clock's reading if the clock was set since. Small steps add up until then.
    fn update(&mut self, view: ClusterView, clock: ClockReading) -> News {
        let has_another_time = clock.moved_since(&self.clock) >= STEP;
        if has_another_time {
            self.clock = clock;
        }
        let has_another_view = mem::replace(&mut self.view, view) != self.view;
        News { has_another_view, has_another_time }
    }
}

impl CoveredNode {
    /// Asks the node as its primary would be: all changes that it made before have been pushed once this returns. An
    /// error if it serves no slot.
    async fn ask(&self, deadline: Instant) -> Result<News, Failure> {
        let mut news = News::default();
        for _ in 0..ATTEMPTS {
            let slot = self.last.lock().view.ranges_of(&self.id).next_back().map(|range| range.last);
            let slot = slot.ok_or_else(|| StoreError::unavailable("a node has no slots any more"))?;
            // Two questions in sequence, as in `super::watch`. A Redis replica, a node without this slot and one that
            // is cut off from most others (CLUSTERDOWN) reject the first.
            let persist = Cmd::persist(keys::watch_probe(slot));
            let persisted: Result<(), _> = send(&self.connection, deadline, &Uninstrumented(&persist)).await;
            let mut slots = cmd("CLUSTER");
            slots.arg("SLOTS");
            let slots = Uninstrumented(&slots);
            let slots = send::<Value>(&self.connection, deadline, &slots);
            let (slots, clock) = try_join(slots, read_clock(&self.connection, deadline)).await?;
            let update = self.last.lock().update(ClusterView::parse(&slots)?, clock);
            news.has_another_view |= update.has_another_view;
            news.has_another_time |= update.has_another_time;
            match persisted {
                Ok(()) => return Ok(news),
                // The slot has just moved; another one is asked for.
                Err(Failure::Redis(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(StoreError::unavailable("the slots of a node do not stay").into())
    }
}

async fn read_clock(connection: &AnyConnection, deadline: Instant) -> Result<ClockReading, Failure> {
    let asked_at = Instant::now();
    let time = send(connection, deadline, &Uninstrumented(&cmd("TIME"))).await?;
    Ok(ClockReading::new(time, asked_at))
}

async fn send<T: FromRedisValue>(
    connection: &AnyConnection,
    deadline: Instant,
    request: &impl Request,
) -> Result<T, Failure> {
    let mut connection = connection.clone();
    let answer = timeout_at(deadline, request.send(&mut connection)).await??;
    T::from_redis_value(answer).map_err(|error| Failure::Redis(error.into()))
}

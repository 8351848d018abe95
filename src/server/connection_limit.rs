//! Limits how many connections are open at once, and selects the one to close for a new one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::domain::throttle::ClientNetwork;

/// Grants a slot to each connection. If none is free, evicts the connection that has waited longest for its client. One
/// client network holds at most half of all slots.
pub(super) struct EvictingLimit {
    free: Arc<Semaphore>,
    max_per_network: usize,
    state: Mutex<State>,
}

/// The open connections, by network, and the queue for eviction.
#[derive(Default)]
struct State {
    networks: HashMap<Option<ClientNetwork>, NetworkConnections>,
    /// The network of each ticket in [`NetworkConnections::waiting`], longest waiting first.
    tickets: BTreeMap<u64, Option<ClientNetwork>>,
    next_ticket: u64,
    /// Set while a new connection waits for a slot.
    is_contended: bool,
    /// Set if no connection could be evicted for that new one: the next connection that begins to wait for its client
    /// is evicted.
    is_eviction_due: bool,
}

/// The connections of one network.
#[derive(Default)]
struct NetworkConnections {
    open: usize,
    /// The connections that wait for their client, by ticket, each with its eviction signal.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// The right of one connection to be open, until it is dropped.
pub(super) struct ConnectionSlot {
    limit: Arc<EvictingLimit>,
    network: Option<ClientNetwork>,
    _permit: OwnedSemaphorePermit,
}

/// A ticket in the queue for eviction. Leaves the queue on drop.
struct EvictionTicket<'a> {
    slot: &'a ConnectionSlot,
    number: u64,
    is_evicted: bool,
}

impl EvictingLimit {
    pub(super) fn new(max_connections: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(max_connections));
        Arc::new(Self { free, max_per_network: max_connections.div_ceil(2), state: Mutex::default() })
    }

    /// Returns a slot for a connection of this network (`None`: without a limit per network). With no slot free, evicts
    /// the connection that has waited longest for its client, and waits for its slot. A network that holds half of all
    /// slots can replace its own connections only: if none of them can be evicted, returns `None`.
    ///
    /// Called for one connection at a time.
    pub(super) async fn acquire(self: &Arc<Self>, network: Option<ClientNetwork>) -> Option<ConnectionSlot> {
        {
            let mut state = self.state.lock();
            let open = state.networks.get(&network).map_or(0, |network| network.open);
            let is_over = network.is_some() && open >= self.max_per_network;
            if is_over && !state.evict_from(network) {
                return None;
            }
            state.networks.entry(network).or_default().open += 1;
            state.is_contended = self.is_full();
            if state.is_contended && !is_over {
                state.evict();
            }
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        let mut state = self.state.lock();
        (state.is_contended, state.is_eviction_due) = (false, false);
        Some(ConnectionSlot { limit: Arc::clone(self), network, _permit: permit })
    }

    /// Returns whether no slot is free.
    pub(super) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }
}

impl State {
    /// Evicts the connection that has waited longest for its client, or else the next one that begins to wait.
    fn evict(&mut self) {
        let longest = self.tickets.first_key_value().map(|(_, network)| *network);
        self.is_eviction_due = !longest.is_some_and(|network| self.evict_from(network));
    }

    /// Evicts the connection of this network that has waited longest for its client, and returns whether there was one.
    fn evict_from(&mut self, network: Option<ClientNetwork>) -> bool {
        let waiting = self.networks.get_mut(&network).and_then(|network| network.waiting.pop_first());
        let Some((ticket, eviction)) = waiting else { return false };
        self.tickets.remove(&ticket);
        let _ = eviction.send(());
        true
    }
}

impl ConnectionSlot {
    /// Completes when the connection has to close for a new one. The connection is in the queue for eviction while this
    /// is awaited: while it waits for its client.
    pub(super) async fn evicted(&self) {
        let (eviction, evicted) = oneshot::channel();
        let mut waiting = {
            let mut state = self.limit.state.lock();
            if std::mem::take(&mut state.is_eviction_due) {
                return;
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.tickets.insert(ticket, self.network);
            state.networks.entry(self.network).or_default().waiting.insert(ticket, eviction);
            EvictionTicket { slot: self, number: ticket, is_evicted: false }
        };
        waiting.is_evicted = evicted.await.is_ok();
    }
}

impl Drop for EvictionTicket<'_> {
    fn drop(&mut self) {
        let mut state = self.slot.limit.state.lock();
        if state.tickets.remove(&self.number).is_some() {
            let network = state.networks.get_mut(&self.slot.network).expect("the network has a connection");
            network.waiting.remove(&self.number);
        } else if !self.is_evicted && state.is_contended {
            // The client sent something before the signal was read: this connection goes on, and another is evicted.
            state.evict();
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut state = self.limit.state.lock();
        let network = state.networks.get_mut(&self.network).expect("the network has a connection");
        network.open -= 1;
        if network.open == 0 {
            state.networks.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn network(text: &str) -> Option<ClientNetwork> {
        text.parse::<IpAddr>().ok().map(Into::into)
    }

    /// A limit without free slots: each of two networks holds half of them.
    fn full(max_connections: usize) -> (Arc<EvictingLimit>, Vec<ConnectionSlot>) {
        let limit = EvictingLimit::new(max_connections);
        let networks = [network("192.0.2.1"), network("192.0.2.2")].into_iter().cycle();
        let acquired = networks.take(max_connections).map(|of| limit.acquire(of).now_or_never().unwrap().unwrap());
        let slots = acquired.collect();
        (limit, slots)
    }

    #[test]
    fn only_the_connection_that_waited_longest_is_evicted() {
        let (limit, mut slots) = full(4);
        let third = network("192.0.2.3");
        {
            let (mut first, mut second) = (Box::pin(slots[0].evicted()), Box::pin(slots[1].evicted()));
            assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
            let mut acquiring = Box::pin(limit.acquire(third));
            assert!(acquiring.as_mut().now_or_never().is_none());
            assert_eq!((second.as_mut().now_or_never(), first.as_mut().now_or_never()), (None, Some(())));
        }
        let mut acquiring = Box::pin(limit.acquire(third));
        assert!(acquiring.as_mut().now_or_never().is_none());
        slots.remove(0);
        assert!(acquiring.now_or_never().unwrap().is_some());
    }

    #[test]
    fn a_connection_that_begins_to_wait_is_evicted_for_a_new_one_that_waits_already() {
        let (limit, slots) = full(2);
        let mut acquiring = Box::pin(limit.acquire(network("192.0.2.3")));
        assert!(acquiring.as_mut().now_or_never().is_none());
        assert_eq!((slots[1].evicted().now_or_never(), slots[0].evicted().now_or_never()), (Some(()), None));
    }

    #[test]
    fn another_connection_is_evicted_if_the_selected_one_goes_on() {
        let (limit, slots) = full(2);
        let (mut first, mut second) = (Box::pin(slots[0].evicted()), Box::pin(slots[1].evicted()));
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        let mut acquiring = Box::pin(limit.acquire(network("192.0.2.3")));
        assert!(acquiring.as_mut().now_or_never().is_none());
        // Dropped with its eviction signal unread, as when the client sends something first.
        drop(first);
        assert_eq!(second.as_mut().now_or_never(), Some(()));
    }

    #[test]
    fn a_network_with_half_of_all_connections_can_only_replace_its_own() {
        let limit = EvictingLimit::new(4);
        let acquire = |network| limit.acquire(network).now_or_never().unwrap();
        let greedy = network("2001:db8::1");
        let held = [acquire(greedy).unwrap(), acquire(network("2001:db8::2")).unwrap()];
        assert!(acquire(greedy).is_none(), "a /64 is one network");
        let other = acquire(network("192.0.2.1")).unwrap();
        let (mut own, mut others) = (Box::pin(held[1].evicted()), Box::pin(other.evicted()));
        assert_eq!((others.as_mut().now_or_never(), own.as_mut().now_or_never()), (None, None));
        let _third = acquire(greedy).unwrap();
        assert_eq!((others.as_mut().now_or_never(), own.as_mut().now_or_never()), (None, Some(())));
    }

    #[test]
    fn connections_without_a_network_may_take_all_slots() {
        let limit = EvictingLimit::new(4);
        let held: Vec<_> = (0..4).map(|_| limit.acquire(None).now_or_never().unwrap()).collect();
        assert!(held.iter().all(Option::is_some) && limit.is_full());
        drop(held);
        assert!(limit.state.lock().networks.is_empty(), "closed connections leave nothing behind");
    }
}

//! The places that there are for connections: how many one client may hold, and who gives one up for a newcomer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::domain::throttle::ClientNetwork;

/// Places for so many connections at once, of which one client network holds at most half.
pub(super) struct Places {
    free: Arc<Semaphore>,
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    networks: HashMap<Option<ClientNetwork>, Network>,
    /// Whose each ticket in [`Network::waiting`] is, the oldest ticket first.
    tickets: BTreeMap<u64, Option<ClientNetwork>>,
    next_ticket: u64,
    /// Whether a newcomer waits for a place.
    is_crowded: bool,
    /// Whether that newcomer found no connection to close: the next one that waits for its client is closed.
    is_wanted: bool,
}

/// The connections that are counted together.
#[derive(Default)]
struct Network {
    places: usize,
    /// Those that wait for their client, by ticket, with the means to have them closed.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// The place of one connection, free again once it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    network: Option<ClientNetwork>,
    _permit: OwnedSemaphorePermit,
}

/// A connection waits for its client, until the value is dropped.
struct Waiting<'a> {
    place: &'a Place,
    ticket: u64,
    /// Whether the connection was told to close, and does.
    is_closing: bool,
}

impl Places {
    pub(super) fn new(count: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(count));
        Arc::new(Self { free, share: count.div_ceil(2), taken: Mutex::default() })
    }

    /// A place for a connection of this network, or of one without a limit. `None`: the network holds its share, and
    /// none of its connections can be closed. Where all places are taken, the connection that has waited for its client
    /// for longest is closed, and the newcomer waits for the place. One newcomer at a time.
    pub(super) async fn enter(self: &Arc<Self>, network: Option<ClientNetwork>) -> Option<Place> {
        {
            let mut taken = self.taken();
            let places = taken.networks.get(&network).map_or(0, |network| network.places);
            let is_over = network.is_some() && places >= self.share;
            if is_over && !taken.close_one_of(network) {
                return None;
            }
            taken.networks.entry(network).or_default().places += 1;
            taken.is_crowded = self.is_full();
            if taken.is_crowded && !is_over {
                taken.close_one();
            }
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let mut taken = self.taken();
        (taken.is_crowded, taken.is_wanted) = (false, false);
        Some(Place { places: Arc::clone(self), network, _permit: permit })
    }

    /// Whether all places are taken.
    pub(super) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Has the connection closed that has waited for its client for longest, or the next one that begins to.
    fn close_one(&mut self) {
        let longest = self.tickets.first_key_value().map(|(_, network)| *network);
        self.is_wanted = !longest.is_some_and(|network| self.close_one_of(network));
    }

    /// Has the connection of this network closed that has waited for its client for longest, if one waits.
    fn close_one_of(&mut self, network: Option<ClientNetwork>) -> bool {
        let waiting = self.networks.get_mut(&network).and_then(|network| network.waiting.pop_first());
        let Some((ticket, close)) = waiting else { return false };
        self.tickets.remove(&ticket);
        let _ = close.send(());
        true
    }
}

impl Place {
    /// Returns when the connection is to be closed for a newcomer. Awaited while the connection waits for its client.
    pub(super) async fn wanted(&self) {
        let (close, closed) = oneshot::channel();
        let mut waiting = {
            let mut taken = self.places.taken();
            if taken.is_wanted {
                taken.is_wanted = false;
                return;
            }
            let ticket = taken.next_ticket;
            taken.next_ticket += 1;
            taken.tickets.insert(ticket, self.network);
            taken.networks.entry(self.network).or_default().waiting.insert(ticket, close);
            Waiting { place: self, ticket, is_closing: false }
        };
        waiting.is_closing = closed.await.is_ok();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut taken = self.place.places.taken();
        if taken.tickets.remove(&self.ticket).is_some() {
            let network = taken.networks.get_mut(&self.place.network).expect("it holds a place");
            network.waiting.remove(&self.ticket);
        } else if !self.is_closing && taken.is_crowded {
            // It was to be closed, and its client spoke in that moment: another one is closed instead.
            taken.close_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(network) = taken.networks.get_mut(&self.network) {
            network.places -= 1;
            if network.places == 0 {
                taken.networks.remove(&self.network);
            }
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

    /// Places that are all taken: half of them by each of two networks.
    fn full(count: usize) -> (Arc<Places>, Vec<Place>) {
        let places = Places::new(count);
        let networks = [network("192.0.2.1"), network("192.0.2.2")].into_iter().cycle();
        let taken = networks.take(count).map(|network| places.enter(network).now_or_never().unwrap().unwrap());
        let taken = taken.collect();
        (places, taken)
    }

    #[test]
    fn the_connection_that_waited_for_longest_is_closed_and_no_other() {
        let (places, mut taken) = full(4);
        let newcomer = network("192.0.2.3");
        {
            let (mut first, mut second) = (Box::pin(taken[0].wanted()), Box::pin(taken[1].wanted()));
            assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
            let mut entering = Box::pin(places.enter(newcomer));
            assert!(entering.as_mut().now_or_never().is_none());
            assert_eq!((second.as_mut().now_or_never(), first.as_mut().now_or_never()), (None, Some(())));
        }
        let mut entering = Box::pin(places.enter(newcomer));
        assert!(entering.as_mut().now_or_never().is_none());
        taken.remove(0);
        assert!(entering.now_or_never().unwrap().is_some());
    }

    #[test]
    fn a_connection_that_begins_to_wait_is_closed_for_a_newcomer_that_is_there() {
        let (places, taken) = full(2);
        let mut entering = Box::pin(places.enter(network("192.0.2.3")));
        assert!(entering.as_mut().now_or_never().is_none());
        assert_eq!((taken[1].wanted().now_or_never(), taken[0].wanted().now_or_never()), (Some(()), None));
    }

    #[test]
    fn a_connection_that_goes_on_has_another_one_closed() {
        let (places, taken) = full(2);
        let (mut first, mut second) = (Box::pin(taken[0].wanted()), Box::pin(taken[1].wanted()));
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        let mut entering = Box::pin(places.enter(network("192.0.2.3")));
        assert!(entering.as_mut().now_or_never().is_none());
        // It was told to go, but its client speaks before it looks.
        drop(first);
        assert_eq!(second.as_mut().now_or_never(), Some(()));
    }

    #[test]
    fn a_network_holds_half_and_then_closes_its_own() {
        let places = Places::new(4);
        let enter = |network| places.enter(network).now_or_never().unwrap();
        let greedy = network("2001:db8::1");
        let held = [enter(greedy).unwrap(), enter(network("2001:db8::2")).unwrap()];
        assert!(enter(greedy).is_none(), "a /64 is one network");
        let other = enter(network("192.0.2.1")).unwrap();
        let (mut wanted, mut others) = (Box::pin(held[1].wanted()), Box::pin(other.wanted()));
        assert_eq!((others.as_mut().now_or_never(), wanted.as_mut().now_or_never()), (None, None));
        let _third = enter(greedy).unwrap();
        assert_eq!((others.as_mut().now_or_never(), wanted.as_mut().now_or_never()), (None, Some(())));
    }

    #[test]
    fn proxies_may_hold_all_places() {
        let places = Places::new(4);
        let held: Vec<_> = (0..4).map(|_| places.enter(None).now_or_never().unwrap()).collect();
        assert!(held.iter().all(Option::is_some) && places.is_full());
        drop(held);
        assert!(places.taken().networks.is_empty(), "nothing is kept of those that are gone");
    }
}

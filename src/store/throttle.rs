//! The counters of failed logins, in the memory of this process: for the embedded store, and for a full Redis.

use std::{collections::HashMap, net::Ipv6Addr, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    throttle::{
        AttemptScope, ClientAndUser, ClientNetwork, CounterRule, KNOWN_CLIENT_TTL, PER_CLIENT, PER_CLIENT_AND_USER,
        PER_SITE, PER_USER, Reservation,
    },
    user::{LoginEpoch, UserName},
};

/// How often expired counters and clients that are no longer known are removed.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The counters, and the clients known to each user.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: HashMap<Counter, Failures>,
    /// Until when a client is known to a user.
    known_until: HashMap<ClientAndUser, Instant>,
    swept_at: Option<Instant>,
}

/// The key of a counter: whose failed logins it counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counter {
    /// Those of one client at one user; the epoch is the user's login epoch, if the user exists.
    ClientAndUser(ClientAndUser, Option<LoginEpoch>),
    /// Those of all clients at one user, with the same epoch.
    User(UserName, Option<LoginEpoch>),
    /// Those of one client at all users.
    Client(ClientNetwork),
    /// Those of one site (a /48) at all users.
    Site(Ipv6Addr),
}

/// The counters that an attempt of this scope is counted in, that of the client and user first.
fn counters(scope: AttemptScope, pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> Vec<(Counter, CounterRule)> {
    let mut counters = vec![(Counter::ClientAndUser(pair.clone(), epoch), PER_CLIENT_AND_USER)];
    if scope != AttemptScope::KnownClient {
        counters.push((Counter::User(pair.user.clone(), epoch), PER_USER));
        counters.push((Counter::Client(pair.client), PER_CLIENT));
        counters.extend(pair.client.site().map(|site| (Counter::Site(site), PER_SITE)));
    }
    counters
}

/// The state of a counter.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// When the last failure was counted.
    last: Instant,
    expires_at: Instant,
}

impl Throttle {
    /// As [`crate::store::Store::reserve_attempt`].
    pub(super) fn reserve_attempt(&mut self, pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> Reservation {
        let now = Instant::now();
        self.sweep(now);
        let scope = if self.is_known_client(pair) { AttemptScope::KnownClient } else { AttemptScope::AllCounters };
        let counters = counters(scope, pair, epoch).into_iter().map(|(counter, rule)| {
            let failures = self.failures.get(&counter).copied();
            (counter, rule, failures.filter(|failures| now < failures.expires_at))
        });
        let counters: Vec<_> = counters.collect();

        let last_of_pair = counters[0].2.map(|failures| failures.last);
        let free_at = counters.iter().filter_map(|(counter, rule, failures)| {
            let failures = (*failures)?;
            // The delay of the user's counter is counted from this client's last attempt, so that a first attempt is
            // never delayed by others.
            let last = if matches!(counter, Counter::User(..)) { last_of_pair? } else { failures.last };
            Some(last + rule.delay(failures.count))
        });
        if let Some(free_at) = free_at.max().filter(|free_at| now < *free_at) {
            return Reservation::RetryAfter(free_at - now);
        }
        for (counter, rule, failures) in counters {
            let count = failures.map_or(0, |found| found.count).saturating_add(1);
            self.failures.insert(counter, Failures { count, last: now, expires_at: now + rule.retention(count) });
        }
        Reservation::Reserved(scope)
    }

    /// Removes this attempt from the counters of its scope.
    pub(super) fn refund_attempt(&mut self, pair: &ClientAndUser, epoch: Option<LoginEpoch>, scope: AttemptScope) {
        for (counter, rule) in counters(scope, pair, epoch) {
            if let Some(failures) = self.failures.get_mut(&counter) {
                failures.count -= 1;
                failures.expires_at = failures.last + rule.retention(failures.count);
                if failures.count == 0 {
                    self.failures.remove(&counter);
                }
            }
        }
    }

    /// Resets the counter of this client and user, and makes the client known to the user.
    pub(super) fn make_known(&mut self, pair: &ClientAndUser, epoch: LoginEpoch) {
        self.failures.remove(&Counter::ClientAndUser(pair.clone(), Some(epoch)));
        self.known_until.insert(pair.clone(), Instant::now() + KNOWN_CLIENT_TTL);
    }

    /// As [`crate::store::Store::is_known_client`].
    pub(super) fn is_known_client(&self, pair: &ClientAndUser) -> bool {
        self.known_until.get(pair).is_some_and(|until| Instant::now() < *until)
    }

    /// Removes all that has expired, at most once in [`SWEEP_INTERVAL`].
    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|swept_at| swept_at + SWEEP_INTERVAL <= now) {
            self.failures.retain(|_, failures| now < failures.expires_at);
            self.known_until.retain(|_, until| now < *until);
            self.swept_at = Some(now);
        }
    }
}

//! The counters of failed logins, in the memory of this process: for the embedded store, and for a full Redis.

use std::{collections::HashMap, net::Ipv6Addr, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    throttle::{
        AttemptScope, Backoff, ClientNetwork, KNOWN_CLIENT_TTL, LoginAttempt, PER_CLIENT, PER_CLIENT_AND_USER,
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
    known_until: HashMap<LoginAttempt, Instant>,
    swept_at: Option<Instant>,
}

/// The key of a counter: whose failed logins it counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counter {
    ClientAndUser(LoginAttempt, Option<LoginEpoch>),
    User(UserName, Option<LoginEpoch>),
    Client(ClientNetwork),
    Site(Ipv6Addr),
}

/// The counters that an attempt of this scope is counted in, that of the client and user first.
fn counters(scope: AttemptScope, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Vec<(Counter, Backoff)> {
    let mut counters = vec![(Counter::ClientAndUser(attempt.clone(), epoch), PER_CLIENT_AND_USER)];
    if scope != AttemptScope::KnownClient {
        counters.push((Counter::User(attempt.user.clone(), epoch), PER_USER));
        counters.push((Counter::Client(attempt.client), PER_CLIENT));
        counters.extend(attempt.client.site().map(|site| (Counter::Site(site), PER_SITE)));
    }
    counters
}

/// The state of a counter.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// When the last one was counted.
    last: Instant,
    expires_at: Instant,
}

impl Throttle {
    /// As [`crate::store::Store::reserve_attempt`].
    pub(super) fn reserve_attempt(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Reservation {
        let now = Instant::now();
        self.sweep(now);
        let scope = if self.is_known_client(attempt) { AttemptScope::KnownClient } else { AttemptScope::AllCounters };
        let counters = counters(scope, attempt, epoch).into_iter().map(|(counter, backoff)| {
            let failures = self.failures.get(&counter).copied();
            (counter, backoff, failures.filter(|failures| now < failures.expires_at))
        });
        let counters: Vec<_> = counters.collect();

        let last_of_pair = counters[0].2.map(|failures| failures.last);
        let free_at = counters.iter().filter_map(|(counter, backoff, failures)| {
            let failures = (*failures)?;
            // The delay of the user's counter is counted from this client's last attempt, so that a first attempt is
            // never delayed by others.
            let last = if matches!(counter, Counter::User(..)) { last_of_pair? } else { failures.last };
            Some(last + backoff.delay(failures.count))
        });
        if let Some(free_at) = free_at.max().filter(|free_at| now < *free_at) {
            return Reservation::RetryAfter(free_at - now);
        }
        for (counter, backoff, failures) in counters {
            let count = failures.map_or(0, |found| found.count).saturating_add(1);
            self.failures.insert(counter, Failures { count, last: now, expires_at: now + backoff.retention(count) });
        }
        Reservation::Reserved(scope)
    }

    /// Removes this attempt from the counters of its scope.
    pub(super) fn refund_attempt(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>, scope: AttemptScope) {
        for (counter, backoff) in counters(scope, attempt, epoch) {
            if let Some(failures) = self.failures.get_mut(&counter) {
                failures.count -= 1;
                failures.expires_at = failures.last + backoff.retention(failures.count);
                if failures.count == 0 {
                    self.failures.remove(&counter);
                }
            }
        }
    }

    /// Resets the counter of this client and user, and makes the client known to the user.
    pub(super) fn make_known(&mut self, attempt: &LoginAttempt, epoch: LoginEpoch) {
        self.failures.remove(&Counter::ClientAndUser(attempt.clone(), Some(epoch)));
        self.known_until.insert(attempt.clone(), Instant::now() + KNOWN_CLIENT_TTL);
    }

    /// As [`crate::store::Store::is_known_client`].
    pub(super) fn is_known_client(&self, attempt: &LoginAttempt) -> bool {
        self.known_until.get(attempt).is_some_and(|until| Instant::now() < *until)
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

//! Failed logins, counted.

use std::{collections::HashMap, net::Ipv6Addr, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    throttle::{
        AttemptScope, Backoff, ClientNetwork, KNOWN_CLIENT_TTL, LoginAttempt, PER_CLIENT, PER_CLIENT_AND_USER,
        PER_SITE, PER_USER, Reservation,
    },
    user::{LoginEpoch, UserName},
};

/// How often what is over is thrown out.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The counts, and who is known where.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: HashMap<Count, Failures>,
    known_until: HashMap<LoginAttempt, Instant>,
    swept_at: Option<Instant>,
}

/// Whose failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Count {
    AtClient(LoginAttempt, Option<LoginEpoch>),
    OfUser(UserName, Option<LoginEpoch>),
    OfClient(ClientNetwork),
    OfSite(Ipv6Addr),
}

impl Count {
    /// The counters of this scope, that of the client at the user first.
    fn with(scope: AttemptScope, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Vec<Self> {
        let mut counts = vec![Self::AtClient(attempt.clone(), epoch)];
        if scope != AttemptScope::KnownClient {
            counts.extend([Self::OfUser(attempt.user.clone(), epoch), Self::OfClient(attempt.client)]);
            counts.extend(attempt.client.site().map(Self::OfSite));
        }
        counts
    }

    fn backoff(&self) -> Backoff {
        match self {
            Self::AtClient(..) => PER_CLIENT_AND_USER,
            Self::OfUser(..) => PER_USER,
            Self::OfClient(_) => PER_CLIENT,
            Self::OfSite(_) => PER_SITE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn are_retained(self, backoff: Backoff, now: Instant) -> bool {
        now < self.last + backoff.retention(self.count)
    }
}

impl Throttle {
    /// See [`crate::store::Store::reserve_attempt`].
    pub(super) fn reserve_attempt(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Reservation {
        let now = Instant::now();
        self.sweep(now);
        let scope = if self.is_known_client(attempt) { AttemptScope::KnownClient } else { AttemptScope::AllCounters };
        let counts: Vec<_> = Count::with(scope, attempt, epoch)
            .into_iter()
            .map(|count| {
                let failures = self.failures.get(&count).copied();
                let failures = failures.filter(|failures| failures.are_retained(count.backoff(), now));
                (count, failures)
            })
            .collect();

        let last_at_user = counts[0].1.map(|failures| failures.last);
        let free_at = counts.iter().filter_map(|(count, failures)| {
            let failures = (*failures)?;
            // What others did at a user counts from the last try of this client there.
            let last = if matches!(count, Count::OfUser(..)) { last_at_user? } else { failures.last };
            Some(last + count.backoff().delay(failures.count))
        });
        if let Some(free_at) = free_at.max().filter(|free_at| now < *free_at) {
            return Reservation::RetryAfter(free_at - now);
        }
        for (count, failures) in counts {
            let failures = failures.map_or(0, |found| found.count).saturating_add(1);
            self.failures.insert(count, Failures { count: failures, last: now });
        }
        Reservation::Reserved(scope)
    }

    /// Removes this attempt from the counters of its scope.
    pub(super) fn refund_attempt(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>, scope: AttemptScope) {
        for key in Count::with(scope, attempt, epoch) {
            if let Some(failures) = self.failures.get_mut(&key) {
                failures.count -= 1;
                if failures.count == 0 {
                    self.failures.remove(&key);
                }
            }
        }
    }

    /// The user of this try logged in: the failures of the client at the user are forgotten, and the user is known there.
    pub(super) fn make_known(&mut self, attempt: &LoginAttempt, epoch: LoginEpoch) {
        self.failures.remove(&Count::AtClient(attempt.clone(), Some(epoch)));
        self.known_until.insert(attempt.clone(), Instant::now() + KNOWN_CLIENT_TTL);
    }

    /// See [`crate::store::Store::is_known_client`].
    pub(super) fn is_known_client(&self, attempt: &LoginAttempt) -> bool {
        self.known_until.get(attempt).is_some_and(|until| Instant::now() < *until)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|swept_at| swept_at + SWEEP_INTERVAL <= now) {
            self.failures.retain(|count, failures| failures.are_retained(count.backoff(), now));
            self.known_until.retain(|_, until| now < *until);
            self.swept_at = Some(now);
        }
    }
}

//! Failed logins, counted.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    throttle::{
        AT_CLIENT, Admission, Allowance, ClientNetwork, ClientSite, CountedAs, KNOWN, LoginAttempt, OF_CLIENT, OF_SITE,
        OF_USER,
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
    OfSite(ClientSite),
}

impl Count {
    /// Those that such a try is counted with, that of the client at the user first.
    fn with(counted: CountedAs, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Vec<Self> {
        let mut counts = vec![Self::AtClient(attempt.clone(), epoch)];
        if counted != CountedAs::Known {
            counts.extend([Self::OfUser(attempt.user.clone(), epoch), Self::OfClient(attempt.client)]);
            counts.extend(attempt.client.site().map(Self::OfSite));
        }
        counts
    }

    fn allowance(&self) -> Allowance {
        match self {
            Self::AtClient(..) => AT_CLIENT,
            Self::OfUser(..) => OF_USER,
            Self::OfClient(_) => OF_CLIENT,
            Self::OfSite(_) => OF_SITE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn are_of_interest(self, allowance: Allowance, now: Instant) -> bool {
        now < self.last + allowance.memory(self.count)
    }
}

impl Throttle {
    /// See [`crate::store::Store::admit_login`].
    pub(super) fn admit(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> Admission {
        let now = Instant::now();
        self.sweep(now);
        let counted = if self.is_known(attempt) { CountedAs::Known } else { CountedAs::Stranger };
        let counts: Vec<_> = Count::with(counted, attempt, epoch)
            .into_iter()
            .map(|count| {
                let failures = self.failures.get(&count).copied();
                let failures = failures.filter(|failures| failures.are_of_interest(count.allowance(), now));
                (count, failures)
            })
            .collect();

        let last_at_user = counts[0].1.map(|failures| failures.last);
        let free_at = counts.iter().filter_map(|(count, failures)| {
            let failures = (*failures)?;
            // What others did at a user counts from the last try of this client there.
            let last = if matches!(count, Count::OfUser(..)) { last_at_user? } else { failures.last };
            Some(last + count.allowance().delay(failures.count))
        });
        if let Some(free_at) = free_at.max().filter(|free_at| now < *free_at) {
            return Admission::TooEarly(free_at - now);
        }
        for (count, failures) in counts {
            let failures = failures.map_or(0, |found| found.count).saturating_add(1);
            self.failures.insert(count, Failures { count: failures, last: now });
        }
        Admission::Admitted(counted)
    }

    /// Takes back that an admitted try was counted as a failure, as it was counted.
    pub(super) fn take_back(&mut self, attempt: &LoginAttempt, epoch: Option<LoginEpoch>, counted: CountedAs) {
        for key in Count::with(counted, attempt, epoch) {
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
        self.known_until.insert(attempt.clone(), Instant::now() + KNOWN);
    }

    /// See [`crate::store::Store::is_known`].
    pub(super) fn is_known(&self, attempt: &LoginAttempt) -> bool {
        self.known_until.get(attempt).is_some_and(|until| Instant::now() < *until)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|swept_at| swept_at + SWEEP_INTERVAL <= now) {
            self.failures.retain(|count, failures| failures.are_of_interest(count.allowance(), now));
            self.known_until.retain(|_, until| now < *until);
            self.swept_at = Some(now);
        }
    }
}

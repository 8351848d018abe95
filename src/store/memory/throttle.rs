//! Failed logins, counted.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    throttle::{
        AT_CLIENT, Admission, Allowance, ClientNetwork, CountedAs, FORGOTTEN_AFTER, KNOWN, LoginAttempt, OF_CLIENT,
        OF_USER,
    },
    user::UserName,
};

/// How often what is over is thrown out.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The counts, and who is known where.
#[derive(Debug, Default)]
pub(in crate::store) struct Throttle {
    failures: HashMap<Count, Failures>,
    known_until: HashMap<LoginAttempt, Instant>,
    swept_at: Option<Instant>,
}

/// Whose failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Count {
    AtClient(LoginAttempt),
    OfUser(UserName),
    OfClient(ClientNetwork),
}

impl Count {
    fn all(attempt: &LoginAttempt) -> [Self; 3] {
        [Self::AtClient(attempt.clone()), Self::OfUser(attempt.user.clone()), Self::OfClient(attempt.client)]
    }

    /// Those that such a try is counted with.
    fn with(counted: CountedAs, attempt: &LoginAttempt) -> impl Iterator<Item = Self> {
        let counts = match counted {
            CountedAs::Stranger | CountedAs::StrangerHere => 3,
            CountedAs::Known => 1,
        };
        Self::all(attempt).into_iter().take(counts)
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn are_of_interest(&self, now: Instant) -> bool {
        now < self.last + FORGOTTEN_AFTER
    }
}

impl Throttle {
    /// See [`crate::store::Store::admit_login`].
    pub(in crate::store) fn admit(&mut self, attempt: &LoginAttempt) -> Admission {
        let now = Instant::now();
        self.sweep(now);
        let found = Count::all(attempt)
            .map(|count| self.failures.get(&count).filter(|failures| failures.are_of_interest(now)).copied());
        let known = self.known_until.get(attempt).is_some_and(|until| now < *until);
        let delay =
            |allowance: Allowance, failures: Option<Failures>| allowance.delay(failures.map_or(0, |found| found.count));

        let [at_client, of_user, of_client] = found;
        let others = if known { Duration::ZERO } else { delay(OF_USER, of_user) };
        let by_user = at_client.map(|found| found.last + delay(AT_CLIENT, at_client).max(others));
        let by_client = of_client.filter(|_| !known).map(|found| found.last + delay(OF_CLIENT, of_client));
        if let Some(free_at) = by_user.max(by_client).filter(|free_at| now < *free_at) {
            return Admission::TooEarly(free_at - now);
        }
        let counted = if known { CountedAs::Known } else { CountedAs::Stranger };
        for (key, found) in Count::with(counted, attempt).zip(found) {
            let count = found.map_or(0, |found| found.count).saturating_add(1);
            self.failures.insert(key, Failures { count, last: now });
        }
        Admission::Admitted(counted)
    }

    /// See [`crate::store::Store::excuse_login`].
    pub(in crate::store) fn excuse(&mut self, attempt: &LoginAttempt, counted: CountedAs, succeeded: bool) {
        for key in Count::with(counted, attempt) {
            if let Some(failures) = self.failures.get_mut(&key) {
                failures.count -= 1;
                if failures.count == 0 {
                    self.failures.remove(&key);
                }
            }
        }
        if succeeded {
            self.failures.remove(&Count::AtClient(attempt.clone()));
            self.known_until.insert(attempt.clone(), Instant::now() + KNOWN);
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|swept_at| swept_at + SWEEP_INTERVAL <= now) {
            self.failures.retain(|_, failures| failures.are_of_interest(now));
            self.known_until.retain(|_, until| now < *until);
            self.swept_at = Some(now);
        }
    }
}

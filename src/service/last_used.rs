//! When tokens were last used: gathered in memory, and sent to the store every 28 seconds.
//!
//! A use costs the verification one load of an atomic: its token holds the last use that the store does not have
//! ([`UnsentUse`]), and is queued here with its first one. The queue has one part for each second of a round, and a
//! user's tokens are all in one part. So a use is in the store after at most 30 s, each user costs the store one script
//! a round, and a round's scripts spread over its seconds. Replicas choose the parts at random.
//!
//! While the store does not answer, uses are kept. A process that is killed loses those of one round.
//!
//! [`UnsentUse`]: crate::domain::token::UnsentUse

use std::{
    array,
    hash::BuildHasher,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::quality::RandomState;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    domain::token::{SharedToken, SignedToken, TokenUse},
    store::{StoreError, StoreResult, leased::LeasedStore},
};

/// The parts of the queue. One is sent each second, so a use waits for 28 s at most, and has 2 s to reach the store.
const PARTS: usize = 28;

/// The time between two parts.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pause before a failed [`LastUsed::send_all`] is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The most tokens in one part, 448 k in all: a use of a further token is not recorded before the next round. A token
/// takes 8 bytes here, and about 100 more once it is no longer cached.
const PART_CAPACITY: usize = 16_384;

/// The most tokens that are sent at once. One script with all of them takes Redis less than a millisecond.
const BATCH: usize = 256;

/// Gathers uses of tokens, and sends them to the store.
pub struct LastUsed {
    store: Arc<LeasedStore>,
    /// The tokens with a use that the store does not have.
    queue: [Part; PARTS],
    /// Finds the part of a user.
    hasher: RandomState,
    /// Set while the store does not take uses: only the first failure is logged.
    has_failed: AtomicBool,
}

/// A part of the queue: the tokens of some users.
type Part = Mutex<Vec<SharedToken>>;

impl LastUsed {
    /// Keeps uses until they are sent to `store`.
    pub(super) fn new(store: Arc<LeasedStore>) -> Self {
        let queue = array::from_fn(|_| Mutex::default());
        Self { store, queue, hasher: RandomState::default(), has_failed: AtomicBool::new(false) }
    }

    /// Records a use of a token at `now`, in seconds since 1970.
    pub(super) fn record(&self, token: &SharedToken, now: u64) {
        if token.unsent_use.record(now) {
            self.enqueue(token, now);
        }
    }

    #[cold]
    fn enqueue(&self, token: &SharedToken, now: u64) {
        let mut part = self.part(token).lock();
        if part.len() < PART_CAPACITY {
            part.push(SharedToken::clone(token));
        } else {
            // The next use is the first one again.
            token.unsent_use.forget(u32::try_from(now).unwrap_or(u32::MAX));
        }
    }

    /// The part of the queue for the owner of this token.
    fn part(&self, token: &SignedToken) -> &Part {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(&token.owner) as usize;
        &self.queue[hash % PARTS]
    }

    /// Sends one part of the queue after the other, for ever.
    pub async fn keep_sending(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for part in self.queue.iter().cycle() {
            ticks.tick().await;
            self.send(part).await;
        }
    }

    /// Sends all parts at once, and again until the store has them all: for the end of the process.
    pub async fn send_all(&self) {
        loop {
            join_all(self.queue.iter().map(|part| self.send(part))).await;
            if self.queue.iter().all(|part| part.lock().is_empty()) {
                return;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Sends a part of the queue. What the store does not take stays in the queue, also if this future is dropped.
    async fn send(&self, part: &Part) {
        let mut unsent = scopeguard::guard(mem::take(&mut *part.lock()), |rest| part.lock().extend(rest));
        unsent.sort_unstable_by(|a, b| a.owner.cmp(&b.owner));
        while !unsent.is_empty() {
            let rest = unsent.len().saturating_sub(BATCH);
            let users: Vec<_> = unsent[rest..].chunk_by(|a, b| a.owner == b.owner).collect();
            // Sent at once, they take one round trip; not one pipeline, since each has another Cluster slot.
            let results = join_all(users.iter().map(|tokens| self.send_uses(tokens))).await;
            let has_failed = results.iter().all(Result::is_err);
            self.log_change(results.iter().find_map(|result| result.as_ref().err()));
            let sent = users.iter().zip(results);
            let unsent_yet: Vec<_> =
                sent.flat_map(|(tokens, later)| later.unwrap_or_else(|_| tokens.to_vec())).collect();
            unsent.truncate(rest);
            part.lock().extend(unsent_yet);
            if has_failed {
                return;
            }
        }
    }

    /// Sends the uses of these tokens of one user, and returns the tokens that were used again meanwhile.
    async fn send_uses(&self, tokens: &[SharedToken]) -> StoreResult<Vec<SharedToken>> {
        let unsent: Vec<_> = tokens.iter().filter_map(|token| Some((token, token.unsent_use.get()?))).collect();
        let uses: Vec<_> = unsent.iter().map(|(token, at)| TokenUse { id: token.id, at: (*at).into() }).collect();
        self.store.record_uses(&tokens[0].owner, &uses).await?;
        let used_again = unsent.into_iter().filter(|(token, at)| !token.unsent_use.forget(*at));
        Ok(used_again.map(|(token, _)| SharedToken::clone(token)).collect())
    }

    /// Logs the first failure, and the first success after it.
    fn log_change(&self, error: Option<&StoreError>) {
        let had_failed = self.has_failed.swap(error.is_some(), Relaxed);
        match error {
            Some(error) if !had_failed => {
                tracing::warn!(%error, "the store does not take the last uses of tokens: they are kept and sent again");
            }
            None if had_failed => tracing::info!("the store takes the last uses of tokens again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance, pause};

    use super::*;
    use crate::{
        domain::{
            attributes::SharedAttributes,
            life::Life,
            password::{HashCost, PasswordHash},
            token::{Token, TokenDigest, TokenId, UnsentUse, Validity},
            user::{Role, User, UserName},
        },
        store::{Authority, NewToken, leased::LEASE, memory::MemoryStore},
    };

    /// A store with these users, and a live token of each.
    async fn fixture(users: usize) -> (LastUsed, Vec<SharedToken>) {
        let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), LEASE));
        let by = Authority::Until(Instant::now() + Duration::from_hours(1));
        let mut tokens = Vec::new();
        for number in 0..users {
            let owner: UserName = format!("user{number}").parse().unwrap();
            let user = User::new(owner.clone(), Role::User, PasswordHash::dummy(HashCost::default()), 0);
            assert!(store.create_user(&by, &user).await.unwrap());
            let token = Token {
                id: TokenId::random(),
                description: "x".parse().unwrap(),
                life: Life::parse("1h").unwrap(),
                attributes: SharedAttributes::default(),
                digest: TokenDigest::of("x"),
                successor: None,
            };
            let new = NewToken { owner: &owner, login: user.login_epoch, token: &token, quota: 1, idempotency: None };
            store.create_token(new).await.unwrap();
            tokens.push(SharedToken::new(SignedToken {
                owner: owner.into(),
                id: token.id,
                validity: Validity::new(0, 3600),
                key_generation: 0,
                unsent_use: UnsentUse::default(),
            }));
        }
        (LastUsed::new(store), tokens)
    }

    impl LastUsed {
        async fn stored(&self, token: &SignedToken) -> Option<u64> {
            self.store.inspect_token(&token.owner, token.id).await.unwrap().unwrap().last_used
        }

        fn queued(&self) -> usize {
            self.queue.iter().map(|part| part.lock().len()).sum()
        }
    }

    #[tokio::test]
    async fn each_use_is_stored_within_a_round_spread_over_its_seconds() {
        pause();
        let (last_used, tokens) = fixture(1000).await;
        let last_used = Arc::new(last_used);
        let sender = Arc::clone(&last_used);
        tokio::spawn(async move { sender.keep_sending().await });
        sleep(Duration::from_millis(500)).await;
        for token in &tokens {
            last_used.record(token, 7);
        }
        let mut queued = last_used.queued();
        assert_eq!(queued, 1000);
        for _ in 0..PARTS {
            advance(INTERVAL).await;
            sleep(Duration::from_millis(1)).await;
            let sent = queued - last_used.queued();
            assert!(sent < 1000 / 10, "{sent} at once");
            queued -= sent;
        }
        assert_eq!(queued, 0);
        for token in &tokens {
            assert_eq!(last_used.stored(token).await, Some(7));
        }
    }

    #[tokio::test]
    async fn a_token_is_queued_once_until_its_last_use_is_stored() {
        let (last_used, tokens) = fixture(1).await;
        for now in [1, 1, 2, 5, 3, 4] {
            last_used.record(&tokens[0], now);
        }
        assert_eq!(last_used.queued(), 1);
        last_used.send_all().await;
        assert_eq!((last_used.queued(), last_used.stored(&tokens[0]).await), (0, Some(4)));
        last_used.record(&tokens[0], 6);
        assert_eq!(last_used.queued(), 1);
        last_used.send_all().await;
        assert_eq!((last_used.queued(), last_used.stored(&tokens[0]).await), (0, Some(6)));
    }

    #[tokio::test]
    async fn memory_is_bounded_and_what_does_not_fit_is_recorded_later() {
        let (last_used, tokens) = fixture(1).await;
        let others: Vec<_> = (0..PART_CAPACITY)
            .map(|_| SharedToken::new(SignedToken { id: TokenId::random(), ..SignedToken::clone(&tokens[0]) }))
            .collect();
        for token in &others {
            last_used.record(token, 1);
        }
        last_used.record(&tokens[0], 1);
        assert_eq!(last_used.queued(), PART_CAPACITY);
        last_used.send_all().await;
        assert_eq!((last_used.queued(), last_used.stored(&tokens[0]).await), (0, None));
        last_used.record(&tokens[0], 1);
        last_used.send_all().await;
        assert_eq!(last_used.stored(&tokens[0]).await, Some(1));
    }
}

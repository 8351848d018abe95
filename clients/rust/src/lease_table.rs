//! The leases: what may be used until when. No I/O; the time is passed in.
//!
//! **An answer about a token** is true as of `sent - age`: the replica's age, subtracted from when the question was
//! sent, both by the verifier's clock. It may be used until [`LEASE`] after that.
//!
//! **A sequence of answers about changes** begins with a reset. Each later answer names all tokens that changed since
//! the answer before, as of its own `sent - age`. So it renews, until [`LEASE`] after that, each token that is known to
//! be live as of a moment after the sequence began, and after the last answer that named the token arrived.
//!
//! **Why that is sound.** A change that a read did not see was made after the moment as of which the read is true, so
//! after the sequence began. The replica that is asked for changes tells of it in an answer of the sequence whose
//! `sent - age` is after the change, or it does not answer. In the first case that answer arrived after the change, so
//! after the moment as of which the read is true, and the token is dropped; it does not matter whether the answer
//! arrived before the read, during the read or after. In the second case nothing is renewed. What was not renewed
//! lapses 250 ms after it was known to be true, and a revocation is answered later than that.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::{
    clock::Moment,
    token::Token,
    wire::{Changes, TokenId},
};

/// How long an answer may be used after it was known to be true. The service waits longer after each revocation.
pub(crate) const LEASE: Duration = Duration::from_millis(250);

/// How long a read is renewed. Then the token is read again: this bounds what follows from clocks that run apart, and
/// from changes that no answer names (signing keys that one replica reads before another).
pub(crate) const MAX_AGE: Duration = Duration::from_secs(30);

/// The precision of an age, which the service rounds up to whole milliseconds.
const AGE_PRECISION: Duration = Duration::from_millis(1);

/// The number of marks for named tokens, 128 KiB. Tokens whose ids have the same index share a mark: a change of one
/// costs the others a read. Being shared, a mark is never unset.
const MARK_COUNT: usize = 1 << 14;

/// The SHA-256 of a JWT.
pub(crate) type Digest = [u8; 32];

/// The tokens that were read, and until when they may be used.
///
/// A lookup takes no lock. It loads the renewal before the marks, and answers set the marks before the renewal: no
/// lookup sees a renewal without the names that came with it.
pub(crate) struct LeaseTable {
    tokens: Cache<Digest, Leased>,
    /// For each index of an id, when the last answer arrived that named a token with this index.
    marks: Box<[AtomicU64]>,
    /// When the answer arrived that began the sequence.
    begun_at: AtomicU64,
    /// Until when the last answers renewed them.
    renewed_until: AtomicU64,
    cursor: Mutex<Option<String>>,
}

/// A token under a lease.
#[derive(Clone)]
struct Leased {
    token: Token,
    /// As of when it is known to be live.
    known_at: Moment,
    /// The latest end of the lease, however often it is renewed.
    ends_at: Moment,
}

/// A question about changes under way.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    sent: Moment,
    /// The cursor to ask with.
    pub(crate) cursor: Option<String>,
}

/// The server's age of an answer cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer claims to be older than the service may answer")]
pub(crate) struct ImpossibleAge;

impl LeaseTable {
    /// A table of at most about this many tokens.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            tokens: Cache::new(capacity),
            marks: (0..MARK_COUNT).map(|_| AtomicU64::new(Moment::DISTANT_PAST.as_nanos())).collect(),
            begun_at: AtomicU64::new(Moment::DISTANT_FUTURE.as_nanos()),
            renewed_until: AtomicU64::new(Moment::DISTANT_PAST.as_nanos()),
            cursor: Mutex::new(None),
        }
    }

    /// The token of this JWT, if its lease holds at `now`.
    pub(crate) fn find(&self, digest: &Digest, now: Moment) -> Option<Token> {
        let renewed_until = Moment::from_nanos(self.renewed_until.load(Acquire));
        let begun_at = Moment::from_nanos(self.begun_at.load(Acquire));
        let leased = self.tokens.get(digest)?;
        let mut until = leased.known_at.plus(LEASE);
        if leased.known_at >= begun_at {
            until = until.max(renewed_until);
        }
        let named_at = Moment::from_nanos(self.mark(leased.token.id()).load(Acquire));
        (now < until.min(leased.ends_at) && named_at <= leased.known_at).then_some(leased.token)
    }

    /// Inserts a token that was read: it is live as of `sent - age`. The read was sent after `sent`, and its answer
    /// arrived at `now`. `life`: the rest of its life at `sent`.
    ///
    /// An error: the age is longer than a lease and the time that the answer took. The service uses nothing that it has
    /// not known for longer than a lease to be true when it looks.
    pub(crate) fn insert(
        &self,
        digest: Digest,
        token: Token,
        life: Duration,
        age: Duration,
        sent: Moment,
        now: Moment,
    ) -> Result<(), ImpossibleAge> {
        if age > LEASE + AGE_PRECISION + now.since(sent) {
            return Err(ImpossibleAge);
        }
        let ends_at = sent.plus(life.min(MAX_AGE));
        self.tokens.insert(digest, Leased { token, known_at: sent.minus(age), ends_at });
        Ok(())
    }

    /// Begins a question about changes, which has to be sent after `now`. There is one at a time.
    pub(crate) fn begin_question(&self, now: Moment) -> Question {
        Question { cursor: self.cursor.lock().clone(), sent: now }
    }

    /// Ends a question whose answer arrived at `now`. A question without an answer just ends.
    pub(crate) fn end_question(&self, question: &Question, answer: Changes, now: Moment) {
        for id in &answer.tokens {
            self.mark(*id).fetch_max(now.as_nanos(), Release);
        }
        *self.cursor.lock() = Some(answer.cursor);
        if answer.reset {
            self.begun_at.store(now.as_nanos(), Release);
        } else {
            let until = question.sent.minus(answer.age).plus(LEASE);
            self.renewed_until.fetch_max(until.as_nanos(), Release);
        }
    }

    /// The number of tokens in the table, with and without a lease.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn mark(&self, id: TokenId) -> &AtomicU64 {
        // Ids are random, so any bits of them do.
        &self.marks[id.low_bits() % MARK_COUNT]
    }
}

#[cfg(test)]
#[path = "lease_table_model.rs"]
mod model;

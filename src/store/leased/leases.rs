//! Leases: until when a value that was read may be used without another read.

use std::{
    hash::{BuildHasher, Hash},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::store::Changes;

/// The age at which a value is read again although its lease was renewed. With 400,000 tokens in use, each is read
/// every ten minutes: 670 reads a second.
pub(super) const MAX_AGE: Duration = Duration::from_mins(10);

/// The part of a value's remaining life for which it may be leased: five sixths, since chrony slews a clock by up to
/// 83,333 ppm (`maxslewrate`), this one down and the store's up. A step of the store's clock is a change of everything
/// ([`crate::store::Watch`]). So a token never outlives its key, and is read again a few times before it expires.
const SAFE_LIFE: (u128, u128) = (5, 6);

/// The bits that [`Lease::sent`] leaves out: it counts steps of 4.2 ms.
const SENT_SHIFT: u32 = 22;

/// The state that all leases depend on: until when they were renewed, and which subjects changed.
///
/// Each subject (the id of a token, the name of a user) has a version, which a change increments. A lease ends when the
/// version is another than before the read was sent; so a change also ends the lease of a read under way. Subjects
/// whose hash has the same index share a version: a change of one costs the others a read. There is no lock.
pub(super) struct Leases {
    /// Duration of a lease; zero: leases are disabled, and none holds.
    pub(super) duration: Duration,
    /// When this was created.
    start: Instant,
    /// When the leases that were renewed last end.
    renewed_until: AtomicU64,
    /// The versions of all subjects, by hash. Their number is a power of two.
    versions: Box<[AtomicU32]>,
    /// Added to every version: an increment changes all of them.
    common_version: AtomicU32,
    hasher: RandomState,
}

/// A moment of this process' clock, in nanoseconds after [`Leases`] was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    /// When [`Leases`] was created.
    pub(super) const START: Self = Self(0);
}

/// The lease of one read. Eight bytes, since there may be a million.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// When the read was sent, a [`Moment`] rounded down by [`SENT_SHIFT`] bits. It wraps after 208 days. A value that
    /// is as old could pass for one that was just read, if no change of its subject was reported since.
    sent: u32,
    /// The version of the subject before the read was sent.
    version: u32,
}

impl Leases {
    /// Leases of this duration, for about this many values.
    pub(super) fn new(duration: Duration, values: usize) -> Self {
        Self {
            duration,
            start: Instant::now(),
            renewed_until: AtomicU64::new(0),
            versions: (0..values.next_power_of_two()).map(|_| AtomicU32::new(0)).collect(),
            common_version: AtomicU32::new(0),
            hasher: RandomState::default(),
        }
    }

    /// Begins the lease of a read of `subject`, which has to be sent afterwards.
    pub(super) fn begin(&self, subject: &impl Hash) -> Lease {
        let version = self.version(subject);
        Lease { sent: steps(self.moment(Instant::now())), version }
    }

    /// As of when the value of `subject` that was read under this lease is known to be true, if it may still be used:
    /// when its read, or the question of the last renewal, was sent. `expires_at`: when the value expires by itself;
    /// `None`: never.
    pub(super) fn confirmed_at(
        &self,
        lease: Lease,
        subject: &impl Hash,
        expires_at: Option<Moment>,
    ) -> Option<Instant> {
        // Loaded before the version, as `renew` stores it after the changes: no renewal is seen without its changes.
        let renewed_until = Moment(self.renewed_until.load(Acquire));
        let now = self.moment(Instant::now());
        let age = (u64::from(steps(now).wrapping_sub(lease.sent)) << SENT_SHIFT) + now.0 % (1 << SENT_SHIFT);
        let is_current = now < renewed_until && Duration::from_nanos(age) < MAX_AGE;
        let is_alive = expires_at.is_none_or(|end| {
            let life = u128::from((end.0 + age).saturating_sub(now.0));
            u128::from(age) * SAFE_LIFE.1 < life * SAFE_LIFE.0
        });
        let holds = (is_current || Duration::from_nanos(age) < self.duration)
            && is_alive
            && self.version(subject) == lease.version;
        holds.then(|| {
            let read_at = self.instant(Moment(now.0.saturating_sub(age)));
            if is_current { read_at.max(self.instant(renewed_until) - self.duration) } else { read_at }
        })
    }

    /// Ends the leases on these changes, and then renews all others: the store has answered that these are all changes
    /// up to `asked_at`, when it was asked.
    pub(super) fn renew(&self, asked_at: Instant, changes: &Changes) {
        if changes.everything {
            self.end_all();
        }
        changes.tokens.iter().for_each(|token| self.end(token));
        changes.users.iter().for_each(|user| self.end(user));
        self.renewed_until.store(self.moment(asked_at + self.duration).0, Release);
    }

    /// Ends all leases, also those of reads under way. A watch that has just begun reports no earlier change.
    pub(super) fn end_all(&self) {
        self.common_version.fetch_add(1, Release);
    }

    /// This moment of the clock.
    pub(super) fn moment(&self, instant: Instant) -> Moment {
        let since = instant.saturating_duration_since(self.start);
        Moment(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX >> 1))
    }

    /// The moment as the clock shows it.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_nanos(moment.0)
    }

    /// Ends the leases on this subject.
    fn end(&self, subject: &impl Hash) {
        self.versions[self.version_index(subject)].fetch_add(1, Release);
    }

    /// The version of this subject. Neither part ever decreases, so the sum changes with each of them.
    fn version(&self, subject: &impl Hash) -> u32 {
        let own = self.versions[self.version_index(subject)].load(Acquire);
        own.wrapping_add(self.common_version.load(Acquire))
    }

    /// The index of this subject's version.
    pub(super) fn version_index(&self, subject: &impl Hash) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(subject) as usize;
        hash & (self.versions.len() - 1)
    }
}

/// This moment in the steps of [`Lease::sent`].
#[expect(clippy::cast_possible_truncation, reason = "it wraps")]
fn steps(moment: Moment) -> u32 {
    (moment.0 >> SENT_SHIFT) as u32
}

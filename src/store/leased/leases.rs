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

/// The time after which a read is not renewed, so that the life left of a token, which is counted here, differs little
/// from the store's. In 30 s a clock is slewed by up to 15 ms by ntpd (500 ppm), and by up to 2.5 s by chrony (83,333
/// ppm).
pub(super) const MAX_AGE: Duration = Duration::from_secs(30);

/// The number of versions, 256 KiB in all. Subjects whose hash has the same index share a version: a change of one
/// costs the others a read.
const VERSION_COUNT: usize = 1 << 16;

/// The state that all leases depend on: until when they were renewed, and which subjects changed.
///
/// Each subject (the id of a token, the name of a user) has a version, which a change increments. A lease ends when the
/// version is another than before the read was sent; so a change also ends the lease of a read under way. There is no
/// lock.
pub(super) struct Leases {
    /// Duration of a lease; zero: leases are disabled, and none holds.
    pub(super) duration: Duration,
    /// When this was created.
    start: Instant,
    /// When the leases that were renewed last end, in nanoseconds after `start`.
    renewed_until: AtomicU64,
    /// The versions of all subjects, by hash.
    versions: Box<[AtomicU32]>,
    hasher: RandomState,
}

/// The lease of one read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// When the read was sent.
    sent: Instant,
    /// The latest end of the lease, however often it is renewed.
    ends_at: Instant,
    /// The version of the subject before the read was sent.
    version_index: usize,
    version: u32,
}

impl Lease {
    /// The same lease, but ending at `end` at the latest.
    pub(super) fn ending_by(self, end: Instant) -> Self {
        Self { ends_at: self.ends_at.min(end), ..self }
    }
}

impl Leases {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            duration,
            start: Instant::now(),
            renewed_until: AtomicU64::new(0),
            versions: (0..VERSION_COUNT).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::default(),
        }
    }

    /// Begins the lease of a read of `subject`, which has to be sent afterwards.
    pub(super) fn begin(&self, subject: &impl Hash) -> Lease {
        let version_index = self.version_index(subject);
        let version = self.versions[version_index].load(Acquire);
        let sent = Instant::now();
        Lease { sent, ends_at: sent + MAX_AGE, version_index, version }
    }

    /// Whether the value that was read under this lease may still be used.
    pub(super) fn holds(&self, lease: &Lease) -> bool {
        // Loaded before the version, as `renew` stores it after the changes: no renewal is seen without its changes.
        let renewed_until = self.start + Duration::from_nanos(self.renewed_until.load(Acquire));
        let until = renewed_until.max(lease.sent + self.duration).min(lease.ends_at);
        Instant::now() < until && self.versions[lease.version_index].load(Acquire) == lease.version
    }

    /// Ends the leases on these changes, and then renews all others: the store has answered that these are all changes
    /// up to `asked_at`, when it was asked.
    pub(super) fn renew(&self, asked_at: Instant, changes: &Changes) {
        if changes.everything {
            self.end_all();
        }
        changes.tokens.iter().for_each(|token| self.end(token));
        changes.users.iter().for_each(|user| self.end(user));
        let until = asked_at + self.duration - self.start;
        self.renewed_until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Release);
    }

    /// Ends all leases, also those of reads under way. A watch that has just begun reports no earlier change.
    pub(super) fn end_all(&self) {
        self.versions.iter().for_each(|version| _ = version.fetch_add(1, Release));
    }

    /// Ends the leases on this subject.
    fn end(&self, subject: &impl Hash) {
        self.versions[self.version_index(subject)].fetch_add(1, Release);
    }

    /// The index of this subject's version.
    pub(super) fn version_index(&self, subject: &impl Hash) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(subject) as usize;
        hash % VERSION_COUNT
    }
}

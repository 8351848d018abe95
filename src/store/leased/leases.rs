//! Leases: how long a read may be used.

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

/// Maximum age of a renewed read. NTP slews a clock by at most 500 ppm: 15 ms against the store's in 30 s.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30);

/// Number of versions, 256 KiB in all. Subjects with the same hash share one: a change of one costs the others a read.
const VERSIONS: usize = 1 << 16;

/// The facts on which all leases depend: when they were last renewed, and what changed.
///
/// Each subject (the id of a token, the name of a user) has a version, which a change increments. A lease holds while
/// the version is as it was before the read was sent; so a change also ends the lease of a read under way. There is no
/// lock.
pub(super) struct Leases {
    /// Duration of a lease; zero: leases are disabled, and none holds.
    pub(super) duration: Duration,
    start: Instant,
    /// When renewed leases end, in nanoseconds after `start`.
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
    index: usize,
    version: u32,
}

impl Lease {
    /// The same lease with this latest end, unless its own is earlier.
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
            versions: (0..VERSIONS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::default(),
        }
    }

    /// Begins the lease of a read of `subject`, which has to be sent afterwards.
    pub(super) fn begin(&self, subject: &impl Hash) -> Lease {
        let index = self.index(subject);
        let version = self.versions[index].load(Acquire);
        let sent = Instant::now();
        Lease { sent, ends_at: sent + MAX_AGE, index, version }
    }

    pub(super) fn holds(&self, lease: &Lease) -> bool {
        // Loaded before the version: a renewal is stored after the changes that came with it.
        let renewed_until = self.start + Duration::from_nanos(self.renewed_until.load(Acquire));
        let until = renewed_until.max(lease.sent + self.duration).min(lease.ends_at);
        Instant::now() < until && self.versions[lease.index].load(Acquire) == lease.version
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

    /// Ends all leases, those of reads under way, too: a watch that has just begun reports no earlier change.
    pub(super) fn end_all(&self) {
        self.versions.iter().for_each(|version| _ = version.fetch_add(1, Release));
    }

    fn end(&self, subject: &impl Hash) {
        self.versions[self.index(subject)].fetch_add(1, Release);
    }

    pub(super) fn index(&self, subject: &impl Hash) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(subject) as usize;
        hash % VERSIONS
    }
}

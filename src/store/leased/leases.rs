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

/// Maximum age of a renewed read. NTP steers a clock by at most 0.05 %: 15 ms in 30 s between this clock and the store's.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30);

/// Number of versions, in 256 KiB. Subjects whose hashes are equal share one: a change of one costs the others a read.
const SLOTS: usize = 1 << 16;

/// What all leases depend on: the last renewal, and the changes since each read.
///
/// A subject (a token's id, a user's name) has a version, which each change increments. A lease holds only while the version
/// is the one from before its read was sent, so a change also ends the leases of reads under way. No lock is taken.
pub(super) struct Leases {
    lease: Duration,
    start: Instant,
    /// Until when reads of unchanged subjects may be used, in nanoseconds after `start`.
    renewed_until: AtomicU64,
    /// The versions of all subjects, by hash.
    versions: Box<[AtomicU32]>,
    hasher: RandomState,
}

/// The lease of one read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// When the read was sent.
    pub(super) sent: Instant,
    /// When the lease ends, however often it is renewed.
    ends_at: Instant,
    slot: usize,
    version: u32,
}

impl Lease {
    /// The same lease, which ends at `end` at the latest.
    pub(super) fn ending_by(self, end: Instant) -> Self {
        Self { ends_at: self.ends_at.min(end), ..self }
    }
}

impl Leases {
    /// Leases of this duration; zero: none ever holds.
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            start: Instant::now(),
            renewed_until: AtomicU64::new(0),
            versions: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::default(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        self.lease
    }

    pub(super) fn are_off(&self) -> bool {
        self.lease.is_zero()
    }

    /// A lease on a read of `subject` that is sent after this.
    pub(super) fn begin(&self, subject: &impl Hash) -> Lease {
        let slot = self.slot(subject);
        let version = self.versions[slot].load(Acquire);
        let sent = Instant::now();
        Lease { sent, ends_at: sent + MAX_AGE, slot, version }
    }

    pub(super) fn holds(&self, lease: &Lease) -> bool {
        // Loaded before the version: whoever sees a renewal sees the changes that it was told of.
        let renewed_until = self.start + Duration::from_nanos(self.renewed_until.load(Acquire));
        let until = renewed_until.max(lease.sent + self.lease).min(lease.ends_at);
        Instant::now() < until && self.versions[lease.slot].load(Acquire) == lease.version
    }

    /// Ends the leases on everything that changed, and then renews all others: the store confirmed that nothing else has
    /// changed up to `asked_at`, since the watch began or since the answer before.
    pub(super) fn renew(&self, asked_at: Instant, changes: &Changes) {
        if changes.everything {
            self.end_all();
        }
        changes.tokens.iter().for_each(|token| self.end(token));
        changes.users.iter().for_each(|user| self.end(user));
        let until = asked_at + self.lease - self.start;
        self.renewed_until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Release);
    }

    /// Ends all leases, of reads under way, too: for a watch that has just begun and knows of no change before.
    pub(super) fn end_all(&self) {
        self.versions.iter().for_each(|version| _ = version.fetch_add(1, Release));
    }

    fn end(&self, subject: &impl Hash) {
        self.versions[self.slot(subject)].fetch_add(1, Release);
    }

    pub(super) fn slot(&self, subject: &impl Hash) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(subject) as usize;
        hash % SLOTS
    }
}

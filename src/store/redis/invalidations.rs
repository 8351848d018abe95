//! The changes that Redis reports by itself: pushes of client-side caching in broadcast mode (`CLIENT TRACKING ON
//! BCAST`).

use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};

use super::keys::{self, Subject};
use crate::store::Changes;

fn insert(changes: &mut Changes, subject: Subject) {
    match subject {
        Subject::Token(id) => drop(changes.tokens.insert(id)),
        Subject::User(name) => drop(changes.users.insert(name)),
    }
}

/// The changes that Redis has reported on one connection since they were last taken.
#[derive(Default)]
pub(super) struct Invalidations(Mutex<Changes>);

impl Invalidations {
    /// Adds the changes that this push reports, if it reports any.
    pub(super) fn record(&self, push: &PushInfo) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        let mut changes = self.0.lock();
        // A push without a list of keys reports FLUSHALL or FLUSHDB.
        let [Value::Array(invalidated)] = push.data.as_slice() else {
            changes.everything = true;
            return;
        };
        for key in invalidated {
            let subject = if let Value::BulkString(key) = key { keys::subject(key) } else { None };
            if let Some(subject) = subject {
                insert(&mut changes, subject);
            }
        }
    }

    /// Adds a change of this subject.
    pub(super) fn add(&self, subject: Subject) {
        insert(&mut self.0.lock(), subject);
    }

    /// Returns the changes so far and forgets them.
    pub(super) fn take(&self) -> Changes {
        std::mem::take(&mut *self.0.lock())
    }
}

//! What the fuzz target `verifier` checks. Not part of the API.

use std::time::Duration;

use crate::{
    clock::Moment,
    lease_table::{LEASE, LeaseTable},
    wire::{Changes, Introspection},
};

/// Takes each line for an answer of the service, to a question about a token and to one about changes.
///
/// # Panics
/// If a token can be used for longer than a lease after the last question was sent, or a cursor fits into no URL.
pub fn check(input: &[u8]) {
    let (table, digest) = (LeaseTable::new(16), [0; 32]);
    let mut now = Moment::from_nanos(3_600_000_000_000);
    for answer in input.split(|byte| *byte == b'\n') {
        let sent = now;
        now = now.plus(Duration::from_millis(10));
        if let Ok(changes) = Changes::parse(answer) {
            let url = format!("http://tokens.example/api/v1alpha/changes?after={}", changes.cursor);
            assert_eq!(url.parse::<http::Uri>().unwrap().to_string(), url);
            let question = table.begin_question(sent);
            table.end_question(&question, changes, now);
        }
        if let Ok(Introspection::Live(token, age)) = Introspection::parse(answer) {
            let life = Duration::from_secs(token.expires_at());
            let _ = table.insert(digest, token, life, age, sent, now);
        }
        assert!(table.find(&digest, sent.plus(LEASE)).is_none());
    }
}

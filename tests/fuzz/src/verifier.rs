//! The answers that a verifier gets: whatever they say, a token is used for no longer than a lease.

/// Takes each line of the input for an answer.
pub fn check(input: &[u8]) {
    mayfly_verifier::fuzzing::check(input);
}

//! Audit events: who changed which tokens, users and keys.
//!
//! Each is one line at `info` on the target `audit`, within the span of the request: its id, the client's address and
//! the user who logged in. No field is a secret or a client's free text. `deploy/observability/README.md` lists the
//! events.

use std::{net::Ipv6Addr, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::{
    events::{AUDIT, LoginFailure},
    metrics::{self, Counter},
    repetitions::Repetitions,
};
use crate::domain::{
    life::Life,
    throttle::{ClientNetwork, LoginAttempt},
    token::TokenId,
    user::{Role, UserName},
};

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T = ()> {
    /// The change took place, with this result.
    Done(T),
    /// The store failed during the change, or too few replicas acknowledged it. The change took place, did not, or will
    /// be undone by a failover. The client was answered with 503.
    Unconfirmed,
}

impl<T> Outcome<T> {
    /// The same outcome with another result.
    pub fn map<U>(self, result: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(done) => Outcome::Done(result(done)),
            Self::Unconfirmed => Outcome::Unconfirmed,
        }
    }

    /// The value of the event's field `outcome`, and the result if the change took place.
    fn split(self) -> (&'static str, Option<T>) {
        match self {
            Self::Done(done) => ("done", Some(done)),
            Self::Unconfirmed => ("unconfirmed", None),
        }
    }
}

impl Outcome<u64> {
    /// [`Outcome::split`] for a number of revoked tokens, which are counted.
    fn split_revoked(self) -> (&'static str, Option<u64>) {
        let (outcome, tokens) = self.split();
        Counter::TokensRevoked.add(tokens.unwrap_or(0));
        (outcome, tokens)
    }
}

/// A failed login as its event describes it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FailedLogin {
    reason: LoginFailure,
    account: Option<UserName>,
    /// The site of an IPv6 client, the network of another.
    client: Result<Ipv6Addr, ClientNetwork>,
}

/// Repeated failed logins: the only events that strangers can cause at will.
static FAILED_LOGINS: LazyLock<Mutex<Repetitions<FailedLogin>>> = LazyLock::new(Mutex::default);

impl FailedLogin {
    fn write(&self, repeated: Option<u64>) {
        let account = self.account.as_ref().map(tracing::field::display);
        info!(target: AUDIT, reason = self.reason.label(), account, repeated, "login.failed");
    }
}

/// Records a failed login. The same failure of the same client (or its site) is written once and then counted; one line
/// a minute has the number of repetitions.
pub fn login_failed(reason: LoginFailure, attempt: &LoginAttempt) {
    metrics::login_failed(reason);
    let user_exists = matches!(reason, LoginFailure::WrongPassword | LoginFailure::Disabled);
    let account = user_exists.then(|| attempt.user.clone());
    let failure = FailedLogin { reason, account, client: attempt.client.site().ok_or(attempt.client) };
    let is_first = FAILED_LOGINS.lock().is_first(&failure);
    if is_first {
        failure.write(None);
    }
}

/// Writes how often failed logins were repeated, for those whose line is due at `now`.
pub(super) fn write_repetitions(now: Instant) {
    let due = FAILED_LOGINS.lock().take_due(now);
    for (failure, repeated, span) in due {
        span.in_scope(|| failure.write(Some(repeated)));
    }
}

/// Records that a token was issued.
pub fn token_issued(owner: &UserName, id: TokenId, life: Life, outcome: Outcome) {
    let (outcome, done) = outcome.split();
    Counter::TokensIssued.add(done.map_or(0, |()| 1));
    info!(target: AUDIT, %owner, token_id = %id, life_seconds = life.seconds(), outcome, "token.issued");
}

/// Records that a token got a successor and expires after the overlap at the latest.
pub fn token_rotated(owner: &UserName, id: TokenId, successor: TokenId, overlap: Duration, outcome: Outcome) {
    let (outcome, done) = outcome.split();
    Counter::TokensRotated.add(done.map_or(0, |()| 1));
    let overlap_seconds = overlap.as_secs();
    info!(target: AUDIT, %owner, token_id = %id, successor_id = %successor, overlap_seconds, outcome, "token.rotated");
}

/// Records that a token was revoked: by the user of the span, or by its bearer where no user logged in.
pub fn token_revoked(owner: &UserName, id: TokenId, outcome: Outcome) {
    let (outcome, _) = outcome.map(|()| 1).split_revoked();
    info!(target: AUDIT, %owner, token_id = %id, outcome, "token.revoked");
}

/// Records that all tokens of a user were revoked, and their number.
pub fn tokens_revoked(owner: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = tokens.split_revoked();
    info!(target: AUDIT, %owner, tokens, outcome, "tokens.revoked");
}

/// Records that a user was added.
pub fn user_added(name: &UserName, role: Role, outcome: Outcome) {
    info!(target: AUDIT, account = %name, role = role.as_str(), outcome = outcome.split().0, "user.added");
}

/// Records that a user has this role from now on.
pub fn role_changed(name: &UserName, role: Role, outcome: Outcome) {
    info!(target: AUDIT, account = %name, role = role.as_str(), outcome = outcome.split().0, "user.role_changed");
}

/// Records that a user was disabled, and the number of tokens revoked with it.
pub fn user_disabled(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = tokens.split_revoked();
    info!(target: AUDIT, account = %name, tokens, outcome, "user.disabled");
}

/// Records that a user may log in again.
pub fn user_enabled(name: &UserName, outcome: Outcome) {
    info!(target: AUDIT, account = %name, outcome = outcome.split().0, "user.enabled");
}

/// Records that a user has another password, and the number of tokens revoked with the old one.
pub fn password_changed(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = tokens.split_revoked();
    info!(target: AUDIT, account = %name, tokens, outcome, "user.password_changed");
}

/// Records that a user was removed, and the number of tokens removed with it.
pub fn user_removed(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = tokens.split_revoked();
    info!(target: AUDIT, account = %name, tokens, outcome, "user.removed");
}

/// Records that other keys sign and verify tokens, and their `kid`s.
pub fn keys_changed<'a>(ids: impl Iterator<Item = &'a str>) {
    info!(target: AUDIT, keys = ids.collect::<Vec<_>>().join(" "), "keys.changed");
}

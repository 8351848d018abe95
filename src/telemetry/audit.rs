//! Audit events: who did what to whose tokens, users and keys.
//!
//! One event each, at `info`, on the target `audit`, with the span of the request around it: its id, the client's address
//! and the user who logged in. `MAYFLY_LOG` leaves them on unless it says otherwise (`audit=off`). Nothing in them is a
//! secret, and nothing is text of a client's choice: names of users and ids have their own narrow alphabets.
//! What happened is counted, too. `deploy/observability/README.md` lists them with their fields.

use std::{net::Ipv6Addr, sync::LazyLock, time::Duration};

use super::{metrics, repetitions::Repetitions};
use crate::domain::{
    life::Life,
    throttle::{ClientNetwork, LoginAttempt},
    token::TokenId,
    user::{Role, UserName},
};

/// The target of all audit events.
pub const TARGET: &str = "audit";

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginFailure {
    /// Nobody has this name. It is not written down: people type passwords into the field for names.
    UnknownUser,
    /// The user exists and has another password.
    WrongPassword,
    /// The right password of a user who is disabled.
    Disabled,
    /// After too many failures, it came too early. Whether there is such a user, nobody asked.
    Throttled,
}

impl LoginFailure {
    /// The word for it in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::WrongPassword => "wrong_password",
            Self::Disabled => "disabled",
            Self::Throttled => "throttled",
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T = ()> {
    /// It took place, with this result.
    Done(T),
    /// The store failed in the middle of it, or too few replicas have it: it took place, or it did not, or a failover undoes
    /// it. Who asked for it knows no more.
    Unconfirmed,
}

impl<T> Outcome<T> {
    /// The same with another result.
    pub fn map<U>(self, result: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(done) => Outcome::Done(result(done)),
            Self::Unconfirmed => Outcome::Unconfirmed,
        }
    }

    /// The word for it in events.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl Outcome<u64> {
    /// How many tokens are known to be revoked with it.
    fn tokens(self) -> Option<u64> {
        match self {
            Self::Done(tokens) => {
                metrics::tokens_revoked(tokens);
                Some(tokens)
            }
            Self::Unconfirmed => None,
        }
    }
}

/// A failed login, as its event says it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FailedLogin {
    why: LoginFailure,
    account: Option<UserName>,
    client: Result<Ipv6Addr, ClientNetwork>,
}

/// The only events that strangers cause, and as many as they like.
static FAILED_LOGINS: LazyLock<Repetitions<FailedLogin>> =
    LazyLock::new(|| Repetitions::new(|failure, repeated| failure.write(Some(repeated))));

impl FailedLogin {
    fn write(&self, repeated: Option<u64>) {
        let account = self.account.as_ref().map(tracing::field::display);
        tracing::info!(target: TARGET, reason = self.why.as_str(), account, repeated, "login.failed");
    }
}

/// Somebody was not let in. The same failure of the same client (or its site) is written once, and then counted: a line a
/// minute says how often it was repeated.
pub fn login_failed(why: LoginFailure, attempt: &LoginAttempt) {
    metrics::login_failed(why);
    let exists = matches!(why, LoginFailure::WrongPassword | LoginFailure::Disabled);
    let account = exists.then(|| attempt.user.clone());
    let failure = FailedLogin { why, account, client: attempt.client.site().ok_or(attempt.client) };
    if FAILED_LOGINS.is_first(&failure) {
        failure.write(None);
    }
}

/// Writes the events that were counted and not written yet.
pub(super) fn write_repetitions() {
    FAILED_LOGINS.write_all();
}

/// A token was issued.
pub fn token_issued(owner: &UserName, id: TokenId, life: Life, outcome: Outcome) {
    let (outcome, is_done) = (outcome.as_str(), outcome == Outcome::Done(()));
    is_done.then(metrics::token_issued);
    tracing::info!(target: TARGET, %owner, token_id = %id, life_seconds = life.seconds(), outcome, "token.issued");
}

/// A token got a successor, and lives no longer than the overlap.
pub fn token_rotated(owner: &UserName, id: TokenId, successor: TokenId, overlap: Duration, outcome: Outcome) {
    let (outcome, is_done) = (outcome.as_str(), outcome == Outcome::Done(()));
    is_done.then(metrics::token_rotated);
    tracing::info!(
        target: TARGET,
        %owner,
        token_id = %id,
        successor_id = %successor,
        overlap_seconds = overlap.as_secs(),
        outcome,
        "token.rotated"
    );
}

/// A token was revoked: by the user of the span, or, where nobody logged in, by whoever held it.
pub fn token_revoked(owner: &UserName, id: TokenId, outcome: Outcome) {
    let outcome = outcome.map(|()| 1);
    let (outcome, _) = (outcome.as_str(), outcome.tokens());
    tracing::info!(target: TARGET, %owner, token_id = %id, outcome, "token.revoked");
}

/// All tokens of a user were revoked, so many of them.
pub fn tokens_revoked(owner: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = (tokens.as_str(), tokens.tokens());
    tracing::info!(target: TARGET, %owner, tokens, outcome, "tokens.revoked");
}

/// A user was added.
pub fn user_added(name: &UserName, role: Role, outcome: Outcome) {
    tracing::info!(target: TARGET, account = %name, role = role.as_str(), outcome = outcome.as_str(), "user.added");
}

/// A user has this role from now on.
pub fn role_changed(name: &UserName, role: Role, outcome: Outcome) {
    tracing::info!(target: TARGET, account = %name, role = role.as_str(), outcome = outcome.as_str(), "user.role_changed");
}

/// A user was disabled, and so many tokens were revoked with it.
pub fn user_disabled(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = (tokens.as_str(), tokens.tokens());
    tracing::info!(target: TARGET, account = %name, tokens, outcome, "user.disabled");
}

/// A user may log in again.
pub fn user_enabled(name: &UserName, outcome: Outcome) {
    tracing::info!(target: TARGET, account = %name, outcome = outcome.as_str(), "user.enabled");
}

/// A user has another password, and so many tokens were revoked with the old one.
pub fn password_changed(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = (tokens.as_str(), tokens.tokens());
    tracing::info!(target: TARGET, account = %name, tokens, outcome, "user.password_changed");
}

/// A user was removed, with all tokens, of which there were so many.
pub fn user_removed(name: &UserName, tokens: Outcome<u64>) {
    let (outcome, tokens) = (tokens.as_str(), tokens.tokens());
    tracing::info!(target: TARGET, account = %name, tokens, outcome, "user.removed");
}

/// The keys that sign and verify tokens were read anew; these are their `kid`s.
pub fn keys_changed(ids: &[String]) {
    tracing::info!(target: TARGET, keys = ids.join(" "), "keys.changed");
}

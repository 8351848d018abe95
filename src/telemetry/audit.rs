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
    origin::{IssuerId, Origin},
    throttle::{ClientAndUser, ClientNetwork},
    token::{Token, TokenId},
    user::{Role, User, UserName},
};

/// The store failed during a change, or too few replicas acknowledged it. The change took place, did not, or will be
/// undone by a failover. The client was answered with 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unconfirmed;

/// The result of a change that took place, or that may have.
pub type Outcome<T> = Result<T, Unconfirmed>;

/// The value of an event's field `outcome`.
fn outcome_label<T>(outcome: &Outcome<T>) -> &'static str {
    if outcome.is_ok() { "done" } else { "unconfirmed" }
}

/// Adds the revoked tokens to the metric. Returns the event's fields `tokens` and `outcome`.
fn count_revoked(tokens: Outcome<u64>) -> (Option<u64>, &'static str) {
    Counter::TokensRevoked.add(tokens.unwrap_or(0));
    (tokens.ok(), outcome_label(&tokens))
}

/// The fields of the event `login.failed`. Two failed logins with equal fields are repetitions of one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FailedLogin {
    reason: LoginFailure,
    account: Option<UserName>,
    /// The party that would have logged the user in; `None`: a password.
    origin: Option<Origin>,
    /// The rules of a trusted issuer that a JWT does not meet, or what is wrong with it.
    rule: Option<String>,
    /// The site (/48) of an IPv6 client, the address of an IPv4 client. Not written: the span has the exact address.
    client: Result<Ipv6Addr, ClientNetwork>,
}

/// The failed logins of the last minute. Strangers can cause these events, and no others, at will: so they are counted.
static FAILED_LOGINS: LazyLock<Mutex<Repetitions<FailedLogin>>> = LazyLock::new(Mutex::default);

impl FailedLogin {
    /// Writes the event. `repeated`: how often it was repeated since its last line; `None`: it is the first.
    fn write(&self, repeated: Option<u64>) {
        let account = self.account.as_ref().map(tracing::field::display);
        let origin = self.origin.as_ref().map(tracing::field::display);
        let rule = self.rule.as_deref();
        info!(target: AUDIT, reason = self.reason.label(), account, origin, rule, repeated, "login.failed");
    }
}

/// Records a failed login. The same failure of the same client (or its site) is written once and then counted; one line
/// a minute has the number of repetitions. `origin`: the party that would have logged the user in; `None`: a password.
pub fn login_failed(reason: LoginFailure, pair: &ClientAndUser, origin: Option<&Origin>) {
    metrics::login_failed(reason);
    let user_exists = !matches!(reason, LoginFailure::UnknownUser | LoginFailure::Throttled);
    let account = user_exists.then(|| pair.user.clone());
    record_failed_login(reason, account, origin.cloned(), None, pair.client);
}

/// Records that a JWT of a trusted issuer did not log in. `rule`: the rules that it does not meet, or what is wrong
/// with it: no text of the JWT itself, which a stranger may have written.
pub fn issuer_jwt_rejected(reason: LoginFailure, issuer: &IssuerId, rule: &str, client: ClientNetwork) {
    metrics::login_failed(reason);
    metrics::issuer_login(issuer.as_str(), false);
    record_failed_login(reason, None, Some(Origin::Issuer(issuer.clone())), Some(rule.to_owned()), client);
}

fn record_failed_login(
    reason: LoginFailure,
    account: Option<UserName>,
    origin: Option<Origin>,
    rule: Option<String>,
    client: ClientNetwork,
) {
    let failure = FailedLogin { reason, account, origin, rule, client: client.site().ok_or(client) };
    let is_first = FAILED_LOGINS.lock().is_first(&failure);
    if is_first {
        failure.write(None);
    }
}

/// Records that the trusted issuers are others, and names them.
pub fn issuers_changed<'a>(names: impl Iterator<Item = &'a str>) {
    info!(target: AUDIT, issuers = names.collect::<Vec<_>>().join(" "), "issuers.changed");
}

/// Writes a line for each failed login that was repeated and whose line is due at `now`, with the number of
/// repetitions.
pub(super) fn write_repetitions(now: Instant) {
    let due = FAILED_LOGINS.lock().take_due(now);
    for (failure, repeated, span) in due {
        span.in_scope(|| failure.write(Some(repeated)));
    }
}

/// Records that a token was issued, and what it may be used for, for which services, and from where.
pub fn token_issued<T>(owner: &UserName, token: &Token, outcome: &Outcome<T>) {
    Counter::TokensIssued.add(outcome.is_ok().into());
    let (id, life_seconds, outcome) = (token.id, token.life.seconds(), outcome_label(outcome));
    let [scopes, audiences, networks] =
        token.attributes.entries().map(|entries| (!entries.is_empty()).then(|| entries.join(" ")));
    info!(
        target: AUDIT, %owner, token_id = %id, life_seconds, scopes, audiences, networks, outcome, "token.issued"
    );
}

/// Records that a token's JWT was answered again: the request repeated the Idempotency-Key that the token was issued
/// for.
pub fn token_repeated(owner: &UserName, id: TokenId) {
    info!(target: AUDIT, %owner, token_id = %id, "token.repeated");
}

/// Records that a token got a successor and expires after the overlap at the latest.
pub fn token_rotated<T>(owner: &UserName, id: TokenId, successor: TokenId, overlap: Duration, outcome: &Outcome<T>) {
    Counter::TokensRotated.add(outcome.is_ok().into());
    let (overlap_seconds, outcome) = (overlap.as_secs(), outcome_label(outcome));
    info!(target: AUDIT, %owner, token_id = %id, successor_id = %successor, overlap_seconds, outcome, "token.rotated");
}

/// Records that a token was revoked: by the user of the span, or by its bearer where no user logged in.
pub fn token_revoked<T>(owner: &UserName, id: TokenId, outcome: &Outcome<T>) {
    Counter::TokensRevoked.add(outcome.is_ok().into());
    info!(target: AUDIT, %owner, token_id = %id, outcome = outcome_label(outcome), "token.revoked");
}

/// Records that all tokens of a user were revoked, and their number.
pub fn tokens_revoked(owner: &UserName, tokens: Outcome<u64>) {
    let (tokens, outcome) = count_revoked(tokens);
    info!(target: AUDIT, %owner, tokens, outcome, "tokens.revoked");
}

/// The most ids in one event. The log holds 8,192 waiting lines, so 10,000 tokens must not be as many events.
const IDS_PER_EVENT: usize = 100;

/// Records that tokens were revoked that a request named by their ids: up to 100 in each event.
pub fn listed_tokens_revoked(owner: &UserName, ids: &[TokenId], outcome: Outcome<()>) {
    Counter::TokensRevoked.add(if outcome.is_ok() { ids.len() as u64 } else { 0 });
    let (ids, outcome): (Vec<_>, _) = (ids.iter().map(TokenId::to_string).collect(), outcome_label(&outcome));
    for ids in ids.chunks(IDS_PER_EVENT) {
        info!(target: AUDIT, %owner, tokens = ids.len(), token_ids = ids.join(" "), outcome, "tokens.revoked");
    }
}

/// Records that a user was added.
pub fn user_added<T>(user: &User, outcome: &Outcome<T>) {
    let User { name, role, credential, .. } = user;
    let outcome = outcome_label(outcome);
    info!(target: AUDIT, account = %name, role = role.as_str(), origin = %credential, outcome, "user.added");
}

/// Records that a user has this role from now on.
pub fn role_changed<T>(name: &UserName, role: Role, outcome: &Outcome<T>) {
    info!(target: AUDIT, account = %name, role = role.as_str(), outcome = outcome_label(outcome), "user.role_changed");
}

/// Records that a user was disabled, and the number of tokens revoked with it.
pub fn user_disabled(name: &UserName, tokens: Outcome<u64>) {
    let (tokens, outcome) = count_revoked(tokens);
    info!(target: AUDIT, account = %name, tokens, outcome, "user.disabled");
}

/// Records that a user may log in again.
pub fn user_enabled<T>(name: &UserName, outcome: &Outcome<T>) {
    info!(target: AUDIT, account = %name, outcome = outcome_label(outcome), "user.enabled");
}

/// Records that a user has another password, and the number of tokens revoked with the old one.
pub fn password_changed(name: &UserName, tokens: Outcome<u64>) {
    let (tokens, outcome) = count_revoked(tokens);
    info!(target: AUDIT, account = %name, tokens, outcome, "user.password_changed");
}

/// Records that a user was removed, and the number of tokens removed with it.
pub fn user_removed(name: &UserName, tokens: Outcome<u64>) {
    let (tokens, outcome) = count_revoked(tokens);
    info!(target: AUDIT, account = %name, tokens, outcome, "user.removed");
}

/// Records that other keys sign and verify tokens, and their `kid`s.
pub fn keys_changed<'a>(ids: impl Iterator<Item = &'a str>) {
    info!(target: AUDIT, keys = ids.collect::<Vec<_>>().join(" "), "keys.changed");
}

//! The words that logs, metrics and traces share: targets of the log, labels, and the facts about a request.

use std::net::IpAddr;

/// The target of audit events, and of the spans that say who caused them.
pub(super) const AUDIT: &str = "audit";

/// The target of the line that each request leaves in the log.
pub(super) const REQUEST: &str = "mayfly::request";

/// Why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginFailure {
    /// No user has this name. The name is not logged: people type passwords into the field for names.
    UnknownUser,
    /// The user exists and has another password.
    WrongPassword,
    /// The password is right, and the user is disabled.
    Disabled,
    /// The attempt came too early after too many failures. The password was not looked at.
    Throttled,
    /// The user exists and has no password: another party logs the user in.
    NoPassword,
    /// Another party logged a user in who has a password or came from a third party.
    OtherOrigin,
    /// A JWT that names a trusted issuer is malformed, or its signature is wrong.
    IssuerJwt,
    /// The JWT of a trusted issuer does not meet the issuer's rules, or has expired.
    IssuerRules,
    /// The keys of a trusted issuer are not known, and it does not answer.
    IssuerAway,
}

impl LoginFailure {
    /// The labels of all reasons, in the order of the variants.
    pub(super) const LABELS: [&str; 9] = [
        "unknown_user",
        "wrong_password",
        "disabled",
        "throttled",
        "no_password",
        "other_origin",
        "issuer_jwt",
        "issuer_rules",
        "issuer_away",
    ];

    /// This reason in audit events and metrics.
    pub(super) fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// The way in which a user logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMethod {
    /// By a password.
    Password,
    /// By a JWT of a trusted issuer.
    Issuer,
    /// By the header of a trusted proxy.
    Proxy,
}

impl LoginMethod {
    /// The labels of all methods, in the order of the variants.
    pub(super) const LABELS: [&str; 3] = ["password", "issuer", "proxy"];
}

/// The result of verifying a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// The token is valid.
    Active,
    /// Mayfly signed the token, and its `exp` has passed.
    Expired,
    /// Mayfly signed the token, and the store has no such token: it was revoked, usually.
    Revoked,
    /// The token is malformed, no key of this service verifies it, or its issuer is another.
    Invalid,
    /// The store does not answer, so that the token may be valid or not.
    Unavailable,
}

/// The answer to a verifier that asked which tokens have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangesAnswer {
    /// The verifier had no cursor: it has just started.
    First,
    /// The changes since its cursor.
    Continued,
    /// Its cursor cannot be continued here: it is of another replica, of another watch, or too old.
    Reset,
    /// The replica has no watch.
    Unavailable,
}

/// The kinds of records that are cached under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// A token.
    Token,
    /// A user.
    User,
}

/// The facts about a request that are known when it arrives.
pub struct RequestInfo<'a> {
    /// One of HTTP's own methods, or `_OTHER`.
    pub method: &'static str,
    /// The id of the request, as in its `X-Request-Id`.
    pub id: &'a str,
    /// Finds the client's address. Called only where the address is written.
    pub client: &'a (dyn Fn() -> Option<IpAddr> + Sync),
    /// Set for verifications, which precede each request to every protected service: they have no span in the log, and
    /// their line is at `debug`, or at `warn` with a status of 500 and above.
    pub is_verification: bool,
    /// Set for the questions of verifiers, which ask ten times a second: their line is at `debug`.
    pub is_poll: bool,
}

/// The labels that a response adds to its request's duration in the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponseLabels {
    /// The template of the request's path, or `None` for an unknown path.
    pub route: Option<&'static str>,
    /// The HTTP status.
    pub status: u16,
}

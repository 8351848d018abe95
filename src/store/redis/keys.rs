//! The name of every key, one constructor each.
//!
//! All keys of one user share the hash tag `{name}`, so that they live in one slot of a cluster and one script can
//! change them together. [`UserName`] and [`TokenId`] hold no character that means anything to Redis.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::domain::{
    throttle::LoginAttempt,
    token::TokenId,
    user::{LoginEpoch, UserName},
};

/// What all keys of users begin with.
pub(super) const USER_PREFIX: &str = "mayfly:{";

/// What a key of a user's is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Token(TokenId),
    User(UserName),
}

/// What this key is about, if it is one of [`token`] or [`user`].
pub(super) fn subject(key: &[u8]) -> Option<Subject> {
    let (name, rest) = str::from_utf8(key).ok()?.strip_prefix(USER_PREFIX)?.split_once("}:")?;
    match rest.strip_prefix("token:") {
        Some(id) => id.parse().ok().map(Subject::Token),
        None if rest == "user" => name.parse().ok().map(Subject::User),
        None => None,
    }
}

/// A string: the record of a token, with its life as TTL.
pub(super) fn token(owner: &UserName, id: TokenId) -> String {
    format!("mayfly:{{{owner}}}:token:{id}")
}

/// What the keys of all tokens of a user begin with: a script completes it with an id from the index.
pub(super) fn token_prefix(owner: &UserName) -> String {
    format!("mayfly:{{{owner}}}:token:")
}

/// A sorted set: the ids of a user's tokens by the time of their creation. It may name dead ones, never miss a live one: it
/// has no TTL, with which Redis could evict it under a `volatile` policy and a token whose TTL somebody lengthened could
/// outlive it; then nobody could list that token, or revoke it with its owner.
pub(super) fn token_index(owner: &UserName) -> String {
    format!("mayfly:{{{owner}}}:tokens")
}

/// A hash: the user.
pub(super) fn user(name: &UserName) -> String {
    format!("mayfly:{{{name}}}:user")
}

/// Never there, in the slot of a user.
pub(super) fn user_probe(name: &UserName) -> String {
    format!("mayfly:{{{name}}}:probe")
}

/// A string: the number of the change that removed a user of this name, for a day. A later user of the name keeps it from
/// being changed by what was begun before.
pub(super) fn removal(name: &UserName) -> String {
    format!("mayfly:{{{name}}}:removal")
}

/// There only while a script runs, in the slot of this name or key. Not one of [`USER_PREFIX`], so that Redis tells nobody.
pub(super) fn write_mark(slot: &str) -> String {
    format!("mayfly:write:{{{slot}}}")
}

/// A sorted set: the names of all users, all with the score 0, so that they come by name. Written before the user is, and
/// taken out after the user is gone, it may name nobodies, where that broke off for long; who reads it looks for the user.
pub(super) const NAMES: &str = "mayfly:usernames";

/// Never there, in the slot of [`NAMES`].
pub(super) const NAMES_PROBE: &str = "mayfly:{mayfly:usernames}:probe";

/// A hash: the names of the enabled administrators; and, in fields that are no names, the number of the last change to who is
/// one (`:changes`) and of the last that took somebody out (`:withdrawals`). `admins` says what it is for.
pub(super) const ADMINS: &str = "mayfly:admins";

/// Never there: asked for to see whether the other side is a primary that works.
pub(super) const PROBE: &str = "mayfly:probe";

/// What a try to log in is counted under, strings all.
///
/// All such keys share one slot of a cluster, whoever tries, so that one script weighs them together: what it admits costs
/// a thousand times as much where the password is hashed. Names are written as their digests, for people type passwords
/// into the field for names.
pub(super) struct LoginCounts {
    /// Whether the user is known at the client, for days.
    pub(super) known: String,
    /// The failures, each for minutes: those of the client at the user, those at the user, those of the client, those of
    /// its site, if it has one. The first two are of the user with the password of this epoch.
    pub(super) failures: Vec<String>,
}

/// The key of whether the user is known at the client of this try.
pub(super) fn known(attempt: &LoginAttempt) -> String {
    format!("mayfly:throttle:{{logins}}:user:{}:known:{}", short_digest(attempt.user.as_str()), attempt.client)
}

/// The keys that a try is counted under.
pub(super) fn login_counts(attempt: &LoginAttempt, epoch: Option<LoginEpoch>) -> LoginCounts {
    let LoginAttempt { user, client } = attempt;
    let user = match epoch {
        Some(epoch) => short_digest(&format!("{user} {epoch}")),
        None => short_digest(user.as_str()),
    };
    let key = |rest: String| format!("mayfly:throttle:{{logins}}:{rest}");
    let mut failures =
        vec![key(format!("user:{user}:client:{client}")), key(format!("user:{user}")), key(format!("client:{client}"))];
    failures.extend(client.site().map(|site| key(format!("site:{site}"))));
    LoginCounts { known: known(attempt), failures }
}

fn short_digest(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_about() {
        let (owner, id) = ("alice".parse().unwrap(), TokenId::random());
        assert_eq!(subject(token(&owner, id).as_bytes()), Some(Subject::Token(id)));
        assert_eq!(subject(user(&owner).as_bytes()), Some(Subject::User(owner.clone())));
        for other in [token_index(&owner), user_probe(&owner), NAMES_PROBE.to_owned(), NAMES.to_owned()] {
            assert_eq!(subject(other.as_bytes()), None, "{other}");
        }
    }
}

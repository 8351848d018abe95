//! The names of all keys: one constructor for each kind of key.
//!
//! All keys of one user share the hash tag `{name}`, so they live in one Cluster slot and one script can change them
//! together. [`UserName`] and [`TokenId`] hold no character that means anything to Redis.

use std::{fmt::Display, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::cluster_view::{SLOTS, slot_of};
use crate::domain::{
    idempotency::IdempotencyKey,
    throttle::ClientAndUser,
    token::TokenId,
    user::{LoginEpoch, UserName},
};

/// The prefix of the keys of all users that a watch reports: all tokens and users are under it. Redis names each change
/// of a key under it to each replica of this service, so a new key belongs here only if cached values depend on it;
/// any other belongs under [`unwatched`].
pub(super) const USER_PREFIX: &str = "mayfly:{";

/// A key of this user that no watch reports, in the Cluster slot of the user's other keys.
fn unwatched(name: &UserName, key: impl Display) -> String {
    format!("mayfly:unwatched:{{{name}}}:{key}")
}

/// The subject of a key: a token or a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Token(TokenId),
    User(UserName),
}

/// The subject of this key, if it is one of [`token`] or [`user`].
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

/// The prefix of the keys of a user's tokens: a script completes it with an id from the index.
pub(super) fn token_prefix(owner: &UserName) -> String {
    format!("mayfly:{{{owner}}}:token:")
}

/// A sorted set: the ids of a user's tokens by the time of their creation. It may name expired tokens, but never misses
/// a live one. So it has no TTL: a `volatile` policy could evict it, and a token whose TTL was lengthened by hand could
/// outlive it.
pub(super) fn token_index(owner: &UserName) -> String {
    format!("mayfly:{{{owner}}}:tokens")
}

/// A sorted set: the ids of a user's tokens by the time of their expiry, in ms since 1970. It exists once the user has
/// reached the quota, so that most tokens need no memory for it (130 bytes each), and then has the same tokens as
/// [`token_index`]. It differs where a replica of an earlier version created or revoked tokens.
pub(super) fn token_expiries(owner: &UserName) -> String {
    format!("mayfly:{{{owner}}}:expiries")
}

/// A string: the record of an Idempotency-Key of this user, for the life of its token and at most a day. The
/// Idempotency-Key itself is kept nowhere.
pub(super) fn idempotency(owner: &UserName, key: &IdempotencyKey) -> String {
    unwatched(owner, format_args!("idempotency:{}", key.digest()))
}

/// A sorted set: all keys of [`idempotency`] of this user by the time of their expiry, in ms since 1970. It bounds
/// their number, and a removal of the user finds them by it.
pub(super) fn idempotency_index(owner: &UserName) -> String {
    unwatched(owner, "idempotencies")
}

/// A hash: when tokens of the user were last used, as in `uses.lua`. It expires with the last of these tokens. A token
/// takes 16 to 31 bytes of it where 10 to 1,000 were used (`tests/store_contract/uses.rs` prints it).
pub(super) fn token_uses(owner: &UserName) -> String {
    unwatched(owner, "used")
}

/// The keys that change when a user's tokens do: [`token_index`], [`token_expiries`] and [`token_uses`].
pub(super) fn token_records(owner: &UserName) -> [String; 3] {
    [token_index(owner), token_expiries(owner), token_uses(owner)]
}

/// The field of [`token_uses`] that holds the part with this token, as in `uses.lua`.
pub(super) fn use_field(id: TokenId) -> String {
    format!("{:02x}", id.as_bytes()[10])
}

/// A hash: the user.
pub(super) fn user(name: &UserName) -> String {
    format!("mayfly:{{{name}}}:user")
}

/// Never exists: [`super::records::primary_only_pipeline`] reads it, in the Cluster slot of this user.
pub(super) fn user_probe(name: &UserName) -> String {
    unwatched(name, "probe")
}

/// A string: the number of the last change that removed a user of this name, for a day. A new user of this name rejects
/// changes with a lower number, which were meant for the removed one.
pub(super) fn last_removal(name: &UserName) -> String {
    format!("mayfly:{{{name}}}:removal")
}

/// The mark of `guard.lua`, which exists only while a script runs: in the Cluster slot of this name or key, and without
/// [`USER_PREFIX`], so that a watch does not report it as a change.
pub(super) fn write_mark(slot: &str) -> String {
    format!("mayfly:write:{{{slot}}}")
}

/// A sorted set: the names of all users, all with the score 0, so in the order of names. A name is added before its
/// user is created and removed after, so a name may have no user: readers look for the user.
pub(super) const NAMES: &str = "mayfly:usernames";

/// Never exists: [`super::records::primary_only_pipeline`] reads it, in the Cluster slot of [`NAMES`].
pub(super) const NAMES_PROBE: &str = "mayfly:{mayfly:usernames}:probe";

/// A hash: the names of the enabled administrators, each with the number of the change that registered it. Two more
/// fields hold the number of the last change of any user (`:changes`) and of the last withdrawal of an administrator
/// (`:withdrawals`).
pub(super) const ADMINS: &str = "mayfly:admins";

/// Never exists: a watch sends PERSIST for it, which only a primary answers.
pub(super) const WATCH_PROBE: &str = "mayfly:probe";

/// The same in this slot of a Cluster.
pub(super) fn watch_probe(slot: u16) -> String {
    /// For each slot, a number whose digits are a hash tag in it.
    static HASH_TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let (mut tags, mut missing) = (vec![None; SLOTS.into()], SLOTS);
        for number in 0.. {
            let tag = &mut tags[usize::from(slot_of(&number.to_string()))];
            if tag.replace(tag.unwrap_or(number)).is_none() {
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        tags.into_iter().flatten().collect()
    });
    format!("{WATCH_PROBE}:{{{}}}", HASH_TAGS[usize::from(slot)])
}

/// A string that exists, for days, if the client is known to the user.
pub(super) fn known_client(pair: &ClientAndUser) -> String {
    format!("mayfly:throttle:{{logins}}:user:{}:known:{}", short_digest(pair.user.as_str()), pair.client)
}

/// Strings: the counters of failures for an attempt of this pair, each for minutes. They count the failures of the
/// client at the user, of the user, of the client, and of the client's site, if it has one. The first two belong to one
/// login epoch.
///
/// They share one Cluster slot with [`known_client`], so that one script can read all of them: it costs a thousandth of
/// hashing the password. Names are replaced by their digests, because people type passwords into the field for
/// names.
pub(super) fn failure_counters(pair: &ClientAndUser, epoch: Option<LoginEpoch>) -> Vec<String> {
    let ClientAndUser { user, client } = pair;
    let user = match epoch {
        Some(epoch) => short_digest(&format!("{user} {epoch}")),
        None => short_digest(user.as_str()),
    };
    let counters = [format!("user:{user}:client:{client}"), format!("user:{user}"), format!("client:{client}")];
    let site = client.site().map(|site| format!("site:{site}"));
    counters.into_iter().chain(site).map(|counter| format!("mayfly:throttle:{{logins}}:{counter}")).collect()
}

/// Half of the SHA-256 of this text, in base64url.
fn short_digest(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_in_its_slot() {
        for slot in 0..SLOTS {
            let probe = watch_probe(slot);
            let hash_tag = &probe[probe.find('{').unwrap() + 1..probe.len() - 1];
            assert_eq!((slot_of(hash_tag), subject(probe.as_bytes())), (slot, None));
        }
    }

    #[test]
    fn the_subject_of_a_key_is_a_token_or_a_user() {
        let (owner, id) = ("alice".parse().unwrap(), TokenId::random());
        assert_eq!(subject(token(&owner, id).as_bytes()), Some(Subject::Token(id)));
        assert_eq!(subject(user(&owner).as_bytes()), Some(Subject::User(owner.clone())));
        let key = "token:user".parse().unwrap();
        let idempotencies = [idempotency(&owner, &key), idempotency_index(&owner)];
        let others = [user_probe(&owner), NAMES_PROBE.to_owned(), NAMES.to_owned()];
        for other in token_records(&owner).into_iter().chain(idempotencies).chain(others) {
            assert_eq!(subject(other.as_bytes()), None, "{other}");
        }
    }
}

//! How tokens and users are written in Redis, and read back.

use std::{collections::HashMap, time::Duration};

use redis::{Pipeline, pipe};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::{
    domain::{
        life::Life,
        token::{LiveToken, Token, TokenDigest, TokenId},
        user::{LoginEpoch, User, UserName, UserUpdate},
    },
    store::{StoreError, StoreResult},
};

/// The value of a token's key, as compact JSON. Its names are short because a million of them are kept in memory.
#[derive(Serialize, Deserialize)]
struct TokenRecord<'a> {
    /// The description.
    #[serde(rename = "d")]
    description: std::borrow::Cow<'a, str>,
    /// The life, in seconds.
    #[serde(rename = "l")]
    life: u64,
    /// The SHA-256 of the JWT, in unpadded base64url.
    #[serde(rename = "h")]
    digest: String,
    /// The id of the successor.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
}

/// The value of a token's key.
pub(super) fn encode_token(token: &Token) -> String {
    serde_json::to_string(&TokenRecord {
        description: token.description.as_str().into(),
        life: token.life.seconds(),
        digest: token.digest.to_base64(),
        successor: token.successor.map(|id| id.to_string()),
    })
    .expect("strings and numbers are JSON")
}

/// A token out of the value of its key.
pub(super) fn decode_token(id: TokenId, record: &[u8]) -> StoreResult<Token> {
    const CORRUPT: StoreError = StoreError::Corrupt("token");
    let record: TokenRecord<'_> = serde_json::from_slice(record).map_err(|_| CORRUPT)?;
    Ok(Token {
        id,
        description: record.description.parse().map_err(|_| CORRUPT)?,
        life: Life::from_seconds(record.life).map_err(|_| CORRUPT)?,
        digest: TokenDigest::from_base64(&record.digest).ok_or(CORRUPT)?,
        successor: record.successor.map(|id| id.parse()).transpose().map_err(|_| CORRUPT)?,
    })
}

/// A live token out of the value of its key and what `PTTL` says of it: milliseconds, -2 for a key that has just expired, and
/// -1 for one without an end, which was never written by us. More than its life is left where Redis' clock was set back.
pub(super) fn decode_live_token(id: TokenId, record: &[u8], pttl: i64) -> StoreResult<Option<LiveToken>> {
    if pttl == -2 {
        return Ok(None);
    }
    let remaining = Duration::from_millis(u64::try_from(pttl).map_err(|_| StoreError::Corrupt("token"))?);
    let token = decode_token(id, record)?;
    Ok(Some(LiveToken { remaining: remaining.min(token.life.duration()), token }))
}

const PASSWORD: &str = "password";
const ROLE: &str = "role";
const CREATED: &str = "created";
/// `"0"` or `"1"`; `guard.lua` reads it, too.
const DISABLED: &str = "disabled";
/// `guard.lua` reads it, too, and takes its absence for [`LoginEpoch::NONE`], as is done here.
const LOGIN_EPOCH: &str = "epoch";
/// The number of the last change that may have made or unmade an administrator; `update_user.lua` and `remove_user.lua` alone
/// look at it.
pub(super) const CHANGE: &str = "change";

/// A pipeline that only a primary answers, as GETEX is rejected by a replica. The key is in the slot of what is read, and never
/// exists, for GETEX reads nothing but strings.
pub(super) fn at_primary(probe: &str) -> Pipeline {
    let mut request = pipe();
    request.cmd("GETEX").arg(probe).ignore();
    request
}

/// Reads the hash of a user.
pub(super) fn user_request(name: &UserName) -> Pipeline {
    let mut request = at_primary(&keys::user_probe(name));
    request.hgetall(keys::user(name));
    request
}

/// The field of a user's hash that a new password replaces, and its value.
pub(super) fn password_field(hash: &crate::domain::password::PasswordHash) -> [&str; 2] {
    [PASSWORD, hash.expose_secret()]
}

/// The fields and values of a user's hash.
pub(super) fn encode_user(user: &User) -> Vec<String> {
    let [password, hash] = password_field(&user.password_hash);
    let disabled = if user.disabled { "1" } else { "0" };
    let created = user.created_at.to_string();
    let epoch = user.login_epoch.to_string();
    [password, hash, ROLE, user.role.as_str(), CREATED, &created, DISABLED, disabled, LOGIN_EPOCH, &epoch]
        .map(str::to_owned)
        .into()
}

/// The fields of a user's hash that an update replaces, and their values.
pub(super) fn encode_update(update: UserUpdate) -> Vec<&'static str> {
    let role = update.role.map(|role| [ROLE, role.as_str()]);
    let disabled = update.disabled.map(|disabled| [DISABLED, if disabled { "1" } else { "0" }]);
    role.into_iter().chain(disabled).flatten().collect()
}

/// The field of a user's hash that keeps logins from before from leading to anything, and its value.
pub(super) fn login_epoch_field(epoch: LoginEpoch) -> [String; 2] {
    [LOGIN_EPOCH.to_owned(), epoch.to_string()]
}

/// A user out of the hash of the name. An empty hash is a user who does not exist.
pub(super) fn decode_user(name: &UserName, fields: &HashMap<String, String>) -> StoreResult<Option<User>> {
    const CORRUPT: StoreError = StoreError::Corrupt("user");
    if fields.is_empty() {
        return Ok(None);
    }
    let field = |name| fields.get(name).ok_or(CORRUPT);
    Ok(Some(User {
        name: name.clone(),
        password_hash: field(PASSWORD)?.parse().map_err(|_| CORRUPT)?,
        role: field(ROLE)?.parse().map_err(|_| CORRUPT)?,
        created_at: field(CREATED)?.parse().map_err(|_| CORRUPT)?,
        disabled: match &**field(DISABLED)? {
            "0" => false,
            "1" => true,
            _ => return Err(CORRUPT),
        },
        login_epoch: fields
            .get(LOGIN_EPOCH)
            .map_or(Ok(LoginEpoch::NONE), |epoch| epoch.parse())
            .map_err(|_| CORRUPT)?,
    }))
}

//! How tokens and users are encoded in Redis.

use std::{borrow::Cow, collections::HashMap, str::FromStr, time::Duration};

use redis::{Pipeline, pipe};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::{
    domain::{
        attributes::{Attribute, AttributeError, Attributes},
        idempotency::{Issuance, RequestFingerprint},
        life::Life,
        password::PasswordHash,
        token::{LiveToken, Token, TokenDigest, TokenId},
        user::{Credential, LoginEpoch, User, UserName, UserUpdate},
    },
    store::{Repetition, StoreError, StoreResult},
};

/// The value of a token's key, as compact JSON. The names are short because Redis holds a million of them in memory.
#[derive(Serialize, Deserialize)]
struct TokenRecord<'a> {
    /// The description.
    #[serde(rename = "d", borrow)]
    description: Cow<'a, str>,
    /// The life, in seconds.
    #[serde(rename = "l")]
    life: u64,
    /// The SHA-256 of the JWT, in unpadded base64url.
    #[serde(rename = "h", borrow)]
    digest: Cow<'a, str>,
    /// The id of the successor.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    /// The scopes, with a space between two.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    scopes: Option<String>,
    /// The audiences, in the same way.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    audiences: Option<String>,
    /// The networks, in the same way.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    networks: Option<String>,
}

/// The entries of an attribute with a space between two; `None`: the token does not have the attribute.
fn encode_attribute(attribute: &impl Attribute) -> Option<String> {
    let entries: Vec<String> = attribute.entries().collect();
    (!entries.is_empty()).then(|| entries.join(" "))
}

/// An attribute out of the text that [`encode_attribute`] made of it.
fn decode_attribute<A: Attribute + Default>(text: Option<String>) -> Result<A, AttributeError> {
    text.map_or_else(|| Ok(A::default()), |text| A::parse(text.split(' ')))
}

/// The value of this token's key.
pub(super) fn encode_token(token: &Token) -> String {
    serde_json::to_string(&TokenRecord {
        description: token.description.as_str().into(),
        life: token.life.seconds(),
        digest: token.digest.to_base64().into(),
        successor: token.successor.map(|id| id.to_string()),
        scopes: encode_attribute(&token.attributes.scopes),
        audiences: encode_attribute(&token.attributes.audiences),
        networks: encode_attribute(&token.attributes.networks),
    })
    .expect("strings and numbers are JSON")
}

/// A token out of the value of its key.
pub(super) fn decode_token(id: TokenId, record: &[u8]) -> StoreResult<Token> {
    const CORRUPT: StoreError = StoreError::Corrupt("token");
    let record: TokenRecord<'_> = serde_json::from_slice(record).map_err(|_| CORRUPT)?;
    let attributes = Attributes {
        scopes: decode_attribute(record.scopes).map_err(|_| CORRUPT)?,
        audiences: decode_attribute(record.audiences).map_err(|_| CORRUPT)?,
        networks: decode_attribute(record.networks).map_err(|_| CORRUPT)?,
    };
    Ok(Token {
        id,
        description: record.description.parse().map_err(|_| CORRUPT)?,
        life: Life::from_seconds(record.life).map_err(|_| CORRUPT)?,
        attributes: attributes.into(),
        digest: TokenDigest::from_base64(&record.digest).ok_or(CORRUPT)?,
        successor: record.successor.map(|id| id.parse()).transpose().map_err(|_| CORRUPT)?,
    })
}

/// A live token out of the value of its key and its `PTTL`: milliseconds, -2 for a key that has just expired, or -1 for
/// a key without a TTL, which Mayfly never writes. After Redis' clock was set back, the PTTL exceeds the token's life.
pub(super) fn decode_live_token(id: TokenId, record: &[u8], pttl: i64) -> StoreResult<Option<LiveToken>> {
    if pttl == -2 {
        return Ok(None);
    }
    let remaining = Duration::from_millis(u64::try_from(pttl).map_err(|_| StoreError::Corrupt("token"))?);
    let token = decode_token(id, record)?;
    Ok(Some(LiveToken { remaining: remaining.min(token.life.duration()), token }))
}

/// When this token was last used, out of its part of [`keys::token_uses`], as in `uses.lua`. A part that cannot be read
/// counts as none.
pub(super) fn decode_use(id: TokenId, part: Option<Vec<u8>>) -> Option<u64> {
    const ENTRY_BYTES: usize = 9;
    let part = part.filter(|part| part.len().is_multiple_of(ENTRY_BYTES))?;
    let at = part.chunks_exact(ENTRY_BYTES).find_map(|entry| entry.strip_prefix(&id.as_bytes()[11..]))?;
    Some(u32::from_be_bytes(at.try_into().ok()?).into())
}

/// The value of an Idempotency-Key's key, as compact JSON.
#[derive(Serialize, Deserialize)]
struct IssuanceRecord<'a> {
    /// The id of the token. `repetition.lua` reads it, too.
    #[serde(rename = "i")]
    token_id: String,
    /// The `iat` of the JWT.
    #[serde(rename = "t")]
    issued_at: u64,
    /// The `kid` of the key that signed the JWT.
    #[serde(rename = "k")]
    kid: Cow<'a, str>,
    /// The fingerprint of the request.
    #[serde(rename = "r")]
    request: Cow<'a, str>,
}

/// The value of the key of an Idempotency-Key.
pub(super) fn encode_issuance(issuance: &Issuance) -> String {
    serde_json::to_string(&IssuanceRecord {
        token_id: issuance.token_id.to_string(),
        issued_at: issuance.issued_at,
        kid: issuance.kid.as_str().into(),
        request: issuance.request.as_str().into(),
    })
    .expect("strings and numbers are JSON")
}

/// A script's reply about a request that was repeated: the record of its Idempotency-Key, and the record of its token,
/// if it is live.
pub(super) type RepetitionReply = (Vec<u8>, Option<Vec<u8>>);

/// A repetition out of a script's reply.
pub(super) fn decode_repetition((issuance, token): RepetitionReply) -> StoreResult<Repetition> {
    const CORRUPT: StoreError = StoreError::Corrupt("record of an Idempotency-Key");
    let record: IssuanceRecord<'_> = serde_json::from_slice(&issuance).map_err(|_| CORRUPT)?;
    let token_id = record.token_id.parse().map_err(|_| CORRUPT)?;
    let issuance = Issuance {
        token_id,
        issued_at: record.issued_at,
        kid: record.kid.into_owned(),
        request: RequestFingerprint::from_stored(record.request.into_owned()),
    };
    Ok(Repetition { issuance, token: token.map(|record| decode_token(token_id, &record)).transpose()? })
}

// The fields of a user's hash.
/// The hash of the password; absent: the user has an origin.
const PASSWORD: &str = "password";
/// The origin; absent: the user has a password. `update_user.lua` reads it, too.
const ORIGIN: &str = "origin";
const ROLE: &str = "role";
const CREATED: &str = "created";
/// `"0"` or `"1"`. `guard.lua` reads it, too.
const DISABLED: &str = "disabled";
/// The login epoch; absent: [`LoginEpoch::NONE`]. `guard.lua` reads it, too, in the same way.
const LOGIN_EPOCH: &str = "epoch";
/// The number of the last change that may have made or unmade an administrator; only scripts read it.
const CHANGE: &str = "change";

/// Begins a pipeline of reads that only a primary answers: a Redis replica rejects GETEX. The key `probe`, in the
/// Cluster slot of the reads that follow, never exists, because GETEX reads only strings.
pub(super) fn primary_only_pipeline(probe: &str) -> Pipeline {
    let mut request = pipe();
    request.cmd("GETEX").arg(probe).ignore();
    request
}

/// The request that reads the hash of a user.
pub(super) fn user_query(name: &UserName) -> Pipeline {
    let mut request = primary_only_pipeline(&keys::user_probe(name));
    request.hgetall(keys::user(name));
    request
}

/// The field of a user's hash that a new password replaces, and its value.
pub(super) fn password_field(hash: &PasswordHash) -> [&str; 2] {
    [PASSWORD, hash.expose_secret()]
}

/// The fields of a user's hash that a new password replaces, and their values. It begins a new login epoch.
pub(super) fn encode_password(hash: &PasswordHash) -> Vec<String> {
    field_list([password_field(hash), [LOGIN_EPOCH, &LoginEpoch::begin().to_string()]])
}

/// The fields of this user's hash, and their values.
pub(super) fn encode_user(user: &User) -> Vec<String> {
    let origin: String;
    let credential = match &user.credential {
        Credential::Password(hash) => password_field(hash),
        Credential::External(party) => {
            origin = party.to_string();
            [ORIGIN, &origin]
        }
    };
    field_list([
        credential,
        [ROLE, user.role.as_str()],
        [CREATED, &user.created_at.to_string()],
        [DISABLED, flag_text(user.disabled)],
        [LOGIN_EPOCH, &user.login_epoch.to_string()],
    ])
}

/// The same list as a JSON array, for a script that takes it as one argument.
pub(super) fn encode_user_as_json(user: &User) -> String {
    serde_json::to_string(&encode_user(user)).expect("strings are JSON")
}

/// The fields of a user's hash that an update replaces, and their values. Disabling a user begins a new login epoch.
pub(super) fn encode_update(UserUpdate { role, disabled }: UserUpdate) -> Vec<String> {
    let epoch = LoginEpoch::begin().to_string();
    let role = role.map(|role| [ROLE, role.as_str()]);
    let ended = disabled.filter(|disabled| *disabled).map(|_| [LOGIN_EPOCH, &*epoch]);
    let disabled = disabled.map(|disabled| [DISABLED, flag_text(disabled)]);
    field_list([role, disabled, ended].into_iter().flatten())
}

/// A `bool` as the value of a field.
fn flag_text(value: bool) -> &'static str {
    if value { "1" } else { "0" }
}

/// Fields and values in one list, as `HSET` takes them.
fn field_list<'a>(fields: impl IntoIterator<Item = [&'a str; 2]>) -> Vec<String> {
    fields.into_iter().flatten().map(str::to_owned).collect()
}

/// A script's reply about a user: how many tokens it revoked, or a negative code; and fields of the user.
pub(super) type UserReply = (i64, HashMap<String, String>);

/// The number of the change that was faster, from the reply to one that was superseded.
pub(super) fn decode_change_number(fields: &HashMap<String, String>) -> StoreResult<u64> {
    fields.get(CHANGE).and_then(|number| number.parse().ok()).ok_or(StoreError::Corrupt("user"))
}

/// A user out of the hash of this name. The hash of a user who does not exist is empty.
pub(super) fn decode_user(name: &UserName, fields: &HashMap<String, String>) -> StoreResult<Option<User>> {
    const CORRUPT: StoreError = StoreError::Corrupt("user");
    fn field<T: FromStr>(fields: &HashMap<String, String>, name: &str) -> StoreResult<T> {
        fields.get(name).and_then(|text| text.parse().ok()).ok_or(CORRUPT)
    }
    if fields.is_empty() {
        return Ok(None);
    }
    Ok(Some(User {
        name: name.clone(),
        credential: if fields.contains_key(ORIGIN) {
            Credential::External(field(fields, ORIGIN)?)
        } else {
            Credential::Password(field(fields, PASSWORD)?)
        },
        role: field(fields, ROLE)?,
        created_at: field(fields, CREATED)?,
        disabled: match field(fields, DISABLED)? {
            0_u8 => false,
            1 => true,
            _ => return Err(CORRUPT),
        },
        login_epoch: if fields.contains_key(LOGIN_EPOCH) { field(fields, LOGIN_EPOCH)? } else { LoginEpoch::NONE },
    }))
}

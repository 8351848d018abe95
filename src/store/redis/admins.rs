//! The last enabled administrator stays.
//!
//! Each user lives in a slot of its own, and no script sees who of them all is an administrator. [`keys::ADMINS`] counts the
//! enabled ones in one place, and never one who is none: whoever is to be one no longer is taken out of it first and changed
//! then, and whoever becomes one is changed first and put in then. A change that breaks off in between leaves an
//! administrator who is not counted. That refuses changes, and lets nobody go; repeating the change mends it.
//!
//! Changes of one user may overlap. So each takes a number from [`keys::ADMINS`] at its beginning (a fencing token): the
//! user keeps the highest, no change with a lower one is made to that user, and nobody is counted once somebody was taken out
//! with a higher one. A change that was superseded begins again, after a moment.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{RedisStore, keys, milliseconds, records, write::Write};
use crate::{
    domain::user::{LoginEpoch, UserName, UserUpdate},
    store::{Authority, Store, StoreError, StoreResult, UpdatedUser, UserChange},
};

/// How often a change may be overtaken by others of the same user, or of whoever becomes an administrator.
const ATTEMPTS: usize = 32;

/// Others changed the same again and again.
#[derive(Debug, thiserror::Error)]
#[error("too many changes of users at once")]
struct Contended;

/// For how long the number of a removal outlives the user: longer than anything that was begun before it can be on its way.
const REMOVAL: Duration = Duration::from_hours(24);

/// What a script says of a user: how many tokens ended, or why nothing changed; and the fields of the user.
pub(super) type Reply = (i64, HashMap<String, String>);

/// What a change puts an end to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Nothing,
    /// Logins made before the change can do nothing any more (the login epoch changes).
    Logins,
    LoginsAndTokens,
}

/// What a change ended, and made of its user.
struct Ended {
    tokens: u64,
    fields: HashMap<String, String>,
}

/// What became of a change with a number.
enum Attempt<T> {
    Done(T),
    NoSuchUser,
    /// The user was changed by one with this number, which is higher.
    Superseded(u64),
}

impl RedisStore {
    /// [`Store::update_user`]. An update of nothing registers a user who is an enabled administrator and is not registered.
    pub(super) async fn change_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let number = if update.ends_administration() {
                match self.unregister_admin(by, name, last).await? {
                    Some(number) => number,
                    None => return Ok(UserChange::LastAdmin),
                }
            } else {
                self.number_change(by, name, last).await?
            };
            match self.try_update(by, name, number, update).await? {
                Attempt::NoSuchUser => return Ok(UserChange::NoSuchUser),
                Attempt::Superseded(by) => last = by,
                Attempt::Done(updated) => {
                    if !updated.user.administers()
                        || self.register_admin(name, number).await.map_err(StoreError::in_the_middle)?
                    {
                        return Ok(UserChange::Done(updated));
                    }
                }
            }
            pause(number).await;
        }
        Err(StoreError::Unavailable(Arc::new(Contended)))
    }

    /// [`Store::remove_user`], but for the set of all names.
    pub(super) async fn delete_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let Some(number) = self.unregister_admin(by, name, last).await? else {
                return Ok(UserChange::LastAdmin);
            };
            let mut write = self.to_user(&self.scripts.remove_user, name, by);
            write
                .key(keys::user(name))
                .key(keys::token_index(name))
                .key(keys::removal(name))
                .arg(number)
                .arg(keys::token_prefix(name))
                .arg(milliseconds(REMOVAL));
            match attempt(self.connection.write(write).await?)? {
                Attempt::NoSuchUser => return Ok(UserChange::NoSuchUser),
                Attempt::Superseded(by) => last = by,
                Attempt::Done(Ended { tokens, .. }) => return Ok(UserChange::Done(tokens)),
            }
            pause(number).await;
        }
        Err(StoreError::Unavailable(Arc::new(Contended)))
    }

    /// The write that changes these fields of a user: with the number of the change where it has one, with another epoch where
    /// logins from before are to count no more, and with the end of all tokens.
    pub(super) fn updating(
        &self,
        by: &Authority,
        name: &UserName,
        number: Option<u64>,
        ends: Ends,
        fields: &[&str],
    ) -> Write<'_> {
        let mut write = self.to_user(&self.scripts.update_user, name, by);
        write
            .key(keys::user(name))
            .key(keys::token_index(name))
            .key(keys::removal(name))
            .arg(number.map(|number| number.to_string()).unwrap_or_default())
            .arg(if ends == Ends::LoginsAndTokens { keys::token_prefix(name) } else { String::new() })
            .arg(fields);
        if ends != Ends::Nothing {
            write.arg(&records::login_epoch_field(LoginEpoch::begin())[..]);
        }
        write
    }

    async fn try_update(
        &self,
        by: &Authority,
        name: &UserName,
        number: u64,
        update: UserUpdate,
    ) -> StoreResult<Attempt<UpdatedUser>> {
        let ends = if update.disabled == Some(true) { Ends::LoginsAndTokens } else { Ends::Nothing };
        let write = self.updating(by, name, Some(number), ends, &records::encode_update(update));
        Ok(match attempt(self.connection.write(write).await?)? {
            Attempt::Done(Ended { tokens, fields }) => {
                let user = records::decode_user(name, &fields)?.ok_or(StoreError::Corrupt("user"))?;
                Attempt::Done(UpdatedUser { user, tokens_revoked: tokens })
            }
            Attempt::NoSuchUser => Attempt::NoSuchUser,
            Attempt::Superseded(by) => Attempt::Superseded(by),
        })
    }

    /// Takes a user, administrator or not, out of the enabled administrators, with a number beyond `last`; `None` where nobody
    /// would be left.
    async fn unregister_admin(&self, by: &Authority, name: &UserName, last: u64) -> StoreResult<Option<u64>> {
        // An administrator who is not registered may be the last one all the same.
        let administers = match self.find_user(name).await {
            Ok(user) => user.is_some_and(|user| user.administers()),
            Err(StoreError::Corrupt(_)) => true,
            Err(error) => return Err(error),
        };
        let mut write = self.to_key(&self.scripts.unregister_admin, keys::ADMINS, name, by);
        write.arg(name.as_str()).arg(u8::from(administers)).arg(last);
        let number = self.connection.write(write).await?;
        Ok(Some(number).filter(|number| *number > 0))
    }

    /// A number beyond `last` for a change that takes nobody away.
    async fn number_change(&self, by: &Authority, name: &UserName, last: u64) -> StoreResult<u64> {
        let mut write = self.to_key(&self.scripts.number_change, keys::ADMINS, name, by);
        write.arg(last);
        self.connection.write(write).await
    }

    /// Adds an enabled administrator. `false`: somebody was taken out meanwhile.
    async fn register_admin(&self, name: &UserName, number: u64) -> StoreResult<bool> {
        let mut write = self.to_key(&self.scripts.register_admin, keys::ADMINS, name, &self.completion());
        write.arg(name.as_str()).arg(number);
        self.connection.write(write).await
    }
}

/// Lets another change of the same user come to its end, which has another number and waits for another time.
async fn pause(number: u64) {
    sleep(Duration::from_millis(number % 16)).await;
}

/// What became of the change that was answered with this.
fn attempt((ended, fields): Reply) -> StoreResult<Attempt<Ended>> {
    match ended {
        -1 => Ok(Attempt::NoSuchUser),
        -2 => {
            let by = fields.get(records::CHANGE).and_then(|number| number.parse().ok());
            by.map(Attempt::Superseded).ok_or(StoreError::Corrupt("user"))
        }
        _ => Ok(Attempt::Done(Ended { tokens: ended.unsigned_abs(), fields })),
    }
}

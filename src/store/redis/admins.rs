//! The last enabled administrator stays.
//!
//! Each user lives in a slot of its own, and no script sees who of them all is an administrator. [`keys::ADMINS`] counts the
//! enabled ones in one place, and never one who is none: whoever is to be one no longer is taken out of it first and changed
//! then, and whoever becomes one is changed first and put in then. A change that breaks off in between leaves an
//! administrator who is not counted. That refuses changes, and lets nobody go; repeating the change mends it.
//!
//! Changes of one user may overlap. So each takes a number from [`keys::ADMINS`] at its beginning (a fencing token): the
//! user keeps the highest, no change with a lower one is made to that user, and nobody is counted once somebody was taken out
//! with a higher one. Who was overtaken begins again, after a moment.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool_redis::redis::{Cmd, ScriptInvocation};
use tokio::time::sleep;

use super::{RedisStore, keys, records};
use crate::{
    domain::user::{LoginEpoch, UserName, UserUpdate},
    store::{Store, StoreError, UpdatedUser, UserChange},
};

/// How often a change may be overtaken by others of the same user, or of whoever becomes an administrator.
const ATTEMPTS: usize = 32;

/// Others changed the same again and again.
#[derive(Debug, thiserror::Error)]
#[error("too many changes of users at once")]
struct Contended;

/// What a script says of a user: how many tokens ended, or why nothing changed; and the fields of the user.
pub(super) type Reply = (i64, HashMap<String, String>);

/// What a change puts an end to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Nothing,
    /// What a login from before would lead to.
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
    Overtaken(u64),
}

impl RedisStore {
    /// [`Store::update_user`]. An update of nothing counts a user who is an enabled administrator and is not counted.
    pub(super) async fn change_user(
        &self,
        name: &UserName,
        update: UserUpdate,
    ) -> Result<UserChange<UpdatedUser>, StoreError> {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let number = if update.ends_administration() {
                match self.withdraw_admin(name, last).await? {
                    Some(number) => number,
                    None => return Ok(UserChange::LastAdmin),
                }
            } else {
                self.number_change(last).await?
            };
            match self.try_update(name, number, update).await? {
                Attempt::NoSuchUser => return Ok(UserChange::NoSuchUser),
                Attempt::Overtaken(by) => last = by,
                Attempt::Done(updated) => {
                    if !updated.user.administers() || self.count_admin(name, number).await? {
                        return Ok(UserChange::Done(updated));
                    }
                }
            }
            pause(number).await;
        }
        Err(StoreError::Unavailable(Arc::new(Contended)))
    }

    /// [`Store::remove_user`], but for the set of all names.
    pub(super) async fn delete_user(&self, name: &UserName) -> Result<UserChange<u64>, StoreError> {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let Some(number) = self.withdraw_admin(name, last).await? else { return Ok(UserChange::LastAdmin) };
            let mut script = self.scripts.remove_user.prepare_invoke();
            script.key(keys::user(name)).key(keys::token_index(name)).arg(number).arg(keys::token_prefix(name));
            match attempt(self.connection.write(&script).await?)? {
                Attempt::NoSuchUser => return Ok(UserChange::NoSuchUser),
                Attempt::Overtaken(by) => last = by,
                Attempt::Done(Ended { tokens, .. }) => return Ok(UserChange::Done(tokens)),
            }
            pause(number).await;
        }
        Err(StoreError::Unavailable(Arc::new(Contended)))
    }

    /// The script that changes these fields of a user: with the number of the change where it has one, with another epoch where
    /// logins from before are to count no more, and with the end of all tokens.
    pub(super) fn updating(
        &self,
        name: &UserName,
        number: Option<u64>,
        ends: Ends,
        fields: &[&str],
    ) -> ScriptInvocation<'_> {
        let mut script = self.scripts.update_user.prepare_invoke();
        script
            .key(keys::user(name))
            .key(keys::token_index(name))
            .arg(number.map(|number| number.to_string()).unwrap_or_default())
            .arg(if ends == Ends::LoginsAndTokens { keys::token_prefix(name) } else { String::new() })
            .arg(fields);
        if ends != Ends::Nothing {
            script.arg(&records::login_epoch_field(LoginEpoch::begin())[..]);
        }
        script
    }

    async fn try_update(
        &self,
        name: &UserName,
        number: u64,
        update: UserUpdate,
    ) -> Result<Attempt<UpdatedUser>, StoreError> {
        let ends = if update.disabled == Some(true) { Ends::LoginsAndTokens } else { Ends::Nothing };
        let script = self.updating(name, Some(number), ends, &records::encode_update(update));
        Ok(match attempt(self.connection.write_again(&script).await?)? {
            Attempt::Done(Ended { tokens, fields }) => {
                let user = records::decode_user(name, &fields)?.ok_or(StoreError::Corrupt("user"))?;
                Attempt::Done(UpdatedUser { user, tokens_revoked: tokens })
            }
            Attempt::NoSuchUser => Attempt::NoSuchUser,
            Attempt::Overtaken(by) => Attempt::Overtaken(by),
        })
    }

    /// Takes a user, administrator or not, out of the enabled administrators, with a number beyond `last`; `None` where nobody
    /// would be left.
    async fn withdraw_admin(&self, name: &UserName, last: u64) -> Result<Option<u64>, StoreError> {
        // Who is one and not counted may be the last one all the same.
        let administers = match self.find_user(name).await {
            Ok(user) => user.is_some_and(|user| user.administers()),
            Err(StoreError::Corrupt(_)) => true,
            Err(error) => return Err(error),
        };
        let mut script = self.scripts.withdraw_admin.prepare_invoke();
        script.key(keys::ADMINS).arg(name.as_str()).arg(u8::from(administers)).arg(last);
        let number = self.connection.write_again(&script).await?;
        Ok(Some(number).filter(|number| *number > 0))
    }

    /// A number beyond `last` for a change that takes nobody away.
    async fn number_change(&self, last: u64) -> Result<u64, StoreError> {
        let next = async |by: u64| self.connection.command(&Cmd::hincr(keys::ADMINS, keys::CHANGES, by)).await;
        let number: u64 = next(1).await?;
        // A failover may have lost numbers that were given out.
        if number > last { Ok(number) } else { next(last - number + 1).await }
    }

    /// Counts an enabled administrator. `false`: somebody was taken out meanwhile.
    async fn count_admin(&self, name: &UserName, number: u64) -> Result<bool, StoreError> {
        let mut script = self.scripts.count_admin.prepare_invoke();
        script.key(keys::ADMINS).arg(name.as_str()).arg(number);
        self.connection.write_again(&script).await
    }
}

/// Lets another change of the same user come to its end, which has another number and waits for another time.
async fn pause(number: u64) {
    sleep(Duration::from_millis(number % 16)).await;
}

/// What became of the change that was answered with this.
fn attempt((ended, fields): Reply) -> Result<Attempt<Ended>, StoreError> {
    match ended {
        -1 => Ok(Attempt::NoSuchUser),
        -2 => {
            let by = fields.get(records::CHANGE).and_then(|number| number.parse().ok());
            by.map(Attempt::Overtaken).ok_or(StoreError::Corrupt("user"))
        }
        _ => Ok(Attempt::Done(Ended { tokens: ended.unsigned_abs(), fields })),
    }
}

//! Changes of users, none of which takes the last enabled administrator away.
//!
//! Each user lives in a slot of its own, so no script sees all administrators. [`keys::ADMINS`] registers the enabled ones in
//! one place, and never a user who is not one. Demote: leave ADMINS, then change the user. Promote: change the user, then join.
//! A change that breaks off in between leaves an administrator who is not registered: later changes may be rejected, but the
//! last administrator stays. Repeating the change mends it.
//!
//! Changes of one user may overlap. So each begins with a number from [`keys::ADMINS`] (a fencing token): the user keeps the
//! highest and rejects changes with a lower one, and no administrator joins after a withdrawal with a higher one. A change that
//! was superseded begins again after a moment.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{RedisStore, keys, milliseconds, records, scripts::SCRIPTS, write::Write};
use crate::{
    domain::{
        password::PasswordHash,
        user::{LoginEpoch, UserName, UserUpdate},
    },
    store::{Authority, Store, StoreError, StoreResult, UpdatedUser, UserChange},
};

/// The most attempts of one change while others of the same user, or withdrawals of administrators, are faster.
const ATTEMPTS: usize = 32;

/// Others changed the same again and again.
#[derive(Debug, thiserror::Error)]
#[error("too many changes of users at once")]
struct Contended;

/// For how long the number of a removal outlives the user: longer than any change that began before it can be under way.
const REMOVAL: Duration = Duration::from_hours(24);

/// A script's reply about a user: how many tokens it revoked, or a negative reason; and the user's fields.
type Reply = (i64, HashMap<String, String>);

/// What a change of a user ends besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Nothing,
    /// Logins made before the change can no longer write (the login epoch changes).
    Logins,
    LoginsAndTokens,
}

/// What became of a numbered change.
enum Attempt<T> {
    Changed(UserChange<T>),
    /// A change with this higher number was faster.
    Superseded(u64),
}

impl RedisStore {
    /// [`Store::update_user`]. An empty update registers an enabled administrator who is not registered.
    pub(super) async fn change_user(
        &self,
        by: &Authority,
        name: &UserName,
        update: UserUpdate,
    ) -> StoreResult<UserChange<UpdatedUser>> {
        let attempt = |number| self.try_update(by, name, number, update);
        self.numbered(by, name, update.ends_administration(), attempt).await
    }

    /// [`Store::set_password`].
    pub(super) async fn change_password(
        &self,
        by: &Authority,
        name: &UserName,
        hash: &PasswordHash,
        revoke_tokens: bool,
    ) -> StoreResult<Option<u64>> {
        let ends = if revoke_tokens { Ends::LoginsAndTokens } else { Ends::Logins };
        let write = self.updating(by, name, None, ends, &records::password_field(hash));
        let (revoked, _): Reply = self.connections.write(&write).await?;
        Ok(u64::try_from(revoked).ok())
    }

    /// [`Store::remove_user`], but for the set of all names.
    pub(super) async fn delete_user(&self, by: &Authority, name: &UserName) -> StoreResult<UserChange<u64>> {
        let attempt = async |number: u64| {
            let mut write = self.to_user(&SCRIPTS.remove_user, name, by);
            write
                .key(keys::user(name))
                .key(keys::token_index(name))
                .key(keys::removal(name))
                .arg(number)
                .arg(keys::token_prefix(name))
                .arg(milliseconds(REMOVAL));
            read_reply(self.connections.write(&write).await?, |revoked, _| Ok(revoked))
        };
        self.numbered(by, name, true, attempt).await
    }

    /// Makes attempts at a change, each with a higher number, until none is superseded.
    async fn numbered<T, F>(
        &self,
        by: &Authority,
        name: &UserName,
        ends_administration: bool,
        attempt: impl Fn(u64) -> F,
    ) -> StoreResult<UserChange<T>>
    where
        F: Future<Output = StoreResult<Attempt<T>>>,
    {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let Some(number) = self.number_change(by, name, last, ends_administration).await? else {
                return Ok(UserChange::LastAdmin);
            };
            match attempt(number).await? {
                Attempt::Changed(change) => return Ok(change),
                Attempt::Superseded(by) => last = by,
            }
            // The other change has another number and waits for another time.
            sleep(Duration::from_millis(number % 16)).await;
        }
        Err(StoreError::Unavailable(Arc::new(Contended)))
    }

    /// A number beyond `last` for a change. Where the change ends administration, its user leaves the registered administrators;
    /// `None`: none would be left.
    async fn number_change(
        &self,
        by: &Authority,
        name: &UserName,
        last: u64,
        ends_administration: bool,
    ) -> StoreResult<Option<u64>> {
        // An administrator who is not registered may be the last one all the same.
        let administers = ends_administration
            && match self.find_user(name).await {
                Ok(user) => user.is_some_and(|user| user.administers()),
                Err(StoreError::Corrupt(_)) => true,
                Err(error) => return Err(error),
            };
        let mut write = self.to_key(&SCRIPTS.number_change, keys::ADMINS, name, by);
        write.arg(last);
        if ends_administration {
            write.arg(name.as_str()).arg(u8::from(administers));
        }
        let number = self.connections.write(&write).await?;
        Ok(Some(number).filter(|number| *number > 0))
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
        let attempt = read_reply(self.connections.write(&write).await?, |tokens_revoked, fields| {
            let user = records::decode_user(name, &fields)?.ok_or(StoreError::Corrupt("user"))?;
            Ok(UpdatedUser { user, tokens_revoked })
        })?;
        if let Attempt::Changed(UserChange::Done(updated)) = &attempt
            && updated.user.administers()
            && !self.register_admin(name, number).await.map_err(StoreError::in_the_middle)?
        {
            return Ok(Attempt::Superseded(number));
        }
        Ok(attempt)
    }

    /// The write that sets these fields of a user. `number`: that of the change, unless it leaves the administrators as they are.
    fn updating(&self, by: &Authority, name: &UserName, number: Option<u64>, ends: Ends, fields: &[&str]) -> Write {
        let mut write = self.to_user(&SCRIPTS.update_user, name, by);
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

    /// Registers an enabled administrator. `false`: an administrator was withdrawn since this number was given out.
    async fn register_admin(&self, name: &UserName, number: u64) -> StoreResult<bool> {
        let mut write = self.to_key(&SCRIPTS.register_admin, keys::ADMINS, name, &self.completion());
        write.arg(name.as_str()).arg(number);
        self.connections.write(&write).await
    }
}

/// Reads the reply of a script that changes a user; `done` makes the result of a change that took place.
fn read_reply<T>(
    (revoked, fields): Reply,
    done: impl FnOnce(u64, HashMap<String, String>) -> StoreResult<T>,
) -> StoreResult<Attempt<T>> {
    match revoked {
        -1 => Ok(Attempt::Changed(UserChange::NoSuchUser)),
        -2 => {
            let by = fields.get(records::CHANGE).and_then(|number| number.parse().ok());
            by.map(Attempt::Superseded).ok_or(StoreError::Corrupt("user"))
        }
        _ => Ok(Attempt::Changed(UserChange::Done(done(revoked.unsigned_abs(), fields)?))),
    }
}

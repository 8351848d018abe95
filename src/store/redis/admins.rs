//! Numbered changes of users, none of which takes the last enabled administrator away.
//!
//! Each user lives in a slot of its own, so no script sees all administrators. [`keys::ADMINS`] registers the enabled
//! ones in one place, and never a user who is not one. Demote: leave ADMINS, then change the user. Promote: change the
//! user, then join. A change that breaks off in between leaves an administrator who is not registered: later changes
//! may be rejected, but the last administrator stays. Repeating the change mends it.
//!
//! Changes of one user may overlap. So each begins with a number from [`keys::ADMINS`] (a fencing token): the user
//! keeps the highest and rejects changes with a lower one, and no administrator joins after a withdrawal with a higher
//! one. A change that was superseded begins again after a moment.

use std::time::Duration;

use tokio::time::sleep;

use super::{RedisStore, keys, scripts::SCRIPTS};
use crate::{
    domain::user::UserName,
    store::{Authority, Store, StoreError, StoreResult, UserChange},
};

/// The most attempts of one change while others of the same user, or withdrawals of administrators, are faster.
const ATTEMPTS: usize = 32;

/// The result of an attempt at a numbered change.
pub(super) enum Attempt<T> {
    Changed(UserChange<T>),
    /// A change with this higher number was faster.
    Superseded(u64),
}

impl RedisStore {
    /// Makes attempts at a change, each with a higher number, until none is superseded.
    pub(super) async fn make_numbered_change<T, F>(
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
        Err(StoreError::unavailable("too many changes of users at once"))
    }

    /// A number beyond `last` for a change. Where the change ends administration, its user leaves the registered
    /// administrators; `None`: none would be left.
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
        let mut write = self.write_to_key(&SCRIPTS.number_change, keys::ADMINS, name, by).arg(last);
        if ends_administration {
            write = write.arg(name.as_str()).arg(u8::from(administers));
        }
        let number = self.connections.write(&write).await?;
        Ok(Some(number).filter(|number| *number > 0))
    }

    /// Registers an enabled administrator. `false`: an administrator was withdrawn since this number was given out.
    pub(super) async fn register_admin(&self, name: &UserName, number: u64) -> StoreResult<bool> {
        let write = self.write_to_key(&SCRIPTS.register_admin, keys::ADMINS, name, &self.authority_to_complete());
        self.connections.write(&write.arg(name.as_str()).arg(number)).await
    }
}

//! Numbered changes of users, none of which takes the last enabled administrator away.
//!
//! Each user lives in a Cluster slot of its own, so no script can read all administrators. [`keys::ADMINS`] registers
//! the enabled ones in one place, and never a user who is not one. Demote: leave ADMINS, then change the user. Promote:
//! change the user, then join. A change that breaks off in between leaves an administrator who is not registered: later
//! changes may be rejected, but the last administrator stays. Repeating the change mends it.
//!
//! Changes of one user may overlap. So each begins with a number from [`keys::ADMINS`] (a fencing token): the user's
//! record keeps the highest and rejects changes with a lower one, and no administrator joins ADMINS after another one
//! left it with a higher number. A change that was superseded begins again after a moment.

use std::time::Duration;

use tokio::time::sleep;

use super::{RedisStore, keys, scripts::SCRIPTS};
use crate::{
    domain::user::UserName,
    store::{Authority, Store, StoreError, StoreResult, UserChange},
};

/// The most attempts of one change while other changes of the same user, or of administrators, are faster.
const MAX_ATTEMPTS: usize = 32;

/// The result of an attempt at a numbered change.
pub(super) enum ChangeAttempt<T> {
    /// It ended, with this result.
    Finished(UserChange<T>),
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
        F: Future<Output = StoreResult<ChangeAttempt<T>>>,
    {
        let mut last = 0;
        for _ in 0..MAX_ATTEMPTS {
            let Some(number) = self.number_change(by, name, last, ends_administration).await? else {
                return Ok(UserChange::LastAdmin);
            };
            match attempt(number).await? {
                ChangeAttempt::Finished(change) => return Ok(change),
                ChangeAttempt::Superseded(by) => last = by,
            }
            // The other change has another number and so waits for another time.
            sleep(Duration::from_millis(number % 16)).await;
        }
        Err(StoreError::unavailable("too many changes of users at once"))
    }

    /// Numbers a change, with a number beyond `last`. If the change ends administration, its user first leaves the
    /// registered administrators; `None`: no administrator would be left.
    async fn number_change(
        &self,
        by: &Authority,
        name: &UserName,
        last: u64,
        ends_administration: bool,
    ) -> StoreResult<Option<u64>> {
        // An administrator is not counted if a change broke off before the registration: the user's own record decides.
        let administers = ends_administration
            && match self.find_user(name).await {
                Ok(user) => user.is_some_and(|user| user.is_enabled_admin()),
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

    /// Registers an enabled administrator. `false`: an administrator left since the change got this number.
    pub(super) async fn register_admin(&self, name: &UserName, number: u64) -> StoreResult<bool> {
        let write = self.write_to_key(&SCRIPTS.register_admin, keys::ADMINS, name, &self.authority_to_complete());
        self.connections.write(&write.arg(name.as_str()).arg(number)).await
    }
}

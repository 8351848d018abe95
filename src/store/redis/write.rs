//! A script that writes, and the authority that `guard.lua` checks before it.

use redis::{Script, ScriptInvocation, ToRedisArgs};
use tokio::time::Instant;
use uuid::Uuid;

use super::{clock::ClockReading, keys};
use crate::{
    domain::user::{LoginEpoch, Role, UserName},
    store::Authority,
};

/// A script with its keys, arguments and authority. The rest of the guard's arguments is known only when it is sent.
pub(super) struct Write {
    script: &'static Script,
    /// A key in the slot of the script's keys that exists only while a script runs.
    pub(super) mark: String,
    pub(super) principal: Option<Principal>,
    /// The latest moment at which the script may run.
    pub(super) until: Option<Instant>,
    is_repeatable: bool,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

/// The user whose login a write rests on.
pub(super) struct Principal {
    pub(super) name: UserName,
    pub(super) login: LoginEpoch,
    /// The role that the user must have; `None`: any, on the user's own account.
    pub(super) role: Option<Role>,
}

impl Write {
    /// A write to the account of this user.
    pub(super) fn to_user(script: &'static Script, name: &UserName, by: &Authority) -> Self {
        Self::unauthorized(script, name).by(name, by)
    }

    /// A write to the account of this user that needs no authority: its arguments prove the right.
    pub(super) fn unauthorized(script: &'static Script, name: &UserName) -> Self {
        Self::new(script, name.as_str())
    }

    /// A write to a key that belongs to no user, as a step of a change of this user.
    pub(super) fn to_key(script: &'static Script, key: &str, name: &UserName, by: &Authority) -> Self {
        Self::new(script, key).by(name, by).keys([key.to_owned()])
    }

    fn new(script: &'static Script, slot: &str) -> Self {
        let (mark, keys, arguments) = (keys::write_mark(slot), Vec::new(), Vec::new());
        Self { script, mark, principal: None, until: None, is_repeatable: false, keys, arguments }
    }

    fn by(mut self, owner: &UserName, by: &Authority) -> Self {
        let (name, login, role) = match by {
            Authority::Login(login) => (owner, login, None),
            Authority::Administrator { name, login } => (name, login, Some(Role::Admin)),
            Authority::Until(until) => return self.until(*until),
        };
        self.principal = Some(Principal { name: name.clone(), login: *login, role });
        self
    }

    /// The write runs no later than this.
    pub(super) fn until(self, until: Instant) -> Self {
        Self { until: Some(self.until.map_or(until, |earlier| earlier.min(until))), ..self }
    }

    /// A second run does nothing where the first one ran.
    pub(super) fn repeatable(self) -> Self {
        Self { is_repeatable: true, ..self }
    }

    pub(super) fn keys<const N: usize>(mut self, keys: [String; N]) -> Self {
        self.keys.extend(keys);
        self
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// A name for this run, unless the write is repeatable: where redis-rs resends the script, the guard rejects the
    /// name.
    pub(super) fn name(&self) -> Option<Uuid> {
        (!self.is_repeatable).then(Uuid::new_v4)
    }

    /// The administrator whose login the write rests on.
    pub(super) fn administrator(&self) -> Option<&Principal> {
        self.principal.as_ref().filter(|principal| principal.role.is_some())
    }

    /// The script and all its arguments, those of the guard first. `window`: a reading of the server's clock, and the
    /// latest moment at which the script may run.
    pub(super) fn invocation(
        &self,
        name: Option<Uuid>,
        principal: Option<&Principal>,
        window: Option<(ClockReading, Instant)>,
    ) -> ScriptInvocation<'static> {
        let window = window.map(|(clock, until)| clock.window(until).map(|moment| moment.to_string()));
        let [from, to] = window.unwrap_or_default();
        let mut script = self.script.prepare_invoke();
        script.key(principal.map(|principal| keys::user(&principal.name))).key(&self.keys);
        script
            .arg(&self.mark)
            .arg(name.map(|name| name.simple().to_string()).unwrap_or_default())
            .arg(principal.map(|principal| principal.login.to_string()).unwrap_or_default())
            .arg(principal.and_then(|principal| principal.role).map(Role::as_str).unwrap_or_default())
            .arg(from)
            .arg(to)
            .arg(&self.arguments);
        script
    }
}

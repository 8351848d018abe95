//! A script that writes, and the authority that `guard.lua` checks before it.

use redis::{Script, ScriptInvocation, ToRedisArgs};
use tokio::time::Instant;
use uuid::Uuid;

use super::{clock::ClockReading, keys};
use crate::{
    domain::user::{LoginEpoch, Role, UserName},
    store::Authority,
};

/// A script with its keys, arguments and authority. The guard's other arguments are known only when the script is sent.
pub(super) struct Write {
    script: &'static Script,
    /// [`keys::write_mark`], in the Cluster slot of the script's keys.
    pub(super) mark: String,
    /// `None`: no login is checked.
    pub(super) principal: Option<Principal>,
    /// The latest moment at which the script may run.
    pub(super) until: Option<Instant>,
    /// Whether a second run does nothing if the first one ran.
    is_repeatable: bool,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

/// The user whose login a write rests on.
pub(super) struct Principal {
    pub(super) name: UserName,
    /// The login epoch that the user must still have.
    pub(super) login: LoginEpoch,
    /// The role that the user must have; `None`: any, on the user's own account.
    pub(super) role: Option<Role>,
}

impl Write {
    /// A write to the account of this user, with this authority.
    pub(super) fn to_user(script: &'static Script, name: &UserName, by: &Authority) -> Self {
        Self::without_authority(script, name).authorized_by(name, by)
    }

    /// A write to the account of this user that needs no authority: its arguments prove the right.
    pub(super) fn without_authority(script: &'static Script, name: &UserName) -> Self {
        Self::new(script, name.as_str())
    }

    /// A write to a key that belongs to no user, as a step of a change of this user.
    pub(super) fn to_key(script: &'static Script, key: &str, name: &UserName, by: &Authority) -> Self {
        Self::new(script, key).authorized_by(name, by).keys([key.to_owned()])
    }

    /// `slot`: the name or key whose Cluster slot the script's keys are in.
    fn new(script: &'static Script, slot: &str) -> Self {
        let (mark, keys, arguments) = (keys::write_mark(slot), Vec::new(), Vec::new());
        Self { script, mark, principal: None, until: None, is_repeatable: false, keys, arguments }
    }

    /// Adds an authority. `owner`: the user whose account is written.
    fn authorized_by(mut self, owner: &UserName, by: &Authority) -> Self {
        let (name, login, role) = match by {
            Authority::Login(login) => (owner, login, None),
            Authority::Administrator { name, login } => (name, login, Some(Role::Admin)),
            Authority::Until(until) => return self.until(*until),
        };
        self.principal = Some(Principal { name: name.clone(), login: *login, role });
        self
    }

    /// The write runs no later than this, and no later than its authority allows.
    pub(super) fn until(self, until: Instant) -> Self {
        Self { until: Some(self.until.map_or(until, |earlier| earlier.min(until))), ..self }
    }

    /// Declares that a second run does nothing if the first one ran.
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

    /// A new id for one run, unless the write is repeatable: if redis-rs resends the script, the guard rejects the id.
    pub(super) fn run_id(&self) -> Option<Uuid> {
        (!self.is_repeatable).then(Uuid::new_v4)
    }

    /// The principal, if it has to be an administrator.
    pub(super) fn administrator(&self) -> Option<&Principal> {
        self.principal.as_ref().filter(|principal| principal.role.is_some())
    }

    /// The script with all its keys and arguments, those of the guard first. `window`: a reading of the server's clock,
    /// and the latest moment at which the script may run.
    pub(super) fn invocation(
        &self,
        run_id: Option<Uuid>,
        principal: Option<&Principal>,
        window: Option<(ClockReading, Instant)>,
    ) -> ScriptInvocation<'static> {
        let window = window.map(|(clock, until)| clock.window(until).map(|moment| moment.to_string()));
        let [from, to] = window.unwrap_or_default();
        let mut script = self.script.prepare_invoke();
        script.key(principal.map(|principal| keys::user(&principal.name))).key(&self.keys);
        script
            .arg(&self.mark)
            .arg(run_id.map(|id| id.simple().to_string()).unwrap_or_default())
            .arg(principal.map(|principal| principal.login.to_string()).unwrap_or_default())
            .arg(principal.and_then(|principal| principal.role).map(Role::as_str).unwrap_or_default())
            .arg(from)
            .arg(to)
            .arg(&self.arguments);
        script
    }
}

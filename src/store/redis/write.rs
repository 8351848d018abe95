//! A script that writes, and by what right it runs: see `guard.lua`.

use deadpool_redis::redis::{Script, ScriptInvocation, ToRedisArgs};
use tokio::time::Instant;
use uuid::Uuid;

use super::{clock::ClockReading, keys};
use crate::{
    domain::user::{LoginEpoch, Role, UserName},
    store::Authority,
};

/// A write in the making. What it needs to run is known only when it is sent.
pub(super) struct Write<'a> {
    script: &'a Script,
    mark: String,
    asker: Option<Asker>,
    until: Option<Instant>,
    is_repeatable: bool,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

/// On whose login a write rests.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) name: UserName,
    pub(super) login: LoginEpoch,
    /// What the user has to be, where that is more than the owner of the account.
    pub(super) role: Option<Role>,
}

impl<'a> Write<'a> {
    /// A write to the account of this user.
    pub(super) fn to_user(script: &'a Script, name: &UserName, by: &Authority) -> Self {
        Self::new(script, keys::write_mark(name.as_str())).by(name, by)
    }

    /// A write to the account of this user that needs no authority: what it changes shows its right.
    pub(super) fn to_shown(script: &'a Script, name: &UserName) -> Self {
        Self::new(script, keys::write_mark(name.as_str()))
    }

    /// A write to this key, which is no user's, as a step of a change of this user.
    pub(super) fn to_key(script: &'a Script, key: &str, name: &UserName, by: &Authority) -> Self {
        let mut write = Self::new(script, keys::write_mark(key)).by(name, by);
        write.key(key.to_owned());
        write
    }

    fn new(script: &'a Script, mark: String) -> Self {
        let (keys, arguments) = (Vec::new(), Vec::new());
        Self { script, mark, asker: None, until: None, is_repeatable: false, keys, arguments }
    }

    fn by(self, owner: &UserName, by: &Authority) -> Self {
        match by {
            Authority::Login(login) => {
                Self { asker: Some(Asker { name: owner.clone(), login: *login, role: None }), ..self }
            }
            Authority::Administrator { name, login } => {
                let asker = Asker { name: name.clone(), login: *login, role: Some(Role::Admin) };
                Self { asker: Some(asker), ..self }
            }
            Authority::Until(until) => self.until(*until),
        }
    }

    /// Not later than this.
    pub(super) fn until(self, until: Instant) -> Self {
        Self { until: Some(self.until.map_or(until, |earlier| earlier.min(until))), ..self }
    }

    /// A second run does nothing where the first one ran.
    pub(super) fn repeatable(self) -> Self {
        Self { is_repeatable: true, ..self }
    }

    pub(super) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// A key in the slot that it goes to.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// A name that no other write has; `None`: a second run does nothing. In a cluster, redis-rs sends a script again where a
    /// connection breaks, and the guard refuses a name that it has seen.
    pub(super) fn name(&self) -> Option<Uuid> {
        (!self.is_repeatable).then(Uuid::new_v4)
    }

    /// The administrator on whose login the write rests. A script in another slot of a cluster cannot see the role.
    pub(super) fn stranger_to_slot(&self) -> Option<&Asker> {
        self.asker.as_ref().filter(|asker| asker.role.is_some())
    }

    /// Until when it may run, where that is limited.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.until
    }

    /// What to send: under a name that tells it from every other write, by the login of its asker, and within a window of the
    /// server's clock; each where it is needed.
    pub(super) fn invocation(
        &self,
        name: Option<Uuid>,
        asker: Option<&Asker>,
        window: Option<(ClockReading, Instant)>,
    ) -> ScriptInvocation<'a> {
        let window = window.map(|(clock, until)| clock.window(until).map(|moment| moment.to_string()));
        let [from, to] = window.unwrap_or_default();
        let mut script = self.script.prepare_invoke();
        script.key(asker.map(|asker| keys::user(&asker.name))).key(&self.keys);
        script
            .arg(&self.mark)
            .arg(name.map(|name| name.simple().to_string()).unwrap_or_default())
            .arg(asker.map(|asker| asker.login.to_string()).unwrap_or_default())
            .arg(asker.and_then(|asker| asker.role).map(Role::as_str).unwrap_or_default())
            .arg(from)
            .arg(to)
            .arg(&self.arguments);
        script
    }

    /// The user on whose login it rests.
    pub(super) fn asker(&self) -> Option<&Asker> {
        self.asker.as_ref()
    }
}

//! A script that writes, and by what right it runs: see `guard.lua`.

use deadpool_redis::redis::{Script, ScriptInvocation, ToRedisArgs};
use tokio::time::Instant;
use uuid::Uuid;

use super::{clock::ClockReading, keys};
use crate::{
    domain::user::{LoginEpoch, UserName},
    store::Authority,
};

/// A write in the making. What it needs to run is known only when it is sent.
pub(super) struct Write<'a> {
    script: &'a Script,
    mark: String,
    login: Option<(String, LoginEpoch)>,
    until: Option<Instant>,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl<'a> Write<'a> {
    /// A write to the account of this user.
    pub(super) fn to_user(script: &'a Script, name: &UserName, by: Authority) -> Self {
        let write = Self::new(script, keys::write_mark(name.as_str()));
        match by {
            Authority::Login(epoch) => Self { login: Some((keys::user(name), epoch)), ..write },
            Authority::Until(until) => write.until(until),
        }
    }

    /// A write to the account of this user that needs no authority: what it changes shows its right.
    pub(super) fn to_shown(script: &'a Script, name: &UserName) -> Self {
        Self::new(script, keys::write_mark(name.as_str()))
    }

    /// A write to this key, which is no user's.
    pub(super) fn to_key(script: &'a Script, key: &str, until: Instant) -> Self {
        let mut write = Self::new(script, keys::write_mark(key)).until(until);
        write.key(key.to_owned());
        write
    }

    fn new(script: &'a Script, mark: String) -> Self {
        Self { script, mark, login: None, until: None, keys: Vec::new(), arguments: Vec::new() }
    }

    /// Not later than this.
    pub(super) fn until(self, until: Instant) -> Self {
        Self { until: Some(self.until.map_or(until, |earlier| earlier.min(until))), ..self }
    }

    pub(super) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// Until when it may run, where that is limited.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.until
    }

    /// A key in the slot that it goes to.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// What to send. `name` tells it from every other write, where something may send it twice.
    pub(super) fn invocation(&self, name: Option<Uuid>, clock: Option<ClockReading>) -> ScriptInvocation<'a> {
        let window = self.until.map(|until| clock.expect("a limited write is dated").window(until));
        let [from, to] = window.map_or_else(Default::default, |window| window.map(|moment| moment.to_string()));
        let mut script = self.script.prepare_invoke();
        script.key(&self.mark).key(self.login.as_ref().map(|(user, _)| user)).key(&self.keys);
        script
            .arg(name.map(|name| name.simple().to_string()).unwrap_or_default())
            .arg(self.login.as_ref().map(|(_, epoch)| epoch.to_string()).unwrap_or_default())
            .arg(from)
            .arg(to)
            .arg(&self.arguments);
        script
    }
}

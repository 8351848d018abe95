//! The setup that a Redis server reports (`INFO`), and the faults in it.

use redis::{ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};

use crate::store::{Health, StoreError, Warning};

/// A script finds the tokens to revoke in the index.
const EVICTS_ALL: Warning = "Redis may evict any key when its memory is full, also the index of a user's tokens, \
                             without which removing the user does not revoke them: set maxmemory-policy to \
                             noeviction";

/// An evicted key is a revoked token.
const EVICTS_TOKENS: Warning = "Redis may evict tokens when its memory is full, which revokes them without notice: set \
                                maxmemory-policy to noeviction";

/// Without an append-only file, a crash undoes revocations.
const NO_PERSISTENCE: Warning = "Redis keeps no append-only file: a crash loses new tokens and may bring revoked ones \
                              back. Set appendonly to yes";

/// `iat` and `exp` come from Redis' clock, so that all Mayfly processes agree. Other services check `exp` by their own
/// clock.
pub(super) const CLOCKS_DIFFER: Warning =
    "the clocks of this machine and of Redis differ by 2 s or more: synchronize both (NTP)";

/// The flags of the scripts (`#!lua`) need 7.0.
const TOO_OLD: Warning = "Redis is older than 7.0, which is the oldest that works: upgrade it";

/// INFO has `min_slaves_good_slaves` only with `min-replicas-to-write`.
const SPLIT_BRAIN: Warning = "Redis answers while it is cut off from its replicas and sentinels, and may accept tokens \
                              that were revoked after another primary was promoted: set min-replicas-to-write and \
                              min-replicas-max-lag as in deploy/sentinel/redis.conf";

/// Only INFO reports eviction, persistence and version.
const NO_INFO: Warning = "Redis does not allow this service's user to ask how it is set up (INFO), so eviction, \
                          persistence and version are not checked: allow it (+info)";

/// All writes to users and tokens are scripts.
const NO_SCRIPTS: Warning = "Redis does not allow this service's user to run scripts, without which no token is issued \
                             or revoked: give it the rights in deploy/redis-acl";

/// Whether Redis rejected a command because its rules (ACL) forbid it to this user.
pub(super) fn is_command_forbidden(error: &StoreError) -> bool {
    let StoreError::Refused(cause) = error else { return false };
    let cause = cause.downcast_ref::<RedisError>().map(RedisError::kind);
    cause == Some(ErrorKind::Server(ServerErrorKind::NoPerm))
}

/// The health of a server that does not allow scripts.
pub(super) fn health_if_scripts_forbidden() -> Health {
    Health { fault: Some(NO_SCRIPTS), ..Health::default() }
}

/// The faults in the setup that `INFO` reports. `info`: the text of one server, or a map from node to text of a
/// Cluster; `None`: INFO is not allowed. `survives_failover`: whether acknowledged writes have to survive that
/// sentinels promote a Redis replica.
pub(super) fn health_by_info(info: Option<&Value>, survives_failover: bool) -> Health {
    let nodes = match info {
        None => return Health { warnings: vec![NO_INFO], ..Health::default() },
        Some(Value::Map(nodes)) => nodes.iter().map(|(_, text)| text).collect(),
        Some(one) => vec![one],
    };
    let texts: Vec<_> = nodes.into_iter().filter_map(|text| String::from_redis_value_ref(text).ok()).collect();
    let any = |name: &str, is_wrong: fn(&str) -> bool| texts.iter().filter_map(|text| field(text, name)).any(is_wrong);
    let is_old = |version: &str| {
        version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 7)
    };
    let writes_alone = |text: &&String| {
        field(text, "role").is_some_and(|role| role == "master") && field(text, "min_slaves_good_slaves").is_none()
    };
    let warnings = [
        (any("maxmemory_policy", |policy| policy.starts_with("volatile")), EVICTS_TOKENS),
        (any("aof_enabled", |enabled| enabled == "0"), NO_PERSISTENCE),
        (any("redis_version", is_old), TOO_OLD),
        (survives_failover && texts.iter().any(|text| writes_alone(&text)), SPLIT_BRAIN),
    ];
    Health {
        fault: any("maxmemory_policy", |policy| policy.starts_with("allkeys")).then_some(EVICTS_ALL),
        warnings: warnings.into_iter().filter_map(|(is_wrong, warning)| is_wrong.then_some(warning)).collect(),
        had_admin: None,
    }
}

/// The value of this field in the text of INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(info: &str) -> Value {
        Value::BulkString(info.into())
    }

    #[test]
    fn a_good_setup_gives_no_warning() {
        let good = "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        assert_eq!(health_by_info(Some(&text(good)), true), Health::default());
        // A provider may hide fields.
        assert_eq!(health_by_info(Some(&text("")), true), Health::default());
    }

    #[test]
    fn a_primary_that_writes_without_replicas_is_reported_if_sentinels_promote_another() {
        let [alone, with_replicas] = [text("role:master\r\n"), text("role:master\r\nmin_slaves_good_slaves:1\r\n")];
        assert_eq!(health_by_info(Some(&alone), true).warnings, [SPLIT_BRAIN]);
        assert_eq!(health_by_info(Some(&alone), false), Health::default());
        assert_eq!(health_by_info(Some(&with_replicas), true), Health::default());
    }

    #[test]
    fn each_node_of_a_cluster_is_checked() {
        let good = (text("a:1"), text("aof_enabled:1\r\n"));
        let bad = (text("b:1"), text("redis_version:6.2.1\r\nmaxmemory_policy:volatile-lru\r\naof_enabled:0\r\n"));
        let worse = (text("c:1"), text("maxmemory_policy:allkeys-lru\r\n"));
        let Health { fault, warnings, .. } = health_by_info(Some(&Value::Map(vec![good, bad, worse])), true);
        assert_eq!((fault, &*warnings), (Some(EVICTS_ALL), &[EVICTS_TOKENS, NO_PERSISTENCE, TOO_OLD][..]));
    }
}

//! What a server says of itself, and what is wrong with it.

use deadpool_redis::redis::{FromRedisValue, Value};

use crate::store::Warning;

/// An evicted key is a silently revoked token.
const EVICTION: Warning = "Redis may evict keys when its memory is full, and an evicted key is a token revoked without \
                           anybody knowing: set maxmemory-policy to noeviction";

/// Without an append-only file a crash forgets revocations.
const PERSISTENCE: Warning = "Redis keeps no append-only file: after a crash, new tokens are gone and revoked ones may be \
                              back. Set appendonly to yes";

/// Our scripts use what came with 7.0.
const AGE: Warning = "Redis is older than 7.0, which is the oldest that works: upgrade it";

/// What an answer to `INFO` tells: of one server its text, of a cluster a map from each node to its text.
pub(super) fn warnings(info: &Value) -> Vec<Warning> {
    let nodes = match info {
        Value::Map(nodes) => nodes.iter().map(|(_, text)| text).collect(),
        one => vec![one],
    };
    let texts: Vec<_> = nodes.into_iter().filter_map(|text| String::from_redis_value_ref(text).ok()).collect();
    let any = |name: &str, is_wrong: fn(&str) -> bool| texts.iter().filter_map(|text| field(text, name)).any(is_wrong);
    let is_old = |version: &str| {
        version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 7)
    };
    [
        (any("maxmemory_policy", |policy| policy != "noeviction"), EVICTION),
        (any("aof_enabled", |enabled| enabled == "0"), PERSISTENCE),
        (any("redis_version", is_old), AGE),
    ]
    .into_iter()
    .filter_map(|(is_wrong, warning)| is_wrong.then_some(warning))
    .collect()
}

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
    fn a_server_that_is_set_up_well_gives_no_warning() {
        let good = "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        assert!(warnings(&text(good)).is_empty());
        // What a provider hides is no reason to worry anybody.
        assert!(warnings(&text("")).is_empty());
    }

    #[test]
    fn each_node_of_a_cluster_is_looked_at() {
        let good = (text("a:1"), text("aof_enabled:1\r\n"));
        let bad = (text("b:1"), text("redis_version:6.2.1\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n"));
        assert_eq!(warnings(&Value::Map(vec![good, bad])), [EVICTION, PERSISTENCE, AGE]);
    }
}

//! The Lua scripts, each under the name of its file.

use std::{collections::HashMap, sync::LazyLock};

use redis::Script;

/// Every `guarded` script begins with this one.
const GUARD: &str = include_str!("guard.lua");

macro_rules! scripts {
    (guarded: $($guarded:ident),+; others: $($other:ident),+) => {
        /// Each script, by its name.
        pub(super) struct Scripts {
            $(pub(super) $guarded: Script,)+
            $(pub(super) $other: Script,)+
        }

        /// All scripts. A guarded one is sent by [`super::write::Write`], with its authority.
        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($guarded: guarded(include_str!(concat!(stringify!($guarded), ".lua"))),)+
            $($other: Script::new(include_str!(concat!(stringify!($other), ".lua"))),)+
        });

        /// The names of the scripts by the hash that EVALSHA sends.
        static NAMES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| HashMap::from([
            $((SCRIPTS.$guarded.get_hash(), stringify!($guarded)),)+
            $((SCRIPTS.$other.get_hash(), stringify!($other)),)+
        ]));
    };
}

scripts!(
    guarded: create_token, revoke_token, revoke_tokens, revoke_listed, create_user, update_user, replace_hash,
        remove_user, number_change, register_admin, add_name, remove_name, mark, find_repetition;
    others: list_tokens, index_expiries, reserve_attempt, login_succeeded, probe, time
);

/// A script with the guard after its first line, which holds the flags of the script.
fn guarded(text: &str) -> Script {
    let (flags, body) = text.split_once('\n').expect("a script has lines");
    Script::new(&format!("{flags}\n{GUARD}\n{body}"))
}

/// The name of the script with this hash, a SHA-1 in hexadecimal.
pub(super) fn name_by_hash(hash: &[u8]) -> Option<&'static str> {
    NAMES.get(str::from_utf8(hash).ok()?).copied()
}

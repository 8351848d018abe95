//! The Lua scripts, each under the name of its file.

use std::{collections::HashMap, sync::LazyLock};

use redis::Script;

/// Every `guarded` script begins with this one.
const GUARD: &str = include_str!("guard.lua");

/// What scripts need to know of the hash of last uses. It comes before the guard.
const USES: &str = include_str!("uses.lua");

macro_rules! scripts {
    (guarded: $($guarded:ident),+; with_uses: $($with_uses:ident),+; others: $($other:ident),+) => {
        /// Each script, by its name.
        pub(super) struct Scripts {
            $(pub(super) $guarded: Script,)+
            $(pub(super) $with_uses: Script,)+
            $(pub(super) $other: Script,)+
        }

        /// All scripts. A guarded one is sent by [`super::write::Write`], with its authority.
        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($guarded: after(&[USES, GUARD], include_str!(concat!(stringify!($guarded), ".lua"))),)+
            $($with_uses: after(&[USES], include_str!(concat!(stringify!($with_uses), ".lua"))),)+
            $($other: Script::new(include_str!(concat!(stringify!($other), ".lua"))),)+
        });

        /// The names of the scripts by the hash that EVALSHA sends.
        static NAMES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| HashMap::from([
            $((SCRIPTS.$guarded.get_hash(), stringify!($guarded)),)+
            $((SCRIPTS.$with_uses.get_hash(), stringify!($with_uses)),)+
            $((SCRIPTS.$other.get_hash(), stringify!($other)),)+
        ]));
    };
}

scripts!(
    guarded: create_token, revoke_token, revoke_tokens, revoke_listed, create_user, update_user, replace_hash,
        remove_user, number_change, register_admin, add_name, remove_name, mark, find_repetition;
    with_uses: list_tokens, index_expiries, record_uses;
    others: reserve_attempt, login_succeeded, probe, time
);

/// A script with these ones after its first line, which holds the flags of the script.
fn after(preludes: &[&str], text: &str) -> Script {
    let (flags, body) = text.split_once('\n').expect("a script has lines");
    Script::new(&format!("{flags}\n{}\n{body}", preludes.join("\n")))
}

/// The name of the script with this hash, a SHA-1 in hexadecimal.
pub(super) fn name_by_hash(hash: &[u8]) -> Option<&'static str> {
    NAMES.get(str::from_utf8(hash).ok()?).copied()
}

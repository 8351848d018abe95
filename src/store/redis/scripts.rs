//! The Lua scripts, each under the name of its file.

use std::{collections::HashMap, sync::LazyLock};

use redis::Script;

/// Begins each script that [`super::write::Write`] sends: checks its authority.
const GUARD: &str = include_str!("guard.lua");

/// Functions that several scripts need. Eight of them cost each run of a script 0.5 µs, called or not.
const USES: &str = include_str!("uses.lua");
const REPETITION: &str = include_str!("repetition.lua");
const LAST_CHANGE: &str = include_str!("last_change.lua");
const DELETE_TOKENS: &str = include_str!("delete_tokens.lua");

macro_rules! scripts {
    ($($script:ident: $preludes:expr;)+) => {
        /// Each script, by its name.
        pub(super) struct Scripts {
            $(pub(super) $script: Script,)+
        }

        /// All scripts.
        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($script: after(&$preludes, include_str!(concat!(stringify!($script), ".lua"))),)+
        });

        /// The names of the scripts by the hash that EVALSHA sends.
        static NAMES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| HashMap::from([
            $((SCRIPTS.$script.get_hash(), stringify!($script)),)+
        ]));
    };
}

// Each script, and the files that are put before it, in this order.
scripts! {
    create_token: [GUARD, USES, REPETITION];
    revoke_token: [GUARD, USES];
    revoke_listed: [GUARD, USES];
    revoke_tokens: [GUARD, DELETE_TOKENS];
    find_repetition: [GUARD, REPETITION];
    create_user: [GUARD];
    update_user: [GUARD, LAST_CHANGE, DELETE_TOKENS];
    remove_user: [GUARD, LAST_CHANGE, DELETE_TOKENS];
    replace_hash: [GUARD];
    number_change: [GUARD];
    register_admin: [GUARD];
    add_name: [GUARD];
    remove_name: [GUARD];
    mark: [GUARD];
    list_tokens: [USES];
    index_expiries: [USES];
    record_uses: [USES];
    reserve_attempt: [];
    login_succeeded: [];
    probe: [];
    time: [];
}

/// A script with these ones after its first line, which holds the flags of the script.
fn after(preludes: &[&str], text: &str) -> Script {
    let (flags, body) = text.split_once('\n').expect("a script has lines");
    Script::new(&format!("{flags}\n{}\n{body}", preludes.join("\n")))
}

/// The name of the script with this hash, a SHA-1 in hexadecimal.
pub(super) fn name_by_hash(hash: &[u8]) -> Option<&'static str> {
    NAMES.get(str::from_utf8(hash).ok()?).copied()
}

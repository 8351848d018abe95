//! The scripts, each by the name of its file.

use std::{collections::HashMap, sync::LazyLock};

use deadpool_redis::redis::Script;

/// What each script that writes begins with.
const GUARD: &str = include_str!("guard.lua");

macro_rules! scripts {
    (writing: $($write:ident),+; others: $($other:ident),+) => {
        /// All scripts. One that writes is sent by [`super::write::Write`], which says by what right.
        pub(super) struct Scripts {
            $(pub(super) $write: Script,)+
            $(pub(super) $other: Script,)+
        }

        impl Scripts {
            pub(super) fn load() -> Self {
                Self {
                    $($write: guarded(include_str!(concat!(stringify!($write), ".lua"))),)+
                    $($other: Script::new(include_str!(concat!(stringify!($other), ".lua"))),)+
                }
            }
        }

        /// By the hash that they are sent by.
        static NAMES: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
            let scripts = Scripts::load();
            HashMap::from([
                $((scripts.$write.get_hash().to_owned(), stringify!($write)),)+
                $((scripts.$other.get_hash().to_owned(), stringify!($other)),)+
            ])
        });
    };
}

scripts!(
    writing: create_token,
    revoke_token,
    revoke_tokens,
    create_user,
    update_user,
    replace_hash,
    remove_user,
    unregister_admin,
    register_admin,
    number_change,
    add_name,
    remove_name,
    mark;
    others: list_tokens,
    reserve_attempt,
    login_succeeded,
    probe,
    time
);

/// A script with the guard behind its first line, which says how Redis is to run it.
fn guarded(text: &str) -> Script {
    let (flags, body) = text.split_once('\n').expect("a script has lines");
    Script::new(&format!("{flags}\n{GUARD}\n{body}"))
}

/// The name of the script with this hash.
pub(super) fn name(hash: &[u8]) -> Option<&'static str> {
    NAMES.get(str::from_utf8(hash).ok()?).copied()
}

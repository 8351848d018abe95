//! The scripts, each by the name of its file.

use std::{collections::HashMap, sync::LazyLock};

use deadpool_redis::redis::Script;

macro_rules! scripts {
    ($($name:ident),+) => {
        /// All scripts.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        impl Scripts {
            pub(super) fn load() -> Self {
                Self { $($name: Script::new(include_str!(concat!(stringify!($name), ".lua"))),)+ }
            }
        }

        /// By the hash that they are sent by.
        static NAMES: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
            let scripts = Scripts::load();
            HashMap::from([$((scripts.$name.get_hash().to_owned(), stringify!($name))),+])
        });
    };
}

scripts!(
    create_token,
    list_tokens,
    revoke_token,
    revoke_tokens,
    create_user,
    update_user,
    replace_hash,
    remove_user,
    admit_login,
    excuse_login,
    withdraw_admin,
    count_admin,
    probe
);

/// The name of the script with this hash.
pub(super) fn name(hash: &[u8]) -> Option<&'static str> {
    NAMES.get(str::from_utf8(hash).ok()?).copied()
}

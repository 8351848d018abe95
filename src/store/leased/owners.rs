//! The names of the owners of cached tokens, each once in memory.

use std::sync::Arc;

use foldhash::quality::RandomState;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::domain::user::UserName;

/// The names that were asked for last, so that all cached tokens of a user share one allocation.
pub(super) struct Owners(Cache<Arc<UserName>, Arc<UserName>, UnitWeighter, RandomState>);

impl Owners {
    /// For the owners of this many tokens. Each of at most an eighth as many names is kept while it is asked for; a
    /// name that was dropped is allocated again for the next tokens.
    pub(super) fn new(tokens: usize) -> Self {
        let max = tokens / 8;
        Self(Cache::with(max, max as u64, UnitWeighter, RandomState::default(), DefaultLifecycle::default()))
    }

    /// This name, in the allocation of an earlier call if that is kept.
    pub(super) fn share(&self, name: UserName) -> Arc<UserName> {
        self.0.get(&name).unwrap_or_else(|| {
            let name = Arc::new(name);
            self.0.insert(Arc::clone(&name), Arc::clone(&name));
            name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_allocated_once_and_their_number_is_bounded() {
        let owners = Owners::new(8 * 100);
        let name = |number: usize| format!("user{number}").parse::<UserName>().unwrap();
        assert!(Arc::ptr_eq(&owners.share(name(0)), &owners.share(name(0))));
        for number in 0..1000 {
            owners.share(name(number));
        }
        assert!(owners.0.len() <= 100);
    }
}

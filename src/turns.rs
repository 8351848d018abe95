//! Turns: a user who repeats costly work on many connections is served one at a time, beside all others.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The number of places that all keys share: two keys in one place wait for each other, too.
const PLACES: usize = 1024;

/// Lets one caller of each key go on at a time; the others wait in the order in which they came.
pub struct Turns {
    places: Box<[Semaphore]>,
    /// Random, so that nobody can choose a key that shares the place of another.
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Semaphore::new(1)).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits for a turn of this key. It ends when the permit is dropped.
    ///
    /// # Panics
    /// Never: the places are not closed.
    pub async fn wait(&self, key: impl Hash) -> SemaphorePermit<'_> {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is a place")]
        let place = self.hasher.hash_one(key) as usize % PLACES;
        self.places[place].acquire().await.expect("it is never closed")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_caller_of_a_key_goes_on_at_a_time_and_other_keys_do_not_wait() {
        let turns = Turns::default();
        let (key, other) = (0, (1..100).find(|other| place(&turns, other) != place(&turns, 0)).unwrap());
        let first = turns.wait(key).await;
        assert!(turns.wait(key).now_or_never().is_none());
        assert!(turns.wait(other).now_or_never().is_some());
        drop(first);
        assert!(turns.wait(key).now_or_never().is_some());
    }

    fn place(turns: &Turns, key: impl Hash) -> u64 {
        turns.hasher.hash_one(key) % PLACES as u64
    }
}

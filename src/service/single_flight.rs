//! The same work, wanted by many at the same time, done once.

use std::{
    collections::HashMap,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::run_to_completion;

/// Work under way, by what it is for.
pub(super) struct SingleFlight<K, V>(Arc<Mutex<HashMap<K, Flight<V>>>>);

/// Its result, for all who wait; `None`: it panicked.
type Flight<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Work that is to be forgotten when it ends, however that comes about.
struct Landing<K: Hash + Eq, V> {
    flights: SingleFlight<K, V>,
    key: K,
}

impl<K, V> SingleFlight<K, V> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the work for this key that is under way, or else of this. It is done to its end, even where all who
    /// wait for it go away.
    ///
    /// # Panics
    /// Where the work does.
    pub(super) async fn run(&self, key: K, work: impl Future<Output = V> + Send + 'static) -> V {
        let begin = |key: &K| {
            let landing = Landing { flights: Self(Arc::clone(&self.0)), key: key.clone() };
            let work = async move {
                let _landing = landing;
                work.await
            };
            AssertUnwindSafe(run_to_completion(work)).catch_unwind().map(Result::ok).boxed().shared()
        };
        let flight = self.flights().entry(key).or_insert_with_key(begin).clone();
        flight.await.expect("what panicked is in the log")
    }
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.flights().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::{sync::Notify, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn the_same_work_is_done_once_at_a_time_and_to_its_end() {
        let flights = SingleFlight::new();
        let (begun, ended, go) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<Notify>)>::default();
        let work = || {
            let (begun, ended, go) = (Arc::clone(&begun), Arc::clone(&ended), Arc::clone(&go));
            async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                ended.fetch_add(1, Ordering::SeqCst);
                number
            }
        };
        let all = join_all((0..10).map(|_| flights.run("key", work())));
        let (numbers, ()) = tokio::join!(all, async { go.notify_one() });
        assert_eq!(numbers, [0; 10]);

        // Nobody waits for it any more, nor stands in the way of the next.
        let mut abandoned = Box::pin(flights.run("key", work()));
        assert!(futures_util::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        go.notify_one();
        while ended.load(Ordering::SeqCst) < 2 {
            yield_now().await;
        }
        go.notify_one();
        assert_eq!(flights.run("key", work()).await, 2);
        assert!(flights.flights().is_empty());
    }

    #[tokio::test]
    async fn work_that_panics_leaves_nobody_waiting() {
        let flights = SingleFlight::<_, ()>::new();
        let run = || AssertUnwindSafe(flights.run("key", async { panic!("the work") })).catch_unwind();
        assert!(join_all([run(), run()]).await.iter().all(Result::is_err));
        assert!(flights.flights().is_empty());
    }
}

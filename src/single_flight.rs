//! Single flight: callers that want the same result at the same time share one run of the work.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Work under way, by key. The callers themselves poll the work; once all its callers are dropped, it is dropped, too.
pub struct SingleFlight<K, V> {
    /// Work that started longer ago is joined by no further caller.
    max_age: Duration,
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// One run of the work, which its callers share.
struct Flight<V> {
    started: Instant,
    work: WeakShared<BoxFuture<'static, V>>,
}

/// Removes a flight when its work ends, panics or is dropped.
struct RemoveOnDrop<K: Hash + Eq, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
    started: Instant,
}

impl<K, V> SingleFlight<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Shares work with callers who come less than `max_age` after it started.
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, flights: Arc::default() }
    }

    /// Returns the result of the work under way for `key`, or else of the work that `start` begins.
    ///
    /// # Panics
    /// If the work does.
    pub async fn run<W>(&self, key: K, start: impl FnOnce() -> W) -> V
    where
        W: Future<Output = V> + Send + 'static,
    {
        let flight = {
            let mut flights = self.flights.lock();
            let started = Instant::now();
            let recent = flights.get(&key).filter(|flight| started.duration_since(flight.started) < self.max_age);
            recent.and_then(|flight| flight.work.upgrade()).unwrap_or_else(|| {
                let guard = RemoveOnDrop { flights: Arc::clone(&self.flights), key: key.clone(), started };
                let work = start();
                let flight = async move {
                    let _guard = guard;
                    work.await
                };
                let flight = flight.boxed().shared();
                let work = flight.downgrade().expect("it has not ended");
                flights.insert(key, Flight { started, work });
                flight
            })
        };
        flight.await
    }
}

impl<K: Hash + Eq, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // A later flight may have taken the place of this one.
        if flights.get(&self.key).is_some_and(|flight| flight.started == self.started) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::AssertUnwindSafe,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::{future::join_all, poll};
    use tokio::{
        sync::Notify,
        time::{advance, pause},
    };

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn callers_share_one_run_unless_it_is_too_old_or_all_others_are_gone() {
        pause();
        let flights = SingleFlight::new(MAX_AGE);
        let (started, go) = (AtomicUsize::new(0), Arc::new(Notify::new()));
        let work = || {
            let (number, go) = (started.fetch_add(1, Ordering::SeqCst), Arc::clone(&go));
            async move {
                go.notified().await;
                number
            }
        };
        let mut abandoned = Box::pin(flights.run("key", work));
        assert!(poll!(&mut abandoned).is_pending());
        drop(abandoned);
        assert!(flights.flights.lock().is_empty());

        let mut first = Box::pin(flights.run("key", work));
        assert!(poll!(&mut first).is_pending());
        advance(MAX_AGE / 2).await;
        let mut joined = Box::pin(join_all((0..10).map(|_| flights.run("key", work))));
        assert!(poll!(&mut joined).is_pending());
        // The work goes on without the caller that began it.
        drop(first);
        advance(MAX_AGE / 2).await;
        let mut later = Box::pin(flights.run("key", work));
        assert!(poll!(&mut later).is_pending());
        go.notify_waiters();
        assert_eq!((joined.await, later.await), (vec![1; 10], 2));
        assert!(flights.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_panic_reaches_all_callers() {
        let flights = SingleFlight::<_, ()>::new(MAX_AGE);
        let run = || AssertUnwindSafe(flights.run("key", || async { panic!("the work") })).catch_unwind();
        assert!(join_all([run(), run()]).await.iter().all(Result::is_err));
        assert!(flights.flights.lock().is_empty());
    }
}

//! The places that there are for connections, and who gives up its own for a newcomer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Places for so many connections at once.
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Whether a newcomer waits for somebody to leave. A word to one who leaves for another reason in this moment passes on to
    /// the next, by when the newcomer may have its place.
    is_wanted: AtomicBool,
    /// Told to whoever has been idle for longest.
    wanted: Notify,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), is_wanted: AtomicBool::new(false), wanted: Notify::new() }
    }

    /// A place, if one is free.
    pub(super) fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// A place for the one newcomer that waits at a time, as soon as somebody leaves, who is asked to.
    pub(super) async fn wait(&self) -> OwnedSemaphorePermit {
        self.is_wanted.store(true, Relaxed);
        self.wanted.notify_one();
        let place = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        self.is_wanted.store(false, Relaxed);
        place
    }

    /// Returns when whoever awaits it is to leave. One for each newcomer: of all who are idle, who began to await it first.
    pub(super) async fn wanted(&self) {
        loop {
            self.wanted.notified().await;
            if self.is_wanted.swap(false, Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_has_been_idle_for_longest_leaves_and_nobody_else() {
        let places = Places::new(3);
        let mut taken: Vec<_> = (0..3).map(|_| places.free().unwrap()).collect();
        let (mut first, mut second) = (Box::pin(places.wanted()), Box::pin(places.wanted()));
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        assert!(places.free().is_none());
        let mut newcomer = Box::pin(places.wait());
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert_eq!((second.as_mut().now_or_never(), first.now_or_never()), (None, Some(())));
        taken.pop();
        assert!(newcomer.now_or_never().is_some());
        assert_eq!(second.now_or_never(), None);
    }

    #[test]
    fn whoever_becomes_idle_while_a_newcomer_waits_leaves() {
        let places = Places::new(1);
        let _taken = places.free().unwrap();
        assert!(Box::pin(places.wait()).as_mut().now_or_never().is_none());
        assert_eq!(places.wanted().now_or_never(), Some(()));
    }

    #[test]
    fn a_newcomer_is_not_taken_for_the_one_who_was_to_leave() {
        let places = Places::new(2);
        let (_idle, busy) = (places.free().unwrap(), places.free().unwrap());
        let mut idle = Box::pin(places.wanted());
        assert_eq!(idle.as_mut().now_or_never(), None);
        let mut newcomer = Box::pin(places.wait());
        assert!(newcomer.as_mut().now_or_never().is_none());
        // Asked to leave, it has not noticed yet, when another leaves of itself.
        drop(busy);
        let _place = newcomer.now_or_never().unwrap();
        let mut newcomer = Box::pin(places.wanted());
        assert_eq!(newcomer.as_mut().now_or_never(), None);
        // It hangs up, and what it was told passes on.
        drop(idle);
        assert_eq!(newcomer.now_or_never(), None);
    }
}

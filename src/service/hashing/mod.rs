//! Passwords are hashed as many at once as there are cores, after a short wait, and never at the cost of other work.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
};

use tokio::sync::{Semaphore, oneshot};

use self::thread::{HashThread, Work};
use crate::{
    domain::password::{HashCost, Password, PasswordHash},
    telemetry::{self, metrics},
};

mod metronome;
mod thread;

/// How many may wait for each core. At 17 to 30 ms a hash, the last of them waits about a second.
const WAITING_PER_CORE: usize = 32;

/// Hashes passwords, and verifies them against hashes. One for the whole process, since its bounds are the machine's.
pub struct Hashing {
    cost: HashCost,
    cores: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Those that have nothing to do; as many as there are free cores.
    threads: Arc<Mutex<Vec<HashThread>>>,
}

/// There are more passwords to hash than can be hashed in good time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords to hash at once")]
pub struct Busy;

impl Hashing {
    /// New hashes are to cost this.
    ///
    /// # Panics
    /// Outside of a runtime, and where the process may have no threads.
    pub fn new(cost: HashCost) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            cost,
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(cores * (1 + WAITING_PER_CORE))),
            threads: Arc::new(Mutex::new((0..cores).map(|_| HashThread::start()).collect())),
        }
    }

    /// What a new hash costs.
    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// A new hash of this password.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Busy> {
        let cost = self.cost;
        self.on_a_core(move || PasswordHash::of(&password, cost)).await
    }

    /// Whether this is the password of the hash.
    pub async fn verify(&self, hash: PasswordHash, password: Password) -> Result<bool, Busy> {
        self.on_a_core(move || hash.verify(&password)).await
    }

    /// Says early that there is no place to wait, to whom it would cost something to come so far.
    pub fn expect_room(&self) -> Result<(), Busy> {
        if self.places.available_permits() > 0 { Ok(()) } else { Err(busy()) }
    }

    /// Works when it is its turn, on a thread that does nothing else: the threads that answer requests keep their priority.
    async fn on_a_core<T: Send + 'static>(&self, work: impl Fn() -> T + Send + 'static) -> Result<T, Busy> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy())?;
        let waiting = metrics::password_hash_waiting();
        let core = Arc::clone(&self.cores).acquire_owned().await.expect("it is never closed");
        drop(waiting);
        let (done, result) = oneshot::channel();
        let idle = self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut thread = idle.expect("there is a thread for each core");
        let hashing = Box::new(Hash { work, result: None, done });
        // It goes on, and the permits with it, when the client has gone away.
        let threads = Arc::clone(&self.threads);
        tokio::spawn(async move {
            let hashing = thread.run(hashing).await.expect("its thread lives as long as itself");
            threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            drop((place, core));
            hashing.deliver();
        });
        Ok(telemetry::password_hash(result).await.expect("hashing does not panic"))
    }
}

/// What is to be worked out, and for whom.
struct Hash<W, T> {
    work: W,
    result: Option<T>,
    done: oneshot::Sender<T>,
}

impl<W: Fn() -> T + Send, T: Send> Work for Hash<W, T> {
    fn run(&mut self) {
        // Who waits for it finds out. The thread goes on.
        self.result = catch_unwind(AssertUnwindSafe(&self.work)).ok();
    }

    fn deliver(self: Box<Self>) {
        // Nobody may be waiting for it any more.
        let Self { result, done, .. } = *self;
        result.and_then(|result| done.send(result).ok());
    }
}

fn busy() -> Busy {
    metrics::password_hash_refused();
    Busy
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn no_more_work_at_once_than_there_are_cores_and_the_rest_waits_or_goes() {
        let hashing = Hashing::new(HashCost::default());
        let cores = available_parallelism().unwrap().get();
        let places = hashing.places.available_permits();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all_cores = Arc::new(Barrier::new(cores));
        let work = || {
            let (running, most, all_cores) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&all_cores));
            hashing.on_a_core(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Nobody goes on before every core has its work.
                all_cores.wait();
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let results = futures_util::future::join_all((0..places + 3).map(|_| work())).await;
        assert_eq!(results.iter().filter(|result| **result == Err(Busy)).count(), 3);
        assert_eq!(most.load(Ordering::SeqCst), cores);
        assert_eq!(hashing.places.available_permits(), places);
    }

    #[tokio::test]
    async fn a_panic_costs_no_thread() {
        let hashing = Arc::new(Hashing::new(HashCost::default()));
        for _ in 0..2 * available_parallelism().unwrap().get() {
            let panicking = Arc::clone(&hashing);
            let task = tokio::spawn(async move { panicking.on_a_core(|| panic!("a bug")).await });
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(hashing.on_a_core(|| 7).await, Ok(7));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hashing_gives_way_and_nothing_else_does() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

        let policy = || thread_schedule_policy().unwrap();
        let own = policy();
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(Hashing::new(HashCost::default()).on_a_core(policy).await, Ok(idle));
        assert_eq!(policy(), own);
    }
}

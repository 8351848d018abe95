//! Password hashing: one hash per core at a time, after a bounded wait, and at the lowest priority.
//!
//! Passwords wait for a core in three lanes ([`Lane`]), which take turns and have a bounded queue each. So a flood in
//! one lane delays the others by its turns, and cannot fill their queues.
//!
//! A hash runs on an idle thread (`SCHED_IDLE`), which gets a core only when nothing else wants it. Beside four busy
//! programs such a thread got 0.15 % of a core, and a login took 13 s. So a hash that takes ten times too long is
//! started again on a fallback thread of nice 10, which gets a tenth of the share of another thread.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::hash_thread::{HashThread, set_idle_policy, set_nice_value};
use super::run_to_completion;
use crate::{
    domain::password::{HashCost, Password, PasswordHash},
    telemetry::{
        self,
        metrics::{Counter, Gauge},
    },
};

mod hash_thread;

/// The length of each lane's queue, for each core. At 17 to 30 ms a hash, the last password in the queue waits for
/// about a second, and for another second for each other lane that is full.
const LANE_QUEUE_PER_CORE: usize = 32;

/// The time limit of a hash on an idle thread, for each KiB of memory in each pass: ten times what the hash takes on a
/// quiet core.
const IDLE_RUN_LIMIT_PER_KIB: Duration = Duration::from_nanos(4_500);

/// The shortest time limit of a hash on an idle thread, for cheap hashes.
const MIN_IDLE_RUN_LIMIT: Duration = Duration::from_millis(50);

/// Hashes passwords and verifies them. A process has one: its limits are those of the machine.
pub struct Hashing {
    /// The cost of new hashes.
    cost: HashCost,
    /// One permit for each core: a hash holds one while it runs.
    cores: Arc<Semaphore>,
    /// By [`Lane`].
    queues: [Queue; Lane::COUNT],
    idle_threads: Threads,
    /// For a hash that an idle thread does not finish within `idle_run_limit`. (A process without privileges cannot
    /// lift a thread out of `SCHED_IDLE`.)
    fallback_threads: Threads,
    idle_run_limit: Duration,
}

/// As many threads of one priority as there are cores.
#[derive(Clone)]
struct Threads {
    without_job: Arc<Mutex<Vec<HashThread>>>,
    lower_priority: fn(),
}

/// The queue that a password waits in for a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// For logins from all clients.
    AnyClient,
    /// For logins from clients that are known to the user.
    KnownClient,
    /// For new passwords, set by users who logged in or by the operator.
    NewPassword,
}

impl Lane {
    /// The number of lanes.
    const COUNT: usize = 3;
}

/// The bounded queue of one lane.
struct Queue {
    /// One permit for each [`QueueSlot`].
    slots: Arc<Semaphore>,
    /// Locked by the first in the queue, which waits for a core along with the first of each other lane.
    head: AsyncMutex<()>,
}

/// The right to one place in a lane's queue, and then to a hash. Dropping it frees the place.
pub struct QueueSlot {
    lane: Lane,
    _permit: OwnedSemaphorePermit,
}

/// The queue for password hashes is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords to hash at once")]
pub struct Busy;

impl Busy {
    /// Counts the rejection in the metrics, and returns the error.
    pub(super) fn counted() -> Self {
        Counter::PasswordHashRefusals.add(1);
        Self
    }
}

impl Hashing {
    /// Hashes new passwords at this cost.
    ///
    /// # Panics
    /// Outside of a runtime, and if no threads can be started.
    pub fn new(cost: HashCost) -> Self {
        let idle_run_limit = MIN_IDLE_RUN_LIMIT.max(IDLE_RUN_LIMIT_PER_KIB * cost.work_kib());
        Self::on_cores(available_parallelism().map_or(1, usize::from), cost, idle_run_limit)
    }

    /// Hashes on this many cores. `idle_run_limit`: the longest run of a hash on a thread of idle priority, before it
    /// is started again on a fallback thread.
    fn on_cores(cores: usize, cost: HashCost, idle_run_limit: Duration) -> Self {
        let slots = cores * (1 + LANE_QUEUE_PER_CORE);
        let queue = |()| Queue { slots: Arc::new(Semaphore::new(slots)), head: AsyncMutex::default() };
        Self {
            cost,
            cores: Arc::new(Semaphore::new(cores)),
            queues: [(); Lane::COUNT].map(queue),
            idle_threads: Threads::start(cores, set_idle_policy),
            fallback_threads: Threads::start(cores, set_nice_value),
            idle_run_limit,
        }
    }

    /// The cost of a new hash.
    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// Takes a slot in the queue of this lane. `None`: it is full.
    pub fn take_slot(&self, lane: Lane) -> Option<QueueSlot> {
        let permit = Arc::clone(&self.queues[lane as usize].slots).try_acquire_owned().ok()?;
        Some(QueueSlot { lane, _permit: permit })
    }

    /// Hashes this password, which is to be set. It waits in the lane [`Lane::NewPassword`].
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Busy> {
        let slot = self.take_slot(Lane::NewPassword).ok_or_else(Busy::counted)?;
        let cost = self.cost;
        Ok(self.run(slot, move || PasswordHash::of(&password, cost)).await)
    }

    /// The first of these passwords that matches the hash.
    pub async fn find_match(&self, slot: QueueSlot, hash: PasswordHash, passwords: Vec<Password>) -> Option<Password> {
        self.run(slot, move || passwords.iter().find(|password| hash.verify(password)).cloned()).await
    }

    /// Waits for the slot's turn and a core, and runs `work` there: on an idle thread, and again on a fallback thread
    /// if that takes longer than `idle_run_limit`. Once it runs, it runs to its end even if the caller goes away.
    async fn run<T: Send + 'static>(&self, slot: QueueSlot, work: impl Fn() -> T + Send + Sync + 'static) -> T {
        let waiting = Gauge::PasswordHashWaiting.raise();
        let core = {
            // The semaphore is first come, first served, and each lane waits for it once: so the lanes take turns.
            let _head = self.queues[slot.lane as usize].head.lock().await;
            Arc::clone(&self.cores).acquire_owned().await.expect("it is never closed")
        };
        drop(waiting);
        let (idle, fallback, limit) = (self.idle_threads.clone(), self.fallback_threads.clone(), self.idle_run_limit);
        let work = Arc::new(work);
        let hash = async move {
            let result = match timeout(limit, idle.run(&work)).await {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => fallback.run(&work).await.expect("a fallback thread is returned before the core"),
            };
            drop((slot, core));
            result
        };
        telemetry::observe_password_hash(run_to_completion(hash)).await
    }
}

impl Threads {
    /// Starts this many threads, each of which first calls `lower_priority`.
    fn start(count: usize, lower_priority: fn()) -> Self {
        let threads = (0..count).map(|_| HashThread::start(lower_priority)).collect();
        Self { without_job: Arc::new(Mutex::new(threads)), lower_priority }
    }

    /// Runs `work` on one of the threads, to its end even if the caller goes away. `None`: each thread has a job.
    async fn run<T: Send + 'static>(&self, work: &Arc<impl Fn() -> T + Send + Sync + 'static>) -> Option<T> {
        let mut thread = self.without_job.lock().pop()?;
        let result = Arc::new(Mutex::new(None));
        let job = {
            let (work, result) = (Arc::clone(work), Arc::clone(&result));
            move || *result.lock() = Some(work())
        };
        let threads = self.clone();
        let job = tokio::spawn(async move {
            let is_alive = thread.run(job).await.is_ok();
            let thread = if is_alive { thread } else { HashThread::start(threads.lower_priority) };
            threads.without_job.lock().push(thread);
        });
        job.await.expect("a panic of the job does not reach this task");
        let result = result.lock().take();
        Some(result.expect("hashing does not panic"))
    }
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

    use futures_util::future::join_all;

    use super::*;

    /// Never starts a hash again, however busy the machine is.
    fn without_limit() -> Hashing {
        Hashing::on_cores(available_parallelism().unwrap().get(), HashCost::default(), Duration::MAX)
    }

    #[tokio::test]
    async fn each_core_hashes_one_password_and_queues_are_bounded() {
        let hashing = without_limit();
        let cores = available_parallelism().unwrap().get();
        let slots: Vec<_> = std::iter::from_fn(|| hashing.take_slot(Lane::AnyClient)).collect();
        assert_eq!(slots.len(), cores * (1 + LANE_QUEUE_PER_CORE));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all_cores = Arc::new(Barrier::new(cores));
        let work = |slot| {
            let (running, most, all_cores) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&all_cores));
            hashing.run(slot, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // No job goes on before every core has one.
                all_cores.wait();
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        join_all(slots.into_iter().map(work)).await;
        assert_eq!(most.load(Ordering::SeqCst), cores);
        assert!(hashing.take_slot(Lane::AnyClient).is_some(), "all slots are free again");
    }

    #[tokio::test]
    async fn lanes_take_turns_and_a_full_one_leaves_slots_to_the_others() {
        use Lane::{AnyClient, KnownClient, NewPassword};

        let hashing = Hashing::on_cores(1, HashCost::default(), Duration::MAX);
        let done = Arc::new(Mutex::new(Vec::new()));
        let any_client: Vec<_> = std::iter::from_fn(|| hashing.take_slot(Lane::AnyClient)).collect();
        let known_client = (0..3).map(|_| hashing.take_slot(Lane::KnownClient).unwrap());
        let new_passwords = (0..2).map(|_| hashing.take_slot(Lane::NewPassword).unwrap());
        // In this order.
        let slots = any_client.into_iter().chain(known_client).chain(new_passwords);
        let all = slots.map(|slot| {
            let (lane, done) = (slot.lane, Arc::clone(&done));
            hashing.run(slot, move || done.lock().push(lane))
        });
        join_all(all).await;
        let turns = [AnyClient, KnownClient, NewPassword];
        let expected = [&[AnyClient][..], &turns, &turns, &[AnyClient, KnownClient, AnyClient]].concat();
        assert_eq!(done.lock()[..expected.len()], expected);
    }

    #[tokio::test]
    async fn a_panic_leaves_as_many_threads() {
        let hashing = Arc::new(without_limit());
        let slot = |hashing: &Hashing| hashing.take_slot(Lane::AnyClient).unwrap();
        for _ in 0..2 * available_parallelism().unwrap().get() {
            let panicking = Arc::clone(&hashing);
            let task = tokio::spawn(async move { panicking.run(slot(&panicking), || panic!("a bug")).await });
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(hashing.run(slot(&hashing), || 7).await, 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_hashing_threads_are_idle_threads() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

        let policy = || thread_schedule_policy().unwrap();
        let own = policy();
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let hashing = without_limit();
        assert_eq!(hashing.run(hashing.take_slot(Lane::AnyClient).unwrap(), policy).await, idle);
        assert_eq!(policy(), own);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_hash_that_an_idle_thread_does_not_finish_runs_on_another() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let hashing = Hashing::on_cores(1, HashCost::default(), Duration::from_millis(1));
        let (give_up, starved) = std::sync::mpsc::channel::<()>();
        let starved = Mutex::new(starved);
        let work = move || {
            if thread_schedule_policy().unwrap() == idle {
                // Starved, as beside busy programs.
                let _ = starved.lock().recv();
            }
            7
        };
        assert_eq!(hashing.run(hashing.take_slot(Lane::KnownClient).unwrap(), work).await, 7);
        // Nor does the next one wait for the idle thread.
        assert_eq!(hashing.run(hashing.take_slot(Lane::KnownClient).unwrap(), || 8).await, 8);
        drop(give_up);
    }
}

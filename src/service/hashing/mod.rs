//! Passwords are hashed as many at once as there are cores, after a short wait, and never at the cost of other work.
//!
//! The cores are shared out among three lanes ([`Lane`]): those in which somebody waits take turns, and each has places of its
//! own. So a flood in one lane costs the others their turns in between, and no place.
//!
//! A thread that gives way to all others comes to no end where something else has the cores: a program without a container of
//! its own that computes all day. So what takes ten times too long is done once more, by a thread that takes its share.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    select,
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::thread::{HashThread, Manners, Work};
use crate::{
    domain::password::{HashCost, Password, PasswordHash},
    telemetry::{
        self,
        metrics::{Counter, Level},
    },
};

mod metronome;
mod thread;

/// How many may wait for each core in each lane. At 17 to 30 ms a hash, the last of them waits about a second, and another
/// for each other lane in which as many wait.
const WAITING_PER_CORE: usize = 32;

/// How long a KiB of memory may take in a pass: ten times what it takes on a quiet core.
const PATIENCE_PER_KIB: Duration = Duration::from_nanos(4_500);

/// Hashes passwords, and verifies them against hashes. One for the whole process, since its bounds are the machine's.
pub struct Hashing {
    cost: HashCost,
    cores: Arc<Semaphore>,
    lanes: [Queue; Lane::COUNT],
    /// As many as there are cores.
    idle: Threads,
    /// The same, for what an idle one comes to no end with.
    nice: Threads,
    /// How long an idle thread may take.
    patience: Duration,
}

/// Threads that have nothing to do.
#[derive(Clone)]
struct Threads(Arc<Mutex<Vec<HashThread>>>);

impl Threads {
    fn start(count: usize, manners: Manners) -> Self {
        Self(Arc::new(Mutex::new((0..count).map(|_| HashThread::start(manners)).collect())))
    }

    fn threads(&self) -> MutexGuard<'_, Vec<HashThread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to work, which goes on when nobody waits for it any more. `None`: all threads are at work.
    fn begin(&self, work: impl Work + 'static) -> Option<JoinHandle<Box<dyn Work>>> {
        let mut thread = self.threads().pop()?;
        let threads = self.clone();
        Some(tokio::spawn(async move {
            let work = thread.run(Box::new(work)).await.expect("its thread lives as long as itself");
            threads.threads().push(thread);
            work
        }))
    }
}

/// Whose passwords wait behind one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Of logins of anybody.
    Stranger,
    /// Of logins of users who are known at their clients.
    Known,
    /// New passwords, which users who logged in set, and the operator.
    NewPassword,
}

impl Lane {
    const COUNT: usize = 3;
}

/// Those who wait in a lane.
struct Queue {
    places: Arc<Semaphore>,
    /// Whoever has it waits for a core, with the first of each other lane, and the others of the lane behind it.
    head: AsyncMutex<()>,
}

/// A place in a lane, until it is dropped.
pub struct Place {
    lane: Lane,
    _permit: OwnedSemaphorePermit,
}

/// There are more passwords to hash than can be hashed in good time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords to hash at once")]
pub struct Busy;

impl Busy {
    /// Counts that somebody is sent away.
    pub(super) fn send_away() -> Self {
        Counter::PasswordHashRefusals.add(1);
        Self
    }
}

impl Hashing {
    /// New hashes are to cost this.
    ///
    /// # Panics
    /// Outside of a runtime, and where the process may have no threads.
    pub fn new(cost: HashCost) -> Self {
        let patience = PATIENCE_PER_KIB * cost.kib_passed();
        Self::on(available_parallelism().map_or(1, usize::from), cost, patience.max(Duration::from_millis(50)))
    }

    fn on(cores: usize, cost: HashCost, patience: Duration) -> Self {
        let queue =
            || Queue { places: Arc::new(Semaphore::new(cores * (1 + WAITING_PER_CORE))), head: AsyncMutex::default() };
        Self {
            cost,
            cores: Arc::new(Semaphore::new(cores)),
            lanes: [(); Lane::COUNT].map(|()| queue()),
            idle: Threads::start(cores, Manners::Idle),
            nice: Threads::start(cores, Manners::Nice),
            patience,
        }
    }

    /// What a new hash costs.
    pub fn cost(&self) -> HashCost {
        self.cost
    }

    /// A place in this lane. `None`: it is full.
    pub fn place(&self, lane: Lane) -> Option<Place> {
        let permit = Arc::clone(&self.lanes[lane as usize].places).try_acquire_owned().ok()?;
        Some(Place { lane, _permit: permit })
    }

    /// A new hash of this password.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Busy> {
        let place = self.place(Lane::NewPassword).ok_or_else(Busy::send_away)?;
        let cost = self.cost;
        Ok(self.on_a_core(place, move || PasswordHash::of(&password, cost)).await)
    }

    /// Whether this is the password of the hash.
    pub async fn verify(&self, place: Place, hash: PasswordHash, password: Password) -> bool {
        self.on_a_core(place, move || hash.verify(&password)).await
    }

    /// The first of these that is the password of the hash.
    pub async fn find(&self, place: Place, hash: PasswordHash, passwords: Vec<Password>) -> Option<Password> {
        self.on_a_core(place, move || passwords.iter().find(|password| hash.verify(password)).cloned()).await
    }

    /// Works when it is its turn, on a thread that does nothing else: the threads that answer requests keep their priority.
    async fn on_a_core<T: Send + 'static>(&self, place: Place, work: impl Fn() -> T + Send + Sync + 'static) -> T {
        let waiting = Level::PasswordHashWaiting.raise();
        let core = {
            // One of each lane at a time, and a semaphore lets in whoever came first: so the lanes take turns.
            let _head = self.lanes[place.lane as usize].head.lock().await;
            Arc::clone(&self.cores).acquire_owned().await.expect("it is never closed")
        };
        drop(waiting);
        let (done, result) = oneshot::channel();
        let (work, done) = (Arc::new(work), Arc::new(Mutex::new(Some(done))));
        let hash = move || Hash { work: Arc::clone(&work), result: None, done: Arc::clone(&done) };
        let (idle, nice, patience) = (self.idle.clone(), self.nice.clone(), self.patience);
        // It goes on, and the permits with it, when the client has gone away.
        tokio::spawn(async move {
            let hashed = hash_in_time(hash, &idle, &nice, patience).await;
            drop((place, core));
            hashed.deliver();
        });
        telemetry::password_hash(result).await.expect("hashing does not panic")
    }
}

/// Has an idle thread do the work, and a nice one, too, where the idle one takes too long.
async fn hash_in_time<W: Work + 'static>(
    hash: impl Fn() -> W,
    idle: &Threads,
    nice: &Threads,
    patience: Duration,
) -> Box<dyn Work> {
    const NEVER_PANICS: &str = "a panic of the work ends in the work";
    let Some(mut first) = idle.begin(hash()) else {
        // They are at work that nobody waits for.
        return nice.begin(hash()).expect("there is one for each core").await.expect(NEVER_PANICS);
    };
    if let Ok(hashed) = timeout(patience, &mut first).await {
        return hashed.expect(NEVER_PANICS);
    }
    match nice.begin(hash()) {
        Some(second) => select! {
            hashed = first => hashed,
            hashed = second => hashed,
        },
        None => first.await,
    }
    .expect(NEVER_PANICS)
}

/// What is to be worked out, and for whom.
struct Hash<W, T> {
    work: Arc<W>,
    result: Option<T>,
    done: Arc<Mutex<Option<oneshot::Sender<T>>>>,
}

impl<W: Fn() -> T + Send + Sync, T: Send> Work for Hash<W, T> {
    fn run(&mut self) {
        // Who waits for it finds out. The thread goes on.
        self.result = catch_unwind(AssertUnwindSafe(&*self.work)).ok();
    }

    fn deliver(self: Box<Self>) {
        // Nobody may be waiting for it any more.
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.result.zip(done).and_then(|(result, done)| done.send(result).ok());
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

    /// One that does no work twice, however busy the machine is.
    fn patient() -> Hashing {
        Hashing::on(available_parallelism().unwrap().get(), HashCost::default(), Duration::MAX)
    }

    #[tokio::test]
    async fn no_more_work_at_once_than_there_are_cores_and_the_rest_waits_or_goes() {
        let hashing = patient();
        let cores = available_parallelism().unwrap().get();
        let places: Vec<_> = std::iter::from_fn(|| hashing.place(Lane::Stranger)).collect();
        assert_eq!(places.len(), cores * (1 + WAITING_PER_CORE));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all_cores = Arc::new(Barrier::new(cores));
        let work = |place| {
            let (running, most, all_cores) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&all_cores));
            hashing.on_a_core(place, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Nobody goes on before every core has its work.
                all_cores.wait();
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        join_all(places.into_iter().map(work)).await;
        assert_eq!(most.load(Ordering::SeqCst), cores);
        assert!(hashing.place(Lane::Stranger).is_some(), "all places are free again");
    }

    #[tokio::test]
    async fn lanes_take_turns_and_a_full_one_is_none_of_the_others_business() {
        use Lane::{Known, NewPassword, Stranger};

        let hashing = Hashing::on(1, HashCost::default(), Duration::MAX);
        let done = Arc::new(Mutex::new(Vec::new()));
        let strangers: Vec<_> = std::iter::from_fn(|| hashing.place(Lane::Stranger)).collect();
        let known = (0..3).map(|_| hashing.place(Lane::Known).unwrap());
        let new_passwords = (0..2).map(|_| hashing.place(Lane::NewPassword).unwrap());
        // They come in this order.
        let places = strangers.into_iter().chain(known).chain(new_passwords);
        let all = places.map(|place| {
            let (lane, done) = (place.lane, Arc::clone(&done));
            hashing.on_a_core(place, move || done.lock().unwrap().push(lane))
        });
        join_all(all).await;
        let turns = [Stranger, Stranger, Known, NewPassword, Stranger, Known, NewPassword, Stranger, Known, Stranger];
        assert_eq!(done.lock().unwrap()[..turns.len()], turns);
    }

    #[tokio::test]
    async fn a_panic_costs_no_thread() {
        let hashing = Arc::new(patient());
        let place = |hashing: &Hashing| hashing.place(Lane::Stranger).unwrap();
        for _ in 0..2 * available_parallelism().unwrap().get() {
            let panicking = Arc::clone(&hashing);
            let task = tokio::spawn(async move { panicking.on_a_core(place(&panicking), || panic!("a bug")).await });
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(hashing.on_a_core(place(&hashing), || 7).await, 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hashing_gives_way_and_nothing_else_does() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

        let policy = || thread_schedule_policy().unwrap();
        let own = policy();
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let hashing = patient();
        assert_eq!(hashing.on_a_core(hashing.place(Lane::Stranger).unwrap(), policy).await, idle);
        assert_eq!(policy(), own);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_an_idle_thread_comes_to_no_end_with_is_done_by_another() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let hashing = Hashing::on(1, HashCost::default(), Duration::from_millis(1));
        let (give_up, starved) = std::sync::mpsc::channel::<()>();
        let starved = Mutex::new(starved);
        let work = move || {
            if thread_schedule_policy().unwrap() == idle {
                // As long as others have the core.
                let _ = starved.lock().unwrap().recv();
            }
            7
        };
        assert_eq!(hashing.on_a_core(hashing.place(Lane::Known).unwrap(), work).await, 7);
        // The next one does not wait for it either.
        assert_eq!(hashing.on_a_core(hashing.place(Lane::Known).unwrap(), || 8).await, 8);
        drop(give_up);
    }
}

//! Threads that hash passwords at a low priority.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream as BlockingStream,
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// The work of hashing one password.
type Job = Box<dyn FnOnce() + Send>;

/// A thread with a low priority.
///
/// The kernel may stop it anywhere, and for long, so it must never hold a lock that another thread waits for. A job is
/// handed over in `next_job`, which one side uses at a time, and each side wakes the other by a byte. (With a channel
/// and semaphores, which have locks inside, the whole process stopped for up to 91 ms beside a flood of logins.)
pub(super) struct HashThread {
    /// A byte to the thread starts the job; a byte from the thread says that the job is done.
    bell: UnixStream,
    next_job: Arc<Mutex<Option<Job>>>,
}

impl HashThread {
    /// Starts a thread that first calls `lower_priority` and then waits for jobs.
    pub(super) fn start(lower_priority: fn()) -> Self {
        let (here, there) = BlockingStream::pair().expect("a process may have sockets");
        here.set_nonblocking(true).expect("a socket need not block");
        let next_job = Arc::<Mutex<Option<Job>>>::default();
        let thread_job = Arc::clone(&next_job);
        let run_jobs = move || {
            lower_priority();
            // The error of a closed socket: the other side is gone.
            let _ = run_jobs(&there, &thread_job);
        };
        thread::Builder::new().name("hash".into()).spawn(run_jobs).expect("a process may have a thread for each core");
        Self { bell: UnixStream::from_std(here).expect("there is a runtime"), next_job }
    }

    /// Has the thread run this job, and returns once it is done. An error means that the job panicked, which ends the
    /// thread.
    pub(super) async fn run(&mut self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        *self.next_job.lock() = Some(Box::new(job));
        self.bell.write_u8(0).await?;
        self.bell.read_u8().await?;
        Ok(())
    }
}

/// Runs a job each time the bell rings, until the other side of the bell is closed.
fn run_jobs(mut bell: &BlockingStream, next_job: &Mutex<Option<Job>>) -> io::Result<()> {
    loop {
        bell.read_exact(&mut [0])?;
        let job = next_job.lock().take().expect("a job is there before the bell rings");
        job();
        bell.write_all(&[0])?;
    }
}

/// Gives the calling thread the policy `SCHED_IDLE`: any other thread that wakes takes its core at once. A thread of
/// the lowest ordinary priority (nice 19) would keep a verification waiting for the rest of its time slice, 3 ms.
pub(super) fn set_idle_policy() {
    #[cfg(target_os = "linux")]
    {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle).is_err() {
            tracing::debug!("passwords are hashed at the priority of everything else");
        }
    }
}

/// Gives the calling thread the nice value 10: a tenth of another thread's share of a core.
pub(super) fn set_nice_value() {
    // On Linux, this is the nice value of the calling thread only.
    #[cfg(target_os = "linux")]
    if rustix::process::setpriority_process(None, 10).is_err() {
        tracing::debug!("passwords are hashed at the priority of everything else");
    }
}

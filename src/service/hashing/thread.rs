//! The threads that hash, and how they stay out of the way of all others.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream as BlockingStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::metronome::Metronome;

/// What a thread is to do.
pub(super) trait Work: Send {
    /// Does it.
    fn run(&mut self);
    /// Hands over what it came to, on another thread.
    fn deliver(self: Box<Self>);
}

/// How a thread gives way to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manners {
    /// It runs only where nothing else wants to.
    Idle,
    /// It takes a tenth of what others take.
    Nice,
}

/// A thread that gives way to others.
///
/// It may be interrupted anywhere, and for long. So it holds no lock that anybody could wait for then: what it works on lies on
/// a desk where one of both sides is at a time, who wakes the other by a byte, and all else is done at the other side: to
/// tell who waits, to let in who is next, to free memory. (It shared a channel and semaphores before, and now and then stopped
/// the whole process for up to 91 ms, beside a flood of logins.)
pub(super) struct HashThread {
    bell: UnixStream,
    desk: Desk,
}

type Desk = Arc<Mutex<Option<Box<dyn Work>>>>;

impl HashThread {
    pub(super) fn start(manners: Manners) -> Self {
        let (here, there) = BlockingStream::pair().expect("a process may have sockets");
        here.set_nonblocking(true).expect("a socket need not block");
        let desk = Desk::default();
        let work_on = {
            let desk = Arc::clone(&desk);
            // A nice thread leaves its core when its share is used up.
            let metronome = (manners == Manners::Idle).then(Metronome::start);
            move || {
                give_way(manners);
                // Until nobody has it any more.
                let _ = work(&there, &desk, metronome.as_ref());
            }
        };
        thread::Builder::new().name("hash".into()).spawn(work_on).expect("a process may have a thread for each core");
        Self { bell: UnixStream::from_std(here).expect("there is a runtime"), desk }
    }

    pub(super) async fn run(&mut self, work: Box<dyn Work>) -> io::Result<Box<dyn Work>> {
        put(&self.desk, work);
        self.bell.write_u8(0).await?;
        self.bell.read_u8().await?;
        Ok(take(&self.desk))
    }
}

fn work(mut bell: &BlockingStream, desk: &Desk, metronome: Option<&Metronome>) -> io::Result<()> {
    loop {
        bell.read_exact(&mut [0])?;
        let mut work = take(desk);
        metronome.inspect(|metronome| metronome.tick());
        work.run();
        metronome.inspect(|metronome| metronome.rest());
        put(desk, work);
        bell.write_all(&[0])?;
    }
}

fn put(desk: &Desk, work: Box<dyn Work>) {
    *desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
}

fn take(desk: &Desk) -> Box<dyn Work> {
    desk.lock().unwrap_or_else(PoisonError::into_inner).take().expect("the bell rang for it")
}

/// Lets others have this thread's core. `SCHED_IDLE`: at the lowest priority, too, a hash would keep a verification waiting
/// for the rest of its time slice, 3 ms. A tenth of the weight of others: nice 10.
fn give_way(manners: Manners) {
    #[cfg(target_os = "linux")]
    {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let is_done = match manners {
            Manners::Idle => set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle).is_ok(),
            // Of the calling thread alone: on Linux, each has its own.
            Manners::Nice => rustix::process::setpriority_process(None, 10).is_ok(),
        };
        if !is_done {
            tracing::debug!(?manners, "a password is hashed at the priority of everything else");
        }
    }
}

//! Occasions for the kernel to look again at who has a core.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, Thread, sleep},
    time::Duration,
};

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

/// How often it ticks.
const PERIOD: Duration = Duration::from_micros(200);

/// Wakes on the core of a hash for as long as it takes, and sleeps again at once.
///
/// Who wakes while an idle thread has its core gets it at once, but for one that had a few microseconds more than its share of
/// the core when it fell asleep (a negative lag of EEVDF, Linux 6.6 and later): the idle thread may make up for them first,
/// and whether it did, the kernel looks at the next tick of its own clock only, up to 4 ms later, or when anything wakes on
/// this core. So something does: beside a flood of logins, the p99 of verifications is half of what it was without
/// (`make soak`).
pub(super) struct Metronome {
    core: Arc<AtomicUsize>,
    thread: Thread,
}

/// In place of a core: none, for there is no hash.
const RESTING: usize = usize::MAX;
/// There will be no hash any more.
const ENDED: usize = usize::MAX - 1;

impl Metronome {
    /// One that rests. Its thread has the priority of this one.
    pub(super) fn start() -> Self {
        let mut here = None;
        Self::beating(move |core| {
            if here != Some(core) {
                here = Some(core);
                move_to(core);
            }
            sleep(PERIOD);
        })
    }

    fn beating(beat: impl FnMut(usize) + Send + 'static) -> Self {
        let core = Arc::new(AtomicUsize::new(RESTING));
        let follow = {
            let core = Arc::clone(&core);
            move || follow(&core, beat)
        };
        let handle = thread::Builder::new().name("metronome".into()).spawn(follow);
        Self { core, thread: handle.expect("a process may have a thread for each core").thread().clone() }
    }

    /// Ticks from now on where this thread runs. That it was moved meanwhile shows with the next hash.
    pub(super) fn tick(&self) {
        #[cfg(target_os = "linux")]
        self.set(sched_getcpu());
    }

    /// Ticks no more.
    pub(super) fn rest(&self) {
        self.core.store(RESTING, Relaxed);
    }

    fn set(&self, core: usize) {
        self.core.store(core, Relaxed);
        self.thread.unpark();
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.set(ENDED);
    }
}

fn follow(core: &AtomicUsize, mut beat: impl FnMut(usize)) {
    loop {
        match core.load(Relaxed) {
            RESTING => thread::park(),
            ENDED => return,
            core => beat(core),
        }
    }
}

/// Has this thread run on this core only. Where it may not, it is of no use, and does no harm.
fn move_to(core: usize) {
    #[cfg(target_os = "linux")]
    if core < CpuSet::MAX_CPU {
        let mut cores = CpuSet::new();
        cores.set(core);
        let _ = sched_setaffinity(None, &cores);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use super::*;

    #[test]
    fn it_ticks_while_there_is_a_hash_and_ends_with_its_thread() {
        // Each beat waits until it is heard.
        let (heard, beats) = sync_channel(0);
        let metronome = Metronome::beating(move |core| {
            let _ = heard.send(core);
        });
        for core in [0, 1] {
            metronome.set(core);
            assert!((0..10).any(|_| beats.recv().unwrap() == core));
            assert_eq!((beats.recv().unwrap(), beats.recv().unwrap()), (core, core));
            metronome.rest();
            // One may have been under way.
            let _ = beats.recv_timeout(Duration::from_millis(100));
            beats.recv_timeout(Duration::from_millis(100)).unwrap_err();
        }
        drop(metronome);
        assert_eq!(beats.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}

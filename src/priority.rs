//! Standing back: work that nobody waits for lets whoever wakes have the core at once.
//!
//! Linux gives a core by two numbers: the nice value is the share of it under contention, and the slice how long a thread
//! keeps it once it runs. A thread that wakes takes the core at once from one whose slice is longer than its own (EEVDF,
//! since Linux 6.12); before that, it waits for the other's slice to end, some milliseconds. So what stands back takes the
//! longest slice there is and keeps its share: the idle class, which gives way too, would have nothing left on a machine
//! that is busy all day. Invariant: nobody is pulled forward, and where the system cannot do it the nice value alone
//! changes. Deliberately absent: who stands back, and how far.

use rustix::process::{Pid, getpriority_process, setpriority_process};
use std::io;

/// How far work stands back that nobody waits for: 10 of 19 leaves it a tenth of a core that others want too.
pub const BEHIND: u8 = 10;

/// The longest slice that Linux gives, nanoseconds.
const SLICE_NS: u64 = 100_000_000;
/// Leaves the scheduling class as it is; from `linux/sched.h`.
const KEEP_POLICY: u64 = 0x08;

/// The calling thread, and those that it starts from now on, stand back by `nice`: 0 gives way to who wakes and keeps its
/// share, [`BEHIND`] has a tenth of another's that wants the core too.
///
/// # Errors
/// When the system refuses.
pub fn stand_back(nice: u8) -> io::Result<()> {
    // Both calls look at a thread where they are given none, not at its process.
    set(0, niceness(None, nice)?, || rustix::process::nice(i32::from(nice)).map(|_| ()))
}

/// The same for the first thread of another process, which must be of the same user unless this one may move all.
///
/// # Errors
/// When there is no such process, or it is not ours to move.
pub fn stand_back_process(pid: i32, nice: u8) -> io::Result<()> {
    // The library wants none below 0.
    let process = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let further = niceness(Some(process), nice)?;
    set(pid, further, || setpriority_process(Some(process), further))
}

fn niceness(process: Option<Pid>, further: u8) -> io::Result<i32> {
    Ok((getpriority_process(process)? + i32::from(further)).min(19))
}

fn set(thread: i32, nice: i32, otherwise: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: KEEP_POLICY,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads `size` bytes of the attributes, which live until it returns.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0u32) } != 0;
    if refused {
        // Sandboxes know the older call only.
        otherwise()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// Nice value and slice of a thread.
    fn standing(thread: i32) -> (i32, u64) {
        let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>() as u32;
        // SAFETY: the call writes at most `size` bytes there.
        let read = unsafe { libc::syscall(libc::SYS_sched_getattr, thread, &raw mut found, size, 0u32) };
        assert_eq!(read, 0, "{}", io::Error::last_os_error());
        (found.sched_nice, found.sched_runtime)
    }

    /// Before Linux 6.12 a thread has no slice of its own, and 0 stands there.
    fn longest(slice: u64) -> bool {
        slice == SLICE_NS || slice == 0
    }

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }

    #[test]
    fn a_thread_and_what_it_starts_stand_back_and_nobody_else_does() {
        let before = standing(0);
        let there = std::thread::spawn(|| {
            stand_back(10).expect("allowed");
            (standing(0), std::thread::spawn(|| standing(0)).join().expect("a thread"))
        });
        let (own, child) = there.join().expect("a thread");
        for (nice, slice) in [own, child] {
            assert_eq!(nice, (before.0 + 10).min(19));
            assert!(longest(slice), "{slice}");
        }
        assert_eq!(standing(0), before);
    }

    #[test]
    fn giving_way_alone_keeps_the_share() {
        let before = standing(0).0;
        let there = std::thread::spawn(|| {
            stand_back(0).expect("allowed");
            standing(0)
        });
        let (nice, slice) = there.join().expect("a thread");
        assert!(nice == before && longest(slice), "{nice} {slice}");
    }

    #[test]
    fn a_process_of_ours_is_moved_and_one_that_is_not_there_is_an_error() {
        let child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("sleep");
        let child = Sleeper(child);
        let pid = child.0.id() as i32;
        let before = standing(pid).0;
        stand_back_process(pid, 10).expect("our own child");
        stand_back_process(pid, 3).expect("further");
        let (nice, slice) = standing(pid);
        assert!(nice == (before + 13).min(19) && longest(slice), "{nice} {slice}");
        drop(child);
        assert!(stand_back_process(pid, 1).is_err());
        assert!(stand_back_process(-1, 1).is_err());
    }
}

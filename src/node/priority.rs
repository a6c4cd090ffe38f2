//! Which threads of the node go before others.

use thread_priority::{
    Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// How much nicer the threads are that compute chunks: with a busy core, ten times less of it than what keeps the robot moving.
const NICENESS: i32 = 10;
/// Real-time priority of the control thread: below the 50 of a ros2_control controller manager, whose loop is the joints' own.
const REAL_TIME: u8 = 40;

/// Lets the calling thread yield the CPU to the threads that receive samples and answer services, and with it the threads that it starts
/// from now on: on Linux a thread inherits the niceness of the one that started it.
pub fn yield_to_others() {
    // A thread may always become nicer.
    let _ = rustix::process::nice(NICENESS);
}

/// Lets the calling thread run as soon as it is due, whatever else the machine does. Needs the right to real-time priorities
/// (`rtprio` in /etc/security/limits.conf, or CAP_SYS_NICE).
pub fn go_first() -> Result<(), Error> {
    let priority = ThreadPriority::try_from(REAL_TIME).map_err(Error::Priority)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), priority, policy)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// A field of /proc/<process>/stat, counted from 1 as in proc(5). The name in field 2 may have spaces.
    fn stat(field: usize) -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(field - 3).unwrap().parse().unwrap()
    }

    fn niceness() -> i32 {
        stat(19)
    }

    /// Priority and policy.
    fn real_time() -> (i32, i32) {
        (stat(40), stat(41))
    }

    #[test]
    fn a_thread_that_yields_and_the_threads_it_starts_are_nicer_and_others_stay_as_they_are() {
        let before = niceness();
        let (own, pool) = thread::spawn(|| {
            yield_to_others();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            (niceness(), pool.broadcast(|_| niceness()))
        })
        .join()
        .unwrap();
        assert_eq!((own, pool), (before + NICENESS, vec![before + NICENESS; 2]));
        assert_eq!(niceness(), before);
    }

    #[test]
    fn a_thread_goes_first_where_that_is_allowed_and_stays_as_it_is_where_not() {
        let before = real_time();
        let (result, after) = thread::spawn(|| (go_first(), real_time())).join().unwrap();
        // SCHED_FIFO is policy 1.
        assert_eq!(after, if result.is_ok() { (i32::from(REAL_TIME), 1) } else { before });
        assert_eq!(real_time(), before);
    }
}

//! The priority of the threads that compute chunks.

/// How much nicer they are: with a busy core, ten times less of it than what keeps the robot moving.
const NICENESS: i32 = 10;

/// Lets the calling thread yield the CPU to the threads that control the robot, receive its samples and answer services, and with it the
/// threads that it starts from now on: on Linux a thread inherits the niceness of the one that started it.
pub fn yield_to_control() {
    // A thread may always become nicer. What the operator has given the whole process is the most there is to add to.
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// Field 19 of /proc/self/task/<thread>/stat; the name in field 2 may have spaces.
    fn niceness() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn a_thread_that_yields_and_the_threads_it_starts_are_nicer_and_others_stay_as_they_are() {
        let before = niceness();
        let (own, pool) = thread::spawn(|| {
            yield_to_control();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            (niceness(), pool.broadcast(|_| niceness()))
        })
        .join()
        .unwrap();
        assert_eq!((own, pool), (before + NICENESS, vec![before + NICENESS; 2]));
        assert_eq!(niceness(), before);
    }
}

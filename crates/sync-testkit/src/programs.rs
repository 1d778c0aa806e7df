//! The real programs as processes: started, listened to, ended — always, also when the test fails.
//!
//! Nothing is assumed about their insides: a daemon is ready when it says so on stdout, an agent has done what its exit
//! code and its JSON say. Every handle kills its own process, by its id, when it is dropped.

mod agent;
mod daemon;
mod process;

use std::{collections::BTreeMap, fs, time::Duration};

pub use rustix::process::Signal;
pub use serde_json::Value;

pub use agent::{Agent, Follower, Outcome};
pub use daemon::{Daemon, DaemonSpec};
pub use process::{Finished, Launch, Process};

/// How long a program may take for what a test asks of it, unless the test says otherwise. Generous: two cores may be
/// busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The resident memory of a process.
#[must_use]
pub fn rss_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most memory that a process has had resident.
#[must_use]
pub fn peak_rss_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells its memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

/// What the kernel counts processor time in.
const TICKS_PER_SECOND: u64 = 100;

/// The processor time that a process has used so far.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let ticks: u64 = cpu_ticks(pid)[..2].iter().sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// User and system time of a process, then of its ended children.
pub(crate) fn cpu_ticks(pid: u32) -> [u64; 4] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name, in brackets, may hold blanks. The state that follows it is field 3, the times are 14 to 17.
    let fields = stat.rsplit_once(')').expect("the kernel puts the name in brackets").1.split_whitespace();
    let mut times = fields.skip(11).map(|field| field.parse().expect("a time is a number"));
    std::array::from_fn(|_| times.next().expect("the kernel tells four times"))
}

/// How many file descriptors a process has open.
#[must_use]
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

/// What a process has open, each with how often, the most frequent first; the numbers of inodes are left out.
#[must_use]
pub fn open_things(pid: u32) -> Vec<(String, usize)> {
    let mut things = BTreeMap::<String, usize>::new();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    // What is closed meanwhile is not there any more.
    for target in open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let target = target.to_string_lossy();
        let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
        *things.entry(kind.to_owned()).or_default() += 1;
    }
    let mut things: Vec<_> = things.into_iter().collect();
    things.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    things
}

#[cfg(test)]
#[path = "programs_tests.rs"]
mod tests;

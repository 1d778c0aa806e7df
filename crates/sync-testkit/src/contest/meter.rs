//! What a run costs: time, processor and memory of a client and of the daemon that serves it.
//!
//! The processor is read from `/proc`, in hundredths of a second, as differences of sums that only grow, so what is cut off
//! does not add up. The memory is read while a process runs, because one that ended has none, and the kernel's own figure
//! for an ended child counts the program that started it too; so it is read in a run of its own, which nobody times.

use std::{
    fs, process, thread,
    time::{Duration, Instant},
};

use crate::{
    eventually,
    programs::{Finished, Process, cpu_ticks},
};

/// The kernel tells processor time in these, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory is read while a process runs.
const MEMORY_STEP: Duration = Duration::from_millis(2);

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// From the client's start to its end.
    pub seconds: f64,
    /// User and system time of client and daemon, since the meter was started.
    pub cpu_seconds: f64,
}

/// A meter of one run. It begins before the run, so that what a daemon does as soon as its tree changes counts.
#[derive(Debug)]
pub struct Meter {
    server: Option<u32>,
    cpu_before: f64,
}

impl Meter {
    /// Begins to count the processor; `server` is the daemon's process, if there is one.
    #[must_use]
    pub fn start(server: Option<u32>) -> Self {
        Self { server, cpu_before: cpu_seconds(server) }
    }

    /// Runs a client to its end, which must be a success.
    #[must_use]
    pub fn run(self, start: impl FnOnce() -> Process, deadline: Duration) -> Sample {
        let began = Instant::now();
        let mut client = start();
        client.wait(deadline);
        let seconds = began.elapsed().as_secs_f64();
        expect_success(client.finish(deadline));
        if let Some(server) = self.server {
            wait_for_children(server);
        }
        Sample { seconds, cpu_seconds: cpu_seconds(self.server) - self.cpu_before }
    }
}

/// The most memory that a run took, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Peaks {
    /// The client; of several processes the largest.
    pub client: u64,
    /// The daemon, or the largest of its children.
    pub server: u64,
}

/// Runs a client to its end and reads the memory all the while.
#[must_use]
pub fn peaks(server: Option<u32>, start: impl FnOnce() -> Process, deadline: Duration) -> Peaks {
    if let Some(server) = server {
        forget_peak(server);
    }
    let end = Instant::now() + deadline;
    let mut client = start();
    let mut peaks = Peaks { client: 0, server: 0 };
    while client.is_running() && Instant::now() < end {
        peaks.client = peaks.client.max(peak_of_family(client.pid()));
        peaks.server = peaks.server.max(server.map_or(0, peak_of_family));
        thread::sleep(MEMORY_STEP);
    }
    expect_success(client.finish(end.saturating_duration_since(Instant::now())));
    peaks
}

#[track_caller]
fn expect_success(finished: Finished) {
    let Finished { code, stdout, stderr } = finished;
    assert_eq!(code, Some(0), "a measured run failed\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
}

/// The processor time of all children of this process that have ended, and of the daemon with its own.
fn cpu_seconds(server: Option<u32>) -> f64 {
    let mine: u64 = cpu_ticks(process::id())[2..].iter().sum();
    let its: u64 = server.map_or(0, |server| cpu_ticks(server).iter().sum());
    #[expect(clippy::cast_precision_loss, reason = "a count of hundredths of seconds")]
    let ticks = (mine + its) as f64;
    ticks / TICKS_PER_SECOND
}

/// rsync's daemon has a child for each connection, and knows what it took only when it has ended.
fn wait_for_children(server: u32) {
    eventually(Duration::from_secs(10), || match children(server).len() {
        0 => Ok(()),
        left => Err(format!("the daemon still has {left} children")),
    });
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The peak of a process or of the largest below it; 0 when it has ended.
fn peak_of_family(pid: u32) -> u64 {
    let own = peak_if_alive(pid).unwrap_or(0);
    children(pid).into_iter().map(peak_of_family).fold(own, u64::max)
}

fn peak_if_alive(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Lets the peak of a process begin again at what it holds now.
pub fn forget_peak(pid: u32) {
    // Where the kernel does not allow it, the peak since its start is what there is.
    let _not_allowed = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::{Launch, PATIENCE};

    fn shell(script: &str) -> Launch {
        Launch::new("sh").args(["-c", script])
    }

    #[test]
    fn a_busy_client_and_a_sleeping_one_are_told_apart() {
        let busy = shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done");
        let busy = Meter::start(None).run(|| busy.start(), PATIENCE);
        let idle = Meter::start(None).run(|| shell("sleep 0.3").start(), PATIENCE);
        assert!(idle.seconds >= 0.3 && busy.seconds > 0.0, "{idle:?} {busy:?}");
        // Other tests of this process may end children of their own meanwhile.
        assert!(busy.cpu_seconds >= 0.03, "{busy:?}");
    }

    #[test]
    fn what_a_client_and_its_child_hold_is_seen() {
        // `dd` holds its block; the shell waits for it.
        let script = "dd if=/dev/zero of=/dev/null bs=40M count=20 2>/dev/null; true";
        let peaks = peaks(None, || shell(script).start(), PATIENCE);
        assert!((40 << 20..80 << 20).contains(&peaks.client), "{peaks:?}");
        assert_eq!(peaks.server, 0);
    }

    #[test]
    fn a_daemons_ended_children_count() {
        let script =
            "i=0; while read line; do dd if=/dev/zero of=/dev/null bs=1M count=4000 2>/dev/null; done";
        let mut server = shell(&format!("echo go | {{ {script}; }}; exec sleep 60")).start();
        eventually(PATIENCE, || {
            let ticks = cpu_ticks(server.pid())[2..].iter().sum::<u64>();
            if ticks >= 3 { Ok(()) } else { Err(format!("{ticks} ticks")) }
        });
        wait_for_children(server.pid());
        assert!(server.is_running());
    }
}

//! How the numbers are taken.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use sync_testkit::{
    programs::{Outcome, PATIENCE, peak_rss_bytes, rss_bytes},
    rng::Rng,
    tree::{Compare, differences, snapshot},
};

use crate::bed::{Bed, remove, small_file};

/// How long one write may take to arrive before the run is given up.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How often the target is looked at while a write is on its way; far below what is measured.
const LOOK_STEP: Duration = Duration::from_micros(200);
/// How often the memory of a running agent is read.
const MEMORY_STEP: Duration = Duration::from_millis(2);

/// The medians of interleaved runs, in seconds.
pub(crate) struct Contest {
    pub(crate) ours: f64,
    /// `None` without rsync.
    pub(crate) rsync: Option<f64>,
}

impl Contest {
    /// How many times longer the agent takes.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.rsync.map(|rsync| self.ours / rsync)
    }
}

/// Times from a write in the share to the new bytes in the target, in milliseconds.
pub(crate) struct Latency {
    pub(crate) writes: usize,
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) worst: f64,
}

impl Bed {
    /// A speed counts only if the result is right. It also warms up both sides.
    pub(crate) fn check_that_a_pull_is_equal(&self) {
        for share in ["small", "large"] {
            let target = self.fresh_target();
            self.agent(share, &target).pull().expect(0);
            let found = differences(&snapshot(&self.share(share)), &snapshot(&target), Compare::default());
            assert!(found.is_empty(), "the target is not equal to share {share}:\n{}", found.join("\n"));
            remove(&target);
        }
    }

    /// Cold pulls of a share by the agent and by rsync, in alternating order.
    pub(crate) fn contest(&self, share: &str, rounds: usize) -> Contest {
        let (mut ours, mut rsync) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if round.is_multiple_of(2) {
                ours.push(self.time_agent(share));
                rsync.extend(self.time_rsync(share));
            } else {
                rsync.extend(self.time_rsync(share));
                ours.push(self.time_agent(share));
            }
        }
        let rsync = (!rsync.is_empty()).then(|| quantile(&mut rsync, 0.5));
        Contest { ours: quantile(&mut ours, 0.5), rsync }
    }

    fn time_agent(&self, share: &str) -> f64 {
        let target = self.fresh_target();
        let agent = self.agent(share, &target);
        let began = Instant::now();
        agent.pull().expect(0);
        let seconds = began.elapsed().as_secs_f64();
        remove(&target);
        seconds
    }

    fn time_rsync(&self, share: &str) -> Option<f64> {
        let target = self.fresh_target();
        let launch = self.rsync(share, &target)?;
        let began = Instant::now();
        let finished = launch.run(PATIENCE);
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(finished.code, Some(0), "rsync failed: {}", finished.stderr);
        remove(&target);
        Some(seconds)
    }

    /// The most memory that a pull takes. Read while it runs, because a process that ended has none; not in a timed run.
    pub(crate) fn peak_of_a_pull(&self, share: &str) -> u64 {
        let target = self.fresh_target();
        let mut process = self.agent(share, &target).start(&["pull"]);
        let mut peak = 0;
        while process.is_running() {
            peak = peak.max(peak_if_alive(process.pid()).unwrap_or(0));
            thread::sleep(MEMORY_STEP);
        }
        Outcome::read(process.finish(PATIENCE)).expect(0);
        remove(&target);
        peak
    }

    /// Follows the small files, writes some of them at odd moments, and gives the latency and the agent's peak memory.
    pub(crate) fn follow(&self, writes: usize) -> (Latency, u64) {
        let target = self.fresh_target();
        let mut follower = self.agent("small", &target).follow();
        follower.caught_up();
        let mut rng = Rng::new(7);
        let mut times = Vec::new();
        for number in 0..writes {
            thread::sleep(Duration::from_millis(rng.next_u64() % 25));
            let path = small_file(rng.below(self.small_files));
            let contents = format!("write {number} of {writes}\n");
            let began = Instant::now();
            fs::write(self.share("small").join(&path), &contents)
                .expect("a file of the share can be written");
            wait_for(&target.join(&path), contents.as_bytes());
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let peak = peak_rss_bytes(follower.process().pid());
        follower.stop();
        remove(&target);
        let [median, p90, worst] = [0.5, 0.9, 1.0].map(|part| quantile(&mut times, part));
        (Latency { writes, median, p90, worst }, peak)
    }

    /// What the daemon holds now.
    pub(crate) fn daemon_memory(&self) -> u64 {
        rss_bytes(self.daemon.pid())
    }
}

fn wait_for(path: &Path, contents: &[u8]) {
    let end = Instant::now() + ARRIVAL;
    while !fs::read(path).is_ok_and(|found| found == contents) {
        assert!(Instant::now() < end, "{} did not arrive within {ARRIVAL:?}", path.display());
        thread::sleep(LOOK_STEP);
    }
}

fn peak_if_alive(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "few values"
)]
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

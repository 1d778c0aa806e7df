//! How the numbers are taken.

use std::time::Instant;

use sync_testkit::{
    contest::{arrival::latencies_ms, meter::peaks, remove, stats::quantile},
    programs::{PATIENCE, peak_rss_bytes, rss_bytes},
    tree::{Compare, differences, snapshot},
};

use crate::bed::Bed;

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

    /// The most memory that a pull takes; not in a timed run.
    pub(crate) fn peak_of_a_pull(&self, share: &str) -> u64 {
        let target = self.fresh_target();
        let agent = self.agent(share, &target);
        let peaks = peaks(None, || agent.start(&["pull"]), PATIENCE);
        remove(&target);
        peaks.client
    }

    /// Follows the small files, writes some of them at odd moments, and gives the latency and the agent's peak memory.
    pub(crate) fn follow(&mut self, writes: usize) -> (Latency, u64) {
        let target = self.fresh_target();
        let mut follower = self.agent("small", &target).follow();
        follower.caught_up();
        let mut times = latencies_ms(&mut self.small, &target, writes);
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

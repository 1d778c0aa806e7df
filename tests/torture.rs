//! Random operations while agents follow: in the end, and at every rest, everything is equal.
//!
//! A failure prints its seed and the operations. `SYNCD_SEED=N` runs that one; `SYNCD_SEEDS=N` runs the first N;
//! `SYNCD_TORTURE_OPS=N` does that many operations each.

mod common;

use std::{thread, time::Duration};

use common::{LATER, Lab, fill};
use sync_testkit::{
    moment,
    ops::Chaos,
    rng::Rng,
    seeds::{seeds, setting},
    tree::assert_same,
};

const DEFAULT_OPS: usize = 400;
/// Operations between two rests at which all is compared.
const ROUND: usize = 80;

/// Prints what was done if the test fails.
struct Told {
    seed: u64,
    chaos: Chaos,
}

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("SYNCD_SEED={}; operations:\n{}", self.seed, self.chaos.log().join("\n"));
        }
    }
}

#[test]
fn random_operations_converge() {
    for seed in seeds(1..=3) {
        eprintln!("seed {seed}");
        torture(seed, setting("SYNCD_TORTURE_OPS").unwrap_or(DEFAULT_OPS));
    }
}

fn torture(seed: u64, operations: usize) {
    let lab = Lab::new();
    fill(&lab.share, 30);
    let daemon = lab.daemon();
    // Chaos may well delete more than half within ten minutes.
    let agent = lab.agent(&daemon.url()).args(["--allow-mass-delete"]);
    let now_and_then = lab.agent_into(&daemon.url(), "pulled").args(["--allow-mass-delete"]);
    let mut follower = agent.follow();
    follower.caught_up();
    let mut rng = Rng::new(seed);
    let mut told = Told { seed, chaos: Chaos::new(&lab.share, seed) };
    for number in 0..operations {
        told.chaos.step();
        // Bursts and pauses: both the quiet time and the busy time of the watcher are met.
        if rng.chance(25) {
            moment(Duration::from_millis(rng.below(40) as u64));
        }
        if number % ROUND == ROUND - 1 {
            lab.wait_same(LATER);
            now_and_then.pull().expect(0);
            assert_same(lab.share.root(), &lab.path("pulled"));
        }
    }
    lab.wait_same(LATER);
    assert!(lab.target().trash().is_empty(), "nobody edited the target: {:?}", lab.target().trash());
    common::expect_code(&follower.stop(), 0);
    assert_eq!(agent.json(&["verify"]).expect(0).count("changed"), 0);
    let idle = agent.pull().expect(0);
    assert_eq!(idle.count("changed"), 0, "a second plan must be empty");
}

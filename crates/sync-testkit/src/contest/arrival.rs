//! How long a change takes to a target that follows.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::files::SmallFiles;
use crate::rng::Rng;

/// How long one write may take to arrive before the run is given up.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How often the target is looked at while a write is on its way; far below what is measured.
const LOOK_STEP: Duration = Duration::from_micros(200);
/// Writes come at moments between nothing and this after the last has arrived.
const LONGEST_PAUSE_MS: u64 = 25;

/// Writes some small files at odd moments, one after the other, and gives the milliseconds from each write to the new
/// bytes in `target`, which somebody keeps equal to the tree.
#[must_use]
pub fn latencies_ms(tree: &mut SmallFiles, target: &Path, writes: usize) -> Vec<f64> {
    let mut pauses = Rng::new(7);
    let mut times = Vec::with_capacity(writes);
    for number in 0..writes {
        thread::sleep(Duration::from_millis(pauses.next_u64() % LONGEST_PAUSE_MS));
        let file = tree.any();
        let path = tree.path(file);
        let contents = format!("write {number} of {writes}\n");
        let began = Instant::now();
        fs::write(tree.root().join(&path), &contents).expect("a file of the share can be written");
        wait_for(&target.join(&path), contents.as_bytes());
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times
}

fn wait_for(path: &Path, contents: &[u8]) {
    let end = Instant::now() + ARRIVAL;
    while !fs::read(path).is_ok_and(|found| found == contents) {
        assert!(Instant::now() < end, "{} did not arrive within {ARRIVAL:?}", path.display());
        thread::sleep(LOOK_STEP);
    }
}

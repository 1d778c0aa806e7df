//! What the benchmarks are made of: trees in memory, an rsync daemon to compare with, and the means to measure.

pub mod arrival;
pub mod files;
pub mod meter;
pub mod rsync;
pub mod stats;

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

/// Trees here are in memory, so that no disk is measured.
const MEMORY: &str = "/dev/shm";

/// A directory in memory, or on disk, with a word about it, where `wanted_bytes` are not free.
#[must_use]
pub fn working_directory(wanted_bytes: u64) -> TempDir {
    let builder = |parent: &Path| tempfile::Builder::new().prefix("syncd-bench-").tempdir_in(parent);
    if free_in_memory().is_some_and(|free| free >= wanted_bytes) {
        return builder(Path::new(MEMORY)).expect("a directory in memory can be made");
    }
    eprintln!(
        "{MEMORY} has not {} MiB free: the trees are on disk, and so is their noise",
        wanted_bytes >> 20
    );
    builder(&std::env::temp_dir()).expect("a temporary directory can be made")
}

/// How much fits into memory: the file system's own limit, and what programs leave. `None` where there is no such place.
#[must_use]
pub fn free_in_memory() -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1", MEMORY]).output().ok()?;
    let free: u64 = String::from_utf8(output.stdout).ok()?.lines().last()?.trim().parse().ok()?;
    Some(free.min(available_bytes().unwrap_or(free)))
}

fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Removes a tree of the benchmark's own, if it is there.
pub fn remove(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("the benchmark's own tree can be removed");
    }
}

//! A directory for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

/// Set this variable to look at what a failed test left.
const KEEP: &str = "SYNCD_TEST_KEEP";

/// A file system in memory, on Linux.
const MEMORY: &str = "/dev/shm";

/// A new directory that goes away with the handle. If the test fails and `SYNCD_TEST_KEEP` is set, it stays and is named.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    path: PathBuf,
}

impl Scratch {
    /// Makes one where temporary files go (`TMPDIR`).
    #[must_use]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Makes one in memory, where the system has such a place: for tests that flush much, and do not care where to.
    #[must_use]
    pub fn in_memory() -> Self {
        let memory = Path::new(MEMORY);
        if memory.is_dir() { Self::within(memory) } else { Self::new() }
    }

    fn within(place: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("syncd-test-").tempdir_in(place);
        let dir = dir.expect("temporary files can be made");
        let path = fs::canonicalize(dir.path()).expect("a new directory can be resolved");
        Self { dir, path }
    }

    /// Where it is, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() && std::env::var_os(KEEP).is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept {}", self.path.display());
        }
    }
}

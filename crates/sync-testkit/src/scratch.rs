//! A directory for one test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

/// What is here is in memory.
pub(crate) const MEMORY: &str = "/dev/shm";

/// Set this variable to look at what a failed test left.
const KEEP: &str = "SYNCD_TEST_KEEP";

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
        Self::below(&env::temp_dir())
    }

    /// Makes one in memory, where there is such a place: for many small trees.
    #[must_use]
    pub fn in_memory() -> Self {
        let memory = Path::new(MEMORY);
        if memory.is_dir() { Self::below(memory) } else { Self::new() }
    }

    fn below(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("syncd-test-").tempdir_in(parent);
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

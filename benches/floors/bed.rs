//! What is measured on: two shares in memory, one daemon that serves both, and an rsync daemon beside it.

use std::path::{Path, PathBuf};

use sync_testkit::{
    contest::{
        files::{SMALL, SmallFiles},
        large::LargeFile,
        remove,
        rsync::{self, RsyncDaemon},
        working_directory,
    },
    programs::{Agent, Daemon, DaemonSpec, Launch},
};
use tempfile::TempDir;

use crate::Settings;

/// Both sides, ready to be pulled from. Dropping it ends the programs and removes the trees.
pub(crate) struct Bed {
    // Before `dir`, so that the programs end first.
    pub(crate) daemon: Daemon,
    rsync: Option<RsyncDaemon>,
    pub(crate) small: SmallFiles,
    dir: TempDir,
}

impl Bed {
    /// Makes the trees and starts the daemons.
    pub(crate) fn make(settings: &Settings) -> Self {
        // The share and two targets, and as much again for blocks that are not full.
        let dir = working_directory(4 * (settings.large_bytes + (settings.small_files * SMALL.end()) as u64));
        let (small, large) = (dir.path().join("small"), dir.path().join("large"));
        eprintln!(
            "floors: making {} small files and a large one in {}",
            settings.small_files,
            dir.path().display()
        );
        let files = SmallFiles::make(&small, settings.small_files, SMALL);
        let _file = LargeFile::make(&large, settings.large_bytes);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_syncd")).share("small", small).share("large", large);
        let daemon = spec.start();
        let rsync = RsyncDaemon::start(dir.path(), &["small", "large"]);
        if rsync.is_none() {
            eprintln!("floors: rsync is not installed, so nothing is compared with it");
        }
        Self { daemon, rsync, small: files, dir }
    }

    /// Where a share is on disk.
    pub(crate) fn share(&self, share: &str) -> PathBuf {
        self.dir.path().join(share)
    }

    /// A directory for a target that does not exist yet.
    pub(crate) fn fresh_target(&self) -> PathBuf {
        let target = self.dir.path().join("target");
        remove(&target);
        target
    }

    /// An agent without fsync, as rsync is.
    pub(crate) fn agent(&self, share: &str, target: &Path) -> Agent {
        let agent = Agent::new(env!("CARGO_BIN_EXE_sync-agent"), &self.daemon.url(), share, target);
        agent.args(["--durability", "none"])
    }

    /// `rsync -a` of the same share, if there is an rsync.
    pub(crate) fn rsync(&self, share: &str, target: &Path) -> Option<Launch> {
        Some(rsync::pull(&self.rsync.as_ref()?.address(), share, target))
    }
}

//! What is measured on: two shares in memory, one daemon that serves both, and an rsync daemon beside it.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sync_testkit::{
    eventually, host,
    programs::{Agent, Daemon, DaemonSpec, Launch, Process},
    rng::Rng,
};
use tempfile::TempDir;

use crate::Settings;

const SEED: u64 = 0x5EED;
const MEMORY: &str = "/dev/shm";
const FILES_PER_DIRECTORY: usize = 100;
const SMALLEST: usize = 256;
const LARGEST: usize = 8192;

/// Both sides, ready to be pulled from. Dropping it ends the programs and removes the trees.
pub(crate) struct Bed {
    // Before `dir`, so that the programs end first.
    pub(crate) daemon: Daemon,
    rsync: Option<(Process, u16)>,
    dir: TempDir,
    pub(crate) small_files: usize,
}

impl Bed {
    /// Makes the trees and starts the daemons.
    pub(crate) fn make(settings: &Settings) -> Self {
        let dir = working_directory(settings);
        let (small, large) = (dir.path().join("small"), dir.path().join("large"));
        eprintln!(
            "floors: making {} small files and a large one in {}",
            settings.small_files,
            dir.path().display()
        );
        make_small_files(&small, settings.small_files);
        make_large_file(&large, settings.large_bytes);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_syncd")).share("small", small).share("large", large);
        let daemon = spec.start();
        let rsync = start_rsync(dir.path());
        if rsync.is_none() {
            eprintln!("floors: rsync is not installed, so nothing is compared with it");
        }
        Self { daemon, rsync, dir, small_files: settings.small_files }
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
        let (_, port) = self.rsync.as_ref()?;
        let source = format!("rsync://127.0.0.1:{port}/{share}/");
        Some(Launch::new("rsync").args(["-a", &source]).args([target]))
    }
}

/// Removes a tree, if it is there.
pub(crate) fn remove(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("the benchmark's own tree can be removed");
    }
}

/// A directory in memory, or on disk, with a word about it, where there is not enough room.
fn working_directory(settings: &Settings) -> TempDir {
    // The share and two targets, and as much again for blocks that are not full.
    let wanted = 4 * (settings.large_bytes + (settings.small_files * LARGEST) as u64);
    let builder = |parent: &Path| tempfile::Builder::new().prefix("syncd-floors-").tempdir_in(parent);
    if free_bytes(MEMORY).is_some_and(|free| free >= wanted) {
        return builder(Path::new(MEMORY)).expect("a directory in memory can be made");
    }
    eprintln!(
        "floors: {MEMORY} has not {} MiB free: the trees are on disk, and so is their noise",
        wanted >> 20
    );
    builder(&std::env::temp_dir()).expect("a temporary directory can be made")
}

fn free_bytes(dir: &str) -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1", dir]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().last()?.trim().parse().ok()
}

fn make_small_files(dir: &Path, count: usize) {
    let mut rng = Rng::new(SEED);
    for number in 0..count {
        let path = dir.join(small_file(number));
        if number.is_multiple_of(FILES_PER_DIRECTORY) {
            fs::create_dir_all(path.parent().expect("a file is in a directory"))
                .expect("directories can be made");
        }
        let len = SMALLEST + rng.below(LARGEST - SMALLEST + 1);
        fs::write(&path, rng.bytes(len)).expect("there is room for the small files");
    }
}

/// The relative path of a small file.
pub(crate) fn small_file(number: usize) -> PathBuf {
    PathBuf::from(format!("directory {:04}/file {number:06}.dat", number / FILES_PER_DIRECTORY))
}

fn make_large_file(dir: &Path, bytes: u64) {
    const BLOCK: u64 = 8 << 20;
    fs::create_dir_all(dir).expect("a directory can be made");
    let mut file = fs::File::create(dir.join("large.bin")).expect("a file can be made");
    let mut rng = Rng::new(SEED + 1);
    for _ in 0..bytes / BLOCK {
        file.write_all(&rng.bytes(8 << 20)).expect("there is room for the large file");
    }
}

/// An rsync daemon with a module for each share; `None` without rsync.
fn start_rsync(dir: &Path) -> Option<(Process, u16)> {
    Command::new("rsync").arg("--version").output().ok()?;
    let mut config = "use chroot = no\nread only = yes\nexclude = /.syncd\nreverse lookup = no\n".to_owned();
    if host::is_root() {
        // Otherwise it would become "nobody", who may not read the trees.
        config.push_str("uid = 0\ngid = 0\n");
    }
    for share in ["small", "large"] {
        config.push_str(&format!("[{share}]\npath = {}\n", dir.join(share).display()));
    }
    let path = dir.join("rsyncd.conf");
    fs::write(&path, config).expect("a configuration can be written");
    let port = free_port();
    let launch = Launch::new("rsync")
        .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
        .args([format!("--port={port}"), format!("--config={}", path.display())])
        .args([format!("--log-file={}", dir.join("rsyncd.log").display())]);
    let daemon = launch.start();
    eventually(Duration::from_secs(10), || {
        TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("rsync does not listen: {error}"))
    });
    Some((daemon, port))
}

/// A port that was free a moment ago: rsync cannot choose one itself and say which.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

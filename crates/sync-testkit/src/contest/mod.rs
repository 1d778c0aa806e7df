//! What the benchmarks are made of: trees in memory, an rsync daemon to compare with, and the means to measure.

pub mod arrival;
pub mod files;
pub mod large;
pub mod meter;
pub mod rsync;
pub mod stats;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Instant,
};

use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

use crate::{link::Link, proxy::Proxy, scratch::MEMORY};

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

/// Memory that stays in use, but can be had: see [`keep_memory`].
#[derive(Debug)]
pub struct KeptMemory {
    _file: File,
}

/// A page is kept of each piece of this size. What a virtual machine hands to its host are larger pieces that are free as a whole.
const PIECE: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Uses so much memory and gives it back but for a page here and there, for as long as the answer lives, if this directory is in
/// memory. A virtual machine hands what nobody uses to its host, within seconds, and gets it back slowly: without this that would be
/// most of what a run with gigabytes shows.
///
/// # Panics
/// If there is not so much.
#[must_use]
pub fn keep_memory(dir: &Path, bytes: u64) -> Option<KeptMemory> {
    if bytes == 0 || !dir.starts_with(MEMORY) {
        return None;
    }
    let mut file = tempfile::tempfile_in(dir).expect("a file can be made");
    io::copy(&mut io::repeat(1).take(bytes), &mut file).expect("there is as much memory as was asked for");
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for piece in (0..bytes.saturating_sub(PAGE)).step_by(PIECE as usize) {
        fallocate(&file, holes, piece + PAGE, PIECE - PAGE).expect("a file in memory can have holes");
    }
    Some(KeptMemory { _file: file })
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

/// What a bare TCP stream gets through a [`Link`], in Gbit/s, without the time of the first byte: the proof that the line,
/// not the proxy, is what limits. The best of some attempts.
///
/// # Panics
/// If loopback does not work.
#[must_use]
pub fn line_carries(link: Link) -> f64 {
    const BYTES: usize = 100_000_000;
    const ATTEMPTS: usize = 3;
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let proxy = Proxy::over(link, &address.to_string());
    let seconds = (0..ATTEMPTS).map(|_| {
        let mut client = TcpStream::connect(proxy.address()).expect("the proxy listens");
        let (mut server, _) = listener.accept().expect("the proxy connects");
        let sender = thread::spawn(move || server.write_all(&vec![0; BYTES]));
        client.read_exact(&mut [0]).expect("the first byte comes");
        let began = Instant::now();
        io::copy(&mut client, &mut io::sink()).expect("the others come");
        sender.join().expect("the sender does not panic").expect("everything can be sent");
        began.elapsed().as_secs_f64()
    });
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gigabits = BYTES as f64 * 8.0 / 1e9;
    gigabits / seconds.fold(f64::INFINITY, f64::min)
}

/// A port that was free a moment ago, for programs that cannot choose one themselves and say which.
///
/// # Panics
/// If loopback does not work.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

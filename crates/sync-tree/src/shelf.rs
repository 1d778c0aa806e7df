//! What large files are made of, kept on disk from one run to the next.
//!
//! Invariants:
//! * A list is of a digest, so it is never out of date. Whoever uses one believes it only as far as finding parts goes: what
//!   is made with it is verified by the digest of the whole.
//! * All of it may be lost or damaged at any time, and nothing but time is lost with it: nothing is flushed, a list that is
//!   not whole is removed, and no failure here is anybody's failure.
//! * What is kept has a bound, in bytes and in lists; what was not used for longest goes first.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use sync_core::{Chunk, ChunkHash, Digest, Time, chunk};

use crate::rooted::{Dir, StatKind, read_file_at, set_file_times, stat_file, write_file_at};

/// In the state directory.
const NAME: &str = "chunks";
/// How much disk is spent: the parts of some 37 GiB of files.
const MOST_BYTES: u64 = 64 << 20;
/// And in how many lists: that many names are looked at when one is added.
const MOST_LISTS: usize = 512;
/// The version of what is written.
const FORMAT: &[u8] = b"syncd chunks 1\n";
const CHUNK_BYTES: usize = 20;
const SUM_BYTES: usize = 16;

/// The lists of a state directory. Only one process may have it open.
#[derive(Debug)]
pub struct Shelf {
    state: Dir,
    most_bytes: u64,
    most_lists: usize,
    /// Nobody reads what another is writing.
    turn: Mutex<()>,
}

impl Shelf {
    /// The lists that are kept in this state directory.
    #[must_use]
    pub fn new(state: Dir) -> Self {
        Self { state, most_bytes: MOST_BYTES, most_lists: MOST_LISTS, turn: Mutex::default() }
    }

    /// The parts of the file of this size and digest, if they are known.
    #[must_use]
    pub fn get(&self, size: u64, digest: &Digest) -> Option<Vec<Chunk>> {
        let _turn = self.turn();
        let (dir, name) = (self.state.open_dir(NAME).ok()?, digest.to_hex());
        match read(&dir, &name) {
            Ok(bytes) => {
                let chunks = from_bytes(&bytes).filter(|chunks| total(chunks) == size);
                if chunks.is_none() {
                    tracing::debug!(name, "a list of chunks is damaged");
                    let _ = dir.remove_file(&name);
                }
                chunks
            }
            Err(error) => {
                tracing::debug!(name, %error, "no list of chunks");
                None
            }
        }
    }

    /// Keeps the parts of a file.
    pub fn put(&self, digest: &Digest, chunks: &[Chunk]) {
        let _turn = self.turn();
        if let Err(error) = self.write(&digest.to_hex(), &to_bytes(chunks)) {
            tracing::debug!(%error, "a list of chunks cannot be kept");
        }
    }

    /// Forgets the parts of a file.
    pub fn remove(&self, digest: &Digest) {
        let _turn = self.turn();
        // What is not there need not go.
        let _ = self.state.open_dir(NAME).and_then(|dir| dir.remove_file(&digest.to_hex()));
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let dir = match self.state.make_dir(NAME, 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => self.state.open_dir(NAME)?,
        };
        match dir.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.make_room(&dir, bytes.len() as u64)?;
        let file = dir.create_new(name, 0o600)?;
        let written = write_file_at(&file, bytes, 0);
        if written.is_err() {
            let _ = dir.remove_file(name);
        }
        written
    }

    /// Removes what was not used for longest, and what is not ours, until so much more may come.
    fn make_room(&self, dir: &Dir, bytes: u64) -> io::Result<()> {
        let mut kept: Vec<(Time, u64, String)> = Vec::new();
        for entry in dir.list()? {
            let Ok(name) = String::from_utf8(entry.name.into()) else { continue };
            let stat = dir.stat(&name)?;
            if stat.kind == StatKind::File {
                kept.push((stat.mtime, stat.size, name));
            }
        }
        kept.sort_by(|a, b| b.cmp(a));
        let mut together = bytes;
        for (number, (_, size, name)) in kept.into_iter().enumerate() {
            together += size;
            if together > self.most_bytes || number + 1 >= self.most_lists {
                dir.remove_file(&name)?;
            }
        }
        Ok(())
    }
}

/// Reads a list, and marks it as used.
fn read(dir: &Dir, name: &str) -> io::Result<Vec<u8>> {
    let file = dir.open_file(name)?;
    let most = FORMAT.len() + chunk::ALGORITHM.len() + 1 + CHUNK_BYTES * chunk::MOST_CHUNKS + SUM_BYTES;
    let size = usize::try_from(stat_file(&file)?.size).unwrap_or(usize::MAX);
    if size > most {
        // It is not ours: what is read of it will not be whole.
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; size];
    read_file_at(&file, &mut bytes, 0)?;
    // If that fails it goes sooner.
    let _ = set_file_times(&file, now());
    Ok(bytes)
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

fn to_bytes(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = [FORMAT, chunk::ALGORITHM.as_bytes(), b"\n"].concat();
    bytes.reserve(chunks.len() * CHUNK_BYTES + SUM_BYTES);
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.size.to_le_bytes());
        bytes.extend_from_slice(&chunk.hash.0);
    }
    let sum = ChunkHash::of(&bytes);
    bytes.extend_from_slice(&sum.0);
    bytes
}

/// `None` if it is of another version, or damaged.
fn from_bytes(bytes: &[u8]) -> Option<Vec<Chunk>> {
    let (bytes, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
    if ChunkHash::of(bytes).0 != sum {
        return None;
    }
    let list = bytes.strip_prefix(FORMAT)?.strip_prefix(chunk::ALGORITHM.as_bytes())?.strip_prefix(b"\n")?;
    let (list, rest) = list.as_chunks::<CHUNK_BYTES>();
    let chunk = |bytes: &[u8; CHUNK_BYTES]| {
        let (size, hash) = bytes.split_at(4);
        Some(Chunk {
            size: u32::from_le_bytes(size.try_into().ok()?),
            hash: ChunkHash(hash.try_into().ok()?),
        })
    };
    if rest.is_empty() { list.iter().map(chunk).collect() } else { None }
}

fn total(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.size)).sum()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own files")]
mod tests {
    use std::{
        fs::{self, File, FileTimes},
        path::PathBuf,
        time::Duration,
    };

    use super::*;
    use crate::rooted::Root;

    struct Scene {
        _tmp: tempfile::TempDir,
        path: PathBuf,
        shelf: Shelf,
    }

    fn scene() -> Scene {
        let tmp = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(Root::open(tmp.path()).unwrap().dir());
        Scene { path: tmp.path().join(NAME), _tmp: tmp, shelf }
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn chunks(number: u8, count: u32) -> Vec<Chunk> {
        (1..=count).map(|size| Chunk { size, hash: ChunkHash([number; 16]) }).collect()
    }

    impl Scene {
        fn file(&self, number: u8) -> PathBuf {
            self.path.join(digest(number).to_hex())
        }

        fn put(&self, number: u8, hours_ago: u64) {
            self.shelf.put(&digest(number), &chunks(number, 100));
            let used = SystemTime::now() - Duration::from_secs(hours_ago * 3600);
            let file = File::options().write(true).open(self.file(number)).unwrap();
            file.set_times(FileTimes::new().set_modified(used)).unwrap();
        }

        fn get(&self, number: u8) -> Option<Vec<Chunk>> {
            self.shelf.get(5050, &digest(number))
        }
    }

    #[test]
    fn what_is_kept_is_found_by_the_next_run_and_forgotten_when_that_is_said() {
        let mut scene = scene();
        assert_eq!(scene.get(1), None);
        scene.shelf.remove(&digest(1));
        scene.put(1, 0);
        scene.put(2, 0);
        scene.put(2, 0);
        scene.shelf = Shelf::new(scene.shelf.state.clone());
        assert_eq!(scene.get(1), Some(chunks(1, 100)));
        assert_eq!(scene.get(2), Some(chunks(2, 100)));
        scene.shelf.remove(&digest(1));
        assert_eq!((scene.get(1), scene.get(2).is_some()), (None, true));
    }

    #[test]
    fn what_is_damaged_torn_or_of_another_size_is_not_believed_and_goes() {
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [Spoil; 5] = [
            |bytes| bytes[70] ^= 1,
            |bytes| bytes.truncate(500),
            |bytes| bytes.fill(0),
            Vec::clear,
            |bytes| {
                // The next version, whole.
                bytes[13] = b'2';
                let end = bytes.len() - SUM_BYTES;
                let sum = ChunkHash::of(&bytes[..end]);
                bytes[end..].copy_from_slice(&sum.0);
            },
        ];
        let scene = scene();
        for spoil in spoils {
            scene.put(1, 0);
            let mut bytes = fs::read(scene.file(1)).unwrap();
            spoil(&mut bytes);
            fs::write(scene.file(1), bytes).unwrap();
            assert_eq!(scene.get(1), None);
            assert!(!scene.file(1).exists());
        }
        scene.put(1, 0);
        assert_eq!(scene.shelf.get(5051, &digest(1)), None, "the parts are not those of such a file");
    }

    #[test]
    fn what_is_kept_has_a_bound_and_what_was_not_used_for_longest_goes_first() {
        let mut scene = scene();
        let one = to_bytes(&chunks(1, 100)).len() as u64;
        for (most_bytes, most_lists) in [(3 * one, 100), (1 << 20, 3)] {
            scene.shelf = Shelf { most_bytes, most_lists, ..Shelf::new(scene.shelf.state.clone()) };
            [1, 2, 3].into_iter().for_each(|number| scene.put(number, 10 - u64::from(number)));
            assert!(scene.get(1).is_some(), "and so it was used just now");
            scene.put(4, 0);
            assert_eq!([1, 2, 3, 4].map(|number| scene.get(number).is_some()), [true, false, true, true]);
            [1, 3, 4].into_iter().for_each(|number| scene.shelf.remove(&digest(number)));
        }
    }

    #[test]
    fn nothing_is_read_or_written_through_what_somebody_put_there() {
        let scene = scene();
        let victim = scene.path.with_file_name("victim");
        fs::write(&victim, "safe").unwrap();
        fs::create_dir(&scene.path).unwrap();
        std::os::unix::fs::symlink(&victim, scene.file(1)).unwrap();
        assert_eq!(scene.get(1), None);
        scene.shelf.put(&digest(1), &chunks(1, 100));
        assert_eq!(fs::read(&victim).unwrap(), b"safe");
        assert_eq!(scene.get(1), Some(chunks(1, 100)));
    }
}

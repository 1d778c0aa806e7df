//! Content comes in: temporary files of our own, verified before anyone else can see them.
//!
//! They lie in `staging/RUN/LANE/`: a directory per run, so that leftovers of an ended run are known for what they are, and
//! a few lanes in it, so that threads do not wait for each other's directory. Only what we wrote ourselves is ever in a
//! lane; it may be deleted at any time.
//!
//! Small files have no name at all until they get their final one, where the system can do that: two changes of
//! directories less for each file, and a kill leaves nothing behind.

use std::{
    fs::File,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use sync_core::{Digest, Entry, Time, TreePath};

use super::{
    Applier, ApplyError, Durability, make_or_open,
    partial::{self, Lease},
    place::MODE_BITS,
};
use crate::{
    hash::{self, Identity},
    platform,
    probe::probed,
    rooted::{
        Dir, read_file_at, set_file_len, set_file_mode, set_file_times, stat_file, sync_file, write_file_at,
    },
};

/// More than the threads that usually write.
const LANES: usize = 8;

/// At most so many staged files keep their handle. Those beyond have a name and are closed and opened again.
const MOST_HELD: usize = 4096;
/// And at most this part of the files that the process may have open.
const HELD_PART: usize = 4;
/// What is held where the system does not say how many files may be open.
const HELD_UNKNOWN: usize = 256;

/// The steps in which runs of zeros are looked for. They become holes.
const HOLE_BYTES: usize = 64 * 1024;

/// Local sources up to this size are read at once, which is cheaper than copying and reading the copy.
const COPY_AT_ONCE_BYTES: u64 = 128 * 1024;

/// Only we read a file before it has its final mode.
pub(super) const TEMP_MODE: u16 = 0o600;

/// Where temporary files are made.
#[derive(Debug)]
pub(super) struct Staging {
    dir: Dir,
    run: String,
    lanes: [OnceLock<Dir>; LANES],
    next: AtomicU64,
    held: Arc<AtomicUsize>,
    pub(super) most_held: usize,
    pub(super) unnamed: OnceLock<Option<u16>>,
}

impl Staging {
    pub(super) fn new(dir: Dir, run: String) -> Self {
        Self {
            dir,
            run,
            lanes: Default::default(),
            next: AtomicU64::new(0),
            held: Arc::default(),
            most_held: platform::most_open_files()
                .map_or(HELD_UNKNOWN, |most| most / HELD_PART)
                .min(MOST_HELD),
            unnamed: OnceLock::new(),
        }
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The name of this run's directory in staging.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    pub(super) fn clean(&self) {
        let Ok(run) = self.dir.open_dir(&self.run) else { return };
        for lane in 0..LANES {
            // What is not empty is in use, or was never made.
            let _ = run.remove_dir(&lane.to_string());
        }
        let _ = self.dir.remove_dir(&self.run);
    }

    /// A name for a temporary file that nothing else has.
    pub(super) fn fresh(&self) -> io::Result<Temp> {
        Ok(Temp { dir: self.lane()?.clone(), name: self.fresh_name(), ours: false, lease: None })
    }

    /// The mode bits that a new file gets here if it asks for all, provided that files can be made without a name and be
    /// given one later.
    fn unnamed(&self, lane: &Dir) -> Option<u16> {
        *self.unnamed.get_or_init(|| {
            let kept = self.try_unnamed(lane);
            kept.inspect_err(|error| tracing::debug!(%error, "small files get a name while they are staged"))
                .ok()
        })
    }

    fn try_unnamed(&self, lane: &Dir) -> io::Result<u16> {
        let file = lane.create_unnamed(MODE_BITS)?;
        let name = self.fresh_name();
        lane.link_unnamed(&file, &name)?;
        lane.remove_file(&name)?;
        Ok(stat_file(&file)?.mode & MODE_BITS)
    }

    /// Gives a file without a name one in staging.
    pub(super) fn name(&self, file: &File) -> io::Result<Temp> {
        let mut temp = self.fresh()?;
        temp.dir.link_unnamed(file, &temp.name)?;
        temp.ours = true;
        Ok(temp)
    }

    pub(super) fn hold(&self) -> Option<Held> {
        let guard = Held(self.held.clone());
        (self.held.fetch_add(1, Ordering::Relaxed) < self.most_held).then_some(guard)
    }

    fn fresh_name(&self) -> String {
        format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// This thread's lane.
    pub(super) fn lane(&self) -> io::Result<&Dir> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static LANE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % LANES;
        }
        let lane = LANE.with(|lane| *lane);
        if let Some(dir) = self.lanes[lane].get() {
            return Ok(dir);
        }
        let made = make_or_open(&make_or_open(&self.dir, &self.run)?, &lane.to_string())?;
        Ok(self.lanes[lane].get_or_init(|| made))
    }
}

/// A name in staging. What is ours there is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) dir: Dir,
    pub(super) name: String,
    pub(super) ours: bool,
    /// For a name that others may want too: it is ours alone until this is dropped, after the file has left it.
    pub(super) lease: Option<Lease>,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.ours {
            // If it cannot be removed, the next start does it.
            let _ = self.dir.remove_file(&self.name);
        }
    }
}

/// The right to keep a file open.
#[derive(Debug)]
pub(super) struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file being received.
#[derive(Debug)]
pub struct StagedFile {
    pub(super) temp: Temp,
    pub(super) body: Body,
    pub(super) hasher: blake3::Hasher,
    held: Option<Held>,
}

/// What a file being received holds.
#[derive(Debug)]
pub(super) struct Body {
    file: File,
    /// How much was appended.
    size: u64,
    /// Up to where the file was written; less than `size` if it ends with a hole.
    written: u64,
}

/// A complete, verified file that waits for its place. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    kept: Kept,
    /// The mode and time that it has, once they are those of its entry.
    dressed: Option<(u16, Time)>,
}

/// How a staged file is kept.
#[derive(Debug)]
enum Kept {
    Open(Open),
    /// By its name.
    Closed(Temp),
}

/// A staged file that is held, and counts against the open files.
#[derive(Debug)]
struct Open {
    /// Its name, if it has one.
    temp: Option<Temp>,
    file: File,
    /// The mode that it is known to have.
    mode: Option<u16>,
    _held: Held,
}

/// What [`Applier::place`](super::Applier) needs of a staged file.
pub(super) struct Parts {
    /// Its name, if it has one.
    pub(super) temp: Option<Temp>,
    pub(super) file: File,
    /// The mode that it is known to have.
    pub(super) mode: Option<u16>,
    /// Its mode and time, if they are set and flushed.
    pub(super) dressed: Option<(u16, Time)>,
}

impl StagedFile {
    fn new(temp: Temp, file: File, held: Option<Held>) -> Self {
        Self { temp, body: Body { file, size: 0, written: 0 }, hasher: blake3::Hasher::new(), held }
    }

    /// One of which so much is there already.
    pub(super) fn resumed(temp: Temp, file: File, hasher: blake3::Hasher, have: u64) -> Self {
        Self { temp, body: Body { file, size: have, written: have }, hasher, held: None }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk is full or failed. Nothing can be appended afterwards.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ApplyError> {
        // What a failed write left is not known.
        self.temp.ours = true;
        self.hasher.update(bytes);
        self.body.append(bytes).map_err(write_failed)?;
        self.keep()
    }

    /// What has come of a large file is not removed if its transfer ends here.
    pub(super) fn keep(&mut self) -> Result<(), ApplyError> {
        if self.temp.lease.is_some() && partial::is_kept(self.body.size) {
            // Its length is all that tells how far it came.
            self.body.end_hole().map_err(write_failed)?;
            self.temp.ours = false;
        }
        Ok(())
    }

    /// How many bytes were appended.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.body.size
    }

    /// Ends the file if it has this size and digest.
    ///
    /// # Errors
    /// It has not: it is then removed.
    pub fn finish(mut self, size: u64, digest: &Digest) -> Result<Staged, ApplyError> {
        self.temp.ours = true;
        if self.body.size != size || Digest::from(self.hasher.finalize()) != *digest {
            return Err(ApplyError::Digest { path: TreePath::root() });
        }
        self.body.end_hole().map_err(write_failed)?;
        Ok(Staged::named(self.temp, self.body.file, self.held))
    }
}

impl Body {
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let mut at = self.size;
        self.size += bytes.len() as u64;
        while !rest.is_empty() {
            let (run, is_hole) = next_run(rest, at);
            if !is_hole {
                write_file_at(&self.file, &rest[..run], at)?;
                self.written = at + run as u64;
            }
            at += run as u64;
            rest = &rest[run..];
        }
        Ok(())
    }

    /// Appends a part of another file without reading it here, as far as the kernel does that. Answers how far that was.
    pub(super) fn append_shared(&mut self, of: &File, at: u64, len: u64) -> io::Result<u64> {
        let (to, end) = (&self.file, self.size + len);
        let copy = || platform::copy_range((of, at), (to, self.size), end - self.size);
        let done = probed!(Copy { file: to, at: end } => copy())?;
        if done > 0 {
            self.size += done;
            self.written = self.size;
        }
        Ok(done)
    }

    /// Another handle of it, to read what was written.
    pub(super) fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn end_hole(&mut self) -> io::Result<()> {
        if self.written < self.size {
            set_file_len(&self.file, self.size)?;
            self.written = self.size;
        }
        Ok(())
    }
}

/// How many of the next bytes are treated alike, and whether they are a hole.
fn next_run(bytes: &[u8], at: u64) -> (usize, bool) {
    let to_boundary = HOLE_BYTES - usize::try_from(at % HOLE_BYTES as u64).unwrap_or(0);
    let is_hole = |part: &[u8]| part.len() == HOLE_BYTES && part.iter().all(|byte| *byte == 0);
    let mut end = to_boundary.min(bytes.len());
    if is_hole(&bytes[..end]) {
        return (end, true);
    }
    while end < bytes.len() {
        let next = (end + HOLE_BYTES).min(bytes.len());
        if is_hole(&bytes[end..next]) {
            break;
        }
        end = next;
    }
    (end, false)
}

impl Staged {
    fn named(temp: Temp, file: File, held: Option<Held>) -> Self {
        Self::new(match held {
            Some(held) => Kept::Open(Open { temp: Some(temp), file, mode: None, _held: held }),
            None => Kept::Closed(temp),
        })
    }

    fn new(kept: Kept) -> Self {
        Self { kept, dressed: None }
    }

    /// Sets mode and time, to be flushed with the content.
    pub(super) fn dress(&mut self, entry: &Entry) -> io::Result<()> {
        let mode = entry.mode & MODE_BITS;
        match &mut self.kept {
            Kept::Open(open) => {
                if open.mode != Some(mode) {
                    set_file_mode(&open.file, mode)?;
                    open.mode = Some(mode);
                }
                set_file_times(&open.file, entry.mtime)?;
            }
            // It could not be opened again to be placed.
            Kept::Closed(_) if mode & 0o400 == 0 => return Ok(()),
            Kept::Closed(temp) => {
                let file = temp.dir.open_file(&temp.name)?;
                set_file_mode(&file, mode)?;
                set_file_times(&file, entry.mtime)?;
            }
        }
        self.dressed = Some((mode, entry.mtime));
        Ok(())
    }

    /// Flushes it alone. It needs a name for that: what has none is not flushed by every file system, as nobody could find it.
    pub(super) fn sync(&mut self, staging: &Staging) -> io::Result<()> {
        match &mut self.kept {
            Kept::Open(open) => {
                if open.temp.is_none() {
                    open.temp = Some(staging.name(&open.file)?);
                }
                sync_file(&open.file)
            }
            Kept::Closed(temp) => sync_file(&temp.dir.open_file(&temp.name)?),
        }
    }

    pub(super) fn into_parts(self) -> io::Result<Parts> {
        let dressed = self.dressed;
        Ok(match self.kept {
            Kept::Open(Open { temp, file, mode, .. }) => Parts { temp, file, mode, dressed },
            Kept::Closed(temp) => {
                let file = temp.dir.open_file(&temp.name)?;
                Parts { temp: Some(temp), file, mode: None, dressed }
            }
        })
    }
}

impl Applier {
    /// Begins a file that will arrive in parts.
    ///
    /// # Errors
    /// Staging cannot be written.
    pub fn stage(&self) -> Result<StagedFile, ApplyError> {
        let (temp, file) = self.create()?;
        let held = self.staging.hold();
        Ok(StagedFile::new(temp, file, held))
    }

    /// Stages a whole file that is in memory. It saves a step later if `mode` is the mode that it will have in its place.
    ///
    /// # Errors
    /// The bytes have another digest, or the disk is full or failed.
    pub fn stage_bytes(&self, bytes: &[u8], digest: &Digest, mode: u16) -> Result<Staged, ApplyError> {
        if Digest::of(bytes) != *digest {
            return Err(ApplyError::Digest { path: TreePath::root() });
        }
        let write = |file: &File| write_file_at(file, bytes, 0).map_err(write_failed);
        if let Some(unnamed) = self.create_unnamed(mode)? {
            write(&unnamed.file)?;
            return Ok(Staged::new(Kept::Open(unnamed)));
        }
        let (temp, file) = self.create()?;
        write(&file)?;
        Ok(Staged::named(temp, file, self.staging.hold()))
    }

    /// Stages a copy of a file of the target; blocks are shared where the file system can do that.
    ///
    /// # Errors
    /// The source is not what was expected, its first `size` bytes have another digest, or the disk is full or failed.
    pub fn stage_copy(
        &self,
        from: &TreePath,
        expect: &Identity,
        size: u64,
        digest: &Digest,
    ) -> Result<Staged, ApplyError> {
        let source = self.open_expected(from, expect)?;
        self.copy(&source, size, digest).map_err(|error| error.about(from))
    }

    /// Opens a file of the target for reading, if it is the expected one.
    ///
    /// # Errors
    /// It is another, or cannot be read.
    pub fn open_expected(&self, path: &TreePath, expect: &Identity) -> Result<File, ApplyError> {
        let reading = |source| ApplyError::of_place(path, "read it", source);
        let (dir, name) = self.root.open_parent(path).map_err(reading)?;
        let file = dir.open_file(&name).map_err(reading)?;
        let is_expected = Identity::of(&stat_file(&file).map_err(reading)?) == *expect;
        if is_expected { Ok(file) } else { Err(ApplyError::Stale { path: path.clone() }) }
    }

    fn copy(&self, source: &File, size: u64, digest: &Digest) -> Result<Staged, ApplyError> {
        let mismatch = || ApplyError::Digest { path: TreePath::root() };
        let failed = |source| ApplyError::of_state("copy a file of the target", source);
        if size <= COPY_AT_ONCE_BYTES {
            let len = usize::try_from(size).map_err(|_| mismatch())?;
            return hash::with_buffer(|buffer| match read_file_at(source, &mut buffer[..len], 0) {
                Ok(()) => self.stage_bytes(&buffer[..len], digest, TEMP_MODE),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(mismatch()),
                Err(error) => Err(failed(error)),
            });
        }
        let (temp, file) = self.create()?;
        probed!(Copy { file: &file, at: size } => platform::copy(source, &file, size)).map_err(failed)?;
        // The copy is what will be placed, so the copy is what must be right.
        let hashed = hash::hash_file(&file, size).map_err(failed)?;
        if hashed.read != size || hashed.digest != *digest {
            return Err(mismatch());
        }
        Ok(Staged::named(temp, file, self.staging.hold()))
    }

    /// A new file without a name, with this mode where the system gives it that. `None` where there can be none, where too many
    /// are held, or where each is flushed alone and needs a name for that.
    fn create_unnamed(&self, mode: u16) -> Result<Option<Open>, ApplyError> {
        if self.durability == Durability::File {
            return Ok(None);
        }
        let failed = |source| ApplyError::of_state("write into .syncd/staging", source);
        let lane = self.staging.lane().map_err(failed)?;
        let Some(kept) = self.staging.unnamed(lane) else { return Ok(None) };
        let Some(held) = self.staging.hold() else { return Ok(None) };
        let mode = mode & MODE_BITS;
        let file = lane.create_unnamed(mode).map_err(failed)?;
        Ok(Some(Open { temp: None, file, mode: (mode & !kept == 0).then_some(mode), _held: held }))
    }

    fn create(&self) -> Result<(Temp, File), ApplyError> {
        let failed = |source| ApplyError::of_state("write into .syncd/staging", source);
        let mut temp = self.staging.fresh().map_err(failed)?;
        let file = temp.dir.create_new(&temp.name, TEMP_MODE).map_err(failed)?;
        temp.ours = true;
        Ok((temp, file))
    }
}

pub(super) fn write_failed(source: io::Error) -> ApplyError {
    ApplyError::of_state("write into .syncd/staging", source)
}

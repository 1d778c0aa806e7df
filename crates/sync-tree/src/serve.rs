//! Reads files of a live tree for those who know them by node id and digest.
//!
//! Invariants:
//! * Bytes are handed out as good only if they are those of the digest that was asked for: either the file still has the
//!   identity that vouches for the indexed digest, or what was read was hashed, now or by the look that found it.
//! * An entry of size n is its first n bytes, so what is appended meanwhile does no harm.
//! * Every file is opened from a held directory of the tree, never by a path.
//!
//! A file that turns out to be different is looked at again at once, so that the feed tells its new state.

mod search;

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use sync_core::{Content, Digest, Hint, Node, NodeId, TreePath, chunk::is_taken_apart};

use crate::{
    chunks::{Apart, Parts, take_apart},
    fresh::Following,
    hash::{Identity, hash_file},
    index::{IndexError, IndexedNode},
    live::{LiveTree, Site, Suspects},
    platform::{self, files_to_hold},
    probe::probed,
    rooted::{Dir, Stat, StatKind, append_first, stat_file},
    trouble,
};

use search::Search;

/// Directories that are held open for the files in them, while somebody fetches: so many, or this part of the files that the
/// process may have open.
const MOST_HANDLES: usize = 256;
const HANDLES_PART: usize = 8;

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The id is no node's (any more).
    #[error("There is no such node")]
    NoSuchNode,
    /// The node is a directory or a link.
    #[error("The node is not a file")]
    NotAFile,
    /// The file does not have these bytes (any more).
    #[error("The file has changed")]
    Changed,
    /// The file cannot be read.
    #[error("Cannot read {path}")]
    Unreadable {
        /// Which file.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// The file is larger than the caller takes.
    #[error("The file is too large for this request")]
    TooLarge,
    /// The index cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Hint for ServeError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchNode | Self::Changed => Some("read the feed on: it tells the newer state"),
            Self::NotAFile => None,
            Self::Unreadable { source, .. } => {
                trouble::advice(source).or(Some("check the permissions of the file on the server"))
            }
            Self::TooLarge => Some("fetch it on its own"),
            Self::Index(error) => error.hint(),
        }
    }
}

/// The directories that were used last, held open as long as somebody fetches. One that is held cannot be unmounted, and keeps
/// its place on the disk when it is removed.
#[derive(Debug, Default)]
pub(crate) struct Handles(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    dirs: HashMap<NodeId, (Dir, u64)>,
    uses: u64,
    fetchers: usize,
}

impl Handles {
    fn get(&self, id: NodeId) -> Option<Dir> {
        let mut held = self.lock();
        held.uses += 1;
        let now = held.uses;
        let (dir, used) = held.dirs.get_mut(&id)?;
        *used = now;
        Some(dir.clone())
    }

    fn put(&self, id: NodeId, dir: Dir) {
        let most = files_to_hold(MOST_HANDLES, HANDLES_PART);
        let mut held = self.lock();
        if held.fetchers == 0 {
            return;
        }
        if held.dirs.len() >= most
            && let Some(oldest) = held.dirs.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            held.dirs.remove(&oldest);
        }
        held.uses += 1;
        let now = held.uses;
        held.dirs.insert(id, (dir, now));
    }

    fn forget(&self, id: NodeId) {
        self.lock().dirs.remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody fetches file after file: until the last who does is gone, directories are held open.
#[derive(Debug)]
pub struct Fetching(Arc<Site>);

impl Fetching {
    fn new(site: Arc<Site>) -> Self {
        site.handles.lock().fetchers += 1;
        Self(site)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut held = self.0.handles.lock();
        held.fetchers -= 1;
        let done = if held.fetchers == 0 { std::mem::take(&mut held.dirs) } else { HashMap::new() };
        // Closing takes a while, and nobody has to wait for it.
        drop(held);
        drop(done);
    }
}

/// A file as the index knows it.
struct Known {
    node: Node,
    size: u64,
    digest: Digest,
    /// The identity that vouches for the digest, if one does.
    vouched: Option<Identity>,
    /// The identity that it had when it was looked at.
    identity: Identity,
}

impl Known {
    fn new(indexed: IndexedNode) -> Result<Self, ServeError> {
        let Content::File { size, digest } = indexed.node.entry.content else {
            return Err(ServeError::NotAFile);
        };
        let identity = indexed.identity;
        let vouched = indexed.vouched.then_some(identity);
        Ok(Self { node: indexed.node, size, digest, vouched, identity })
    }

    /// Whether this file is still the one that was indexed.
    fn is_vouched(&self, file: &File) -> io::Result<bool> {
        Ok(self.vouched.is_some() && self.is_vouched_by(&stat_file(file)?))
    }

    fn is_vouched_by(&self, stat: &Stat) -> bool {
        self.vouched == Some(Identity::of(stat))
    }
}

/// Reads small files, as the index knows them now or at the moment when the first was looked up in it. A feed that has just told of
/// them spares that; else a look-up in a transaction that is open costs half of one that opens its own, and for files that follow
/// one another in the index a fraction of that.
#[derive(Debug)]
pub struct Packer<'a> {
    tree: &'a LiveTree,
    site: &'a Site,
    search: Search<'a>,
    /// The directory of the file before, if it was held: mostly the next one is in it too.
    parent: Option<(NodeId, Dir)>,
}

impl Packer<'_> {
    /// Says which files will be asked for next, in this order, instead of those that were named before. To ask for others is
    /// only slower.
    pub fn expect(&mut self, ids: impl IntoIterator<Item = NodeId>) {
        self.search.expect(ids);
    }

    /// Appends a small file's bytes to `out`, if they are those of `digest`. Answers how many they are. Leaves `out` as
    /// it was if there is an error. Blocks. If a look has just read the file it is not touched: what it holds by now the feed tells.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn append(
        &mut self,
        id: NodeId,
        digest: &Digest,
        max: u64,
        out: &mut Vec<u8>,
    ) -> Result<u64, ServeError> {
        let known = self.search.get(id).map_err(IndexError::from)?;
        let known = asked_for(known, Some(digest))?;
        if known.size > max {
            return Err(ServeError::TooLarge);
        }
        let start = out.len();
        if self.site.fresh.append((digest, known.size), out, Instant::now()) {
            return Ok(known.size);
        }
        // A held directory may be one that was replaced meanwhile: then the tree is asked again, from its root.
        if let Some(dir) = self.held(known.node.parent) {
            if let Ok(true) = append(dir, &known, out) {
                return Ok(known.size);
            }
            out.truncate(start);
            self.forget(known.node.parent);
        }
        let result = open_parent(self.site, &known).and_then(|dir| append(&dir, &known, out));
        if let Ok(true) = result {
            return Ok(known.size);
        }
        out.truncate(start);
        Err(self.tree.refusal(self.site, &known, result.err()))
    }

    /// The directory, if it is held.
    fn held(&mut self, id: NodeId) -> Option<&Dir> {
        if self.parent.as_ref().is_none_or(|(parent, _)| *parent != id) {
            self.parent = self.site.handles.get(id).map(|dir| (id, dir));
        }
        self.parent.as_ref().map(|(_, dir)| dir)
    }

    fn forget(&mut self, id: NodeId) {
        self.parent = None;
        self.site.handles.forget(id);
    }
}

impl LiveTree {
    /// Says that files will be asked for, one after the other, until what is answered is dropped.
    #[must_use]
    pub fn fetching(&self) -> Fetching {
        Fetching::new(self.site())
    }

    /// Says that somebody reads the feed, and is about to ask for what it tells, until what is answered is dropped.
    #[must_use]
    pub fn following(&self) -> Following {
        Following::new(Arc::clone(&self.site().fresh))
    }

    /// Lets `work` read small files. It should not take long: from the first that is looked up in the index on, that stays as it was then.
    ///
    /// # Errors
    /// The database failed.
    pub fn pack<T>(&self, work: impl FnOnce(&mut Packer<'_>) -> T) -> Result<T, IndexError> {
        let site = self.site();
        let _fetching = Fetching::new(Arc::clone(&site));
        site.index.read(|db| {
            let search = Search::new(&site, db);
            Ok(work(&mut Packer { tree: self, site: &site, search, parent: None }))
        })
    }

    /// Opens a file for sending it piece by piece; with a digest, only if the index knows it by that. Blocks.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn open_file(&self, id: NodeId, digest: Option<&Digest>) -> Result<ServedFile, ServeError> {
        let site = self.site();
        let known = find(&site, id, digest)?;
        let opened =
            open_parent(&site, &known).and_then(|dir| dir.open_file(&known.node.name)).and_then(|file| {
                let vouched = known.is_vouched(&file)?;
                Ok((file, vouched))
            });
        let (file, vouched) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(self.refusal(&site, &known, Some(error))),
        };
        // Where nothing vouches for the bytes they are hashed as they are read.
        let reading = if vouched { Reading::Vouched } else { Reading::Hashed(Box::default()) };
        let path = site.index.path_of(id)?.ok_or(ServeError::NoSuchNode)?;
        let (is_in_memory, suspects) = (platform::is_in_memory(&file), self.suspects());
        Ok(ServedFile { node: known.node.clone(), known, file, is_in_memory, reading, path, suspects })
    }

    /// What to answer for a file that could not be read as it is known, and has it looked at again.
    fn refusal(&self, site: &Site, known: &Known, error: Option<io::Error>) -> ServeError {
        let path = match site.index.path_of(known.node.id) {
            Ok(Some(path)) => path,
            Ok(None) => return ServeError::NoSuchNode,
            Err(error) => return error.into(),
        };
        self.suspects().add(path.clone());
        match error {
            Some(source) if !is_change(&source) => ServeError::Unreadable { path, source },
            _ => ServeError::Changed,
        }
    }
}

fn find(site: &Site, id: NodeId, digest: Option<&Digest>) -> Result<Known, ServeError> {
    let told = site.told.reader(&site.index, Instant::now()).get(id);
    let found = if told.is_some() { told } else { site.index.node(id)? };
    asked_for(found, digest)
}

fn asked_for(found: Option<IndexedNode>, digest: Option<&Digest>) -> Result<Known, ServeError> {
    let known = Known::new(found.ok_or(ServeError::NoSuchNode)?)?;
    // The index is newer than the question: the feed tells.
    if digest.is_some_and(|digest| *digest != known.digest) { Err(ServeError::Changed) } else { Ok(known) }
}

/// Opens the directory that holds a node, and keeps it for others.
fn open_parent(site: &Site, known: &Known) -> io::Result<Dir> {
    let parent = known.node.parent;
    let path = site.index.path_of(parent).map_err(io::Error::other)?;
    let dir = site.root.open_dir(&path.ok_or(io::ErrorKind::NotFound)?)?;
    site.handles.put(parent, dir.clone());
    Ok(dir)
}

/// Appends the file's bytes. Answers whether they are the right ones.
fn append(dir: &Dir, known: &Known, out: &mut Vec<u8>) -> io::Result<bool> {
    let file = dir.open_unseen(&known.node.name)?;
    let start = out.len();
    let read = append_first(&file, known.size, out);
    let stat = stat_file(&file)?;
    if stat.kind != StatKind::File || !read? {
        return Ok(false);
    }
    Ok(known.is_vouched_by(&stat) || Digest::of(&out[start..]) == known.digest)
}

/// Whether an error only says that something else is there now.
fn is_change(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | NotADirectory | InvalidInput | UnexpectedEof)
}

/// An open file of the tree.
#[derive(Debug)]
pub struct ServedFile {
    /// The file as the index knows it.
    pub node: Node,
    known: Known,
    file: File,
    /// Whether reading it waits for no disk.
    is_in_memory: bool,
    reading: Reading,
    path: TreePath,
    suspects: Suspects,
}

/// How the bytes that were read are known to be the right ones.
#[derive(Debug)]
enum Reading {
    /// The file had the identity that vouches for the digest, and must have it still at the end.
    Vouched,
    /// They are hashed, as long as they are read one after the other from the start.
    Hashed(Box<Progress>),
    /// They were read in another order.
    Scattered,
}

#[derive(Debug, Default)]
struct Progress {
    hasher: blake3::Hasher,
    at: u64,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("size", &self.size)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl ServedFile {
    /// Where it is in the tree.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    /// Reads from an offset, up to the entry's size; 0 at its end. What was appended since is not part of the entry.
    ///
    /// # Errors
    /// Reading failed, or the file is shorter than its entry (`UnexpectedEof`).
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let part = self.part_of(offset, buf);
        let count = loop {
            match probed!(Read { file: &self.file, at: offset } => self.file.read_at(part, offset)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 && !part.is_empty() {
            self.suspects.add(self.path.clone());
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Reading::Hashed(progress) = &mut self.reading {
            if progress.at == offset {
                progress.hasher.update(&part[..count]);
                progress.at += count as u64;
            } else {
                self.reading = Reading::Scattered;
            }
        }
        Ok(count)
    }

    /// The same of what is in memory, if it need not be hashed: no more than a copy. Any error says that [`ServedFile::read_at`]
    /// is to go on.
    ///
    /// # Errors
    /// What comes next is not in memory, or that cannot be told.
    pub fn read_cached_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if !matches!(self.reading, Reading::Vouched) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let part = self.part_of(offset, buf);
        let read = if self.is_in_memory { FileExt::read_at } else { platform::read_cached };
        match probed!(Read { file: &self.file, at: offset } => read(&self.file, part, offset))? {
            // Some systems tell the end too early.
            0 if !part.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// The part of a buffer that what is left of the entry from an offset on fills.
    fn part_of<'b>(&self, offset: u64, buf: &'b mut [u8]) -> &'b mut [u8] {
        let left = usize::try_from(self.known.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        &mut buf[..want]
    }

    /// The parts that the entry's bytes are made of: like [`ServedFile::finish_parts`], for a reader who will check the whole.
    /// `None` for a file that is too small or too large for it ([`is_taken_apart`], [`sync_core::chunk::MOST_CHUNKS`]), and
    /// soon after `go_on` is false. Blocks.
    ///
    /// # Errors
    /// [`ServeError::Changed`] if the file is another now, or [`ServeError::Unreadable`].
    pub fn describe(&self, go_on: impl Fn() -> bool + Sync) -> Result<Option<Parts>, ServeError> {
        if !is_taken_apart(self.known.size) {
            return Ok(None);
        }
        let read = |offset, part: &mut [u8]| probed!(Read { file: &self.file, at: offset } => self.file.read_at(part, offset));
        let parts = match take_apart(&read, self.known.size, &go_on) {
            Ok(Apart::Complete(parts)) => parts,
            Ok(Apart::Stopped) => return Ok(None),
            Ok(Apart::TooShort) => {
                self.suspects.add(self.path.clone());
                return Err(ServeError::Changed);
            }
            Err(source) => return Err(ServeError::Unreadable { path: self.path.clone(), source }),
        };
        self.finish_parts()?;
        Ok(Some(parts))
    }

    /// Says whether all that was read were the bytes of the entry. To be called before the last of them is called good.
    ///
    /// # Errors
    /// [`ServeError::Changed`] if they were not, or if that cannot be told.
    pub fn finish(&self) -> Result<(), ServeError> {
        match self.is_good() {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.suspects.add(self.path.clone());
                Err(ServeError::Changed)
            }
            Err(source) => Err(ServeError::Unreadable { path: self.path.clone(), source }),
        }
    }

    /// Like [`ServedFile::finish`], for parts whose reader will check the whole that they become a part of. So a file that was
    /// looked at too soon after a change for its identity to vouch for it need not be read all over again for a few of its
    /// bytes: the identity still has to be the same, and the reader finds what a change in the same instant did.
    ///
    /// # Errors
    /// Like [`ServedFile::finish`].
    pub fn finish_parts(&self) -> Result<(), ServeError> {
        match stat_file(&self.file) {
            Ok(stat) if Identity::of(&stat) == self.known.identity => Ok(()),
            _ => self.finish(),
        }
    }

    fn is_good(&self) -> io::Result<bool> {
        match &self.reading {
            Reading::Vouched => self.known.is_vouched(&self.file),
            Reading::Hashed(progress) if progress.at == self.known.size => {
                Ok(Digest::from(progress.hasher.finalize()) == self.known.digest)
            }
            // Only a part was read: it is good if the whole is. Whoever puts parts together checks the whole again.
            Reading::Hashed(_) | Reading::Scattered => {
                let hashed = hash_file(&self.file, self.known.size)?;
                Ok(hashed.read == self.known.size && hashed.digest == self.known.digest)
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;

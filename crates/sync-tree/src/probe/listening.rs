//! What is announced, and who hears it.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::io::Errno;
use sync_core::name::STATE_DIR;

use crate::{apply::whole::NEW, index::IndexError};

macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident = $name:literal $kind:ident),* $(,)?) => {
        /// What is done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op { $($(#[$doc])* $op),* }

        impl Op {
            /// All there are.
            pub const ALL: &[Op] = &[$(Op::$op),*];

            /// Its name in `SYNCD_FAILPOINT`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Op::$op => $name),* }
            }

            /// What kind of thing it is.
            #[must_use]
            pub fn kind(self) -> OpKind {
                match self { $(Op::$op => OpKind::$kind),* }
            }
        }
    };
}

/// What a call does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// It changes something.
    Changes,
    /// It makes changes survive a power cut.
    Flushes,
    /// It changes nothing.
    Reads,
    /// It is no call: a moment in which others may come in between.
    Moment,
}

ops! {
    /// A new file.
    Create = "create" Changes,
    /// A new file without a name.
    CreateUnnamed = "create-unnamed" Changes,
    /// The first name of such a file.
    Link = "link" Changes,
    /// A new directory.
    MakeDir = "make-dir" Changes,
    /// A new symlink.
    Symlink = "symlink" Changes,
    /// The end of a name that is not a directory's.
    RemoveFile = "remove-file" Changes,
    /// The end of an empty directory.
    RemoveDir = "remove-dir" Changes,
    /// A rename that replaces.
    Rename = "rename" Changes,
    /// A rename to a free name.
    RenameNew = "rename-new" Changes,
    /// Two names change places.
    Exchange = "exchange" Changes,
    /// Bytes of a file.
    Write = "write" Changes,
    /// The length of a file.
    SetLen = "set-len" Changes,
    /// Bytes of another file.
    Copy = "copy" Changes,
    /// Permission bits.
    SetMode = "set-mode" Changes,
    /// The modification time.
    SetTimes = "set-times" Changes,
    /// A transaction of the index.
    Commit = "commit" Changes,
    /// A file.
    SyncFile = "sync-file" Flushes,
    /// The names in a directory.
    SyncDir = "sync-dir" Flushes,
    /// The commits of the index.
    SyncIndex = "sync-index" Flushes,
    /// The whole file system.
    SyncFs = "sync-fs" Flushes,
    /// A file, for reading.
    OpenFile = "open-file" Reads,
    /// A directory.
    OpenDir = "open-dir" Reads,
    /// The names in a directory.
    List = "list" Reads,
    /// Bytes of a file.
    Read = "read" Reads,
    /// A look at a name, or at an open directory.
    Stat = "stat" Reads,
    /// Where a symlink points.
    ReadLink = "read-link" Reads,
    /// A question to the index.
    Query = "query" Reads,
    /// A place was checked; the call that changes it comes next.
    Checked = "checked" Moment,
    /// A rename is done; what it took is not settled yet.
    Taken = "taken" Moment,
}

/// One call.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is done.
    pub op: Op,
    dir: Option<BorrowedFd<'a>>,
    file: Option<BorrowedFd<'a>>,
    database: Option<&'a Path>,
    /// The name in the directory.
    pub name: &'a [u8],
    to: Option<(BorrowedFd<'a>, &'a [u8])>,
    /// What is written, or a link's target.
    pub bytes: &'a [u8],
    /// Where it is written, or the new length.
    pub at: u64,
    /// A mode.
    pub mode: Option<u16>,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(self.name);
        write!(f, "{} {}/{name}", self.op.name(), self.place().display())?;
        match self.to {
            Some((dir, new)) => {
                write!(f, " > {}/{}", path_of(dir).display(), String::from_utf8_lossy(new))
            }
            None => Ok(()),
        }
    }
}

impl<'a> Call<'a> {
    pub(crate) fn new(op: Op) -> Self {
        Self { op, dir: None, file: None, database: None, name: b"", to: None, bytes: b"", at: 0, mode: None }
    }

    pub(crate) fn dir(self, dir: &'a impl AsFd) -> Self {
        Self { dir: Some(dir.as_fd()), ..self }
    }

    pub(crate) fn file(self, file: &'a File) -> Self {
        Self { file: Some(file.as_fd()), ..self }
    }

    pub(crate) fn database(self, database: &'a Path) -> Self {
        Self { database: Some(database), ..self }
    }

    pub(crate) fn name(self, name: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { name: name.as_ref(), ..self }
    }

    pub(crate) fn to(self, (dir, name): (BorrowedFd<'a>, &'a str)) -> Self {
        Self { to: Some((dir, name.as_bytes())), ..self }
    }

    pub(crate) fn bytes(self, bytes: &'a [u8]) -> Self {
        Self { bytes, ..self }
    }

    pub(crate) fn at(self, at: u64) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn mode(self, mode: u16) -> Self {
        Self { mode: Some(mode), ..self }
    }

    /// The directory, if it is about a name.
    #[must_use]
    pub fn in_dir(&self) -> Option<BorrowedFd<'a>> {
        self.dir
    }

    /// The file, if it is about an open one.
    #[must_use]
    pub fn of_file(&self) -> Option<BorrowedFd<'a>> {
        self.file
    }

    /// The other directory and the name there.
    #[must_use]
    pub fn other(&self) -> Option<(BorrowedFd<'a>, &'a [u8])> {
        self.to
    }

    /// Where it happens: the directory, the file or the database.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        match (self.dir.or(self.file), self.database) {
            (Some(fd), _) => path_of(fd),
            (None, Some(path)) => path.to_owned(),
            (None, None) => PathBuf::new(),
        }
    }

    /// The path that it is about; of two, the one that comes first.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let place = self.place();
        if self.name.is_empty() { place } else { place.join(std::ffi::OsStr::from_bytes(self.name)) }
    }

    /// What is done and in which parts of a target: the calls of one place in the program have one site, or very few.
    #[must_use]
    pub fn site(&self) -> String {
        let from = if self.database.is_some() { "index" } else { area(&self.place()) };
        match self.to {
            Some((dir, _)) => format!("{} {from}>{}", self.op.name(), area(&path_of(dir))),
            None => format!("{} {from}", self.op.name()),
        }
    }
}

/// Where a handle is now.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match rustix::fs::readlink(link, Vec::new()) {
        Ok(path) => PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes())),
        Err(_) => PathBuf::new(),
    }
}

/// The part of a target that a path is in.
fn area(path: &Path) -> &'static str {
    let mut names = path.iter().skip_while(|name| *name != STATE_DIR);
    if names.next().is_none() {
        return "tree";
    }
    let mut name = || names.next().and_then(|name| name.to_str()).unwrap_or("");
    match (name(), name(), name(), name()) {
        ("staging", "", ..) => "staging",
        ("staging", "swap", ..) => "swap",
        ("staging", "moves", ..) => "moves",
        ("staging", "partial", ..) => "partial",
        ("staging", _, "", _) => "run",
        ("staging", _, _, inner) if inner.starts_with(NEW) => "new",
        ("staging", ..) => "lane",
        ("trash", ..) => "trash",
        _ => "state",
    }
}

/// Somebody who hears of calls.
pub trait Probe: Send + Sync {
    /// Before a call. An error is the call's answer; it is then not made.
    ///
    /// # Errors
    /// As the test wants it.
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let _ = call;
        Ok(())
    }

    /// After a call that was made and succeeded. `made` is the new file of one that makes a file.
    fn after(&self, call: &Call<'_>, made: Option<BorrowedFd<'_>>) {
        let _ = (call, made);
    }
}

/// What may be a new file.
pub trait Made {
    /// It, if it is one.
    fn made(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Made for File {
    fn made(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Made for () {}
impl Made for crate::index::Head {}
impl Made for u64 {}
impl Made for usize {}
impl Made for crate::rooted::Dir {}
impl Made for crate::rooted::Stat {}
impl Made for Box<[u8]> {}
impl Made for Vec<crate::rooted::RawDirEntry> {}

/// An error that can say that a call was refused.
pub trait Refused {
    /// What the caller is told.
    fn refused(error: io::Error) -> Self;
}

impl Refused for io::Error {
    fn refused(error: io::Error) -> Self {
        error
    }
}

impl Refused for rusqlite::Error {
    fn refused(error: io::Error) -> Self {
        use rusqlite::ffi;
        let code = match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => ffi::SQLITE_FULL,
            // What SQLite makes of it when the database is open already.
            Some(Errno::ROFS) => ffi::SQLITE_IOERR_WRITE,
            Some(Errno::MFILE | Errno::NFILE) => ffi::SQLITE_CANTOPEN,
            _ => ffi::SQLITE_IOERR,
        };
        let source = ffi::Error::new(code);
        // The words of the real one: `rusqlite` asks SQLite for them.
        rusqlite::Error::SqliteFailure(source, Some(words_of(code).to_owned()))
    }
}

fn words_of(code: std::ffi::c_int) -> &'static str {
    match code {
        rusqlite::ffi::SQLITE_FULL => "database or disk is full",
        rusqlite::ffi::SQLITE_CANTOPEN => "unable to open database file",
        _ => "disk I/O error",
    }
}

impl Refused for IndexError {
    fn refused(error: io::Error) -> Self {
        rusqlite::Error::refused(error).into()
    }
}

type Listeners = Vec<(PathBuf, Arc<dyn Probe>)>;

static LISTENERS: RwLock<Listeners> = RwLock::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Listening, until this is dropped.
pub struct Installed(Arc<dyn Probe>);

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Installed")
    }
}

/// Lets a probe hear of every call at or below a directory, given without links.
#[must_use]
pub fn install(root: &Path, probe: Arc<dyn Probe>) -> Installed {
    let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
    listeners.push((root.to_owned(), probe.clone()));
    COUNT.store(listeners.len(), Ordering::SeqCst);
    Installed(probe)
}

impl Drop for Installed {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|(_, probe)| !Arc::ptr_eq(probe, &self.0));
        COUNT.store(listeners.len(), Ordering::SeqCst);
    }
}

fn listeners(call: &Call<'_>) -> Vec<Arc<dyn Probe>> {
    let place = call.place();
    let listeners = LISTENERS.read().unwrap_or_else(PoisonError::into_inner);
    listeners.iter().filter(|(root, _)| place.starts_with(root)).map(|(_, probe)| probe.clone()).collect()
}

pub(crate) fn call<T: Made, E: Refused>(call: &Call<'_>, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return act();
    }
    let listeners = listeners(call);
    for probe in &listeners {
        probe.before(call).map_err(E::refused)?;
    }
    let made = act()?;
    for probe in &listeners {
        probe.after(call, made.made());
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_areas_tell_calls_apart() {
        let mut names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Op::ALL.len());
        for (path, wanted) in [
            ("/t/a", "tree"),
            ("/t/.syncd", "state"),
            ("/t/.syncd/staging", "staging"),
            ("/t/.syncd/staging/swap", "swap"),
            ("/t/.syncd/staging/moves/3.from", "moves"),
            ("/t/.syncd/staging/run-1", "run"),
            ("/t/.syncd/staging/run-1/0/#7 (deleted)", "lane"),
            ("/t/.syncd/trash/run/a", "trash"),
        ] {
            assert_eq!(area(Path::new(path)), wanted, "{path}");
        }
    }
}

//! Trees on disk: made with few words, read completely, compared with a readable answer.
//!
//! A snapshot holds everything that the product promises to carry and nothing else, read with plain system calls. The
//! state directory `.syncd` is left out at every depth.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    num::NonZeroU64,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{
    Advice, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, fadvise, utimensat,
};

use crate::{rng::Rng, try_eventually};

/// How many differences are shown; the first few tell the story.
const SHOWN_DIFFERENCES: usize = 20;

/// A directory and the vocabulary to work on it. Every call panics with the path if the disk refuses.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

/// Something that was just made, so that its mode and time can be set in the same sentence.
#[derive(Debug)]
pub struct Placed {
    path: PathBuf,
}

impl Tree {
    /// The tree at this directory, which is made if it is missing.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        checked(&root, fs::create_dir_all(&root));
        Self { root }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The full path of a place in it.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file, and the directories above it. An existing file is written in place, keeping its inode and mode.
    pub fn file(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Placed {
        let path = self.with_parents(path.as_ref());
        checked(&path, fs::write(&path, contents));
        Placed { path }
    }

    /// Writes a file of that many bytes which do not compress and depend on the seed only.
    pub fn bytes(&self, path: impl AsRef<Path>, len: usize, seed: u64) -> Placed {
        self.file(path, Rng::new(seed).bytes(len))
    }

    /// Makes a file that is a hole but for its last bytes.
    pub fn sparse(&self, path: impl AsRef<Path>, len: u64) -> Placed {
        let path = self.with_parents(path.as_ref());
        let end = b"end";
        let written = File::create(&path).and_then(|file| file.write_all_at(end, len - end.len() as u64));
        checked(&path, written);
        Placed { path }
    }

    /// Appends to a file.
    pub fn append(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(path);
        let file = File::options().append(true).create(true).open(&path);
        checked(&path, file.and_then(|mut file| file.write_all(contents.as_ref())));
    }

    /// Replaces a file the way editors save: a new file beside it, then a rename over it.
    pub fn save(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let path = self.path(path);
        let mut beside = path.clone().into_os_string();
        beside.push("~");
        checked(&path, fs::write(&beside, contents).and_then(|()| fs::rename(&beside, &path)));
    }

    /// Other bytes of the same length, with the old modification time: nothing but the change time tells.
    pub fn rewrite_quietly(&self, path: impl AsRef<Path>, seed: u64) {
        let path = self.path(path);
        let before = checked(&path, fs::symlink_metadata(&path));
        checked(&path, fs::write(&path, Rng::new(seed).bytes(before.len() as usize)));
        Placed { path }.mtime(before.mtime(), before.mtime_nsec() as u32);
    }

    /// Has the system drop parts of a file from its memory, each a place and a length, as far as the file is on a disk. Parts that are whole
    /// pages go, as a rule.
    pub fn forget(&self, path: impl AsRef<Path>, parts: impl IntoIterator<Item = (u64, u64)>) {
        let path = self.path(path);
        let file = checked(&path, File::open(&path));
        checked(&path, file.sync_all());
        for (at, len) in parts {
            checked(
                &path,
                fadvise(&file, at, NonZeroU64::new(len), Advice::DontNeed).map_err(io::Error::from),
            );
        }
    }

    /// Makes a directory, and those above it.
    pub fn dir(&self, path: impl AsRef<Path>) -> Placed {
        let path = self.path(path);
        checked(&path, fs::create_dir_all(&path));
        Placed { path }
    }

    /// Makes a symbolic link that holds exactly these bytes.
    pub fn link(&self, path: impl AsRef<Path>, target: impl AsRef<OsStr>) -> Placed {
        let path = self.with_parents(path.as_ref());
        checked(&path, symlink(target.as_ref(), &path));
        Placed { path }
    }

    /// Gives an existing file a second name.
    pub fn hard_link(&self, existing: impl AsRef<Path>, new: impl AsRef<Path>) {
        let new = self.with_parents(new.as_ref());
        checked(&new, fs::hard_link(self.path(existing), &new));
    }

    /// Makes a FIFO.
    pub fn fifo(&self, path: impl AsRef<Path>) {
        let path = self.with_parents(path.as_ref());
        let made = rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0);
        checked(&path, made.map_err(io::Error::from));
    }

    /// Makes a socket, which stays when nobody listens any more.
    pub fn socket(&self, path: impl AsRef<Path>) {
        let path = self.with_parents(path.as_ref());
        checked(&path, UnixListener::bind(&path));
    }

    /// Copies the contents of a directory into this one with `cp`: `-a` keeps modes and times, `-r` does not.
    pub fn copy_from(&self, dir: &Path, how: &str) {
        let mut everything = dir.as_os_str().to_owned();
        everything.push("/.");
        let status = Command::new("cp").arg(how).arg(&everything).arg(&self.root).status();
        assert!(checked(&self.root, status).success(), "cp {how} {} failed", dir.display());
    }

    /// Renames within the tree.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let to = self.with_parents(to.as_ref());
        checked(&to, fs::rename(self.path(from), &to));
    }

    /// Exchanges what two names hold, through a third name.
    pub fn swap(&self, one: impl AsRef<Path>, two: impl AsRef<Path>) {
        let (one, two, third) = (one.as_ref(), two.as_ref(), Path::new("swap in progress"));
        self.rename(one, third);
        self.rename(two, one);
        self.rename(third, two);
    }

    /// Removes whatever is there.
    pub fn remove(&self, path: impl AsRef<Path>) {
        let path = self.path(path);
        checked(&path, remove_any(&path));
    }

    /// Removes everything in the tree but the state directory.
    pub fn empty(&self) {
        for entry in checked(&self.root, fs::read_dir(&self.root)) {
            let path = checked(&self.root, entry).path();
            if !path.file_name().is_some_and(is_state_dir) {
                checked(&path, remove_any(&path));
            }
        }
    }

    /// The bytes of a file.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(path);
        checked(&path, fs::read(&path))
    }

    /// The bytes of a file; `None` if it cannot be read at this moment.
    #[must_use]
    pub fn try_read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// What is there.
    #[must_use]
    pub fn look(&self, path: impl AsRef<Path>) -> Seen {
        let path = self.path(path);
        checked(&path, look(&path))
    }

    /// Whether anything is there, a dangling link included.
    #[must_use]
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The inode of what is there.
    #[must_use]
    pub fn inode(&self, path: impl AsRef<Path>) -> u64 {
        let path = self.path(path);
        checked(&path, fs::symlink_metadata(&path)).ino()
    }

    /// What is there, for changing its mode or time.
    #[must_use]
    pub fn placed(&self, path: impl AsRef<Path>) -> Placed {
        Placed { path: self.path(path) }
    }

    /// Everything in it, see [`snapshot`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        snapshot(&self.root)
    }

    /// What the state directory's trash holds: every file and link, by the path that it had in the tree. Of several with the
    /// same path the newest counts.
    #[must_use]
    pub fn trash(&self) -> Snapshot {
        let all = try_snapshot(&self.path(".syncd/trash")).unwrap_or_default();
        let below_its_run = |(path, seen): (PathBytes, Seen)| {
            let slash = path.0.iter().position(|byte| *byte == b'/')?;
            (seen.kind != Kind::Dir).then(|| (PathBytes(path.0[slash + 1..].to_vec()), seen))
        };
        all.into_iter().filter_map(below_its_run).collect()
    }

    /// How many bytes the files of the state directory hold.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        try_snapshot(&self.path(".syncd")).unwrap_or_default().values().map(|seen| seen.size).sum()
    }

    fn with_parents(&self, path: &Path) -> PathBuf {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            checked(parent, fs::create_dir_all(parent));
        }
        path
    }
}

impl Placed {
    /// Sets the permission bits.
    #[expect(clippy::return_self_not_must_use, reason = "the end of a sentence is dropped")]
    pub fn mode(self, mode: u32) -> Self {
        checked(&self.path, fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)));
        self
    }

    /// Sets the modification time, of a link itself too. Before 1970 the seconds are negative, rounded down.
    #[expect(clippy::return_self_not_must_use, reason = "the end of a sentence is dropped")]
    pub fn mtime(self, secs: i64, nanos: u32) -> Self {
        checked(&self.path, set_mtime(&self.path, (secs, nanos)));
        self
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Sets the modification time, of a link itself too: seconds and nanoseconds.
pub(crate) fn set_mtime(path: &Path, (secs, nanos): (i64, u32)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos.into() },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A relative path as bytes, because a name need not be UTF-8; printed escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathBytes(pub Vec<u8>);

impl PathBytes {
    /// The path as the system takes it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&str> for PathBytes {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl fmt::Debug for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        // A name of 255 bytes says no more than its beginning does.
        match text.char_indices().nth(60) {
            Some((cut, _)) => write!(f, "{:?}… ({} bytes)", &text[..cut], self.0.len()),
            None => write!(f, "{text:?}"),
        }
    }
}

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A socket, FIFO or device.
    Other,
}

/// Everything that is carried about one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its kind.
    pub kind: Kind,
    /// A file's length; 0 for the rest.
    pub size: u64,
    /// A file's BLAKE3 digest.
    pub digest: Option<[u8; 32]>,
    /// Permission bits with set-id and sticky bits; 0 for a link, which has none.
    pub mode: u32,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// A link's target.
    pub link: Option<Vec<u8>>,
}

/// A whole tree, by relative path.
pub type Snapshot = BTreeMap<PathBytes, Seen>;

/// What two snapshots are compared by. The default is everything.
#[derive(Debug, Clone, Copy)]
pub struct Compare {
    /// Whether the times of directories count.
    pub dir_times: bool,
    /// Whether the times of symbolic links count.
    pub link_times: bool,
}

impl Default for Compare {
    fn default() -> Self {
        Self { dir_times: true, link_times: true }
    }
}

/// Reads a whole tree that nobody is changing.
#[must_use]
pub fn snapshot(dir: &Path) -> Snapshot {
    checked(dir, try_snapshot(dir))
}

/// Reads a whole tree that may be changing meanwhile.
///
/// # Errors
/// Returns the first error, such as that of a file that vanished between listing and reading.
pub fn try_snapshot(dir: &Path) -> io::Result<Snapshot> {
    let mut seen = Snapshot::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        for entry in fs::read_dir(dir.join(&relative))? {
            let name = entry?.file_name();
            if is_state_dir(&name) {
                continue;
            }
            let path = relative.join(name);
            let what = look(&dir.join(&path))?;
            if what.kind == Kind::Dir {
                open.push(path.clone());
            }
            seen.insert(PathBytes(path.into_os_string().into_vec()), what);
        }
    }
    Ok(seen)
}

/// Reads one place.
///
/// # Errors
/// Returns why it could not be read.
pub fn look(path: &Path) -> io::Result<Seen> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        t if t.is_file() => Kind::File,
        t if t.is_dir() => Kind::Dir,
        t if t.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    Ok(Seen {
        kind,
        size: if kind == Kind::File { meta.len() } else { 0 },
        digest: if kind == Kind::File { Some(digest(path)?) } else { None },
        mode: if kind == Kind::Link { 0 } else { meta.mode() & 0o7777 },
        mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        link: if kind == Kind::Link { Some(fs::read_link(path)?.into_os_string().into_vec()) } else { None },
    })
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}

/// One line for each path in which the snapshots differ; empty if they are the same.
#[must_use]
pub fn differences(left: &Snapshot, right: &Snapshot, by: Compare) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, here) in left {
        match right.get(path) {
            None => lines.push(format!("only left:  {path:?} ({})", describe(here))),
            Some(there) => {
                let what = compare(here, there, by);
                if !what.is_empty() {
                    lines.push(format!("differs:    {path:?}: {}", what.join(", ")));
                }
            }
        }
    }
    for (path, there) in right {
        if !left.contains_key(path) {
            lines.push(format!("only right: {path:?} ({})", describe(there)));
        }
    }
    lines
}

fn describe(seen: &Seen) -> String {
    match seen.kind {
        Kind::File => format!("file of {} bytes", seen.size),
        Kind::Dir => "directory".into(),
        Kind::Link => format!("link to {:?}", PathBytes(seen.link.clone().unwrap_or_default())),
        Kind::Other => "special file".into(),
    }
}

fn compare(here: &Seen, there: &Seen, by: Compare) -> Vec<String> {
    if here.kind != there.kind {
        return vec![format!("{} against {}", describe(here), describe(there))];
    }
    let mut what = Vec::new();
    if here.size != there.size {
        what.push(format!("{} against {} bytes", here.size, there.size));
    } else if here.digest != there.digest {
        what.push(format!("other bytes of the same length {}", here.size));
    }
    if here.link != there.link {
        what.push(format!("{} against {}", describe(here), describe(there)));
    }
    if here.mode != there.mode {
        what.push(format!("mode {:o} against {:o}", here.mode, there.mode));
    }
    let times = match here.kind {
        Kind::Dir => by.dir_times,
        Kind::Link => by.link_times,
        Kind::File | Kind::Other => true,
    };
    if times && here.mtime != there.mtime {
        let ((a, b), (c, d)) = (here.mtime, there.mtime);
        what.push(format!("mtime {a}.{b:09} against {c}.{d:09}"));
    }
    what
}

/// Panics with a short list if the two directories do not hold the same, modes and times included.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    assert_same_by(left, right, Compare::default());
}

/// [`assert_same`], by less than everything.
#[track_caller]
pub fn assert_same_by(left: &Path, right: &Path, by: Compare) {
    if let Err(message) = same(left, right, by) {
        panic!("{message}");
    }
}

/// Waits until the two directories hold the same. What changes while it is read counts as different.
#[track_caller]
pub fn wait_same(left: &Path, right: &Path, deadline: Duration) {
    if let Err(message) = try_eventually(deadline, || same(left, right, Compare::default())) {
        panic!("after {deadline:?} {message}");
    }
}

/// Says whether two directories hold the same.
///
/// # Errors
/// Returns the differences, shortened, or why one could not be read.
pub fn same(left: &Path, right: &Path, by: Compare) -> Result<(), String> {
    let read =
        |dir: &Path| try_snapshot(dir).map_err(|error| format!("{} cannot be read: {error}", dir.display()));
    let lines = differences(&read(left)?, &read(right)?, by);
    if lines.is_empty() {
        return Ok(());
    }
    let more = lines.len().saturating_sub(SHOWN_DIFFERENCES);
    let mut text =
        format!("{} (left) and {} (right) differ in {} paths:", left.display(), right.display(), lines.len());
    for line in lines.iter().take(SHOWN_DIFFERENCES) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    Err(text)
}

fn is_state_dir(name: &OsStr) -> bool {
    name.as_bytes().eq_ignore_ascii_case(b".syncd")
}

pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Ends the test with the path, which a bare `io::Error` lacks.
#[track_caller]
fn checked<T>(path: &Path, result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;

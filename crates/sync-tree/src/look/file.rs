//! Looks at one file or link: believes its identity or reads it.

use std::{fs::File, io, os::unix::fs::FileExt, time::Instant};

use sync_core::{Content, Digest, Entry, Time, chunk::is_taken_apart};

use crate::{
    chunks::{Parts, hash_and_take_apart},
    described::Described,
    fresh::{self, Fresh},
    hash::{self, Identity},
    index::{IndexedNode, Sketch},
    probe::probed,
    rooted::{Dir, Stat, StatKind, append_first, stat_file},
};

/// How often one look reads a file that changes meanwhile.
const READS: usize = 3;

/// What a file or link turned out to be.
#[derive(Debug)]
pub(super) enum Seen {
    /// This.
    Entry { entry: Entry, identity: Identity, vouched: bool },
    /// It went away, or became something else, between listing and reading.
    Moved,
    /// It never held still.
    Restless,
    /// It cannot be read.
    Failed(io::Error),
}

/// When reading began, by the file system's clock, and whether stored digests may be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    pub began: Time,
    pub distrust: bool,
}

impl Trust {
    fn believes(&self, old: &Sketch, identity: &Identity) -> bool {
        !self.distrust && old.vouched && old.identity == *identity
    }
}

/// Whether a known file is, by all that a look tells, what it was: the usual case, decided without building anything.
pub(super) fn is_as_known(stat: &Stat, known: &Sketch, trust: &Trust) -> bool {
    !trust.distrust && stat.kind == StatKind::File && *known == sketch(stat)
}

/// What is known of a file that is as it was.
pub(super) fn sketch(stat: &Stat) -> Sketch {
    Sketch {
        is_file: stat.kind == StatKind::File,
        mtime: stat.mtime,
        mode: carried_mode(stat),
        identity: Identity::of(stat),
        vouched: true,
    }
}

/// Reads files where their identity does not vouch for them.
pub(super) struct Reader<'a> {
    pub trust: &'a Trust,
    pub described: Option<&'a Described>,
    /// Where the contents of small files are kept.
    pub fresh: Option<&'a Fresh>,
}

/// What reading a file gave.
struct Read {
    digest: Digest,
    /// What it is made of, if that was asked for before.
    parts: Option<Parts>,
    /// Its bytes, if they are to be kept.
    bytes: Option<Vec<u8>>,
}

impl Reader<'_> {
    pub(super) fn look_at_file(&self, dir: &Dir, name: &str, stat: &Stat, old: Option<&IndexedNode>) -> Seen {
        let identity = Identity::of(stat);
        if let Some(old) = old
            && matches!(old.node.entry.content, Content::File { .. })
            && self.trust.believes(&old.sketch(), &identity)
        {
            let content = old.node.entry.content.clone();
            let entry = Entry { content, mtime: stat.mtime, mode: carried_mode(stat) };
            return Seen::Entry { entry, identity, vouched: true };
        }
        match self.read(dir, name, old) {
            Ok(seen) => seen,
            Err(error) => seen_error(error),
        }
    }

    fn read(&self, dir: &Dir, name: &str, old: Option<&IndexedNode>) -> io::Result<Seen> {
        let file = dir.open_unseen(name)?;
        for _ in 0..READS {
            let before = stat_file(&file)?;
            if before.kind != StatKind::File {
                return Ok(Seen::Moved);
            }
            let identity = Identity::of(&before);
            let Some(Read { digest, parts, bytes }) = self.hash(&file, &identity, old)? else { continue };
            let after = stat_file(&file)?;
            let still = identity == Identity::of(&after);
            // A file that only grew is taken as the bytes it had: an entry of size n is its first n bytes. Whether those
            // were left alone cannot be told, so nothing vouches for them and it is read again soon.
            if still || after.size > before.size {
                if let (true, Some(described), Some(parts)) = (still, self.described, parts) {
                    described.put(digest, parts);
                }
                if let (Some(fresh), Some(bytes)) = (self.fresh, bytes) {
                    fresh.put(digest, bytes, Instant::now());
                }
                let content = Content::File { size: before.size, digest };
                let entry = Entry { content, mtime: before.mtime, mode: carried_mode(&before) };
                let vouched = still && identity.vouches(self.trust.began);
                return Ok(Seen::Entry { entry, identity, vouched });
            }
        }
        Ok(Seen::Restless)
    }

    /// Hashes a file, and finds out its parts at the same time if those of its old version are kept. `None` if it is shorter
    /// than it was.
    fn hash(&self, file: &File, identity: &Identity, old: Option<&IndexedNode>) -> io::Result<Option<Read>> {
        let size = identity.size;
        if let Some(known) = old.and_then(|old| self.parts_of(old, identity)) {
            let read = |offset, part: &mut [u8]| probed!(Read { file: file, at: offset } => file.read_at(part, offset));
            if let Some((digest, parts)) = hash_and_take_apart(&read, size, &known)? {
                return Ok(Some(Read { digest, parts: Some(parts), bytes: None }));
            }
        }
        // What is only read to be vouched for was kept before, or nobody wanted it.
        let is_news = old.is_none_or(|old| old.identity != *identity);
        if self.fresh.is_some() && is_news && size <= fresh::LARGEST {
            let mut bytes = Vec::new();
            let is_whole = append_first(file, size, &mut bytes)?;
            let digest = Digest::of(&bytes);
            return Ok(is_whole.then_some(Read { digest, parts: None, bytes: Some(bytes) }));
        }
        let hashed = hash::hash_file(file, size)?;
        Ok((hashed.read == size).then_some(Read { digest: hashed.digest, parts: None, bytes: None }))
    }

    /// The parts of the old version of a file that has changed.
    fn parts_of(&self, old: &IndexedNode, now: &Identity) -> Option<Parts> {
        let Content::File { digest, .. } = &old.node.entry.content else { return None };
        // If only a second look is taken, those of this version are known.
        let changed = old.identity != *now && is_taken_apart(now.size);
        if changed { self.described?.get(digest) } else { None }
    }
}

pub(super) fn look_at_link(
    dir: &Dir,
    name: &str,
    stat: &Stat,
    old: Option<&IndexedNode>,
    trust: &Trust,
) -> Seen {
    let identity = Identity { ino: stat.ino, size: 0, mtime: stat.mtime, ctime: stat.ctime };
    let known = old.filter(|old| trust.believes(&old.sketch(), &identity)).map(|old| &old.node.entry.content);
    let content = match known {
        Some(content @ Content::Symlink { .. }) => content.clone(),
        _ => match dir.read_link(name) {
            Ok(target) => Content::Symlink { target },
            Err(error) => return seen_error(error),
        },
    };
    let vouched = identity.vouches(trust.began);
    Seen::Entry { entry: Entry { content, mtime: stat.mtime, mode: 0 }, identity, vouched }
}

/// The permission bits that are carried.
pub(super) fn carried_mode(stat: &Stat) -> u16 {
    stat.mode & 0o777
}

fn seen_error(error: io::Error) -> Seen {
    let other_kind = rustix::io::Errno::from_io_error(&error).is_some_and(|errno| {
        [rustix::io::Errno::LOOP, rustix::io::Errno::INVAL, rustix::io::Errno::NXIO].contains(&errno)
    });
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => Seen::Moved,
        _ if other_kind => Seen::Moved,
        _ => Seen::Failed(error),
    }
}

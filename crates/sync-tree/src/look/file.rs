//! Looks at one file or link: believes its identity or reads it.

use std::io;

use sync_core::{Content, Entry, Time};

use crate::{
    hash::{self, Identity},
    index::{IndexedNode, Sketch},
    rooted::{Dir, Stat, StatKind, stat_file},
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
    stat.kind == StatKind::File
        && known.is_file
        && trust.believes(known, &Identity::of(stat))
        && known.mtime == stat.mtime
        && known.mode == carried_mode(stat)
}

pub(super) fn look_at_file(
    dir: &Dir,
    name: &str,
    stat: &Stat,
    old: Option<&IndexedNode>,
    trust: &Trust,
) -> Seen {
    let identity = Identity::of(stat);
    if let Some(old) = old
        && matches!(old.node.entry.content, Content::File { .. })
        && trust.believes(&old.sketch(), &identity)
    {
        let entry =
            Entry { content: old.node.entry.content.clone(), mtime: stat.mtime, mode: carried_mode(stat) };
        return Seen::Entry { entry, identity, vouched: true };
    }
    match read_file(dir, name, trust) {
        Ok(seen) => seen,
        Err(error) => seen_error(error),
    }
}

fn read_file(dir: &Dir, name: &str, trust: &Trust) -> io::Result<Seen> {
    let file = dir.open_unseen(name)?;
    for _ in 0..READS {
        let before = stat_file(&file)?;
        if before.kind != StatKind::File {
            return Ok(Seen::Moved);
        }
        let hashed = hash::hash_file(&file, before.size)?;
        if hashed.read < before.size {
            continue;
        }
        let after = stat_file(&file)?;
        let (identity, still) = (Identity::of(&before), Identity::of(&before) == Identity::of(&after));
        // A file that only grew is taken as the bytes it had: an entry of size n is its first n bytes. Whether those
        // were left alone cannot be told, so nothing vouches for them and it is read again soon.
        if still || after.size > before.size {
            let content = Content::File { size: before.size, digest: hashed.digest };
            let entry = Entry { content, mtime: before.mtime, mode: carried_mode(&before) };
            return Ok(Seen::Entry { entry, identity, vouched: still && identity.vouches(trust.began) });
        }
    }
    Ok(Seen::Restless)
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

//! A disk as a power cut sees it: what was done to it, and how much of that is sure to be still there afterwards.
//!
//! A [`Disk`] is told what a program did ([`Event`]), in the order in which it was done, and answers what is there
//! ([`Disk::live`]), what must be there after a cut ([`Disk::safe`]), and what may be there ([`Disk::after_cut`]). It is a
//! value: it touches nothing and knows no clock.
//!
//! Its rules are no better than those of ext4, xfs and btrfs, and where POSIX says less, mostly no better than POSIX:
//! * Bytes that were not flushed may be absent, cut off, or zeros, whatever became of the file's name and length.
//! * Mode and time are apart from the bytes: each may have any value since the last flush of the inode.
//! * Each change of names may be lost alone, until a directory that it changed is flushed. It is lost or there as a whole, also
//!   if it changed two directories. What a later change of the same name needs is there if that one is.
//! * The name of a new directory is its parent's: flushing the directory is no promise for that. But nothing is in a directory
//!   that is not there itself, and a directory is removed only once it is empty.
//! * Flushing a file that has no name is no promise (on btrfs it is none).
//! * What a symlink leads to comes and goes with its name; its time is flushed by nothing but a flush of the whole.

mod audit;
mod cut;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub use audit::{Recorded, ahead};
pub use cut::{Content, Cut, digest, place};
pub use scan::scan;

/// An inode of the model. Numbers are not reused.
pub type Ino = usize;

/// A name in a directory.
pub type Spot = (Ino, Vec<u8>);

/// A modification time: seconds and nanoseconds.
pub type Mtime = (i64, u32);

/// The inode of the root directory.
pub const ROOT: Ino = 0;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, with its text.
    Link(Vec<u8>),
}

/// Something that was done. Flushes promise something for what was done before `since`, a count of events: a program's other
/// threads do not stand still meanwhile.
#[derive(Debug, Clone)]
pub enum Event {
    /// A new inode, with a name if it has one. Its number is the next one.
    New {
        /// What it is.
        what: What,
        /// Its mode.
        mode: u16,
        /// Its name.
        at: Option<Spot>,
    },
    /// One more name.
    Link {
        /// Of this inode.
        ino: Ino,
        /// The name.
        at: Spot,
    },
    /// The end of a name.
    Remove(Spot),
    /// A name becomes another one, and replaces that.
    Rename(Spot, Spot),
    /// Two names change places.
    Exchange(Spot, Spot),
    /// The bytes of a file are these now.
    Bytes(Ino, Arc<[u8]>),
    /// Permission bits.
    Mode(Ino, u16),
    /// The modification time.
    Time(Ino, Mtime),
    /// Flushes a file or directory, and its mode and time.
    Sync {
        /// Which.
        ino: Ino,
        /// What came before.
        since: usize,
    },
    /// Flushes everything.
    SyncAll {
        /// What came before.
        since: usize,
    },
    /// Nothing on this disk, but a moment to remember.
    Mark,
}

/// What had several values, of which only the newest that were not flushed are in doubt.
#[derive(Debug, Clone)]
struct Attr<T> {
    versions: Vec<(usize, T)>,
    safe: usize,
}

impl<T> Attr<T> {
    fn new(at: usize, value: T) -> Self {
        Self { versions: vec![(at, value)], safe: 0 }
    }

    fn set(&mut self, at: usize, value: T) {
        self.versions.push((at, value));
    }

    fn flush(&mut self, since: usize) {
        let before = self.versions.partition_point(|(at, _)| *at < since);
        self.safe = self.safe.max(before.saturating_sub(1));
    }

    fn last(&self) -> usize {
        self.versions.len() - 1
    }

    fn get(&self, version: usize) -> &T {
        &self.versions[version].1
    }

    fn is_pending(&self) -> bool {
        self.safe < self.last()
    }
}

#[derive(Debug, Clone)]
struct Inode {
    what: What,
    bytes: Attr<Arc<[u8]>>,
    mode: Attr<u16>,
    /// Nothing where the system set it.
    mtime: Attr<Option<Mtime>>,
    names: usize,
}

impl Inode {
    fn flush(&mut self, since: usize) {
        self.bytes.flush(since);
        self.mode.flush(since);
        self.mtime.flush(since);
    }
}

/// A change of names.
#[derive(Debug, Clone)]
struct Naming {
    at: usize,
    sets: Vec<(Spot, Option<Ino>)>,
    /// A directory that came, or went, by it.
    born: Option<Ino>,
    ended: Option<Ino>,
    safe: bool,
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Held {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub what: What,
    /// The bytes of a file.
    pub bytes: Arc<[u8]>,
    /// Permission bits.
    pub mode: u16,
    /// The modification time, if somebody set it.
    pub mtime: Option<Mtime>,
}

/// All paths, with `/` between names; a directory is before what is in it.
pub type View = BTreeMap<Vec<u8>, Held>;

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    inodes: Vec<Inode>,
    /// The names at the beginning, all safe.
    first: HashMap<Spot, Ino>,
    /// The names as they are.
    names: HashMap<Spot, Ino>,
    namings: Vec<Naming>,
    events: usize,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let mut disk = Self {
            inodes: Vec::new(),
            first: HashMap::new(),
            names: HashMap::new(),
            namings: Vec::new(),
            events: 0,
        };
        disk.make(What::Directory, 0o755);
        disk
    }

    /// How many events it was told.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// What has this name now.
    #[must_use]
    pub fn named(&self, spot: &Spot) -> Option<Ino> {
        self.names.get(spot).copied()
    }

    /// The bytes that a file has now.
    #[must_use]
    pub fn bytes(&self, ino: Ino) -> &Arc<[u8]> {
        let bytes = &self.inodes[ino].bytes;
        bytes.get(bytes.last())
    }

    /// Takes note of something. Answers the inode, if one was made.
    pub fn apply(&mut self, event: &Event) -> Option<Ino> {
        let at = self.events;
        self.events += 1;
        match event {
            Event::New { what, mode, at: spot } => {
                let ino = self.make(what.clone(), *mode);
                if let Some(spot) = spot {
                    self.name(vec![(spot.clone(), Some(ino))], (*what == What::Directory).then_some(ino));
                }
                return Some(ino);
            }
            Event::Link { ino, at } => self.name(vec![(at.clone(), Some(*ino))], None),
            Event::Remove(spot) => self.name(vec![(spot.clone(), None)], None),
            Event::Rename(from, to) => {
                let moved = self.named(from);
                self.name(vec![(from.clone(), None), (to.clone(), moved)], None);
            }
            Event::Exchange(one, two) => {
                let (first, second) = (self.named(one), self.named(two));
                self.name(vec![(one.clone(), second), (two.clone(), first)], None);
            }
            Event::Bytes(ino, bytes) => {
                self.inodes[*ino].bytes.set(at, bytes.clone());
                self.inodes[*ino].mtime.set(at, None);
            }
            Event::Mode(ino, mode) => self.inodes[*ino].mode.set(at, *mode),
            Event::Time(ino, mtime) => self.inodes[*ino].mtime.set(at, Some(*mtime)),
            Event::Sync { ino, since } => {
                if self.inodes[*ino].names > 0 || *ino == ROOT {
                    self.inodes[*ino].flush(*since);
                }
                self.sync_names(*since, |spot| spot.0 == *ino);
            }
            Event::SyncAll { since } => {
                self.inodes.iter_mut().for_each(|inode| inode.flush(*since));
                self.sync_names(*since, |_| true);
            }
            Event::Mark => {}
        }
        None
    }

    fn make(&mut self, what: What, mode: u16) -> Ino {
        let at = self.events;
        self.inodes.push(Inode {
            what,
            bytes: Attr::new(at, Arc::default()),
            mode: Attr::new(at, mode),
            mtime: Attr::new(at, None),
            names: 0,
        });
        self.inodes.len() - 1
    }

    fn name(&mut self, sets: Vec<(Spot, Option<Ino>)>, born: Option<Ino>) {
        let at = self.events - 1;
        let mut ended = None;
        let mut gone: Vec<Ino> = Vec::new();
        for (spot, now) in &sets {
            let before = match now {
                Some(ino) => self.names.insert(spot.clone(), *ino),
                None => self.names.remove(spot),
            };
            gone.extend(before);
            if let Some(ino) = now {
                self.inodes[*ino].names += 1;
            }
            self.inodes[spot.0].mtime.set(at, None);
        }
        for ino in gone {
            self.inodes[ino].names -= 1;
            if self.inodes[ino].names == 0 && self.inodes[ino].what == What::Directory {
                ended = Some(ino);
            }
        }
        self.namings.push(Naming { at, sets, born, ended, safe: false });
    }

    fn sync_names(&mut self, since: usize, is_flushed: impl Fn(&Spot) -> bool) {
        for naming in &mut self.namings {
            naming.safe |= naming.at < since && naming.sets.iter().any(|(spot, _)| is_flushed(spot));
        }
        // What is there later of a name was there after what came before.
        let mut needed: HashSet<&Spot> = HashSet::new();
        for naming in self.namings.iter_mut().rev() {
            naming.safe |= naming.sets.iter().any(|(spot, _)| needed.contains(spot));
            if naming.safe {
                needed.extend(naming.sets.iter().map(|(spot, _)| spot));
            }
        }
    }

    /// Everything as it is.
    #[must_use]
    pub fn live(&self) -> View {
        self.view(&self.names, |ino| {
            let inode = &self.inodes[ino];
            (self.bytes(ino).clone(), inode.mode.last(), inode.mtime.last())
        })
    }

    /// Everything as it is if all is lost that may be.
    #[must_use]
    pub fn safe(&self) -> View {
        let names = self.names_after(|naming| self.namings[naming].safe);
        self.view(&names, |ino| {
            let inode = &self.inodes[ino];
            (inode.bytes.get(inode.bytes.safe).clone(), inode.mode.safe, inode.mtime.safe)
        })
    }

    fn names_after(&self, is_kept: impl Fn(usize) -> bool) -> HashMap<Spot, Ino> {
        let mut names = self.first.clone();
        for (number, naming) in self.namings.iter().enumerate() {
            if !is_kept(number) {
                continue;
            }
            for (spot, ino) in &naming.sets {
                match ino {
                    Some(ino) => names.insert(spot.clone(), *ino),
                    None => names.remove(spot),
                };
            }
        }
        names
    }

    fn view(&self, names: &HashMap<Spot, Ino>, pick: impl Fn(Ino) -> (Arc<[u8]>, usize, usize)) -> View {
        let mut children: HashMap<Ino, Vec<(&[u8], Ino)>> = HashMap::new();
        for ((dir, name), ino) in names {
            children.entry(*dir).or_default().push((name, *ino));
        }
        let mut view = View::new();
        let mut todo: Vec<(Vec<u8>, Ino)> = vec![(Vec::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, ino) in children.remove(&dir).unwrap_or_default() {
                let path = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
                let inode = &self.inodes[ino];
                let (bytes, mode, mtime) = pick(ino);
                let (mode, mtime) = (*inode.mode.get(mode), *inode.mtime.get(mtime));
                view.insert(path.clone(), Held { ino, what: inode.what.clone(), bytes, mode, mtime });
                if inode.what == What::Directory {
                    todo.push((path, ino));
                }
            }
        }
        view
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

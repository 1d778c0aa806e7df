//! Random changes of a share in memory, as its users make them.

use bytes::Bytes;
use sync_core::{Content, Kind, Time, TreePath};
use sync_locations::Memory;
use sync_testkit::{ops, rng::Rng};

/// More entries than these are not made: a seed is to be quick, and few are enough to hit every pair of changes.
const MOST_ENTRIES: usize = 45;
/// How deep a place for something new may be, and how long its path.
const MOST_DEPTH: usize = 5;
const MOST_BYTES: usize = 1400;

/// What the changes may be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// So many names are used, so that they meet.
    pub names: usize,
    /// Files that are cut into parts.
    pub large: bool,
}

/// Changes one share.
pub(crate) struct Editor {
    share: Memory,
    names: Vec<String>,
    habits: Habits,
    /// Makes each content another one.
    next: u64,
}

/// A place that something is at.
type Entry = (TreePath, Kind);

impl Editor {
    pub(crate) fn new(share: Memory, habits: Habits, rng: &mut Rng) -> Self {
        let all: Vec<String> = ops::names().into_iter().filter_map(|name| name.into_string().ok()).collect();
        let names = (0..habits.names).filter_map(|_| rng.pick(&all).cloned()).collect();
        Self { share, names, habits, next: 0 }
    }

    /// Makes one change, and says which.
    pub(crate) fn step(&mut self, rng: &mut Rng) -> String {
        let entries: Vec<Entry> =
            self.share.entries().into_iter().map(|(path, (entry, _))| (path, entry.content.kind())).collect();
        if entries.len() > MOST_ENTRIES {
            return self.remove(rng, &entries);
        }
        match rng.below(100) {
            0..18 => self.create(rng, &entries),
            18..25 => self.make_dir(rng, &entries),
            25..29 => self.link(rng, &entries),
            29..43 => self.write(rng, &entries),
            43..48 => self.save(rng, &entries),
            48..52 => self.copy(rng, &entries),
            52..66 => self.rename(rng, &entries),
            66..73 => self.swap(rng, &entries),
            73..77 => self.rotate(rng, &entries),
            77..85 => self.change_kind(rng, &entries),
            85..89 => self.mode(rng, &entries),
            89..93 => self.touch(rng, &entries),
            _ => self.remove(rng, &entries),
        }
    }

    /// A file at a place that the caller names.
    pub(crate) fn file(&mut self, rng: &mut Rng, path: &str) {
        let bytes = self.contents(rng);
        self.share.edit(|edit| edit.file(path, bytes));
    }

    fn contents(&mut self, rng: &mut Rng) -> Bytes {
        self.next += 1;
        let len = match rng.below(100) {
            0..8 => return Bytes::new(),
            8..12 => 66_000 + rng.below(60_000),
            12 if self.habits.large => 1_100_000 + rng.below(400_000),
            _ => rng.below(400),
        };
        let mut bytes = format!("content {} ", self.next).into_bytes();
        bytes.extend(rng.bytes(len));
        bytes.into()
    }

    fn name(&self, rng: &mut Rng) -> String {
        rng.pick(&self.names).cloned().unwrap_or_else(|| "x".into())
    }

    /// A name in a directory of the share, sometimes one that is taken.
    fn place(&self, rng: &mut Rng, entries: &[Entry]) -> TreePath {
        let dirs: Vec<_> = entries.iter().filter(|(_, kind)| *kind == Kind::Directory).collect();
        let dir = if rng.chance(30) { None } else { rng.pick(&dirs).map(|(path, _)| path.clone()) };
        let fits = |dir: &TreePath| dir.depth() < MOST_DEPTH && dir.as_str().len() < MOST_BYTES - 256;
        dir.filter(fits).unwrap_or_else(TreePath::root).join(&self.name(rng))
    }

    fn any(rng: &mut Rng, entries: &[Entry], wanted: impl Fn(Kind) -> bool) -> Option<TreePath> {
        let fitting: Vec<_> = entries.iter().filter(|(_, kind)| wanted(*kind)).collect();
        rng.pick(&fitting).map(|(path, _)| path.clone())
    }

    fn create(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let path = self.place(rng, entries);
        self.file(rng, path.as_str());
        format!("write {path}")
    }

    fn make_dir(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let path = self.place(rng, entries);
        if entries.iter().any(|(at, _)| *at == path) {
            return self.create(rng, entries);
        }
        self.share.edit(|edit| edit.dir(path.as_str()));
        if rng.chance(60) {
            let name = self.name(rng);
            self.file(rng, path.join(&name).as_str());
        }
        format!("mkdir {path}")
    }

    fn link(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let (path, target) = (self.place(rng, entries), self.name(rng));
        self.share.edit(|edit| edit.link(path.as_str(), &target));
        format!("link {path}")
    }

    fn write(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(path) = Self::any(rng, entries, |kind| kind == Kind::File) else {
            return self.create(rng, entries);
        };
        let old = self.share.entries().remove(&path).map(|(_, bytes)| bytes).unwrap_or_default();
        // Most of a large file stays.
        if old.len() > 1 << 20 && rng.chance(70) {
            let mut bytes = old.to_vec();
            let at = rng.below(bytes.len() - 5000);
            bytes[at..at + 4000].copy_from_slice(&rng.bytes(4000));
            self.share.edit(|edit| edit.file(path.as_str(), bytes));
        } else {
            self.file(rng, path.as_str());
        }
        format!("overwrite {path}")
    }

    /// Another node takes the place, as editors save.
    fn save(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(path) = Self::any(rng, entries, |kind| kind == Kind::File) else {
            return self.create(rng, entries);
        };
        let bytes = self.contents(rng);
        self.share.edit(|edit| {
            edit.remove(path.as_str());
            edit.file(path.as_str(), bytes);
        });
        format!("save {path}")
    }

    fn copy(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(from) = Self::any(rng, entries, |kind| kind == Kind::File) else {
            return self.create(rng, entries);
        };
        let to = self.place(rng, entries);
        let bytes = self.share.entries().remove(&from).map(|(_, bytes)| bytes).unwrap_or_default();
        self.share.edit(|edit| edit.file(to.as_str(), bytes));
        format!("copy {from} to {to}")
    }

    fn rename(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let dirs_only = rng.chance(50);
        let Some(from) = Self::any(rng, entries, |kind| !dirs_only || kind == Kind::Directory) else {
            return self.create(rng, entries);
        };
        let to = self.place(rng, entries);
        let longest = entries.iter().filter(|(path, _)| path.is_within(&from));
        let longest = longest.map(|(path, _)| path.as_str().len() - from.as_str().len()).max();
        if cross(&from, &to) || to.as_str().len() + longest.unwrap_or(0) > MOST_BYTES {
            return self.write(rng, entries);
        }
        self.share.edit(|edit| edit.rename(from.as_str(), to.as_str()));
        format!("rename {from} to {to}")
    }

    fn swap(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let (one, two) = (Self::any(rng, entries, |_| true), Self::any(rng, entries, |_| true));
        let (Some(one), Some(two)) = (one, two) else { return self.create(rng, entries) };
        if cross(&one, &two) {
            return self.write(rng, entries);
        }
        self.share.edit(|edit| edit.swap(one.as_str(), two.as_str()));
        format!("swap {one} and {two}")
    }

    /// Three change places in a circle.
    fn rotate(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let three: Vec<_> = (0..3).filter_map(|_| Self::any(rng, entries, |_| true)).collect();
        let [one, two, three] = &three[..] else { return self.create(rng, entries) };
        if cross(one, two) || cross(two, three) || cross(one, three) {
            return self.swap(rng, entries);
        }
        self.share.edit(|edit| {
            edit.swap(one.as_str(), two.as_str());
            edit.swap(two.as_str(), three.as_str());
        });
        format!("rotate {one}, {two} and {three}")
    }

    fn change_kind(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(path) = Self::any(rng, entries, |_| true) else { return self.create(rng, entries) };
        let (kind, keeps_node) = (rng.below(3), rng.chance(50));
        let (bytes, name) = (self.contents(rng), self.name(rng));
        let at = path.as_str();
        self.share.edit(|edit| {
            if !keeps_node {
                edit.remove(at);
            }
            match kind {
                0 => edit.file(at, bytes),
                1 => {
                    edit.dir(at);
                    if at.len() < MOST_BYTES - 256 {
                        edit.file(path.join(&name).as_str(), bytes);
                    }
                }
                _ => edit.link(at, &name),
            }
        });
        format!("turn {path} into a {}", ["file", "directory", "link"][kind])
    }

    fn mode(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some((path, kind)) = rng.pick(entries).filter(|(_, kind)| *kind != Kind::Symlink).cloned() else {
            return self.create(rng, entries);
        };
        let modes = if kind == Kind::Directory { [0o700, 0o755, 0o777] } else { [0o600, 0o644, 0o755] };
        let mode = rng.pick(&modes).copied().unwrap_or(0o700);
        self.share.edit(|edit| edit.mode(path.as_str(), mode));
        format!("chmod {mode:o} {path}")
    }

    fn touch(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(path) = Self::any(rng, entries, |_| true) else { return self.create(rng, entries) };
        let secs = i64::try_from(rng.below(4_000_000_000)).unwrap_or(0) - 1_000_000_000;
        self.share.edit(|edit| edit.mtime(path.as_str(), Time { secs, nanos: 42 }));
        format!("touch {path}")
    }

    fn remove(&mut self, rng: &mut Rng, entries: &[Entry]) -> String {
        let Some(path) = Self::any(rng, entries, |_| true) else { return self.create(rng, entries) };
        self.share.edit(|edit| edit.remove(path.as_str()));
        format!("remove {path}")
    }
}

/// Whether one is the other, or in it.
fn cross(one: &TreePath, two: &TreePath) -> bool {
    one.is_within(two) || two.is_within(one)
}

/// What a content looks like on the disk.
pub(crate) fn seen(entry: &sync_core::Entry) -> sync_testkit::tree::Seen {
    use sync_testkit::tree;
    let (kind, digest, link) = match &entry.content {
        Content::File { digest, .. } => (tree::Kind::File, Some(digest.0), None),
        Content::Directory => (tree::Kind::Dir, None, None),
        Content::Symlink { target } => (tree::Kind::Link, None, Some(target.to_vec())),
    };
    let (size, mode) = (entry.content.size(), u32::from(entry.mode));
    let size = if kind == tree::Kind::File { size } else { 0 };
    tree::Seen { kind, size, digest, mode, mtime: (entry.mtime.secs, entry.mtime.nanos), link }
}

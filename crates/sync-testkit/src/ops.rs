//! Random operations on a tree, as users, editors and build tools perform them, by seed.
//!
//! The tree is looked at before each step, so a run can go on after anything. An operation that the disk refuses (a name
//! too long, a directory moved into itself) is simply not done.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    rng::Rng,
    tree::{Kind, Tree, remove_any},
};

/// So many entries are enough to hit every pair of operations, and few enough to read the tree before each.
const MOST_ENTRIES: usize = 150;
/// So deep that directories move with whole branches.
const MOST_DEPTH: usize = 6;

/// Names that have broken sync tools. All are valid UTF-8.
#[must_use]
pub fn names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "a",
        "b",
        "c",
        "A",
        "readme.md",
        "中文 文件.txt",
        "目录",
        "with space",
        " leading",
        "trailing ",
        "🎉 emoji",
        "new\nline",
        "tab\there",
        "quo\"te",
        "it's",
        "back\\slash",
        "-rf",
        "--",
        "...",
        "..x",
        "~",
        "*",
        "$HOME",
        "%41",
        "CON",
        "name.",
        "é",
        "e\u{301}",
        ".hidden",
        "\u{7f}del",
        "\u{202e}rtl",
        "#x#",
        "a:b",
        "syncd",
        ".syncdx",
    ]
    .into_iter()
    .map(OsString::from)
    .collect();
    names.push("x".repeat(255).into());
    names.push("长".repeat(85).into());
    names
}

/// Performs random operations on one tree. The same seed on the same tree gives the same operations.
#[derive(Debug)]
pub struct Chaos {
    tree: Tree,
    rng: Rng,
    names: Vec<OsString>,
    quietly: bool,
    log: Vec<String>,
}

impl Chaos {
    /// Chaos in this tree.
    #[must_use]
    pub fn new(tree: &Tree, seed: u64) -> Self {
        Self { tree: tree.clone(), rng: Rng::new(seed), names: names(), quietly: true, log: Vec::new() }
    }

    /// Without changes that only the change time tells: for trees in which more happens in one tick of the file system's clock
    /// than anybody can tell apart.
    #[must_use]
    pub fn noticeable(self) -> Self {
        Self { quietly: false, ..self }
    }

    /// Performs one operation.
    pub fn step(&mut self) {
        let entries = entries(&self.tree);
        let (what, done) = self.perform(&entries);
        let result = done.map_or_else(|error| format!(" ({error})"), |()| String::new());
        self.log.push(format!("{what}{result}"));
    }

    /// What was done so far, for the message of a failed test.
    #[must_use]
    pub fn log(&self) -> &[String] {
        &self.log
    }

    fn perform(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        if entries.len() > MOST_ENTRIES {
            return self.delete(entries);
        }
        match self.rng.below(100) {
            0..20 => self.create(entries),
            20..27 => self.make_dirs(entries),
            27..31 => self.make_link(entries),
            31..45 => self.write(entries),
            45..50 if self.quietly => self.rewrite_quietly(entries),
            45..55 => self.save(entries),
            55..60 => self.truncate(entries),
            60..72 => self.rename(entries),
            72..77 => self.swap(entries),
            77..85 => self.change_kind(entries),
            85..90 => self.chmod(entries),
            90..93 => self.touch(entries),
            _ => self.delete(entries),
        }
    }

    fn any(&mut self, entries: &[(PathBuf, Kind)], wanted: impl Fn(Kind) -> bool) -> Option<PathBuf> {
        let fitting: Vec<_> = entries.iter().filter(|(_, kind)| wanted(*kind)).collect();
        self.rng.pick(&fitting).map(|(path, _)| path.clone())
    }

    fn any_file(&mut self, entries: &[(PathBuf, Kind)]) -> Option<PathBuf> {
        self.any(entries, |kind| kind == Kind::File)
    }

    /// A place for something new: a name of the pool in a directory of the tree, sometimes one that is taken.
    fn place(&mut self, entries: &[(PathBuf, Kind)]) -> PathBuf {
        let dir = if self.rng.chance(30) { None } else { self.any(entries, |kind| kind == Kind::Dir) };
        let dir = dir.filter(|dir| dir.components().count() < MOST_DEPTH).unwrap_or_default();
        dir.join(self.name())
    }

    fn name(&mut self) -> OsString {
        self.rng.pick(&self.names).cloned().unwrap_or_default()
    }

    /// Mostly small, sometimes empty, sometimes more than one message.
    fn contents(&mut self) -> Vec<u8> {
        let len = match self.rng.below(20) {
            0 | 1 => 0,
            2 => 300_000 + self.rng.below(1_500_000),
            3..6 => 10_000 + self.rng.below(90_000),
            _ => 1 + self.rng.below(4_000),
        };
        self.rng.bytes(len)
    }

    fn create(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let (path, contents) = (self.place(entries), self.contents());
        let what = format!("write {path:?} {} bytes", contents.len());
        (what, fs::write(self.tree.path(path), contents))
    }

    fn make_dirs(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let path = (0..self.rng.below(3)).fold(self.place(entries), |path, _| path.join(self.name()));
        let leaf = path.join(self.name());
        let contents = self.contents();
        let dir = self.tree.path(&path);
        let leaf_too = self.rng.chance(60);
        let made = fs::create_dir_all(dir).and_then(|()| match leaf_too {
            true => fs::write(self.tree.path(&leaf), contents),
            false => Ok(()),
        });
        (format!("mkdir -p {path:?}, leaf {leaf_too}"), made)
    }

    fn make_link(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let path = self.place(entries);
        let target = match self.rng.below(4) {
            0 => "/etc/hostname".into(),
            1 => "..".into(),
            2 => self.any(entries, |_| true).unwrap_or_default().into_os_string(),
            _ => self.name(),
        };
        (format!("link {path:?} -> {target:?}"), symlink(&target, self.tree.path(&path)))
    }

    fn write(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any_file(entries) else { return self.create(entries) };
        let contents = self.contents();
        if self.rng.chance(50) {
            let file = fs::File::options().append(true).open(self.tree.path(&path));
            let what = format!("append {path:?} {} bytes", contents.len());
            return (what, file.and_then(|mut file| io::Write::write_all(&mut file, &contents)));
        }
        (format!("overwrite {path:?} {} bytes", contents.len()), fs::write(self.tree.path(&path), contents))
    }

    fn rewrite_quietly(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any_file(entries) else { return self.create(entries) };
        let writable = fs::symlink_metadata(self.tree.path(&path)).is_ok_and(|meta| meta.mode() & 0o200 != 0);
        if writable {
            self.tree.rewrite_quietly(&path, self.rng.next_u64());
        }
        (format!("same size, same time {path:?}"), Ok(()))
    }

    fn save(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any_file(entries) else { return self.create(entries) };
        let (contents, to) = (self.contents(), self.tree.path(&path));
        let beside = to.with_file_name(".saving~");
        (format!("save {path:?}"), fs::write(&beside, contents).and_then(|()| fs::rename(&beside, to)))
    }

    fn truncate(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any_file(entries) else { return self.create(entries) };
        let len = self.rng.below(2_000) as u64;
        let file = fs::File::options().write(true).open(self.tree.path(&path));
        (format!("truncate {path:?} to {len}"), file.and_then(|file| file.set_len(len)))
    }

    fn rename(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let dirs_only = self.rng.chance(50);
        let Some(from) = self.any(entries, |kind| !dirs_only || kind == Kind::Dir) else {
            return self.create(entries);
        };
        let to = self.place(entries);
        (format!("rename {from:?} to {to:?}"), fs::rename(self.tree.path(&from), self.tree.path(&to)))
    }

    fn swap(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let (Some(one), Some(two)) = (self.any(entries, |_| true), self.any(entries, |_| true)) else {
            return self.create(entries);
        };
        let (from, to) = (self.tree.path(&one), self.tree.path(&two));
        let swapped = renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).map_err(io::Error::from);
        (format!("swap {one:?} and {two:?}"), swapped)
    }

    fn change_kind(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any(entries, |_| true) else { return self.create(entries) };
        let (place, kind) = (self.tree.path(&path), self.rng.below(3));
        let (contents, leaf, target) = (self.contents(), self.name(), self.name());
        let changed = remove_any(&place).and_then(|()| match kind {
            0 => fs::write(&place, contents),
            1 => fs::create_dir(&place).and_then(|()| fs::write(place.join(leaf), contents)),
            _ => symlink(target, &place),
        });
        (format!("turn {path:?} into a {}", ["file", "directory", "link"][kind]), changed)
    }

    fn chmod(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any(entries, |kind| kind != Kind::Link) else { return self.create(entries) };
        let place = self.tree.path(&path);
        let modes = if place.is_dir() { [0o700, 0o755, 0o777] } else { [0o600, 0o644, 0o755] };
        let mode = self.rng.pick(&modes).copied().unwrap_or(0o700);
        (format!("chmod {mode:o} {path:?}"), fs::set_permissions(place, fs::Permissions::from_mode(mode)))
    }

    fn touch(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any(entries, |_| true) else { return self.create(entries) };
        let secs = self.rng.below(4_000_000_000) as i64 - 1_000_000_000;
        self.tree.placed(&path).mtime(secs, self.rng.below(1_000_000_000) as u32);
        (format!("touch {path:?} {secs}"), Ok(()))
    }

    fn delete(&mut self, entries: &[(PathBuf, Kind)]) -> (String, io::Result<()>) {
        let Some(path) = self.any(entries, |_| true) else { return self.create(entries) };
        (format!("delete {path:?}"), remove_any(&self.tree.path(&path)))
    }
}

/// All paths and kinds, in an order that depends on the names only.
fn entries(tree: &Tree) -> Vec<(PathBuf, Kind)> {
    let mut found = Vec::new();
    collect(tree.root(), Path::new(""), &mut found);
    found.sort_by(|one, two| one.0.cmp(&two.0));
    found
}

fn collect(root: &Path, relative: &Path, found: &mut Vec<(PathBuf, Kind)>) {
    let Ok(listing) = fs::read_dir(root.join(relative)) else { return };
    for entry in listing.flatten() {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else { continue };
        if name == OsStr::new(".syncd") {
            continue;
        }
        let path = relative.join(name);
        if kind.is_dir() {
            collect(root, &path, found);
        }
        let kind = match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => Kind::Dir,
            (_, true) => Kind::Link,
            _ => Kind::File,
        };
        found.push((path, kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Compare, Seen, differences};

    fn without_times(tree: &Tree) -> std::collections::BTreeMap<crate::tree::PathBytes, Seen> {
        let clear = |(path, seen): (_, Seen)| (path, Seen { mtime: (0, 0), ..seen });
        tree.snapshot().into_iter().map(clear).collect()
    }

    #[test]
    fn a_seed_gives_the_same_tree_twice() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let tree = Tree::at(dir.path().join(name));
            let mut chaos = Chaos::new(&tree, 11);
            (0..300).for_each(|_| chaos.step());
            (tree, chaos)
        });
        assert_eq!(one.1.log(), two.1.log());
        let differences = differences(&without_times(&one.0), &without_times(&two.0), Compare::default());
        assert!(differences.is_empty(), "{differences:?}");
    }

    #[test]
    fn every_operation_happens_and_mostly_works() {
        let dir = tempfile::tempdir().unwrap();
        let mut chaos = Chaos::new(&Tree::at(dir.path().join("t")), 3);
        (0..1_000).for_each(|_| chaos.step());
        let done: Vec<_> = chaos.log().iter().filter(|line| !line.ends_with(')')).collect();
        assert!(done.len() > 700, "{:?}", chaos.log());
        for word in
            ["write", "mkdir", "link", "append", "overwrite", "same", "save", "truncate", "rename", "swap"]
        {
            assert!(done.iter().any(|line| line.starts_with(word)), "no {word}");
        }
        for word in ["turn", "chmod", "touch", "delete"] {
            assert!(done.iter().any(|line| line.starts_with(word)), "no {word}");
        }
        assert!(entries(&Tree::at(dir.path().join("t"))).len() <= MOST_ENTRIES + 1);
    }

    #[test]
    fn all_names_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path().join("t"));
        names().iter().for_each(|name| drop(tree.file(name, "x")));
        assert_eq!(tree.snapshot().len(), names().len());
    }
}

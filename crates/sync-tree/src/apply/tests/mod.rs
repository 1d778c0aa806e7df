use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use sync_core::{Content, Digest, Entry, Time};

use super::*;
use crate::{
    probe::{self, Call, Installed, Op, Probe},
    state::{StateDir, StateOptions},
};

type Act = Arc<dyn Fn() + Send + Sync>;

/// What a test does at the next such moment.
#[derive(Default)]
struct Hook(Mutex<Option<(Op, Act)>>);

impl Probe for Hook {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let found = self.0.lock().unwrap().take_if(|(at, _)| *at == call.op);
        if let Some((_, act)) = found {
            act();
        }
        Ok(())
    }
}

impl Hook {
    fn set(&self, moment: Op, act: impl Fn() + Send + Sync + 'static) {
        *self.0.lock().unwrap() = Some((moment, Arc::new(act)));
    }
}

mod crash;
mod partials;
mod placing;
mod races;
mod trashing;
mod whole;

/// A target with its applier.
struct Target {
    _tmp: tempfile::TempDir,
    path: PathBuf,
    root: Root,
    applier: Arc<Applier>,
    hook: Arc<Hook>,
    _installed: Installed,
}

const TIME: Time = Time { secs: -86_400, nanos: 123_456_789 };
const RUN: &str = "20260102T030405-abcd";

fn target() -> Target {
    target_with(Durability::None)
}

fn target_with(durability: Durability) -> Target {
    target_that_keeps(durability, Keeping::AsItCan)
}

/// How staged files are kept.
#[derive(Debug, Clone, Copy)]
enum Keeping {
    /// Without a name, where the system can do that.
    AsItCan,
    /// With a name and a handle.
    Open,
    /// With a name only, as beyond the limit of open files.
    Closed,
}

const KEEPING: [Keeping; 3] = [Keeping::AsItCan, Keeping::Open, Keeping::Closed];

fn target_that_keeps(durability: Durability, keeping: Keeping) -> Target {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::open(tmp.path()).unwrap();
    let mut applier = applier(&root, durability, RUN);
    match keeping {
        Keeping::AsItCan => {}
        Keeping::Open => applier.staging.unnamed = None.into(),
        Keeping::Closed => applier.staging.most_held = 0,
    }
    Target::of(tmp, root, applier)
}

fn applier(root: &Root, durability: Durability, run: &str) -> Applier {
    let work = StateDir::open(root, &StateOptions::default()).unwrap().work.unwrap();
    let options =
        ApplyOptions { durability, trash_run: run.into(), trash_keep: Duration::from_secs(30 * 86_400) };
    Applier::open(root.clone(), &work, options).unwrap()
}

fn file_entry(bytes: &[u8], mode: u16) -> Entry {
    let content = Content::File { size: bytes.len() as u64, digest: Digest::of(bytes) };
    Entry { content, mtime: TIME, mode }
}

fn link_entry(target: &[u8]) -> Entry {
    Entry { content: Content::Symlink { target: target.into() }, mtime: TIME, mode: 0 }
}

fn dir_entry(mode: u16) -> Entry {
    Entry { content: Content::Directory, mtime: TIME, mode }
}

/// A place by its path, with what it borrows.
struct At {
    dir: Dir,
    path: TreePath,
}

impl At {
    fn place(&self) -> Place<'_> {
        Place { dir: &self.dir, name: self.path.as_str().rsplit('/').next().unwrap(), path: &self.path }
    }
}

impl Target {
    fn of(tmp: tempfile::TempDir, root: Root, applier: Applier) -> Self {
        let hook = Arc::new(Hook::default());
        let installed = probe::install(root.path(), hook.clone());
        let path = root.path().to_owned();
        Self { path, root, applier: Arc::new(applier), hook, _installed: installed, _tmp: tmp }
    }

    fn at(&self, path: &str) -> At {
        let path = TreePath::new(path).unwrap();
        At { dir: self.root.open_parent(&path).unwrap().0, path }
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path.join(path).parent().unwrap()).unwrap();
        fs::write(self.path.join(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path.join(path)).unwrap_or_else(|error| format!("({:?})", error.kind()))
    }

    fn stat(&self, path: &str) -> Stat {
        let at = self.at(path);
        at.dir.stat(at.place().name).unwrap()
    }

    fn expect(&self, path: &str) -> Expect {
        expect_of(&self.stat(path))
    }

    fn stage(&self, text: &str) -> Staged {
        self.applier.stage_bytes(text.as_bytes(), &Digest::of(text.as_bytes()), 0o644).unwrap()
    }

    fn place(&self, path: &str, text: &str, expect: &Expect, what: Displaced) -> Result<Stat, ApplyError> {
        let entry = file_entry(text.as_bytes(), 0o644);
        self.applier.place(self.stage(text), &self.at(path).place(), &entry, expect, what)
    }

    fn remove(&self, path: &str, expect: &Expect, what: Displaced) -> Result<(), ApplyError> {
        self.applier.remove(&self.at(path).place(), expect, what)
    }

    /// What the trash of this run holds, links as `-> target`, empty directories with a slash.
    fn trash(&self) -> Vec<(String, String)> {
        self.tree_below(&format!(".syncd/trash/{RUN}"))
    }

    /// Everything in staging but the directories.
    fn staging(&self) -> Vec<(String, String)> {
        let mut found = self.tree_below(".syncd/staging");
        found.retain(|(path, _)| !path.ends_with('/'));
        found
    }

    /// Everything but our own directory.
    fn content(&self) -> Vec<(String, String)> {
        let mut found = self.tree_below("");
        found.retain(|(path, _)| !path.starts_with(".syncd/"));
        found
    }

    fn tree_below(&self, top: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut waiting = vec![self.path.join(top)];
        while let Some(dir) = waiting.pop() {
            let Ok(list) = fs::read_dir(&dir) else { continue };
            let list: Vec<_> = list.map(|entry| entry.unwrap().path()).collect();
            if list.is_empty() && dir != self.path.join(top) {
                found.push((self.name_below(top, &dir) + "/", String::new()));
            }
            for path in list {
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                let text = if kind.is_dir() {
                    waiting.push(path);
                    continue;
                } else if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if kind.is_file() {
                    String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
                } else {
                    "(other)".into()
                };
                found.push((self.name_below(top, &path), text));
            }
        }
        found.sort();
        found
    }

    fn name_below(&self, top: &str, path: &std::path::Path) -> String {
        path.strip_prefix(self.path.join(top)).unwrap().to_str().unwrap().to_owned()
    }
}

fn expect_of(stat: &Stat) -> Expect {
    match stat.kind {
        StatKind::Directory => Expect::Directory { ino: stat.ino },
        StatKind::Symlink => Expect::Link(Identity::of(stat)),
        _ => Expect::File(Identity::of(stat)),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

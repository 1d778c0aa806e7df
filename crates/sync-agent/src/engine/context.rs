//! What every step of applying needs, and the directories that are being worked in.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sync_core::{Content, Digest, Node, NodeId, TreePath};
use sync_tree::{
    apply::{Applier, ApplyError, Durability, Expect, Place, WorkDir},
    hash::Identity,
    index::IndexedNode,
    platform::files_to_hold,
    rooted::{Dir, Root},
    shelf::Shelf,
};

use super::{EngineError, base::local_of, material::Guesses, store::Store};

/// The target, as the steps of applying share it.
#[derive(Debug)]
pub(super) struct Context {
    pub root: Root,
    pub applier: Applier,
    pub store: Store,
    /// What large files here are made of.
    pub shelf: Shelf,
    pub durability: Durability,
    pub concurrency: usize,
    pub trouble: Trouble,
    pub guesses: Guesses,
    pub cut_descriptions: CutDescriptions,
    /// Something was put in place and could not be written down.
    pub unrecorded: AtomicBool,
    /// Something that was taken out of the tree could neither go to its new place nor back.
    pub waiting: AtomicBool,
    /// Directories that were opened up to be worked in. They get their mode back, or their final one, in the end.
    pub opened: Mutex<BTreeMap<TreePath, WorkDir>>,
}

/// So many places in a row, that all fail because the disk or the system is in trouble, end a run. Each of them was perhaps
/// fetched for nothing, and a list of all files helps nobody.
const MOST_IN_TROUBLE: usize = 64;

/// Counts places that fail for a reason that is not their own.
#[derive(Debug, Default)]
pub(super) struct Trouble(AtomicUsize);

impl Trouble {
    /// A place was changed.
    pub(super) fn passed(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Takes note of a failure. Answers whether going on makes no sense.
    pub(super) fn is_too_much(&self, error: &ApplyError) -> bool {
        error.is_trouble() && self.0.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_IN_TROUBLE
    }
}

/// So many times the description of one content may be cut. It begins anew each time, and what was fetched of the file itself
/// stays: on a line that is too bad for the one, the other gets there.
const MOST_CUTS: u32 = 3;
/// Of so many contents it is known at most.
const MOST_CUT_CONTENTS: usize = 1024;

/// How often descriptions were cut.
#[derive(Debug, Default)]
pub(super) struct CutDescriptions(Mutex<HashMap<Digest, u32>>);

impl CutDescriptions {
    /// Takes note of one more.
    pub(super) fn count(&self, digest: Digest) {
        let mut cuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.len() >= MOST_CUT_CONTENTS {
            cuts.clear();
        }
        *cuts.entry(digest).or_default() += 1;
    }

    /// It came: the line is good enough for it.
    pub(super) fn forget(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Whether asking for it again makes no sense.
    pub(super) fn are_too_many(&self, digest: &Digest) -> bool {
        let cuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.get(digest).is_some_and(|cuts| *cuts >= MOST_CUTS)
    }
}

impl Context {
    /// Takes note that something that is in place will not be written down.
    pub(super) fn leave_unrecorded(&self) {
        self.unrecorded.store(true, Ordering::Relaxed);
    }

    /// Takes note that something waits in staging.
    pub(super) fn leave_waiting(&self) {
        self.waiting.store(true, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) -> MutexGuard<'_, BTreeMap<TreePath, WorkDir>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must be where the index has this node.
    pub(super) fn expect(&self, local: &Node) -> Result<Expect, EngineError> {
        Ok(expected(self.store.index().node(local.id)?))
    }

    /// The local node that a remote one was agreed to be, and what must be there.
    pub(super) fn agreed(&self, remote: NodeId) -> Result<Option<(NodeId, Expect)>, EngineError> {
        let index = self.store.index();
        let found = index.read(|db| {
            let db = db.unchecked_transaction()?;
            let Some(local) = local_of(&db, remote)? else { return Ok(None) };
            Ok(Some((local, index.table().get(&db, local)?)))
        })?;
        Ok(found.map(|(local, row)| (local, expected(row))))
    }
}

/// What must be where the index has this.
fn expected(row: Option<IndexedNode>) -> Expect {
    let Some(row) = row else { return Expect::Nothing };
    match row.node.entry.content {
        Content::File { .. } => Expect::File(row.identity),
        Content::Directory => Expect::Directory { ino: row.identity.ino },
        // A link's size is not part of its row: it is its target's length.
        Content::Symlink { target } => Expect::Link(Identity { size: target.len() as u64, ..row.identity }),
    }
}

/// Handles of the directories that were used last.
#[derive(Debug)]
pub(super) struct Dirs<'a> {
    context: &'a Context,
    held: HashMap<TreePath, Dir>,
}

/// So many handles are held by one thread: files of one directory mostly follow each other, so few are enough. Of the files that the
/// process may have open it is this part at most.
const HELD: usize = 64;
const HELD_PART: usize = 16;

impl<'a> Dirs<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, held: HashMap::new() }
    }

    /// The directory at a path, ready to be worked in.
    pub(super) fn get(&mut self, path: &TreePath) -> Result<Dir, ApplyError> {
        let Some((parent, name)) = path.split() else { return Ok(self.context.root.dir()) };
        if let Some(dir) = self.held.get(path) {
            return Ok(dir.clone());
        }
        let above = self.get(&parent)?;
        let dir = match above.open_dir(name) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.open_up(&above, name, path)?
            }
            Err(source) => return Err(ApplyError::of_place(path, "open the directory", source)),
        };
        let mode = dir
            .stat_self()
            .map_err(|source| ApplyError::of_place(path, "look at the directory", source))?
            .mode;
        let dir = if mode & 0o300 == 0o300 { dir } else { self.open_up(&above, name, path)? };
        if self.held.len() >= files_to_hold(HELD, HELD_PART) {
            self.held.clear();
        }
        self.held.insert(path.clone(), dir.clone());
        Ok(dir)
    }

    /// The directory that holds a place, and the name there.
    pub(super) fn parent<'p>(&mut self, path: &'p TreePath) -> Result<(Dir, &'p str), ApplyError> {
        let name = path.as_str().rsplit('/').next().unwrap_or_default();
        let parent = path.parent().unwrap_or_default();
        Ok((self.get(&parent)?, name))
    }

    fn open_up(&self, above: &Dir, name: &str, path: &TreePath) -> Result<Dir, ApplyError> {
        let work = self.context.applier.open_for_work(&Place { dir: above, name, path })?;
        let dir = work.dir().clone();
        self.context.opened().entry(path.clone()).or_insert(work);
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_given_up_after_three_cuts_in_a_row() {
        let cuts = CutDescriptions::default();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        for _ in 0..MOST_CUTS {
            assert!(!cuts.are_too_many(&one));
            cuts.count(one);
        }
        assert!(cuts.are_too_many(&one) && !cuts.are_too_many(&other));
        cuts.forget(&one);
        assert!(!cuts.are_too_many(&one));
    }
}

//! Writes down what was done. Only what is on the disk is recorded, and only after the flush that the durability asks for.

use std::collections::{HashMap, HashSet};

use sync_core::{Content, Entry, Name, Node, NodeId};
use sync_tree::{
    hash::Identity,
    index::{IndexError, IndexTx, IndexedNode},
    rooted::{Stat, StatKind},
};

use super::{
    base::{BaseRow, NewBase, agree, drop_base_of_local, local_of},
    now_secs,
    store::{Store, count_deletions},
    whole::Appeared,
};

/// One thing that was done.
#[derive(Debug)]
pub(super) enum Done {
    /// A file, link or directory is in its place; `over` is the local node that it took the place of.
    Present { remote: Node, over: Option<NodeId>, stat: Stat },
    /// A new directory is in its place with the files that it has.
    Whole(Appeared),
    /// A node is in its new place.
    Moved { remote: Node, local: Node, stat: Stat },
    /// A node waits in staging; its place is free for another.
    TakenOut { local: Node },
    /// A node is gone. What is lost counts for the guard against mass deletion.
    Removed { local: Node, lost: bool },
}

impl Done {
    /// How many rows it writes, about.
    pub(super) fn rows(&self) -> usize {
        match self {
            Done::Whole(appeared) => 1 + appeared.files().len(),
            _ => 1,
        }
    }
}

/// Records a batch in one transaction. Answers the local directories in which something was changed.
pub(super) fn record(store: &Store, mut batch: Vec<Done>) -> Result<HashSet<NodeId>, IndexError> {
    sort_wholes(&mut batch);
    let (touched, _) = store.index().write(|tx| {
        let base = NewBase::of(tx.sql())?;
        let mut recorder = Recorder { tx, base, touched: HashSet::new(), parents: HashMap::new() };
        for done in &batch {
            recorder.one(done)?;
        }
        let lost = batch.iter().filter(|done| matches!(done, Done::Removed { lost: true, .. })).count();
        count_deletions(recorder.tx.sql(), now_secs(), lost as u64)?;
        Ok::<_, IndexError>(recorder.touched)
    })?;
    Ok(touched)
}

/// Several workers fill new directories, and they are done in any order. What is agreed on about their files is in the order of
/// the remote ids, in which rows are added to the end of it and not put in between. None of these directories is in another.
fn sort_wholes(batch: &mut [Done]) {
    let first_file = |done: &Done| match done {
        Done::Whole(appeared) => appeared.files().next().map(|(remote, _)| remote.id),
        _ => None,
    };
    let are_wholes = |a: &Done, b: &Done| matches!((a, b), (Done::Whole(_), Done::Whole(_)));
    batch.chunk_by_mut(are_wholes).for_each(|wholes| wholes.sort_by_key(first_file));
}

/// One batch on its way into the index.
struct Recorder<'t, 'a> {
    tx: &'t mut IndexTx<'a>,
    base: NewBase<'a>,
    touched: HashSet<NodeId>,
    /// The local directories of remote ones: a batch has many files of few directories.
    parents: HashMap<NodeId, Option<NodeId>>,
}

impl Recorder<'_, '_> {
    fn one(&mut self, done: &Done) -> Result<(), IndexError> {
        match done {
            Done::Present { remote, over, stat } => self.present(remote, *over, stat),
            Done::Whole(appeared) => self.whole(appeared),
            Done::Moved { remote, local, stat } => self.moved(remote, local, stat),
            Done::TakenOut { local } => self.taken_out(local),
            Done::Removed { local, .. } => self.removed(local),
        }
    }

    fn present(&mut self, remote: &Node, over: Option<NodeId>, stat: &Stat) -> Result<(), IndexError> {
        let Some(parent) = self.parent_of(remote)? else { return Ok(()) };
        self.touched.insert(parent);
        if over.is_none() && !remote.entry.content.is_dir() {
            let id = self.tx.new_id()?;
            if self.tx.insert_if_free(&indexed(id, parent, remote, stat))? {
                return Ok(self.base.agree(remote, id)?);
            }
        }
        let mut known = match over {
            Some(id) => self.tx.get(id)?,
            None => self.tx.child(parent, &remote.name)?,
        };
        // The place was free on the disk, so the directory that the index has there went away unseen. It cannot become something
        // else before what was in it is gone from the index too.
        if !remote.entry.content.is_dir()
            && let Some(gone) = known.take_if(|known| known.node.entry.content.is_dir())
        {
            self.let_wait(&gone)?;
        }
        match known {
            Some(known) => {
                let id = known.node.id;
                let mut new = indexed(id, parent, remote, stat);
                // A directory that could not be moved got its time where it is, and there it has to be found when it is tried again.
                (new.node.parent, new.node.name) = (known.node.parent, known.node.name.clone());
                self.tx.update(&known, &new)?;
                agree(self.tx.sql(), remote, id)?;
            }
            None => {
                let id = self.tx.new_id()?;
                self.tx.insert(&indexed(id, parent, remote, stat))?;
                self.base.agree(remote, id)?;
            }
        }
        self.parents.remove(&remote.id);
        Ok(())
    }

    fn whole(&mut self, appeared: &Appeared) -> Result<(), IndexError> {
        self.present(&appeared.remote, None, &appeared.stat)?;
        let files: Vec<(&Node, &Stat)> = appeared.files().collect();
        self.all_present(&files)?;
        // It appeared with its time.
        if let Some(Some(dir)) = self.parents.get(&appeared.remote.id) {
            self.touched.remove(dir);
        }
        Ok(())
    }

    /// Files and links of one directory, whose places were free.
    fn all_present(&mut self, files: &[(&Node, &Stat)]) -> Result<(), IndexError> {
        let Some((first, _)) = files.first() else { return Ok(()) };
        let Some(parent) = self.parent_of(first)? else { return Ok(()) };
        self.touched.insert(parent);
        let new = |(remote, stat): &(&Node, &Stat)| Ok(indexed(self.tx.new_id()?, parent, remote, stat));
        let new = files.iter().map(new).collect::<Result<Vec<_>, IndexError>>()?;
        let added = self.tx.insert_each_if_free(&new)?;
        let agreed = files.iter().zip(&new[..added]);
        let rows: Vec<_> = agreed.map(|((remote, _), new)| BaseRow { remote, local: new.node.id }).collect();
        self.base.agree_each(&rows)?;
        // The index has something in the place of the next one.
        files[added..].iter().try_for_each(|(remote, stat)| self.present(remote, None, stat))
    }

    fn moved(&mut self, remote: &Node, local: &Node, stat: &Stat) -> Result<(), IndexError> {
        let Some(parent) = self.parent_of(remote)? else { return Ok(()) };
        self.touched.extend([parent, local.parent]);
        // The place was free on the disk, so what the index has there went away unseen.
        if let Some(other) = self.tx.child(parent, &remote.name)?
            && other.node.id != local.id
        {
            self.let_wait(&other)?;
        }
        if let Some(known) = self.tx.get(local.id)? {
            self.tx.update(&known, &indexed(local.id, parent, remote, stat))?;
        }
        agree(self.tx.sql(), remote, local.id)?;
        self.parents.clear();
        Ok(())
    }

    fn taken_out(&mut self, local: &Node) -> Result<(), IndexError> {
        self.touched.insert(local.parent);
        match self.tx.get(local.id)? {
            Some(known) => self.let_wait(&known),
            None => Ok(()),
        }
    }

    fn let_wait(&mut self, known: &IndexedNode) -> Result<(), IndexError> {
        let mut new = known.clone();
        // At the top: its own directory may be removed before it is put in.
        new.node.parent = NodeId::ROOT;
        new.node.name = waiting_name(known.node.id);
        self.tx.update(known, &new)?;
        Ok(())
    }

    fn removed(&mut self, local: &Node) -> Result<(), IndexError> {
        self.touched.insert(local.parent);
        if let Some(known) = self.tx.get(local.id)? {
            self.tx.remove(&known)?;
        }
        drop_base_of_local(self.tx.sql(), local.id)?;
        self.parents.clear();
        Ok(())
    }

    /// The local directory that a node is in now. Without one the next look finds the node by itself.
    fn parent_of(&mut self, remote: &Node) -> Result<Option<NodeId>, IndexError> {
        if let Some(known) = self.parents.get(&remote.parent) {
            return Ok(*known);
        }
        let parent = match local_of(self.tx.sql(), remote.parent)? {
            Some(id) if id != NodeId::ROOT && self.tx.get(id)?.is_none() => None,
            parent => parent,
        };
        self.parents.insert(remote.parent, parent);
        Ok(parent)
    }
}

/// A name that nobody has, for a node between two places. If the run ends here, the node is back in its old place, or in the
/// trash, when the next one begins, and the next look finds it by its inode or finds it gone.
fn waiting_name(id: NodeId) -> Name {
    Name::new(&format!(".syncd waits {}", id.0)).expect("a short name without a slash")
}

/// The local node as it is on the disk now. Its content was verified on the way, so its identity vouches for it.
fn indexed(id: NodeId, parent: NodeId, remote: &Node, stat: &Stat) -> IndexedNode {
    let content = remote.entry.content.clone();
    let is_file = stat.kind == StatKind::File;
    let mode = if matches!(content, Content::Symlink { .. }) { 0 } else { stat.mode & 0o777 };
    let identity = Identity {
        ino: stat.ino,
        size: if is_file { stat.size } else { 0 },
        mtime: stat.mtime,
        ctime: if content.is_dir() { Default::default() } else { stat.ctime },
    };
    let entry = Entry { content, mtime: stat.mtime, mode };
    IndexedNode { node: Node { id, parent, name: remote.name.clone(), entry }, identity, vouched: true }
}

#[cfg(test)]
mod tests {
    use sync_core::{
        Digest, Entry, Time, TreePath,
        plan::{Put, Source},
    };
    use sync_testkit::rng::Rng;
    use sync_tree::index::Index;

    use super::*;
    use crate::engine::base::base_of;

    fn node(id: u64, parent: u64, content: Content) -> Node {
        let entry = Entry { content, mtime: Time { secs: 1, nanos: 2 }, mode: 0o755 };
        Node { id: NodeId(id), parent: NodeId(parent), name: Name::new(&format!("n{id}")).unwrap(), entry }
    }

    fn file(id: u64, parent: u64) -> Node {
        node(id, parent, Content::File { size: id, digest: Digest::of(&id.to_le_bytes()) })
    }

    fn stat(kind: StatKind, ino: u64) -> Stat {
        let time = Time { secs: 1, nanos: 2 };
        Stat { kind, dev: 1, ino, size: 0, mtime: time, ctime: time, mode: 0o755, nlink: 1 }
    }

    /// A directory at the top with so many files, whose ids follow each other from this one on.
    fn whole(dir: u64, first: u64, files: u64) -> Done {
        let put = |id| {
            let path = TreePath::new(&format!("n{dir}/n{id}")).unwrap();
            Put::File { path, remote: file(id, dir), over: None, source: Source::Fetch }
        };
        let puts = (first..first + files).map(put).collect();
        let remote = node(dir, 0, Content::Directory);
        Done::Whole(Appeared::of_part(remote, stat(StatKind::Directory, dir), puts))
    }

    fn present(id: u64) -> Done {
        Done::Present { remote: file(id, 0), over: None, stat: stat(StatKind::File, id) }
    }

    fn first_id(done: &Done) -> u64 {
        match done {
            Done::Whole(appeared) => appeared.files().next().unwrap().0.id.0,
            Done::Present { remote, .. } => remote.id.0,
            _ => 0,
        }
    }

    #[test]
    fn only_wholes_that_follow_each_other_change_places() {
        let mut batch = vec![whole(9, 50, 2), whole(8, 30, 1), present(1), whole(7, 20, 1), present(0)];
        batch.extend([whole(6, 90, 1), whole(5, 70, 3), whole(4, 80, 1)]);
        sort_wholes(&mut batch);
        assert_eq!(batch.iter().map(first_id).collect::<Vec<_>>(), [30, 50, 1, 20, 0, 70, 80, 90]);
        sort_wholes(&mut []);
    }

    /// Several are recorded in one transaction, and others in others, before them and after.
    #[test]
    fn in_whatever_order_wholes_come_the_same_is_agreed_on() {
        let ids = |number: u64| 1000 + 100 * (number * 7 % 11);
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(Index::open(&dir.path().join("target.db")).unwrap()).unwrap();
            let mut left: Vec<u64> = (0..11).collect();
            while !left.is_empty() {
                let count = 1 + rng.below(left.len());
                let take = |_| left.swap_remove(rng.below(left.len()));
                let numbers: Vec<u64> = (0..count).map(take).collect();
                let batch = numbers.iter().map(|number| whole(100 + number, ids(*number), 40)).collect();
                record(&store, batch).unwrap();
            }
            let read = |tx: &mut IndexTx<'_>| {
                for number in 0..11 {
                    let dir = local_of(tx.sql(), NodeId(100 + number))?.unwrap();
                    for remote in (ids(number)..).take(40).map(|id| file(id, 100 + number)) {
                        let base = base_of(tx.sql(), remote.id)?.unwrap();
                        assert_eq!(base.entry, remote.entry, "seed {seed}");
                        let local = tx.get(base.local)?.unwrap();
                        assert_eq!((local.node.parent, &local.node.name), (dir, &remote.name), "seed {seed}");
                    }
                }
                Ok::<_, IndexError>(())
            };
            store.index().write(read).unwrap();
        }
    }
}

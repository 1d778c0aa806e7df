//! A copy of somebody else's tree, as their feed tells it.
//!
//! It is kept by the same rows and sums as a tree of our own, so its root digest can be compared with what the feed says.
//! It has no clock and no sequence numbers: what a feed sends is simply the newest state. Between two commit points it may
//! hold orphans and two nodes in one place.

use rusqlite::Connection;
use sync_core::{Digest, Node, NodeChange, NodeId, Seq};

use super::{
    rows::AT_ONCE,
    sums::Sums,
    table::{IndexedNode, InserterOfOthers, NodeTable, Theirs, Write},
};
use crate::hash::Identity;

/// A replica in one table. The caller brings the connection, and with it the transaction.
#[derive(Debug, Clone)]
pub struct Replica {
    table: NodeTable,
}

/// New nodes that are added together, once there were many.
const MOST_TOGETHER: usize = 8 * AT_ONCE;

impl Replica {
    /// The replica in the table of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { table: NodeTable::new(name) }
    }

    /// Makes the table anew, without any node.
    ///
    /// # Errors
    /// The database failed.
    pub fn reset(&self, db: &Connection) -> rusqlite::Result<()> {
        self.table.drop(db)?;
        self.table.create(db, false)
    }

    /// Brings a table of an earlier version to this one.
    ///
    /// # Errors
    /// The database failed.
    pub fn upgrade(&self, db: &Connection) -> rusqlite::Result<()> {
        self.table.part_sums(db)
    }

    /// The nodes.
    #[must_use]
    pub fn table(&self) -> &NodeTable {
        &self.table
    }

    /// Takes a piece of the feed.
    ///
    /// # Errors
    /// The database failed.
    pub fn apply(&self, db: &Connection, changes: &[NodeChange]) -> rusqlite::Result<()> {
        let mut sums = Sums::default();
        let mut inserter = self.table.inserter_of_others(db)?;
        let mut rest = changes;
        // What is known already mostly comes after more of that, and the first of many would be tried in vain each time.
        let mut together = AT_ONCE;
        loop {
            let new: Vec<Theirs<'_>> = rest.iter().map_while(file_or_link).take(together).collect();
            let added = self.add(db, &mut inserter, &mut sums, &new)?;
            rest = &rest[added..];
            let goes_on = added == together;
            if !new.is_empty() {
                together = if added < new.len() { 1 } else { (AT_ONCE * together).min(MOST_TOGETHER) };
            }
            if goes_on {
                continue;
            }
            let Some((change, others)) = rest.split_first() else { break };
            match change {
                NodeChange::Present(node) => self.put(db, &mut sums, node)?,
                NodeChange::Gone(id) => self.remove(db, &mut sums, *id)?,
            }
            rest = others;
        }
        sums.settle(db, &self.table)?;
        Ok(())
    }

    /// The digest of the whole tree.
    ///
    /// # Errors
    /// The database failed.
    pub fn root_digest(&self, db: &Connection) -> rusqlite::Result<Digest> {
        Ok(Sums::default().sum_of(db, &self.table, NodeId::ROOT)?.digest())
    }

    /// Takes files and links that are not known yet, as most of a first pull are, up to the first that is: asking before would cost
    /// as much again. Answers how many it took.
    fn add(
        &self,
        db: &Connection,
        inserter: &mut InserterOfOthers<'_>,
        sums: &mut Sums,
        new: &[Theirs<'_>],
    ) -> rusqlite::Result<usize> {
        let added = inserter.add_each(new)?;
        for Theirs(node) in &new[..added] {
            sums.enter(db, &self.table, node)?;
        }
        Ok(added)
    }

    fn put(&self, db: &Connection, sums: &mut Sums, node: &Node) -> rusqlite::Result<()> {
        let old = self.table.get(db, node.id)?;
        if let Some(old) = &old {
            if old.node == *node {
                return Ok(());
            }
            sums.leave(db, &self.table, &old.node)?;
            if old.node.entry.content.is_dir() && !node.entry.content.is_dir() {
                sums.forget(db, &self.table, node.id)?;
            }
        }
        sums.enter(db, &self.table, node)?;
        // Nothing vouches for what somebody else has.
        let new = IndexedNode { node: node.clone(), identity: Identity::default(), vouched: false };
        let row = Write { node: &new, seq: Seq(0), moved: false };
        match old {
            Some(old) if (old.node.parent, &old.node.name) == (node.parent, &node.name) => {
                self.table.rewrite(db, &row)
            }
            _ => self.table.write(db, &row),
        }
    }

    fn remove(&self, db: &Connection, sums: &mut Sums, id: NodeId) -> rusqlite::Result<()> {
        let Some(old) = self.table.get(db, id)? else { return Ok(()) };
        sums.leave(db, &self.table, &old.node)?;
        if old.node.entry.content.is_dir() {
            sums.forget(db, &self.table, id)?;
        }
        for below in self.table.below(db, id)? {
            if below.is_dir {
                sums.forget(db, &self.table, below.id)?;
            }
            self.table.delete(db, below.id)?;
        }
        self.table.delete(db, id)
    }
}

fn file_or_link(change: &NodeChange) -> Option<Theirs<'_>> {
    match change {
        NodeChange::Present(node) if !node.entry.content.is_dir() => Some(Theirs(node)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{Content, Entry, Name, Time};

    use super::*;

    fn node(id: u64, parent: u64, name: &str, content: Content) -> Node {
        let entry = Entry { content, mtime: Time { secs: 5, nanos: 6 }, mode: 0o644 };
        Node { id: NodeId(id), parent: NodeId(parent), name: Name::new(name).unwrap(), entry }
    }

    fn file(id: u64, parent: u64, name: &str) -> Node {
        node(id, parent, name, Content::File { size: 8, digest: Digest::of(&id.to_le_bytes()) })
    }

    fn digest_after(batches: &[Vec<NodeChange>]) -> Digest {
        let db = Connection::open_in_memory().unwrap();
        let replica = Replica::new("remote_a");
        replica.reset(&db).unwrap();
        for batch in batches {
            replica.apply(&db, batch).unwrap();
        }
        replica.root_digest(&db).unwrap()
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let dirs = [node(1, 0, "d", Content::Directory), node(2, 1, "e", Content::Directory)];
        let files = [file(3, 2, "x"), file(4, 1, "y"), file(5, 0, "z")];
        let all: Vec<NodeChange> = dirs.into_iter().chain(files).map(NodeChange::Present).collect();
        let want = digest_after(std::slice::from_ref(&all));
        let one_by_one = |order: &[usize]| {
            let batches: Vec<_> = order.iter().map(|at| vec![all[*at].clone()]).collect();
            digest_after(&batches)
        };
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 1, 4, 3], [3, 1, 2, 0, 4]] {
            assert_eq!(one_by_one(&order), want, "{order:?}");
            let reordered: Vec<_> = order.iter().map(|at| all[*at].clone()).collect();
            assert_eq!(digest_after(&[reordered]), want, "{order:?} in one batch");
        }
    }

    /// New ones, known ones and ones that go, in any mixture: many at once are the same as one after the other.
    #[test]
    fn how_many_come_together_does_not_matter() {
        for seed in 0..300 {
            let mut rng = sync_testkit::rng::Rng::new(seed);
            let known = 1 + rng.below(120);
            let count = rng.below(150);
            let mut below = |end: usize| rng.below(end) as u64;
            let changes: Vec<NodeChange> = (0..count as u64)
                .map(|at| {
                    let id = if below(100) < 70 { 1000 + at } else { 10 + below(known) };
                    let parent = below(4);
                    match below(20) {
                        0 => NodeChange::Present(node(id, 0, &format!("d{id}"), Content::Directory)),
                        1 => NodeChange::Gone(NodeId(id)),
                        2 => NodeChange::Present(node(1 + parent, 0, &format!("d{at}"), Content::Directory)),
                        _ => NodeChange::Present(file(id, parent, &format!("{}", below(1000)))),
                    }
                })
                .collect();
            let rows_after = |batches: &mut dyn Iterator<Item = &[NodeChange]>| {
                let db = Connection::open_in_memory().unwrap();
                let replica = Replica::new("remote_a");
                replica.reset(&db).unwrap();
                batches.for_each(|batch| replica.apply(&db, batch).unwrap());
                let rows = replica.table().page(&db, NodeId::ROOT, usize::MAX >> 1).unwrap();
                (rows, replica.root_digest(&db).unwrap())
            };
            let singly = rows_after(&mut changes.chunks(1));
            for size in [3, 16, 17, 50, 1000] {
                assert_eq!(rows_after(&mut changes.chunks(size)), singly, "seed {seed}, {size} at a time");
            }
        }
    }

    /// As a first piece of a feed is: directories, each with its files, and ids in a row; some of them are known.
    #[test]
    fn what_comes_with_ids_in_a_row_is_the_same_as_one_by_one() {
        for known in [None, Some(2), Some(30), Some(41), Some(42), Some(200), Some(500)] {
            let mut changes = Vec::new();
            for files in [40, 300, 16, 17, 1, 150] {
                let dir = changes.len() as u64 + 1;
                changes.push(node(dir, 0, &format!("d{dir}"), Content::Directory));
                changes.extend((dir + 1..=dir + files).map(|id| file(id, dir, &format!("{id}"))));
            }
            let there = known.map(|id| file(id, 0, "there"));
            let after = |size: usize| {
                let db = Connection::open_in_memory().unwrap();
                let replica = Replica::new("remote_a");
                replica.reset(&db).unwrap();
                let there: Vec<_> = there.iter().cloned().map(NodeChange::Present).collect();
                replica.apply(&db, &there).unwrap();
                let changes: Vec<_> = changes.iter().cloned().map(NodeChange::Present).collect();
                changes.chunks(size).for_each(|batch| replica.apply(&db, batch).unwrap());
                let nodes = replica.table().page(&db, NodeId::ROOT, usize::MAX >> 1).unwrap();
                (nodes, stored(&db), replica.root_digest(&db).unwrap())
            };
            let singly = after(1);
            let nodes: Vec<_> = singly.0.iter().map(|row| &row.node).collect();
            assert!(nodes.into_iter().eq(&changes), "{known:?}");
            for size in [50, 100, 10_000] {
                assert_eq!(after(size), singly, "{known:?} known, {size} at a time");
            }
        }
    }

    /// All that the rows have.
    fn stored(db: &Connection) -> Vec<Vec<rusqlite::types::Value>> {
        let mut select = db.prepare("SELECT * FROM remote_a ORDER BY id").unwrap();
        let columns = select.column_count();
        let values = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect();
        select.query_map([], values).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_added_has_the_row_of_what_is_written_over() {
        let db = Connection::open_in_memory().unwrap();
        let replica = Replica::new("remote_a");
        replica.reset(&db).unwrap();
        let take = |node: Node| {
            replica.apply(&db, &[NodeChange::Present(node)]).unwrap();
            stored(&db).pop().unwrap()
        };
        let link = |target: &[u8]| node(2, 0, "x", Content::Symlink { target: target.into() });
        let other = Node { entry: Entry { mode: 0o600, ..file(2, 0, "x").entry }, ..file(2, 0, "x") };
        for (new, other) in [(file(2, 0, "x"), other), (link(b"a"), link(b"b"))] {
            let added = take(new.clone());
            assert_ne!(take(other.clone()), added);
            assert_eq!(take(new.clone()), added, "it stayed in its place");
            take(Node { name: Name::new("y").unwrap(), ..new.clone() });
            assert_eq!(take(new), added, "it came back");
            replica.apply(&db, &[NodeChange::Gone(NodeId(2))]).unwrap();
        }
    }

    #[test]
    fn moving_there_and_back_and_removing_leaves_no_trace() {
        let base = vec![
            NodeChange::Present(node(1, 0, "d", Content::Directory)),
            NodeChange::Present(node(2, 0, "e", Content::Directory)),
            NodeChange::Present(file(3, 1, "x")),
        ];
        let want = digest_after(std::slice::from_ref(&base));
        let away = vec![NodeChange::Present(node(1, 2, "moved", Content::Directory))];
        let back = vec![NodeChange::Present(node(1, 0, "d", Content::Directory))];
        assert_eq!(digest_after(&[base.clone(), away.clone(), back]), want);
        let extra = vec![
            NodeChange::Present(node(7, 2, "f", Content::Directory)),
            NodeChange::Present(file(8, 7, "g")),
            NodeChange::Gone(NodeId(7)),
        ];
        assert_eq!(digest_after(&[base.clone(), extra]), want);
        assert_ne!(digest_after(&[base, away]), want);
    }

    /// No disk has that, but a feed may tell of it. It is nowhere below the root, so the root's digest does not show it.
    #[test]
    fn a_loop_of_parents_can_be_removed() {
        let (a, b) = (node(1, 2, "a", Content::Directory), node(2, 1, "b", Content::Directory));
        let made = vec![NodeChange::Present(a), NodeChange::Present(b)];
        let removed = vec![NodeChange::Gone(NodeId(1))];
        let (done, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(digest_after(&[made, removed])));
        let digest = end.recv_timeout(std::time::Duration::from_secs(60)).expect("it goes round for ever");
        assert_eq!(digest, digest_after(&[]));
    }

    #[test]
    fn a_table_of_the_first_version_is_brought_to_this_one() {
        let base = [node(1, 0, "d", Content::Directory), file(2, 1, "x"), file(3, 1, "y")];
        let base: Vec<_> = base.into_iter().map(NodeChange::Present).collect();
        let gone = vec![NodeChange::Gone(NodeId(2))];
        let db = Connection::open_in_memory().unwrap();
        let replica = Replica::new("remote_a");
        replica.reset(&db).unwrap();
        replica.apply(&db, &base).unwrap();
        crate::index::tests::put_sums_back(&db, "remote_a");
        // Once more does no harm.
        for _ in 0..2 {
            replica.upgrade(&db).unwrap();
        }
        assert_eq!(replica.root_digest(&db).unwrap(), digest_after(std::slice::from_ref(&base)));
        replica.apply(&db, &gone).unwrap();
        assert_eq!(replica.root_digest(&db).unwrap(), digest_after(&[base, gone]));
    }
}

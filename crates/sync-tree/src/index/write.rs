//! One transaction on the index: nodes, sums, counts and the head move together or not at all.

use rusqlite::{Connection, TransactionBehavior};
use sync_core::{NodeId, Problem, RuleSet, Seq, TreePath, treehash::DirSum};

use super::{
    Head, IndexError, SeqSource,
    clues::{Clues, Searching},
    schema,
    sheets::{Marker, Sheets},
    sums::Sums,
    table::{IndexedNode, Inserter, NodeTable, Write},
};

/// A transaction in progress. Dropping it without [`commit`](Self::commit) changes nothing.
#[derive(Debug)]
pub struct IndexTx<'a> {
    tx: rusqlite::Transaction<'a>,
    db: &'a Connection,
    table: &'a NodeTable,
    /// Once something was added.
    inserter: Option<Inserter<'a>>,
    seqs: &'a SeqSource,
    sums: Sums,
    sheets: Sheets,
    clues: Clues<'a>,
    head: Head,
    now_secs: i64,
}

impl<'a> IndexTx<'a> {
    pub(super) fn begin(
        db: &'a Connection,
        table: &'a NodeTable,
        (seqs, searching): (&'a SeqSource, &'a Searching),
        marker: Marker,
        now_secs: i64,
    ) -> Result<Self, IndexError> {
        let tx = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
        let head = schema::head(db)?;
        let (sums, sheets, clues) = (Sums::default(), Sheets::new(marker), Clues::begin(searching));
        Ok(Self { tx, db, table, inserter: None, seqs, sums, sheets, clues, head, now_secs })
    }

    /// The connection, for tables that others keep beside ours in the same file and must change in the same transaction.
    #[must_use]
    pub fn sql(&self) -> &'a Connection {
        self.db
    }

    /// A new node's id.
    ///
    /// # Errors
    /// All numbers are used up.
    pub fn new_id(&self) -> Result<NodeId, IndexError> {
        self.seqs.next().map(|seq| NodeId(seq.0))
    }

    /// The node as this transaction sees it.
    ///
    /// # Errors
    /// The database failed.
    pub fn get(&self, id: NodeId) -> Result<Option<IndexedNode>, IndexError> {
        Ok(self.table.get(self.db, id)?)
    }

    /// The node at a place, as this transaction sees it.
    ///
    /// # Errors
    /// The database failed.
    pub fn child(&self, parent: NodeId, name: &str) -> Result<Option<IndexedNode>, IndexError> {
        Ok(self.table.child(self.db, parent, name)?)
    }

    /// What is in a directory, as this transaction sees it.
    ///
    /// # Errors
    /// The database failed.
    pub fn children(&self, id: NodeId) -> Result<Vec<IndexedNode>, IndexError> {
        Ok(self.table.children(self.db, id)?)
    }

    /// Adds a node that was not there.
    ///
    /// # Errors
    /// The database failed.
    pub fn insert(&mut self, new: &IndexedNode) -> Result<(), IndexError> {
        self.count(new, 1);
        self.enter(new)?;
        if new.node.entry.content.is_dir() {
            self.sheets.begin(new.node.id);
        }
        let row = self.row(new, false)?;
        // Only where there is a tombstone of it already is the dearer statement needed.
        if !self.inserter()?.add(&row)? {
            self.table.write(self.db, &row)?;
        }
        self.clues.enter(new);
        Ok(())
    }

    /// Adds a file or link that was not there, if nothing is in its place; answers whether. It costs less than to ask first.
    /// The number that this transaction took for the node's [id](Self::new_id) is that of the change too, so nodes that are
    /// added one after the other have ids one after the other, which are the cheapest to read.
    ///
    /// # Errors
    /// The database failed.
    pub fn insert_if_free(&mut self, new: &IndexedNode) -> Result<bool, IndexError> {
        Ok(self.insert_each_if_free(std::slice::from_ref(new))? == 1)
    }

    /// Adds files and links like [`insert_if_free`](Self::insert_if_free), up to the first whose place is taken. Answers how many were
    /// added.
    ///
    /// # Errors
    /// The database failed.
    pub fn insert_each_if_free(&mut self, new: &[IndexedNode]) -> Result<usize, IndexError> {
        debug_assert!(
            new.iter().all(|new| new.node.id.0 > self.head.seq.0),
            "an id is not of this transaction"
        );
        let rows: Vec<_> =
            new.iter().map(|node| Write { node, seq: Seq(node.node.id.0), moved: false }).collect();
        self.insert_as_changes(&rows)
    }

    /// The same for nodes whose ids were taken earlier.
    pub(crate) fn insert_each_new_if_free(&mut self, new: &[&IndexedNode]) -> Result<usize, IndexError> {
        let rows: Result<Vec<_>, _> = new.iter().map(|node| self.row(node, false)).collect();
        self.insert_as_changes(&rows?)
    }

    fn insert_as_changes(&mut self, rows: &[Write<'_>]) -> Result<usize, IndexError> {
        let added = self.inserter()?.add_each(rows)?;
        for Write { node: new, .. } in &rows[..added] {
            debug_assert!(!new.node.entry.content.is_dir(), "a directory brings a sum of its own");
            self.count(new, 1);
            self.enter(new)?;
            self.clues.enter(new);
        }
        Ok(added)
    }

    /// Replaces what is known of a node. Answers whether the node itself changed; if only its identity did, it keeps its
    /// place in the feed.
    ///
    /// # Errors
    /// The database failed.
    pub fn update(&mut self, old: &IndexedNode, new: &IndexedNode) -> Result<bool, IndexError> {
        debug_assert_eq!(old.node.id, new.node.id);
        self.clues.change(old, new);
        if old.node == new.node {
            if old != new {
                self.sheets.leave(self.db, old)?;
                self.sheets.enter(self.db, new)?;
                self.table.set_identity(self.db, new)?;
            }
            return Ok(false);
        }
        debug_assert!(
            new.node.entry.content.is_dir()
                || self.children(old.node.id).is_ok_and(|children| children.is_empty()),
            "there is something in {old:?}, which is a directory no more"
        );
        self.count(old, -1);
        self.count(new, 1);
        self.leave(old)?;
        if old.node.entry.content.is_dir() && !new.node.entry.content.is_dir() {
            self.forget(old.node.id)?;
        }
        self.enter(new)?;
        let moved = old.node.parent != new.node.parent;
        let row = self.row(new, moved)?;
        if moved || old.node.name != new.node.name {
            self.table.write(self.db, &row)?;
        } else {
            self.table.rewrite(self.db, &row)?;
        }
        Ok(true)
    }

    /// Removes a node and everything still below it, leaving tombstones. Answers how many files and links went.
    ///
    /// # Errors
    /// The database failed.
    pub fn remove(&mut self, node: &IndexedNode) -> Result<u64, IndexError> {
        let id = node.node.id;
        let mut files = u64::from(!node.node.entry.content.is_dir());
        self.clues.leave(node);
        self.count(node, -1);
        self.leave(node)?;
        if node.node.entry.content.is_dir() {
            self.forget(id)?;
            for below in self.table.below(self.db, id)? {
                if below.is_dir {
                    self.forget(below.id)?;
                } else {
                    files += 1;
                    self.head.files -= 1;
                    self.head.bytes -= below.size;
                }
                // A reader that knows this node in the directory it was moved from must be told of it by its own id.
                if below.moved {
                    self.table.bury(self.db, below.id, self.seqs.next()?, self.now_secs)?;
                } else {
                    self.table.delete(self.db, below.id)?;
                }
            }
        }
        self.table.bury(self.db, id, self.seqs.next()?, self.now_secs)?;
        Ok(files)
    }

    /// Changes the list of paths that cannot be read: some are over, others are new or told in other words.
    ///
    /// # Errors
    /// The database failed.
    pub fn change_problems(&mut self, over: &[&Problem], new: &[&Problem]) -> Result<(), IndexError> {
        Ok(schema::change_problems(self.db, over, new)?)
    }

    /// Replaces the ignore rules.
    ///
    /// # Errors
    /// The database failed.
    pub fn set_rules(&mut self, rules: &RuleSet) -> Result<(), IndexError> {
        Ok(schema::set_rules(self.db, rules)?)
    }

    /// Replaces the list of directories that are other file systems.
    ///
    /// # Errors
    /// The database failed.
    pub fn set_mounts(&mut self, mounts: &[TreePath]) -> Result<(), IndexError> {
        Ok(schema::set_mounts(self.db, mounts)?)
    }

    /// How many files and links the tree would hold now.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.head.files
    }

    /// Ends the transaction; the answered head is what readers see from now on.
    ///
    /// # Errors
    /// The database failed; nothing was changed.
    pub fn commit(mut self) -> Result<Head, IndexError> {
        let root: DirSum = self.sums.settle(self.db, self.table)?;
        self.head.root_digest = root.digest();
        if let Some(last) = self.seqs.last() {
            self.head.seq = self.head.seq.max(last);
        }
        self.sheets.settle(self.db, self.table)?;
        self.clues.settle(self.db, self.head.files)?;
        schema::set_head(self.db, &self.head)?;
        self.tx.commit()?;
        self.clues.committed();
        Ok(self.head)
    }

    /// Makes what is searched by, see [`Index::make_searchable`](super::Index::make_searchable).
    pub(super) fn make_searchable(&mut self) -> Result<(), IndexError> {
        self.table.make_changes(self.db)?;
        Ok(self.clues.make(self.db)?)
    }

    /// See [`Index::prepare_searches`](super::Index::prepare_searches).
    pub(super) fn prepare_searches(&mut self) -> Result<(), IndexError> {
        Ok(self.clues.prepare(self.db)?)
    }

    /// Removes it: making it later is cheaper than keeping it while a whole tree is written.
    pub(super) fn make_unsearchable(&mut self) -> Result<(), IndexError> {
        self.table.remove_changes(self.db)?;
        Ok(self.clues.remove(self.db)?)
    }

    /// Makes the sheet of a directory, which spares looks to read its rows as long as they stay the same.
    pub(crate) fn make_sheet(&mut self, dir: NodeId) -> Result<(), IndexError> {
        let is_there =
            dir == NodeId::ROOT || self.get(dir)?.is_some_and(|row| row.node.entry.content.is_dir());
        if is_there {
            self.sheets.make(self.db, self.table, dir)?;
        }
        Ok(())
    }

    /// What is told of a directory changes with what is in it.
    fn enter(&mut self, node: &IndexedNode) -> Result<(), IndexError> {
        self.sums.enter(self.db, self.table, &node.node)?;
        Ok(self.sheets.enter(self.db, node)?)
    }

    fn leave(&mut self, node: &IndexedNode) -> Result<(), IndexError> {
        self.sums.leave(self.db, self.table, &node.node)?;
        Ok(self.sheets.leave(self.db, node)?)
    }

    fn forget(&mut self, dir: NodeId) -> Result<(), IndexError> {
        self.sums.forget(self.db, self.table, dir)?;
        Ok(self.sheets.forget(self.db, dir)?)
    }

    fn inserter(&mut self) -> Result<&mut Inserter<'a>, IndexError> {
        Ok(match &mut self.inserter {
            Some(inserter) => inserter,
            none => none.insert(self.table.inserter(self.db)?),
        })
    }

    fn row<'n>(&self, node: &'n IndexedNode, moved: bool) -> Result<Write<'n>, IndexError> {
        Ok(Write { node, seq: self.seqs.next()?, moved })
    }

    fn count(&mut self, node: &IndexedNode, by: i64) {
        let content = &node.node.entry.content;
        if !content.is_dir() {
            self.head.files = self.head.files.saturating_add_signed(by);
            let size = content.size().cast_signed();
            self.head.bytes = self.head.bytes.saturating_add_signed(if by < 0 { -size } else { size });
        }
    }
}

/// The newest sequence number that a transaction took, if it took any.
impl SeqSource {
    fn last(&self) -> Option<Seq> {
        let taken = self.taken();
        (taken.0 > 0).then_some(taken)
    }
}

//! What is needed to search the tree on this disk by change, inode or content: made when somebody searches.
//!
//! Keeping that up to date costs a third of writing a whole tree, and nobody searches a tree that is only coming in. So it goes
//! first, and whoever searches next has it made, sorted at once. A run that finds nothing to do never does. If the program is
//! killed in between, the next one knows by its absence.

use std::ops::RangeInclusive;

use rusqlite::Connection;
use sync_core::{Content, Digest};

use super::{Index, IndexError, IndexedNode, NodeTable, clues};

/// If more of a range of inodes are known, it is better to ask for each.
const MOST_INODES: usize = 256;

/// What is known of some inode numbers: all that nodes have in a range, in order. Without a range it is nothing.
#[derive(Debug, Default)]
pub(crate) struct Inodes(Option<(RangeInclusive<i64>, Vec<i64>)>);

impl Inodes {
    /// Whether a node may have this one.
    pub(crate) fn may_have(&self, ino: u64) -> bool {
        let ino = ino.cast_signed();
        match &self.0 {
            Some((range, known)) if range.contains(&ino) => known.binary_search(&ino).is_ok(),
            _ => true,
        }
    }
}

impl Index {
    /// Prepares for a whole tree, if the index is empty: until somebody searches, writing costs less.
    ///
    /// # Errors
    /// The database failed.
    pub fn begin_bulk(&self) -> Result<(), IndexError> {
        let (empty, _) = self.write(|tx| {
            let empty = tx.files() == 0;
            if empty {
                tx.make_unsearchable()?;
            }
            Ok::<_, IndexError>(empty)
        })?;
        if empty { Ok(()) } else { self.make_searchable() }
    }

    /// Makes searching possible, if it is not. What searches by methods of [`Index`] need not ask for it.
    ///
    /// # Errors
    /// The database failed.
    pub fn make_searchable(&self) -> Result<(), IndexError> {
        if self.is_searchable() {
            return Ok(());
        }
        self.write(|tx| if self.is_searchable() { Ok(()) } else { tx.make_searchable() })?;
        Ok(())
    }

    /// Whether one can search.
    #[must_use]
    pub fn is_searchable(&self) -> bool {
        self.0.searching.is_made()
    }

    /// Says that so many searches for contents follow, most of them in vain; those are cheaper then. It does nothing where one cannot
    /// [search](Self::is_searchable).
    ///
    /// # Errors
    /// The database failed.
    pub fn prepare_searches(&self, count: usize) -> Result<(), IndexError> {
        if self.0.searching.announce(count, self.head()?.files) {
            self.write(|tx| {
                tx.prepare_searches()?;
                Ok::<_, IndexError>(())
            })?;
        }
        Ok(())
    }

    /// If not, no file that is committed has this content. It is known without a search, for most contents that are not there.
    #[must_use]
    pub fn may_have(&self, digest: &Digest) -> bool {
        self.0.searching.may_have(digest)
    }

    /// Which of these inode numbers nodes may have, in one question.
    pub(crate) fn inodes_among(&self, inodes: &[u64]) -> Result<Inodes, IndexError> {
        self.make_searchable()?;
        let inodes = inodes.iter().map(|ino| ino.cast_signed());
        let Some((first, last)) = inodes.clone().min().zip(inodes.max()) else {
            return Ok(Inodes::default());
        };
        let known = self.read(|db| clues::inodes_between(db, (first, last), MOST_INODES))?;
        Ok(Inodes(known.map(|known| (first..=last, known))))
    }
}

impl NodeTable {
    /// Nodes with this inode number: more than one for hard links.
    ///
    /// # Errors
    /// The database failed, or nothing was [made](Index::make_searchable) to search by.
    pub fn with_inode(&self, db: &Connection, ino: u64) -> rusqlite::Result<Vec<IndexedNode>> {
        let mut found = Vec::new();
        for id in clues::with_inode(db, ino)? {
            found.extend(self.get(db, id)?.filter(|node| node.identity.ino == ino));
        }
        Ok(found)
    }

    /// Some files with this content.
    ///
    /// # Errors
    /// The database failed, or nothing was [made](Index::make_searchable) to search by.
    pub fn with_digest(
        &self,
        db: &Connection,
        digest: &Digest,
        limit: usize,
    ) -> rusqlite::Result<Vec<IndexedNode>> {
        let has_it = |node: &IndexedNode| matches!(&node.node.entry.content, Content::File { digest: found, .. } if found == digest);
        let mut found = Vec::new();
        for id in clues::with_digest(db, digest)? {
            if found.len() == limit {
                break;
            }
            found.extend(self.get(db, id)?.filter(has_it));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{Content, Digest, Entry, Name, Node, NodeId, Time};

    use super::*;
    use crate::{hash::Identity, index::IndexedNode};

    /// What is there to search by.
    fn made(index: &Index) -> Vec<String> {
        let names = "SELECT name FROM sqlite_master WHERE name IN \
                     ('nodes_seq', 'new_clues', 'inode_runs', 'content_runs') ORDER BY name";
        index.read(|db| db.prepare(names)?.query_map([], |row| row.get(0))?.collect()).unwrap()
    }

    fn put(id: NodeId, parent: NodeId, name: &str, content: Content) -> IndexedNode {
        let entry = Entry { content, mtime: Time::default(), mode: 0 };
        let node = Node { id, parent, name: Name::new(name).unwrap(), entry };
        IndexedNode { node, identity: Identity::default(), vouched: false }
    }

    fn file() -> Content {
        Content::File { size: 1, digest: Digest::of(&[0]) }
    }

    /// Each way to search, on an index that a bulk has left without, in this process or in one before.
    #[test]
    fn what_a_bulk_takes_away_is_there_again_when_somebody_searches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let all = ["content_runs", "inode_runs", "new_clues", "nodes_seq"];
        let searches: [fn(&Index); 5] = [
            |index| drop(index.feed_page(sync_core::Seq(0), 1).unwrap()),
            |index| drop(index.with_inode(1).unwrap()),
            |index| drop(index.inodes_among(&[1]).unwrap()),
            |index| drop(index.with_digest(&sync_core::Digest::of(b""), 1).unwrap()),
            |index| index.make_searchable().unwrap(),
        ];
        for search in searches {
            for killed in [false, true] {
                let mut index = Index::open(&path).unwrap();
                index.begin_bulk().unwrap();
                assert!(made(&index).is_empty() && !index.is_searchable());
                if killed {
                    drop(index);
                    index = Index::open(&path).unwrap();
                    assert!(made(&index).is_empty() && !index.is_searchable());
                }
                search(&index);
                assert_eq!(made(&index), all);
                assert!(index.is_searchable());
            }
        }
    }

    #[test]
    fn what_is_near_by_name_is_in_the_same_directory_and_little() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let written = index.write(|tx| {
            let other = tx.new_id()?;
            tx.insert(&put(other, NodeId::ROOT, "e dir", Content::Directory))?;
            for (parent, letters) in [(NodeId::ROOT, "abcdfghijk"), (other, "ef")] {
                for letter in letters.chars() {
                    tx.insert(&put(tx.new_id()?, parent, &letter.to_string(), file()))?;
                }
            }
            Ok::<_, IndexError>(other)
        });
        let (other, _) = written.unwrap();
        let near = |parent, name: &str| -> Vec<String> {
            let found = index.read(|db| index.table().near(db, parent, name)).unwrap();
            let mut names: Vec<_> = found.iter().map(|found| found.node.name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(near(NodeId::ROOT, "e"), ["a", "b", "c", "d", "e dir", "f", "g", "h"]);
        assert_eq!(near(NodeId::ROOT, "k"), ["g", "h", "i", "j"]);
        assert_eq!(near(other, "e"), ["f"]);
    }

    /// Whatever is asked for together, what nodes have is never missed, and of a range with few of them nothing else is told.
    #[test]
    fn inodes_asked_for_together_are_those_that_are_found_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        // Some are beyond what the database takes for positive.
        let known = (0..600u64).map(|at| at * at * 7 + 3).chain([u64::MAX, 1 << 63, (1 << 63) + 9]);
        let known: Vec<u64> = known.collect();
        let written = index.write(|tx| {
            for ino in &known {
                let mut node = put(tx.new_id()?, NodeId::ROOT, &ino.to_string(), file());
                node.identity.ino = *ino;
                tx.insert(&node)?;
            }
            Ok::<_, IndexError>(())
        });
        written.unwrap();
        let among = |inodes: &[u64]| index.inodes_among(inodes).unwrap();
        for (first, last) in
            [(0, 0), (3, 3), (4, 9), (1, 400), (5000, 80_000), (1, u64::MAX >> 1), (1, u64::MAX)]
        {
            let found = among(&[last, first]);
            let few = known.iter().filter(|ino| (first..=last).contains(*ino)).count() < 256;
            let near = known.iter().flat_map(|ino| [ino.wrapping_sub(1), *ino, ino.wrapping_add(1)]);
            for ino in near.chain([first, last]) {
                let is_known = !index.with_inode(ino).unwrap().is_empty();
                let may = found.may_have(ino);
                assert!(may || !is_known, "{ino} in {first}..={last}");
                if few && (first..=last).contains(&ino) && last <= u64::MAX >> 1 {
                    assert_eq!(may, is_known, "{ino} in {first}..={last}");
                }
            }
        }
        assert!(among(&[]).may_have(3) && Inodes::default().may_have(4), "nothing is known of these");
    }

    /// That a place is taken shows when something is put there, and then nothing changes.
    #[test]
    fn where_something_is_nothing_new_is_put() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let ids: Vec<NodeId> = (0..3).map(|_| index.new_id().unwrap()).collect();
        let insert = |id: NodeId, name: &str| {
            let node = put(id, NodeId::ROOT, name, file());
            index.write(|tx| Ok::<_, IndexError>(tx.insert_each_new_if_free(&[&node])? == 1)).unwrap()
        };
        let (new, first) = insert(ids[0], "a");
        let (again, second) = insert(ids[1], "a");
        assert!(new && !again);
        assert_eq!(
            (first.root_digest, first.files, first.bytes),
            (second.root_digest, second.files, second.bytes)
        );
        assert_eq!(index.find(&sync_core::TreePath::new("a").unwrap()).unwrap().unwrap().node.id, ids[0]);
        let (beside, third) = insert(ids[2], "b");
        assert!(beside && third.files == 2 && third.seq > second.seq);
        let told = index.feed_page(first.seq, 10).unwrap().changes;
        assert_eq!(told.iter().map(sync_core::NodeChange::id).collect::<Vec<_>>(), [&ids[2]]);
    }
}

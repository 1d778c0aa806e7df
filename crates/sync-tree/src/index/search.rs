//! What is needed to search the tree on this disk by change, inode or content: made when somebody searches.
//!
//! Keeping those three indexes up to date costs a third of writing a whole tree, and nobody searches a tree that is only
//! coming in. So they go first, and whoever searches next has them made, sorted at once. A run that finds nothing to do never
//! does. If the program is killed in between, the next one knows by their absence.

use std::sync::atomic::Ordering;

use super::{Index, IndexError};

impl Index {
    /// Prepares for a whole tree, if the index is empty: until somebody searches, writing costs less.
    ///
    /// # Errors
    /// The database failed.
    pub fn begin_bulk(&self) -> Result<(), IndexError> {
        let (empty, _) = self.write(|tx| {
            let empty = tx.files() == 0;
            if empty {
                self.table().make_unsearchable(tx.sql())?;
                self.0.searchable.store(false, Ordering::Release);
            }
            Ok::<_, IndexError>(empty)
        })?;
        if empty { Ok(()) } else { self.make_searchable() }
    }

    /// Makes searching fast, if it is not. What searches by methods of [`Index`] need not ask for it.
    ///
    /// # Errors
    /// The database failed.
    pub fn make_searchable(&self) -> Result<(), IndexError> {
        if self.0.searchable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write(|tx| Ok::<_, IndexError>(self.table().make_searchable(tx.sql())?))?;
        self.0.searchable.store(true, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{Content, Digest, Entry, Name, Node, NodeId, Time};

    use super::*;
    use crate::{hash::Identity, index::IndexedNode};

    fn indexes(index: &Index) -> Vec<String> {
        let names =
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'nodes' ORDER BY name";
        index.read(|db| db.prepare(names)?.query_map([], |row| row.get(0))?.collect()).unwrap()
    }

    /// Each way to search, on an index that a bulk has left without, in this process or in one before.
    #[test]
    fn what_a_bulk_takes_away_is_there_again_when_somebody_searches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let all = indexes(&Index::open(&path).unwrap());
        let searches: [fn(&Index); 4] = [
            |index| drop(index.feed_page(sync_core::Seq(0), 1).unwrap()),
            |index| drop(index.with_inode(1).unwrap()),
            |index| drop(index.with_digest(&sync_core::Digest::of(b""), 1).unwrap()),
            |index| index.make_searchable().unwrap(),
        ];
        for search in searches {
            for killed in [false, true] {
                let mut index = Index::open(&path).unwrap();
                index.begin_bulk().unwrap();
                assert_eq!(indexes(&index), ["nodes_gone", "nodes_place"]);
                if killed {
                    drop(index);
                    index = Index::open(&path).unwrap();
                    assert_eq!(indexes(&index), ["nodes_gone", "nodes_place"]);
                }
                search(&index);
                assert_eq!(indexes(&index), all);
            }
        }
    }

    #[test]
    fn what_is_near_by_name_is_in_the_same_directory_and_little() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let put = |id, parent, name: &str, content| IndexedNode {
            node: Node {
                id,
                parent,
                name: Name::new(name).unwrap(),
                entry: Entry { content, mtime: Time::default(), mode: 0 },
            },
            identity: Identity::default(),
            vouched: false,
        };
        let written = index.write(|tx| {
            let other = tx.new_id()?;
            tx.insert(&put(other, NodeId::ROOT, "e dir", Content::Directory))?;
            for (parent, letters) in [(NodeId::ROOT, "abcdfghijk"), (other, "ef")] {
                for letter in letters.chars() {
                    let content = Content::File { size: 1, digest: Digest::of(&[0]) };
                    tx.insert(&put(tx.new_id()?, parent, &letter.to_string(), content))?;
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
}

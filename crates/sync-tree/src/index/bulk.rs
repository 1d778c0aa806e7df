//! Writing a whole tree into an empty index.
//!
//! Keeping every index up to date costs a third of such a run, and nobody searches a tree that is only coming in. So what is
//! needed for searching goes first and comes back in the end, sorted at once. If the program is killed in between, opening
//! the index makes up for it; until then a search would be slow, never wrong.

use super::{Index, IndexError};

impl Index {
    /// Prepares for a whole tree, if the index is empty; does nothing otherwise. To be followed by
    /// [`end_bulk`](Self::end_bulk).
    ///
    /// # Errors
    /// The database failed.
    pub fn begin_bulk(&self) -> Result<(), IndexError> {
        self.write(|tx| if tx.files() == 0 { Ok(self.table().make_unsearchable(tx.sql())?) } else { Ok(()) })
            .map(|((), _)| ())
    }

    /// Makes the index fast to search again, whether or not it was prepared.
    ///
    /// # Errors
    /// The database failed.
    pub fn end_bulk(&self) -> Result<(), IndexError> {
        self.write(|tx| Ok(self.table().make_searchable(tx.sql())?)).map(|((), _)| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(index: &Index) -> Vec<String> {
        let names =
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'nodes' ORDER BY name";
        index.read(|db| db.prepare(names)?.query_map([], |row| row.get(0))?.collect()).unwrap()
    }

    #[test]
    fn what_a_bulk_takes_away_is_there_again_in_the_end_and_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let index = Index::open(&path).unwrap();
        let all = indexes(&index);
        index.begin_bulk().unwrap();
        assert_eq!(indexes(&index), ["nodes_gone", "nodes_place"]);
        index.end_bulk().unwrap();
        assert_eq!(indexes(&index), all);
        index.end_bulk().unwrap();
        index.begin_bulk().unwrap();
        drop(index);
        assert_eq!(indexes(&Index::open(&path).unwrap()), all);
    }
}

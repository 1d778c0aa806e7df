//! Files by their ids, for somebody who asks for one after the other.

use std::time::Instant;

use rusqlite::{Connection, Transaction};
use sync_core::NodeId;

use crate::{
    index::{IndexedNode, Lookup},
    live::Site,
    told,
};

/// Finds files among what a feed has just told, or else in the index, as it is when the first is looked up there.
#[derive(Debug)]
pub(super) struct Search<'a> {
    told: told::Reader<'a>,
    db: &'a Connection,
    site: &'a Site,
    /// What will be asked for next, from the first that was not asked for when it was named.
    expected: Vec<NodeId>,
    /// Once something was looked up. It is dropped before its transaction.
    opened: Option<(Lookup<'a>, Transaction<'a>)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(site: &'a Site, db: &'a Connection) -> Self {
        let told = site.told.reader(&site.index, Instant::now());
        Self { told, db, site, expected: Vec::new(), opened: None }
    }

    /// Says which files are asked for next, instead of those that were named before.
    pub(super) fn expect(&mut self, ids: impl IntoIterator<Item = NodeId>) {
        match &mut self.opened {
            Some((lookup, _)) => lookup.expect(ids),
            None => {
                self.expected.clear();
                self.expected.extend(ids);
            }
        }
    }

    /// One node, if it exists.
    pub(super) fn get(&mut self, id: NodeId) -> rusqlite::Result<Option<IndexedNode>> {
        match self.told.get(id) {
            Some(told) => Ok(Some(told)),
            None => self.lookup()?.get(id),
        }
    }

    fn lookup(&mut self) -> rusqlite::Result<&mut Lookup<'a>> {
        let (lookup, _) = match &mut self.opened {
            Some(opened) => opened,
            none => {
                let transaction = self.db.unchecked_transaction()?;
                let mut lookup = self.site.index.table().lookup(self.db)?;
                lookup.expect(self.expected.drain(..));
                none.insert((lookup, transaction))
            }
        };
        Ok(lookup)
    }
}

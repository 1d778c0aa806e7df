//! What is new in a directory: which of its names are not what the index knows.

use std::collections::HashMap;

use sync_core::NodeId;

use super::{
    Found,
    batch::Batch,
    file::{is_as_known, sketch},
    walk::{SHARED_FROM, Visit, Walker},
};
use crate::{
    index::{IndexError, IndexedNode, Sheet, Sketch},
    rooted::{RawDirEntry, StatKind},
};

/// If no more than one of so many names of a directory is unsettled, each is looked up by itself.
const FEW: usize = 4;

/// What a listing has that is not settled, and what the index knows of the directory that is not.
pub(super) type News = (Vec<RawDirEntry>, Vec<IndexedNode>);

impl Walker<'_> {
    /// What is left of a listing, and of what the index knows of that directory, without the files that are as known. That is
    /// all of them as a rule, so they are compared before anything is made of a row, and where the directory has a sheet
    /// before any is read. Large directories are left to several threads.
    pub(super) fn news(
        &self,
        visit: &Visit,
        listing: Vec<RawDirEntry>,
        batch: &mut Batch<'_, '_>,
    ) -> Result<News, IndexError> {
        let dir = visit.here.id;
        if !visit.existed {
            return Ok((listing, Vec::new()));
        }
        // Who believes nothing looks at each file anyway.
        if listing.len() > SHARED_FROM || self.trust.distrust {
            return Ok((listing, self.index.children(dir)?));
        }
        if let Some(sheet) = self.index.sheet(dir)? {
            let news = self.news_by_sheet(visit, listing, &sheet)?;
            if self.lacks_marks(&sheet, &news.1) {
                batch.push(Found::Sheetless(dir));
            }
            return Ok(news);
        }
        batch.push(Found::Sheetless(dir));
        self.news_by_rows(dir, listing, |_, name, sketch| {
            sketch.is_file
                && visit.dir.stat(name).is_ok_and(|stat| is_as_known(&stat, sketch, &self.trust))
                && !visit.rules.is_ignored_below(&visit.here.path, name, false)
        })
    }

    /// Compares with the marks on the sheet; the few that have none are looked up.
    fn news_by_sheet(
        &self,
        visit: &Visit,
        listing: Vec<RawDirEntry>,
        sheet: &Sheet,
    ) -> Result<News, IndexError> {
        let marker = self.index.marker();
        let is_settled = |raw: &RawDirEntry| {
            let Some(name) = text(raw) else { return false };
            raw.kind.is_none_or(|kind| kind == StatKind::File)
                && visit
                    .dir
                    .stat(name)
                    .is_ok_and(|stat| marker.mark(name, &sketch(&stat)).is_some_and(|mark| sheet.has(mark)))
                && !visit.rules.is_ignored_below(&visit.here.path, name, false)
        };
        let settled: Vec<bool> = listing.iter().map(is_settled).collect();
        let known = settled.iter().filter(|settled| **settled).count();
        let dir = visit.here.id;
        if (listing.len() - known) * FEW <= listing.len() {
            let unsettled = listing.iter().zip(&settled).filter(|(_, settled)| !**settled);
            let names = unsettled.filter_map(|(raw, _)| text(raw));
            let found = self.index.children_beside(dir, sheet, names)?;
            // Otherwise something is gone from the directory, and only its rows tell what.
            if let Some(found) = found.filter(|found| known + found.len() == sheet.nodes()) {
                return Ok((unsettled_of(listing, settled), found));
            }
        }
        self.news_by_rows(dir, listing, |at, _, _| settled[at])
    }

    /// Whether a sheet is not what it should be, which costs time each time.
    fn lacks_marks(&self, sheet: &Sheet, rows: &[IndexedNode]) -> bool {
        let marker = self.index.marker();
        rows.iter().filter_map(|row| marker.mark(&row.node.name, &row.sketch())).any(|mark| !sheet.has(mark))
    }

    /// Compares with the rows, which `is_settled` sees together with where the name is in the listing.
    fn news_by_rows(
        &self,
        dir: NodeId,
        listing: Vec<RawDirEntry>,
        is_settled: impl Fn(usize, &str, &Sketch) -> bool,
    ) -> Result<News, IndexError> {
        let places: HashMap<&[u8], usize> =
            listing.iter().enumerate().map(|(at, raw)| (&*raw.name, at)).collect();
        let mut settled = vec![false; listing.len()];
        let old = self.index.children_unless(dir, |name, sketch| {
            let Some(&at) = places.get(name.as_bytes()) else { return false };
            settled[at] = is_settled(at, name, sketch);
            settled[at]
        })?;
        drop(places);
        Ok((unsettled_of(listing, settled), old))
    }
}

fn unsettled_of(listing: Vec<RawDirEntry>, settled: Vec<bool>) -> Vec<RawDirEntry> {
    listing.into_iter().zip(settled).filter(|(_, settled)| !settled).map(|(raw, _)| raw).collect()
}

fn text(raw: &RawDirEntry) -> Option<&str> {
    std::str::from_utf8(&raw.name).ok()
}

//! Files that a feed has just told of, for those who ask for them next.
//!
//! Whoever reads a whole tree asks for nearly all of its files right after, in the same order, and to look each of them up again costs
//! more than to keep them for a moment.
//!
//! What is here is what the index has: it is of one edition of it, and is of no use from the next on. It has a bound for each share,
//! goes when it was asked for or after a while, and nothing is kept while nobody reads the feed.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sync_core::{Content, NodeId};

use crate::index::{Edition, Index, IndexedNode};

/// How much memory is spent: some 85,000 files.
const MOST_BYTES: usize = 16 << 20;

/// What a file takes beside the letters of its name, generously.
const FILE_BYTES: usize = size_of::<IndexedNode>() + 24;

/// All goes when nobody has asked for any of it for so long.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// It is looked at for that in steps of this.
const FORGOTTEN_EVERY: Duration = Duration::from_millis(250);

/// The files, in the pages in which they were told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of the same edition, in the order in which they came. None of them is empty.
    pages: VecDeque<Arc<Page>>,
    bytes: usize,
    /// When the last one came or was asked for.
    used: Option<Instant>,
    /// Nobody forgets what is old any more.
    closed: bool,
}

#[derive(Debug)]
struct Page {
    edition: Edition,
    /// By their ids.
    files: Vec<IndexedNode>,
    bytes: usize,
    /// How many were not asked for yet.
    left: AtomicUsize,
}

impl Page {
    /// Of rows in the order of their ids those that somebody may ask for.
    fn new(edition: Edition, mut rows: Vec<IndexedNode>) -> Self {
        rows.retain(|row| matches!(row.node.entry.content, Content::File { .. }));
        rows.shrink_to_fit();
        let bytes = rows.iter().map(|row| FILE_BYTES + row.node.name.as_str().len()).sum();
        let left = AtomicUsize::new(rows.len());
        Self { edition, files: rows, bytes, left }
    }

    /// Whether this file is among these, if it is any.
    fn spans(&self, id: NodeId) -> bool {
        let ends = self.files.first().zip(self.files.last());
        ends.is_some_and(|(first, last)| (first.node.id..=last.node.id).contains(&id))
    }

    fn get(&self, id: NodeId) -> Option<&IndexedNode> {
        self.files.binary_search_by_key(&id, |row| row.node.id).ok().map(|at| &self.files[at])
    }
}

impl Told {
    /// Keeps the files among rows that were just told, in the order of their ids. Answers whether these are the first, so that somebody
    /// must see to it that they are forgotten.
    pub(crate) fn put(&self, edition: Edition, rows: Vec<IndexedNode>, now: Instant) -> bool {
        let page = Page::new(edition, rows);
        let mut kept = self.lock();
        if kept.closed {
            return false;
        }
        if kept.edition().is_some_and(|of| of < edition) {
            kept.clear();
        }
        // What is here already is asked for before what comes now.
        let fits = kept.bytes + page.bytes <= MOST_BYTES && kept.edition().is_none_or(|of| of == edition);
        let is_new =
            page.files.first().is_some_and(|first| !kept.pages.iter().any(|page| page.spans(first.node.id)));
        if !fits || !is_new {
            return false;
        }
        let are_first = kept.pages.is_empty();
        kept.bytes += page.bytes;
        kept.pages.push_back(Arc::new(page));
        kept.used = Some(now);
        are_first
    }

    /// Whether nothing is here.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().pages.is_empty()
    }

    /// For somebody who is about to ask for files of this index.
    pub(crate) fn reader<'a>(&'a self, index: &'a Index, now: Instant) -> Reader<'a> {
        Reader { told: self, index, now, page: None }
    }

    /// Forgets what nobody asks for, and says when to ask again, if anything is left.
    pub(crate) fn forget_old(&self, now: Instant) -> Option<Instant> {
        let mut kept = self.lock();
        let until = kept.used? + KEPT_FOR;
        if until > now {
            return Some(until.max(now + FORGOTTEN_EVERY));
        }
        let gone = kept.clear();
        // Freeing takes a while, and nobody has to wait for it.
        drop(kept);
        drop(gone);
        None
    }

    /// Forgets all, and keeps nothing from now on: nobody is left who would see to it that it is forgotten.
    pub(crate) fn close(&self) {
        let gone = {
            let mut kept = self.lock();
            kept.closed = true;
            kept.clear()
        };
        drop(gone);
    }

    fn page_of(&self, id: NodeId, edition: Edition, now: Instant) -> Option<Arc<Page>> {
        let mut kept = self.lock();
        if kept.edition()? != edition {
            return None;
        }
        let found = kept.pages.iter().find(|page| page.spans(id)).cloned()?;
        kept.used = kept.used.max(Some(now));
        Some(found)
    }

    fn remove(&self, page: &Arc<Page>) {
        let mut kept = self.lock();
        if let Some(at) = kept.pages.iter().position(|one| Arc::ptr_eq(one, page)) {
            kept.bytes -= page.bytes;
            kept.pages.remove(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn edition(&self) -> Option<Edition> {
        self.pages.front().map(|page| page.edition)
    }

    fn clear(&mut self) -> VecDeque<Arc<Page>> {
        (self.bytes, self.used) = (0, None);
        mem::take(&mut self.pages)
    }
}

/// Asks for one file after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    told: &'a Told,
    index: &'a Index,
    now: Instant,
    /// The page of the file before: mostly the next one is in it too.
    page: Option<Arc<Page>>,
}

impl Reader<'_> {
    /// The file as the index has it at this moment, if it is here.
    pub(crate) fn get(&mut self, id: NodeId) -> Option<IndexedNode> {
        let edition = self.index.edition()?;
        if self.page.as_ref().is_none_or(|page| page.edition != edition || !page.spans(id)) {
            self.page = self.told.page_of(id, edition, self.now);
        }
        let page = self.page.as_ref()?;
        let found = page.get(id)?.clone();
        if page.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.told.remove(page);
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests;

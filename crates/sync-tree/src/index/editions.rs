//! Which state of an index something was read from.
//!
//! Each commit makes the next edition. While it is made it is not known which of the two a reader sees, so there is none then: what
//! was read is of an edition if that was there before the reading began, and still is when it has ended.

use std::sync::atomic::{AtomicU64, Ordering};

/// One state of an index. Of the same index the later one is the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edition(u64);

/// Counts the editions of one index: even while one is there, odd while the next is made.
#[derive(Debug, Default)]
pub(super) struct Editions(AtomicU64);

impl Editions {
    /// The one that readers see, unless another is about to take its place.
    pub(super) fn present(&self) -> Option<Edition> {
        let number = self.0.load(Ordering::SeqCst);
        number.is_multiple_of(2).then_some(Edition(number))
    }

    /// Begins the next one, which is there when what is answered is dropped. Only one is made at a time.
    pub(super) fn next(&self) -> Next<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Next(self)
    }
}

/// An edition that is being made.
#[must_use]
pub(super) struct Next<'a>(&'a Editions);

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_none_while_the_next_is_made_however_that_ends() {
        let editions = Editions::default();
        let first = editions.present();
        assert!(first.is_some());
        let next = editions.next();
        assert_eq!(editions.present(), None);
        drop(next);
        let second = editions.present();
        assert!(second > first);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _next = editions.next();
            panic!("the commit fails");
        }));
        assert!(ended.is_err() && editions.present() > second);
    }
}

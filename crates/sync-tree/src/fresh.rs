//! Contents of small files that were read this instant, for those who ask for them next.
//!
//! Whoever follows a share asks at once for what a look has found. Each of them would have it opened and read once more, and hashed too, as
//! no identity vouches for what has changed so recently.
//!
//! What is kept has its digest, so it is never wrong. It has a bound for each share and goes after a while, and nothing is kept
//! while nobody reads the feed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sync_core::Digest;

/// Files of this size and smaller are kept.
pub(crate) const LARGEST: u64 = 64 << 10;

/// How much memory is spent.
const MOST_BYTES: usize = 16 << 20;

/// What a content takes beside its bytes, generously.
const ENTRY_BYTES: usize = 300;

/// A follower asks within a fraction of a second; one that is busy with more than it gets in this time has the files read again.
const KEPT_FOR: Duration = Duration::from_secs(3);

/// What is old is forgotten in steps of this.
const FORGOTTEN_EVERY: Duration = Duration::from_millis(250);

/// The contents by their digests.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    kept: Mutex<Kept>,
    followers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_digest: HashMap<Digest, (Instant, Arc<Vec<u8>>)>,
    /// Those that came first in front.
    by_age: VecDeque<Digest>,
}

/// Somebody reads the feed: until the last who does is gone, contents are kept.
#[derive(Debug)]
pub struct Following(Arc<Fresh>);

impl Following {
    pub(crate) fn new(fresh: Arc<Fresh>) -> Self {
        fresh.followers.fetch_add(1, Ordering::Relaxed);
        Self(fresh)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // What is kept stays for its time: who reads a feed once asks for what it told when it has ended.
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fresh {
    /// Whether anybody is about to ask.
    pub(crate) fn is_wanted(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    /// Keeps a content. One that is there already stays as old as it is.
    pub(crate) fn put(&self, digest: Digest, bytes: Vec<u8>, now: Instant) {
        self.lock().put(digest, bytes, now);
    }

    /// Appends the content of this digest and size to `out`, and answers whether it is here.
    pub(crate) fn append(&self, (digest, size): (&Digest, u64), out: &mut Vec<u8>, now: Instant) -> bool {
        let found = self.lock().by_digest.get(digest).cloned();
        match found {
            Some((since, bytes)) if since + KEPT_FOR > now && bytes.len() as u64 == size => {
                out.extend_from_slice(&bytes);
                true
            }
            _ => false,
        }
    }

    /// Forgets what is old, and says when to ask again, if anything is left.
    pub(crate) fn forget_old(&self, now: Instant) -> Option<Instant> {
        let until = self.lock().forget_old(now)?;
        Some(until.max(now + FORGOTTEN_EVERY))
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        // Freeing takes a while, and nobody has to wait for it.
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put(&mut self, digest: Digest, bytes: Vec<u8>, now: Instant) {
        let size = size_of_entry(&bytes);
        if size > MOST_BYTES || self.by_digest.contains_key(&digest) {
            return;
        }
        while self.bytes + size > MOST_BYTES && !self.by_age.is_empty() {
            self.forget_first();
        }
        self.bytes += size;
        self.by_digest.insert(digest, (now, Arc::new(bytes)));
        self.by_age.push_back(digest);
    }

    fn forget_old(&mut self, now: Instant) -> Option<Instant> {
        while let Some(first) = self.by_age.front() {
            let until = self.by_digest.get(first).map(|(since, _)| *since + KEPT_FOR);
            if until.is_some_and(|until| until > now) {
                return until;
            }
            self.forget_first();
        }
        // A burst leaves large tables.
        *self = Self::default();
        None
    }

    fn forget_first(&mut self) {
        let Some(digest) = self.by_age.pop_front() else { return };
        if let Some((_, gone)) = self.by_digest.remove(&digest) {
            self.bytes -= size_of_entry(&gone);
        }
    }
}

fn size_of_entry(bytes: &[u8]) -> usize {
    bytes.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use sync_testkit::rng::Rng;

    use super::*;

    fn put(fresh: &Fresh, bytes: &[u8], now: Instant) -> Digest {
        let digest = Digest::of(bytes);
        fresh.put(digest, bytes.into(), now);
        digest
    }

    fn has(fresh: &Fresh, digest: &Digest, now: Instant) -> bool {
        let found = fresh.lock().by_digest.get(digest).map(|(_, bytes)| bytes.len() as u64);
        let mut out = b"before".to_vec();
        let size = found.unwrap_or(5);
        assert!(!fresh.append((digest, size + 1), &mut out, now), "of another size");
        let has = fresh.append((digest, size), &mut out, now);
        assert!(out.starts_with(b"before") && (has || out.len() == 6));
        assert!(!has || Digest::of(&out[6..]) == *digest);
        has
    }

    #[test]
    fn what_is_kept_comes_whole_and_goes_after_a_while() {
        let (fresh, began) = (Fresh::default(), Instant::now());
        assert_eq!(fresh.forget_old(began), None);
        let first = put(&fresh, b"first", began);
        let later = began + Duration::from_secs(1);
        let (second, empty) = (put(&fresh, b"second", later), put(&fresh, b"", later));
        assert_eq!(put(&fresh, b"first", later), first, "once more");
        assert!([first, second, empty].iter().all(|one| has(&fresh, one, later)));
        assert!(!has(&fresh, &Digest::of(b"third"), later));
        assert_eq!(fresh.forget_old(later), Some(began + KEPT_FOR));
        let just_before = began + KEPT_FOR - Duration::from_nanos(1);
        assert_eq!(fresh.forget_old(just_before), Some(just_before + FORGOTTEN_EVERY));
        assert!(has(&fresh, &first, just_before) && !has(&fresh, &first, began + KEPT_FOR), "it is old");
        assert_eq!(fresh.forget_old(began + KEPT_FOR), Some(later + KEPT_FOR));
        assert!(!has(&fresh, &first, later) && has(&fresh, &second, later));
        assert_eq!(fresh.forget_old(later + KEPT_FOR), None);
        assert!(!has(&fresh, &second, later) && !has(&fresh, &empty, later));
        let kept = fresh.lock();
        assert_eq!((kept.bytes, kept.by_digest.capacity()), (0, 0));
    }

    #[test]
    fn it_is_wanted_while_anybody_reads_the_feed() {
        let fresh = Arc::new(Fresh::default());
        assert!(!fresh.is_wanted());
        let (one, other) = (Following::new(fresh.clone()), Following::new(fresh.clone()));
        drop(one);
        assert!(fresh.is_wanted());
        drop(other);
        assert!(!fresh.is_wanted());
    }

    #[test]
    fn there_is_a_bound_whatever_comes() {
        let (fresh, mut now, mut rng) = (Fresh::default(), Instant::now(), Rng::new(7));
        let mut last = None;
        for _ in 0..3000 {
            now += Duration::from_micros(rng.below(2000) as u64);
            let size = rng.below(1 + LARGEST as usize);
            let bytes = rng.bytes(size);
            last = Some(put(&fresh, &bytes, now));
            if rng.below(50) == 0 {
                fresh.forget_old(now);
            }
            let kept = fresh.lock();
            let sum: usize = kept.by_digest.values().map(|(_, bytes)| size_of_entry(bytes)).sum();
            assert!(kept.bytes == sum && sum <= MOST_BYTES && kept.by_age.len() == kept.by_digest.len());
        }
        assert!(has(&fresh, &last.unwrap(), now), "the newest stay");
        assert!(fresh.lock().bytes > MOST_BYTES - 2 * LARGEST as usize);
    }
}

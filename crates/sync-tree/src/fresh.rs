//! Contents of small files that were read this instant, for those who ask for them next.
//!
//! Whoever follows a share asks at once for what a look has found. Each of them would have it opened and read once more, and hashed too, as
//! no identity vouches for what has changed so recently.
//!
//! What is kept has its digest, so it is never wrong; it has a bound, and goes after a while.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sync_core::Digest;

use crate::hash::LARGEST_KEPT;

/// Files of this size and smaller are kept.
pub(crate) const LARGEST: u64 = 64 << 10;
const _: () = assert!(LARGEST <= LARGEST_KEPT);

/// How much memory is spent.
const MOST_BYTES: usize = 16 << 20;

/// What a content takes beside its bytes, generously.
const ENTRY_BYTES: usize = 200;

/// A follower asks within a fraction of a second; one that is busy with more than it gets in this time has the files read again.
const KEPT_FOR: Duration = Duration::from_secs(3);

/// The contents by their digests.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_digest: HashMap<Digest, Arc<[u8]>>,
    /// Those that came first in front.
    by_age: VecDeque<(Instant, Digest)>,
}

impl Fresh {
    /// Keeps a content. One that is there already does not get older than it would have.
    pub(crate) fn put(&self, digest: Digest, bytes: Arc<[u8]>, now: Instant) {
        self.lock().put(digest, bytes, now);
    }

    /// Appends this content to `out`, and answers whether it is here.
    pub(crate) fn append(&self, digest: &Digest, out: &mut Vec<u8>) -> bool {
        let found = self.lock().by_digest.get(digest).cloned();
        found.inspect(|bytes| out.extend_from_slice(bytes)).is_some()
    }

    /// Forgets what is old, and says when there will be more of that.
    pub(crate) fn forget_old(&self, now: Instant) -> Option<Instant> {
        self.lock().forget_old(now)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put(&mut self, digest: Digest, bytes: Arc<[u8]>, now: Instant) {
        let size = size_of_entry(&bytes);
        if size > MOST_BYTES || self.by_digest.contains_key(&digest) {
            return;
        }
        while self.bytes + size > MOST_BYTES && !self.by_age.is_empty() {
            self.forget_first();
        }
        self.bytes += size;
        self.by_digest.insert(digest, bytes);
        self.by_age.push_back((now, digest));
    }

    fn forget_old(&mut self, now: Instant) -> Option<Instant> {
        while let Some((since, _)) = self.by_age.front() {
            let until = *since + KEPT_FOR;
            if until > now {
                return Some(until);
            }
            self.forget_first();
        }
        // A burst leaves large tables.
        *self = Self::default();
        None
    }

    fn forget_first(&mut self) {
        let Some((_, digest)) = self.by_age.pop_front() else { return };
        if let Some(gone) = self.by_digest.remove(&digest) {
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

    fn has(fresh: &Fresh, digest: &Digest) -> bool {
        let mut out = b"before".to_vec();
        let has = fresh.append(digest, &mut out);
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
        assert!(has(&fresh, &first) && has(&fresh, &second) && has(&fresh, &empty));
        assert!(!has(&fresh, &Digest::of(b"third")));
        assert_eq!(fresh.forget_old(later), Some(began + KEPT_FOR));
        assert_eq!(fresh.forget_old(began + KEPT_FOR), Some(later + KEPT_FOR));
        assert!(!has(&fresh, &first) && has(&fresh, &second));
        assert_eq!(fresh.forget_old(later + KEPT_FOR), None);
        assert!(!has(&fresh, &second) && !has(&fresh, &empty));
        let kept = fresh.lock();
        assert_eq!((kept.bytes, kept.by_digest.capacity()), (0, 0));
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
            let sum: usize = kept.by_digest.values().map(|bytes| size_of_entry(bytes)).sum();
            assert!(kept.bytes == sum && sum <= MOST_BYTES && kept.by_age.len() == kept.by_digest.len());
        }
        assert!(has(&fresh, &last.unwrap()), "the newest stay");
        assert!(fresh.lock().bytes > MOST_BYTES - 2 * LARGEST as usize);
    }
}

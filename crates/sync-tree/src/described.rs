//! What files are made of, as far as it was found out and may be asked for again.
//!
//! What is kept has a bound. It is of a digest, so it is never out of date.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sync_core::Digest;

use crate::chunks::Parts;

/// How much memory is spent: the parts of some 26 GiB of files.
const MOST_BYTES: usize = 64 << 20;

/// What an entry takes beside its parts, generously.
const ENTRY_BYTES: usize = 200;

/// The parts of files by their digests. All trees of a process may share one.
#[derive(Debug)]
pub struct Described(Mutex<Kept>);

impl Default for Described {
    fn default() -> Self {
        Self(Mutex::new(Kept::new(MOST_BYTES)))
    }
}

impl Described {
    /// The parts of this content.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Parts> {
        self.lock().get(digest)
    }

    /// Keeps the parts of this content.
    pub fn put(&self, digest: Digest, parts: Parts) {
        self.lock().put(digest, parts);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Descriptions, those least recently used going first.
#[derive(Debug)]
struct Kept {
    most_bytes: usize,
    bytes: usize,
    uses: u64,
    by_digest: HashMap<Digest, (Parts, u64)>,
    by_use: BTreeMap<u64, Digest>,
}

impl Kept {
    fn new(most_bytes: usize) -> Self {
        Self { most_bytes, bytes: 0, uses: 0, by_digest: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn get(&mut self, digest: &Digest) -> Option<Parts> {
        let (parts, used) = self.by_digest.get_mut(digest)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, *digest);
        Some(parts.clone())
    }

    fn put(&mut self, digest: Digest, parts: Parts) {
        let bytes = size_of_entry(&parts);
        if bytes > self.most_bytes || self.by_digest.contains_key(&digest) {
            return;
        }
        while self.bytes + bytes > self.most_bytes
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((gone, _)) = self.by_digest.remove(&oldest) {
                self.bytes -= size_of_entry(&gone);
            }
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, digest);
        self.by_digest.insert(digest, (parts, self.uses));
    }
}

fn size_of_entry(parts: &Parts) -> usize {
    parts.memory_bytes() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(count: usize) -> Parts {
        let parts = Parts::of(&vec![0; count * (64 << 10)]);
        assert_eq!(parts.chunks.len(), count);
        parts
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[test]
    fn what_is_kept_has_a_bound_and_the_oldest_goes_first() {
        let one = size_of_entry(&parts(10));
        let mut kept = Kept::new(3 * one);
        for number in 1..=3 {
            kept.put(digest(number), parts(10));
        }
        assert!(kept.get(&digest(1)).is_some());
        kept.put(digest(4), parts(10));
        kept.put(digest(4), parts(10));
        let here = |kept: &mut Kept| [1, 2, 3, 4].map(|number| kept.get(&digest(number)).is_some());
        assert_eq!(here(&mut kept), [true, false, true, true]);
        assert_eq!((kept.bytes, kept.by_use.len(), kept.by_digest.len()), (3 * one, 3, 3));
        kept.put(digest(5), parts(100));
        assert_eq!(
            here(&mut kept),
            [true, false, true, true],
            "what is too large by itself displaces nothing"
        );
    }
}

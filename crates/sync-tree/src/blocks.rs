//! The digest of a file that several threads read, each another part of it.
//!
//! BLAKE3 is a tree, so blocks can be hashed apart from each other and put together in the end. What comes out is what one
//! reader of the whole would find.

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use sync_core::Digest;

/// How much is hashed apart. It must be a power of two; the hash is as fast from 64 KiB on, and this makes 4,096 blocks of a GiB.
pub(crate) const BLOCK_BYTES: u64 = 256 << 10;

/// The blocks of a part of a file, as its bytes are read in order.
#[derive(Debug)]
pub(crate) struct Blocks {
    hasher: Hasher,
    at: u64,
    end: u64,
    found: Vec<ChainingValue>,
}

impl Blocks {
    /// Begins with a part that starts where a block does, and ends where one does or where the file ends.
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self { hasher: hasher_from(start), at: start, end, found: Vec::new() }
    }

    /// Takes the next bytes. What lies behind the end does not count.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while self.at < self.end && !bytes.is_empty() {
            let block_end = (self.at / BLOCK_BYTES + 1) * BLOCK_BYTES;
            let left = usize::try_from(block_end.min(self.end) - self.at).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(left.min(bytes.len()));
            self.hasher.update(part);
            self.at += part.len() as u64;
            bytes = rest;
            if part.len() == left {
                self.found.push(self.hasher.finalize_non_root());
                if self.at < self.end {
                    self.hasher = hasher_from(self.at);
                }
            }
        }
    }

    /// The values of all blocks of the part, once all of it was read.
    pub(crate) fn finish(self) -> Vec<ChainingValue> {
        self.found
    }
}

fn hasher_from(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

/// The digest of a file of these blocks; `None` if it has only one, which makes no tree.
pub(crate) fn digest_of(blocks: &[ChainingValue]) -> Option<Digest> {
    let (left, right) = blocks.split_at_checked(left_of(blocks.len())?)?;
    Some(merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).into())
}

fn merge(blocks: &[ChainingValue]) -> ChainingValue {
    match left_of(blocks.len()) {
        None => blocks.first().copied().unwrap_or_default(),
        Some(left) => {
            let (left, right) = blocks.split_at(left);
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// How many of so many blocks are the left half of their tree: the largest power of two that leaves some.
fn left_of(count: usize) -> Option<usize> {
    (count > 1).then(|| count.next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use sync_testkit::rng::Rng;

    use super::*;

    #[test]
    fn blocks_that_were_hashed_apart_make_the_digest_of_the_whole() {
        let block = usize::try_from(BLOCK_BYTES).unwrap();
        let mut rng = Rng::new(1);
        let bytes = rng.bytes(9 * block + 5);
        for len in [block + 1, 2 * block, 2 * block + 1, 3 * block - 1, 5 * block, 8 * block, 9 * block + 5] {
            for parts in 1..=4 {
                let step = (len / parts).next_multiple_of(block);
                let mut found = Vec::new();
                for start in (0..len).step_by(step) {
                    let mut blocks = Blocks::new(start as u64, (start + step).min(len) as u64);
                    let mut rest = &bytes[start..];
                    // As they may be read: more than a block, less than one, and beyond the end.
                    while !rest.is_empty() {
                        let (part, behind) = rest.split_at((1 + rng.below(2 * block)).min(rest.len()));
                        blocks.update(part);
                        rest = behind;
                    }
                    found.extend(blocks.finish());
                }
                assert_eq!(
                    digest_of(&found),
                    Some(Digest::of(&bytes[..len])),
                    "{len} bytes in {parts} parts"
                );
            }
        }
    }

    #[test]
    fn one_block_is_no_tree() {
        assert_eq!(digest_of(&[]), None);
        assert_eq!(digest_of(&[[0; 32]]), None);
    }
}

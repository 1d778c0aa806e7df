//! The parts of a large file, for finding out which of them are here already.
//!
//! Where a part ends is decided by the bytes around that place alone, so a change moves only the borders near it. How the
//! places are found is fixed by the contract: both sides must find the same.

use crate::entry::Digest;

/// One part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Its length in bytes.
    pub size: u32,
    /// What is in it.
    pub hash: ChunkHash,
}

/// The first half of the BLAKE3 digest of a part's bytes. That is enough to find a part by; the whole file is verified by its
/// full digest in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkHash(pub [u8; 16]);

impl ChunkHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&Digest::of(bytes).0[..16]);
        Self(half)
    }
}

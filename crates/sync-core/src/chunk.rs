//! The parts of a large file, for finding out which of them are here already.
//!
//! Where a part ends is decided by the bytes around that place alone, so a change moves only the borders near it. How the
//! places are found is fixed by the contract: both sides must find the same.

use crate::entry::Digest;

/// The name, in the contract, of the way in which files are cut: FastCDC of 2020 with the gear table of the crate `fastcdc`
/// (its module `v2020`, seed 0), no normalization, and the three sizes below.
///
/// A 500 MB file of which 10 % had been rewritten in pieces of 64 KiB decided it. Bytes to transfer, the list of parts
/// included, for each byte changed: rsync 1.31; 4/16/64 KiB 1.46; 4/12/64 KiB 1.38; these 1.28, with 1.6 MiB of list for a
/// GiB. Smaller ones save little more there, and their lists reach 2 MiB for a GiB.
pub const ALGORITHM: &str = "fastcdc-v2020-4k-8k-64k-n0";
/// No part but a file's last is smaller.
pub const MIN_BYTES: u32 = 4 << 10;
/// The parameter that the algorithm calls the average. Parts of random bytes have 12.1 KiB on average, as none is smaller than
/// the least size.
pub const AVERAGE_BYTES: u32 = 8 << 10;
/// No part is larger.
pub const MAX_BYTES: u32 = 64 << 10;

/// Files below this are not taken apart: fetching them whole costs little more than asking.
pub const LEAST_FILE_BYTES: u64 = 1 << 20;
/// Files above this are not taken apart either: the list would not fit [`MOST_CHUNKS`].
pub const MOST_FILE_BYTES: u64 = 24 << 30;
/// A list has no more parts, so it takes at most 40 MiB of memory.
pub const MOST_CHUNKS: usize = 2 << 20;

/// Whether a file of this size is taken apart at all.
#[must_use]
pub fn is_taken_apart(size: u64) -> bool {
    (LEAST_FILE_BYTES..=MOST_FILE_BYTES).contains(&size)
}

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

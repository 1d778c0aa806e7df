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

/// How a part of a new file is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is in the old file.
    Copy {
        /// Where it begins there.
        from: u64,
        /// How many bytes.
        len: u64,
    },
    /// It is not.
    Fetch {
        /// Where it begins in the new file.
        at: u64,
        /// How many bytes.
        len: u64,
    },
}

/// How to make a file of these chunks, of which the first `have` bytes are made already. `find` answers where the old file has
/// a chunk. Steps that go on where the one before them ends are one step.
pub fn steps(chunks: &[Chunk], have: u64, find: impl Fn(&Chunk) -> Option<u64>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut end = 0;
    for chunk in chunks {
        let start = end;
        end += u64::from(chunk.size);
        if end <= have {
            continue;
        }
        let skip = have.saturating_sub(start);
        let len = u64::from(chunk.size) - skip;
        let next = match find(chunk) {
            Some(from) => Step::Copy { from: from + skip, len },
            None => Step::Fetch { at: start + skip, len },
        };
        if !steps.last_mut().is_some_and(|last| last.take_in(&next)) {
            steps.push(next);
        }
    }
    steps
}

impl Step {
    /// How many bytes it makes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let (Self::Copy { len, .. } | Self::Fetch { len, .. }) = *self;
        len
    }

    /// Makes this step longer by one that goes on where it ends.
    fn take_in(&mut self, next: &Step) -> bool {
        match (self, next) {
            (Step::Copy { from, len }, Step::Copy { from: goes_on, len: more })
                if *from + *len == *goes_on =>
            {
                *len += more;
                true
            }
            (Step::Fetch { at, len }, Step::Fetch { at: goes_on, len: more }) if *at + *len == *goes_on => {
                *len += more;
                true
            }
            _ => false,
        }
    }
}

/// How many bytes these steps take from the old file.
#[must_use]
pub fn copied(steps: &[Step]) -> u64 {
    let copied = |step: &Step| if let Step::Copy { len, .. } = step { *len } else { 0 };
    steps.iter().map(copied).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(letter: u8, size: u32) -> Chunk {
        Chunk { size, hash: ChunkHash([letter; 16]) }
    }

    /// What the steps make of an old file and a fetched new one, after what is there.
    fn made(steps: &[Step], old: &[u8], new: &[u8], have: u64) -> Vec<u8> {
        let part = |bytes: &[u8], at: u64, len: u64| bytes[at as usize..(at + len) as usize].to_vec();
        let mut made = part(new, 0, have);
        for step in steps {
            made.extend(match *step {
                Step::Copy { from, len } => part(old, from, len),
                Step::Fetch { at, len } => part(new, at, len),
            });
        }
        made
    }

    #[test]
    fn any_start_and_any_old_file_make_the_new_one_and_fetch_nothing_that_is_there() {
        let content = |letters: &str| -> (Vec<u8>, Vec<Chunk>) {
            let size = |letter: u8| u32::from(letter - b'a') + 1;
            let bytes = letters.bytes().flat_map(|letter| vec![letter; size(letter) as usize]).collect();
            (bytes, letters.bytes().map(|letter| chunk(letter, size(letter))).collect())
        };
        for (old, new, fetched) in [
            ("", "abc", 6),
            ("abc", "abc", 0),
            ("abc", "xabc", 24),
            ("abcabc", "cba", 0),
            ("abcde", "abxde", 24),
            ("aaaa", "aaaaaaaa", 0),
            ("fedc", "cdefcdef", 0),
        ] {
            let (old, old_chunks) = content(old);
            let (new, chunks) = content(new);
            let find = |chunk: &Chunk| {
                let at = old_chunks.iter().position(|old| old == chunk)?;
                Some(old_chunks[..at].iter().map(|chunk| u64::from(chunk.size)).sum())
            };
            for have in 0..=new.len() as u64 {
                let steps = steps(&chunks, have, find);
                assert_eq!(made(&steps, &old, &new, have), new, "{have} {steps:?}");
                let wanted = new.len() as u64 - have - copied(&steps);
                assert!(wanted <= fetched && (have > 0 || wanted == fetched), "{have} {steps:?}");
            }
        }
    }

    #[test]
    fn what_goes_on_is_one_step() {
        let chunks = [chunk(1, 10), chunk(2, 10), chunk(3, 5), chunk(4, 5), chunk(1, 10)];
        let find = |chunk: &Chunk| match chunk.hash.0[0] {
            1 => Some(100),
            2 => Some(110),
            _ => None,
        };
        let want = [
            Step::Copy { from: 100, len: 20 },
            Step::Fetch { at: 20, len: 10 },
            Step::Copy { from: 100, len: 10 },
        ];
        assert_eq!(steps(&chunks, 0, find), want);
        assert_eq!(steps(&chunks, 40, find), []);
        assert_eq!(steps(&chunks, 33, find), [Step::Copy { from: 103, len: 7 }]);
    }
}

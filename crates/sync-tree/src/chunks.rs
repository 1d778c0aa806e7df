//! Takes files apart where their content says so: the parts that [`sync_core::chunk`] describes.
//!
//! * Where the borders are is part of the wire contract ([`chunk::ALGORITHM`]). The golden vectors in the tests guard it: a
//!   release of the library that moves a border fails them, and would need a name of its own.
//! * Memory is bounded: one buffer, whatever the file's size, beside what the caller keeps.
//! * A file of size n is its first n bytes, read by position: what is appended meanwhile does not matter.

use std::{fs::File, io, ops::ControlFlow, os::unix::fs::FileExt};

use fastcdc::v2020::{Normalization, cut, select_masks};
use sync_core::chunk::{self, Chunk, ChunkHash};

use crate::probe::probed;

/// How much is read at a time. One thread takes 1.3 GB/s of random bytes apart and hashes them. Hashing the parts of a MiB on
/// rayon's threads was no faster on two busy cores, and 256 KiB to 1 MiB made no difference.
const BUFFER_BYTES: usize = 512 << 10;

/// How taking a file apart ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every part was given.
    Complete,
    /// The file is shorter than it should be.
    TooShort,
    /// Whoever took the parts wanted no more.
    Stopped,
}

/// The parts of the first `size` bytes of a file, wherever its position is; `None` if it is shorter.
///
/// # Errors
/// Reading failed.
pub fn chunk_file(file: &File, size: u64) -> io::Result<Option<Vec<Chunk>>> {
    let mut chunks = Vec::new();
    let complete = for_each_chunk(file, size, |_, chunk| chunks.push(chunk))?;
    Ok(complete.then_some(chunks))
}

/// Gives each part of the first `size` bytes of a file with its offset, in order. False if the file is shorter: then
/// some of those before its end were given.
///
/// # Errors
/// Reading failed.
pub fn for_each_chunk(file: &File, size: u64, mut take: impl FnMut(u64, Chunk)) -> io::Result<bool> {
    let read =
        |offset, part: &mut [u8]| probed!(Read { file: file, at: offset } => file.read_at(part, offset));
    let ended = read_chunks(size, read, |offset, chunk| {
        take(offset, chunk);
        ControlFlow::Continue(())
    })?;
    Ok(ended == Ended::Complete)
}

/// The parts of these bytes.
#[must_use]
pub fn chunk_bytes(bytes: &[u8]) -> Vec<Chunk> {
    Cutter::new().cut(bytes, true).map(chunk_of).collect()
}

/// Takes `size` bytes apart, which `read` gives from an offset on (0: there are no more), each once and in order. Stops when
/// `take` says so.
///
/// # Errors
/// Reading failed.
pub fn read_chunks(
    size: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
    mut take: impl FnMut(u64, Chunk) -> ControlFlow<()>,
) -> io::Result<Ended> {
    let cutter = Cutter::new();
    let room = usize::try_from(size).map_or(BUFFER_BYTES, |size| size.min(BUFFER_BYTES));
    let mut buffer = vec![0; room];
    // The buffer's bytes up to `filled` are those of the file from `offset` on.
    let (mut offset, mut filled) = (0, 0);
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let want = left.min(room);
        while filled < want {
            match read(offset + filled as u64, &mut buffer[filled..want]) {
                Ok(0) => return Ok(Ended::TooShort),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut used = 0;
        for part in cutter.cut(&buffer[..filled], filled == left) {
            if take(offset, chunk_of(part)).is_break() {
                return Ok(Ended::Stopped);
            }
            used += part.len();
            offset += part.len() as u64;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
    Ok(Ended::Complete)
}

fn chunk_of(bytes: &[u8]) -> Chunk {
    // A part has at most `MAX_BYTES`.
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Chunk { size, hash: ChunkHash::of(bytes) }
}

/// Finds borders.
struct Cutter {
    masks: (u64, u64),
}

impl Cutter {
    fn new() -> Self {
        Self { masks: select_masks(chunk::AVERAGE_BYTES as usize, Normalization::Level0) }
    }

    /// The parts of these bytes. Where more follow, they end with the last whose border no later byte can move.
    fn cut<'a>(&self, mut bytes: &'a [u8], is_end: bool) -> impl Iterator<Item = &'a [u8]> {
        std::iter::from_fn(move || {
            if bytes.is_empty() || (bytes.len() < chunk::MAX_BYTES as usize && !is_end) {
                return None;
            }
            let (part, rest) = bytes.split_at(self.first(bytes));
            bytes = rest;
            Some(part)
        })
    }

    /// How long the first part is.
    fn first(&self, bytes: &[u8]) -> usize {
        let (small, large) = self.masks;
        let [least, average, most] =
            [chunk::MIN_BYTES, chunk::AVERAGE_BYTES, chunk::MAX_BYTES].map(|size| size as usize);
        cut(bytes, least, average, most, small, large, small << 1, large << 1).1
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own files")]
mod tests {
    use std::{collections::HashSet, fs};

    use proptest::prelude::*;
    use sync_core::Digest;
    use sync_testkit::rng::Rng;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("f"), bytes).unwrap();
        File::open(tmp.path().join("f")).unwrap()
    }

    /// Bytes of which parts repeat and parts are all the same, as in real files.
    fn mixed(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = Rng::new(seed);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let some = 1 + rng.below(200_000);
            match rng.below(4) {
                0 => bytes.resize(bytes.len() + some, 0),
                1 => bytes.extend(b"a line of text\n".iter().cycle().take(some)),
                _ => bytes.extend(rng.bytes(some)),
            }
        }
        bytes.truncate(len);
        bytes
    }

    fn all_in_one(chunks: &[Chunk]) -> String {
        let bytes: Vec<u8> =
            chunks.iter().flat_map(|chunk| [&chunk.size.to_le_bytes()[..], &chunk.hash.0].concat()).collect();
        Digest::of(&bytes).to_hex()
    }

    /// The contract: these numbers never change for this name of the algorithm.
    #[test]
    fn the_borders_are_those_of_the_contract() {
        assert_eq!(chunk::ALGORITHM, "fastcdc-v2020-4k-8k-64k-n0");
        for (bytes, sizes, count, digest) in [
            (
                Rng::new(1).bytes(8 << 20),
                &[16594, 4854, 6680, 16852, 8403, 8984, 7368, 12030, 5997, 21446, 5086, 11193][..],
                683,
                "38c2b4bfd36d1e12f2c4f4b92b874e939f9eef10cc5993924826daed01b0dfef",
            ),
            (
                mixed(2, 5_000_001),
                &[43533, 12140, 4404, 7234, 32227, 8654, 9820, 8932, 5800, 5101, 8140, 65536],
                238,
                "5441de2894c1b48045a14e31ae1dd1890eb00ef0733115b03674da8674c0a461",
            ),
            (
                vec![0; 200_000],
                &[65536, 65536, 65536, 3392],
                4,
                "b32b5c86d94eda0a4bcd2b097e4ec36a674b621fa8d56787cc9b6dbb5351cc09",
            ),
        ] {
            let chunks = chunk_bytes(&bytes);
            let found: Vec<_> = chunks.iter().take(12).map(|chunk| chunk.size).collect();
            assert_eq!(
                (found.as_slice(), chunks.len(), all_in_one(&chunks).as_str()),
                (sizes, count, digest)
            );
        }
    }

    #[test]
    fn the_sizes_add_up_and_keep_their_bounds() {
        for len in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, BUFFER_BYTES, BUFFER_BYTES + 1, 9_000_001]
        {
            let bytes = mixed(len as u64, len);
            let chunks = chunk_bytes(&bytes);
            let sum: usize = chunks.iter().map(|chunk| chunk.size as usize).sum();
            assert_eq!(sum, len);
            let last = chunks.len().saturating_sub(1);
            for (number, chunk) in chunks.iter().enumerate() {
                let least = if number == last { 1 } else { chunk::MIN_BYTES };
                assert!((least..=chunk::MAX_BYTES).contains(&chunk.size), "{number} of {last}: {chunk:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_file_has_the_parts_of_its_bytes(seed: u64, len in 0..3_500_000_usize, more in 0..3_usize) {
            let bytes = mixed(seed, len + more * 40_000);
            let file = file_of(&bytes);
            let want = chunk_bytes(&bytes[..len]);
            prop_assert_eq!(chunk_file(&file, len as u64).unwrap(), Some(want));
            let mut at = 0;
            let complete = for_each_chunk(&file, len as u64, |offset, chunk| {
                let end = at + chunk.size as usize;
                assert_eq!((offset, chunk.hash), (at as u64, ChunkHash::of(&bytes[at..end])));
                at = end;
            });
            prop_assert!(complete.unwrap() && at == len);
            prop_assert_eq!(chunk_file(&file, bytes.len() as u64 + 1).unwrap(), None);
        }
    }

    #[test]
    fn reads_may_be_short_and_interrupted_and_fail() {
        let bytes = mixed(4, 2_500_000);
        let mut turn = 0;
        let mut odd = |offset: u64, part: &mut [u8]| {
            turn += 1;
            if turn % 3 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let from = usize::try_from(offset).unwrap();
            let count = part.len().min(70_001);
            part[..count].copy_from_slice(&bytes[from..from + count]);
            Ok(count)
        };
        let mut chunks = Vec::new();
        let ended = read_chunks(bytes.len() as u64, &mut odd, |_, chunk| {
            chunks.push(chunk);
            ControlFlow::Continue(())
        });
        assert_eq!((ended.unwrap(), chunks), (Ended::Complete, chunk_bytes(&bytes)));
        let mut given = 0;
        let ended = read_chunks(bytes.len() as u64, &mut odd, |_, _| {
            given += 1;
            if given == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((ended.unwrap(), given), (Ended::Stopped, 5));
        let failing = |_, _: &mut [u8]| Err(io::ErrorKind::PermissionDenied.into());
        assert!(read_chunks(1, failing, |_, _| ControlFlow::Continue(())).is_err());
    }

    #[test]
    fn a_byte_at_the_front_changes_only_the_first_parts() {
        for seed in 0..20 {
            let bytes = Rng::new(seed).bytes(4 << 20);
            let before = chunk_bytes(&bytes);
            let after = chunk_bytes(&[&[7], bytes.as_slice()].concat());
            let known: HashSet<_> = before.iter().copied().collect();
            let new = after.iter().filter(|chunk| !known.contains(chunk)).count();
            assert!(new <= 8, "seed {seed}: {new} of {} parts are new", after.len());
            assert_eq!(after.last(), before.last());
        }
    }
}

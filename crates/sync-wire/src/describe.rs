//! The description of a file, to messages and back.
//!
//! Both sides may have the description of another version. Then runs of its chunks are named by their places, and what is sent
//! is little more than what is new.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use sync_core::{
    Chunk, ChunkHash,
    chunk::{ALGORITHM, MAX_BYTES, MIN_BYTES, MOST_CHUNKS, MOST_FILE_BYTES},
};

use crate::{WireError, v1};

/// How many bytes of a chunk's digest are sent.
const HASH_BYTES: usize = 16;

/// How many chunks one message sends, and how many runs of others it names: some 600 KiB for either.
const MAX_CHUNKS_SENT: usize = 32_768;
const MAX_RUNS_NAMED: usize = 32_768;

/// Writes the header of a file that is described.
#[must_use]
pub fn description_header(size: u64) -> v1::DescriptionHeader {
    v1::DescriptionHeader { algorithm: ALGORITHM.to_owned(), size }
}

/// Writes chunks, in as many messages as it takes, for a reader who knows some already.
pub fn chunks_to_wire<'a>(
    chunks: &'a [Chunk],
    known: &'a [Chunk],
) -> impl Iterator<Item = v1::ChunkBatch> + 'a {
    let places = known.iter().enumerate().map(|(place, chunk)| (chunk.hash, place)).collect();
    let mut writer = DescriptionWriter { left: chunks, known, places };
    std::iter::from_fn(move || writer.next())
}

/// What is still to be written.
struct DescriptionWriter<'a> {
    left: &'a [Chunk],
    known: &'a [Chunk],
    places: HashMap<ChunkHash, usize>,
}

impl DescriptionWriter<'_> {
    fn next(&mut self) -> Option<v1::ChunkBatch> {
        let (mut sizes, mut hashes, mut known) = (Vec::new(), BytesMut::new(), Vec::new());
        while sizes.len() < MAX_CHUNKS_SENT
            && known.len() < MAX_RUNS_NAMED
            && let Some(chunk) = self.left.first()
        {
            let run = self.run(chunk);
            let count = run.map_or(1, |(_, count)| count);
            if let Some((first, count)) = run {
                // There are no more than `MOST_CHUNKS` of any of them.
                let [after, first, count] =
                    [sizes.len(), first, count].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
                known.push(v1::KnownChunks { after, first, count });
            } else {
                sizes.push(chunk.size);
                hashes.extend_from_slice(&chunk.hash.0);
            }
            self.left = &self.left[count..];
        }
        (!sizes.is_empty() || !known.is_empty()).then(|| v1::ChunkBatch {
            sizes,
            hashes: hashes.freeze(),
            known,
        })
    }

    /// Where those who know some have the next chunk, and with how many of those behind it.
    fn run(&self, chunk: &Chunk) -> Option<(usize, usize)> {
        let first = *self.places.get(&chunk.hash)?;
        let alike = self.left.iter().zip(&self.known[first..]).take_while(|(new, known)| new == known);
        Some((first, alike.count())).filter(|(_, count)| *count > 0)
    }
}

/// Reads a description, whose messages may come from anybody: it holds no more chunks than the contract allows, and no more
/// than were really sent or are known.
#[derive(Debug)]
pub struct DescriptionReader {
    chunks: Vec<Chunk>,
    /// The chunks that may be named by their places.
    known: Arc<[Chunk]>,
    /// Bytes of the file that no chunk has come for.
    left: u64,
}

impl DescriptionReader {
    /// Begins with the header. `known` is the description that the request named, or nothing. `None` if the file is not described,
    /// or in a way that this version does not know.
    ///
    /// # Errors
    /// The message breaks the contract.
    pub fn new(header: &v1::DescriptionHeader, known: Arc<[Chunk]>) -> Result<Option<Self>, WireError> {
        if header.algorithm != ALGORITHM {
            return Ok(None);
        }
        if header.size > MOST_FILE_BYTES {
            return Err(WireError::Field { field: "size of a description" });
        }
        Ok(Some(Self { chunks: Vec::new(), known, left: header.size }))
    }

    /// Takes the next chunks.
    ///
    /// # Errors
    /// The message breaks the contract.
    pub fn take(&mut self, batch: &v1::ChunkBatch) -> Result<(), WireError> {
        let count = batch.sizes.len();
        if count > MAX_CHUNKS_SENT || batch.known.len() > MAX_RUNS_NAMED {
            return Err(WireError::Field { field: "number of chunks" });
        }
        let (hashes, rest) = batch.hashes.as_chunks::<HASH_BYTES>();
        if hashes.len() != count || !rest.is_empty() {
            return Err(WireError::Field { field: "length of chunk hashes" });
        }
        let mut sent = batch.sizes.iter().zip(hashes);
        let known = Arc::clone(&self.known);
        for run in &batch.known {
            // How many come before the run, without those that were taken.
            let before =
                (run.after as usize).checked_sub(count - sent.len()).filter(|count| *count <= sent.len());
            let before = before.ok_or(WireError::Field { field: "place of known chunks" })?;
            self.extend(sent.by_ref().take(before).map(received))?;
            self.extend(run_of(&known, run)?.iter().copied())?;
        }
        self.extend(sent.map(received))
    }

    fn extend(&mut self, chunks: impl Iterator<Item = Chunk>) -> Result<(), WireError> {
        chunks.into_iter().try_for_each(|chunk| self.push(chunk))
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), WireError> {
        if self.chunks.len() == MOST_CHUNKS {
            return Err(WireError::Field { field: "number of chunks" });
        }
        let bad = WireError::Field { field: "size of a chunk" };
        self.left = self.left.checked_sub(u64::from(chunk.size)).ok_or(bad.clone())?;
        // Only the last may be small.
        let least = if self.left == 0 { 1 } else { MIN_BYTES };
        if !(least..=MAX_BYTES).contains(&chunk.size) {
            return Err(bad);
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Gives the chunks, after the last message.
    ///
    /// # Errors
    /// They are not the whole file.
    pub fn finish(self) -> Result<Vec<Chunk>, WireError> {
        if self.left > 0 {
            return Err(WireError::Field { field: "sum of the chunks' sizes" });
        }
        Ok(self.chunks)
    }
}

fn received((&size, hash): (&u32, &[u8; HASH_BYTES])) -> Chunk {
    Chunk { size, hash: ChunkHash(*hash) }
}

fn run_of<'a>(known: &'a [Chunk], run: &v1::KnownChunks) -> Result<&'a [Chunk], WireError> {
    let chunks = known.get(run.first as usize..).and_then(|behind| behind.get(..run.count as usize));
    chunks.filter(|chunks| !chunks.is_empty()).ok_or(WireError::Field { field: "known chunks" })
}

/// Writes parts of a file, each an offset and a length.
#[must_use]
pub fn ranges_to_wire(ranges: &[(u64, u64)]) -> Vec<v1::ByteRange> {
    ranges.iter().map(|&(offset, length)| v1::ByteRange { offset, length }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[u32]) -> Vec<Chunk> {
        let chunk = |&size: &u32| Chunk { size, hash: ChunkHash::of(&size.to_le_bytes()) };
        sizes.iter().map(chunk).collect()
    }

    fn read(size: u64, batches: &[v1::ChunkBatch]) -> Result<Vec<Chunk>, WireError> {
        read_knowing(&[], size, batches)
    }

    fn read_knowing(known: &[Chunk], size: u64, batches: &[v1::ChunkBatch]) -> Result<Vec<Chunk>, WireError> {
        let reader = DescriptionReader::new(&description_header(size), known.into())?;
        let mut reader = reader.expect("it is described");
        batches.iter().try_for_each(|batch| reader.take(batch))?;
        reader.finish()
    }

    #[test]
    fn a_description_survives_the_wire() {
        let many: Vec<_> = (0..70_000).map(|number| MIN_BYTES + number % 60_000).collect();
        for sizes in [&[][..], &[1], &[MAX_BYTES, MIN_BYTES, 5], &many] {
            let chunks = chunks(sizes);
            let batches: Vec<_> = chunks_to_wire(&chunks, &[]).collect();
            assert!(batches.iter().all(|batch| crate::wire_bytes(batch) < crate::MAX_PAYLOAD_BYTES as u64));
            let size = sizes.iter().map(|size| u64::from(*size)).sum();
            assert_eq!(read(size, &batches), Ok(chunks));
        }
    }

    fn total(chunks: &[Chunk]) -> u64 {
        chunks.iter().map(|chunk| u64::from(chunk.size)).sum()
    }

    #[test]
    fn what_both_sides_know_is_named_and_not_sent() {
        let old = chunks(&(0..70_000).map(|number| MIN_BYTES + number % 61_000).collect::<Vec<_>>());
        let fresh = |count: u32| {
            (0..count).map(|number| Chunk { size: 5000 + number, hash: ChunkHash([number as u8; 16]) })
        };
        let inserted: Vec<_> = fresh(2).chain(old[1..].iter().copied()).collect();
        let mut rewritten = old.clone();
        (0..70_000).step_by(500).for_each(|at| rewritten.splice(at..at + 2, fresh(3)).for_each(drop));
        let appended: Vec<_> = old[..69_999].iter().copied().chain(fresh(40)).collect();
        let moved = [&old[40_000..], &old[..40_000]].concat();
        let repeated: Vec<_> = std::iter::repeat_n(old[7], 100_000).collect();
        for (what, new, most_bytes) in [
            ("the same", &old, 60),
            ("nothing", &Vec::new(), 0),
            ("inserted", &inserted, 120),
            ("rewritten", &rewritten, 140 * 90),
            ("appended", &appended, 1000),
            ("moved", &moved, 100),
            ("repeated", &repeated, 1_000_000),
        ] {
            let batches: Vec<_> = chunks_to_wire(new, &old).collect();
            let bytes: u64 = batches.iter().map(crate::wire_bytes).sum();
            assert!(bytes <= most_bytes, "{what}: {bytes}");
            assert!(batches.iter().all(|batch| crate::wire_bytes(batch) < crate::MAX_PAYLOAD_BYTES as u64));
            assert_eq!(read_knowing(&old, total(new), &batches).as_ref(), Ok(new), "{what}");
        }
    }

    #[test]
    fn hostile_runs_are_refused() {
        let known = chunks(&[5000, 6000, 7]);
        let batch = |runs: &[(u32, u32, u32)]| v1::ChunkBatch {
            sizes: vec![5000, 5000],
            hashes: vec![7; 32].into(),
            known: runs
                .iter()
                .map(|&(after, first, count)| v1::KnownChunks { after, first, count })
                .collect(),
        };
        let read = |size, runs: &[_]| read_knowing(&known, size, &[batch(runs)]);
        assert!(read(21_007, &[(0, 0, 1), (2, 1, 2)]).is_ok());
        assert!(read(25_000, &[(1, 0, 1), (1, 0, 1), (1, 0, 1)]).is_ok());
        for (what, size, runs) in [
            ("no chunks", 10_000, vec![(0, 0, 0)]),
            ("the first behind the end", 10_000, vec![(0, 3, 1)]),
            ("the last behind the end", 21_007, vec![(2, 0, 4)]),
            ("numbers without end", 10_000, vec![(2, u32::MAX, u32::MAX)]),
            ("after more than there are", 15_000, vec![(3, 0, 1)]),
            ("backwards", 20_000, vec![(1, 0, 1), (0, 0, 1)]),
            ("a small chunk in the middle", 10_007, vec![(1, 2, 1)]),
            ("too much", 14_999, vec![(2, 0, 1)]),
            ("too many runs", MOST_FILE_BYTES, vec![(0, 0, 1); MAX_RUNS_NAMED + 1]),
        ] {
            assert!(read(size, &runs).is_err(), "{what}");
        }
        assert!(read_knowing(&[], 15_000, &[batch(&[(2, 0, 1)])]).is_err(), "nothing is known");
        let small = chunks(&[MIN_BYTES; 32]);
        let many = vec![v1::KnownChunks { after: 0, first: 0, count: 32 }; MAX_RUNS_NAMED];
        let many = v1::ChunkBatch { known: many, ..Default::default() };
        assert!(read_knowing(&small, MOST_FILE_BYTES, &vec![many; 3]).is_err(), "too many in all");
    }

    #[test]
    fn what_is_not_described_or_unknown_is_nothing() {
        for algorithm in ["", "fastcdc-v2030"] {
            let header = v1::DescriptionHeader { algorithm: algorithm.to_owned(), size: u64::MAX };
            assert!(DescriptionReader::new(&header, Arc::default()).unwrap().is_none());
        }
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let batch = |sizes: &[u32], hash_bytes: usize| v1::ChunkBatch {
            sizes: sizes.to_vec(),
            hashes: vec![7; hash_bytes].into(),
            known: Vec::new(),
        };
        let good = [5000, 5000];
        assert!(read(10_000, &[batch(&good, 32)]).is_ok());
        for (what, size, batches) in [
            ("too little", 10_001, vec![batch(&good, 32)]),
            ("too much", 9_999, vec![batch(&good, 32)]),
            ("more after the end", 10_000, vec![batch(&good, 32), batch(&[1], 16)]),
            ("an empty chunk", 10_000, vec![batch(&[0], 16), batch(&good, 32)]),
            ("an empty chunk at the end", 10_000, vec![batch(&good, 32), batch(&[0], 16)]),
            ("a small chunk in the middle", 10_000, vec![batch(&[4095, 5905], 32)]),
            ("a chunk that is too large", 100_000, vec![batch(&[65_537, 34_463], 32)]),
            ("a hash too few", 10_000, vec![batch(&good, 16)]),
            ("a byte too few", 10_000, vec![batch(&good, 31)]),
            ("a byte too many", 10_000, vec![batch(&good, 33)]),
            ("hashes without sizes", 10_000, vec![batch(&[], 16), batch(&good, 32)]),
            ("no chunks", 1, vec![]),
            ("too large a file", MOST_FILE_BYTES + 1, vec![]),
            ("too many in a message", MOST_FILE_BYTES, vec![batch(&[4096; 32_769], 32_769 * 16)]),
            ("too many in all", MOST_FILE_BYTES, vec![batch(&[4096; 32_768], 32_768 * 16); 65]),
        ] {
            assert!(read(size, &batches).is_err(), "{what}");
        }
    }
}

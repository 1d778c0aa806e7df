//! The description of a file, to messages and back.

use bytes::{BufMut as _, BytesMut};
use sync_core::{
    Chunk, ChunkHash,
    chunk::{ALGORITHM, MAX_BYTES, MIN_BYTES, MOST_CHUNKS, MOST_FILE_BYTES},
};

use crate::{WireError, v1};

/// How many bytes of a chunk's digest are sent.
const HASH_BYTES: usize = 16;

/// How many chunks one message holds: some 600 KiB.
const MAX_CHUNKS_SENT: usize = 32_768;

/// Writes the header of a file that is described.
#[must_use]
pub fn description_header(size: u64) -> v1::DescriptionHeader {
    v1::DescriptionHeader { algorithm: ALGORITHM.to_owned(), size }
}

/// Writes chunks, in as many messages as it takes.
pub fn chunks_to_wire(chunks: &[Chunk]) -> impl Iterator<Item = v1::ChunkBatch> {
    chunks.chunks(MAX_CHUNKS_SENT).map(|chunks| {
        let mut hashes = BytesMut::with_capacity(chunks.len() * HASH_BYTES);
        chunks.iter().for_each(|chunk| hashes.put_slice(&chunk.hash.0));
        v1::ChunkBatch { sizes: chunks.iter().map(|chunk| chunk.size).collect(), hashes: hashes.freeze() }
    })
}

/// Reads a description, whose messages may come from anybody: it holds no more chunks than the contract allows, and no more
/// than were really sent.
#[derive(Debug)]
pub struct DescriptionReader {
    chunks: Vec<Chunk>,
    /// Bytes of the file that no chunk has come for.
    left: u64,
}

impl DescriptionReader {
    /// Begins with the header. `None` if the file is not described, or in a way that this version does not know.
    ///
    /// # Errors
    /// The message breaks the contract.
    pub fn new(header: &v1::DescriptionHeader) -> Result<Option<Self>, WireError> {
        if header.algorithm != ALGORITHM {
            return Ok(None);
        }
        if header.size > MOST_FILE_BYTES {
            return Err(WireError::Field { field: "size of a description" });
        }
        Ok(Some(Self { chunks: Vec::new(), left: header.size }))
    }

    /// Takes the next chunks.
    ///
    /// # Errors
    /// The message breaks the contract.
    pub fn take(&mut self, batch: &v1::ChunkBatch) -> Result<(), WireError> {
        let count = batch.sizes.len();
        if count > MAX_CHUNKS_SENT || count > MOST_CHUNKS - self.chunks.len() {
            return Err(WireError::Field { field: "number of chunks" });
        }
        let (hashes, rest) = batch.hashes.as_chunks::<HASH_BYTES>();
        if hashes.len() != count || !rest.is_empty() {
            return Err(WireError::Field { field: "length of chunk hashes" });
        }
        for (&size, hash) in batch.sizes.iter().zip(hashes) {
            self.push(Chunk { size, hash: ChunkHash(*hash) })?;
        }
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), WireError> {
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
        let mut reader = DescriptionReader::new(&description_header(size))?.expect("it is described");
        batches.iter().try_for_each(|batch| reader.take(batch))?;
        reader.finish()
    }

    #[test]
    fn a_description_survives_the_wire() {
        let many: Vec<_> = (0..70_000).map(|number| MIN_BYTES + number % 60_000).collect();
        for sizes in [&[][..], &[1], &[MAX_BYTES, MIN_BYTES, 5], &many] {
            let chunks = chunks(sizes);
            let batches: Vec<_> = chunks_to_wire(&chunks).collect();
            assert!(batches.iter().all(|batch| crate::wire_bytes(batch) < crate::MAX_PAYLOAD_BYTES as u64));
            let size = sizes.iter().map(|size| u64::from(*size)).sum();
            assert_eq!(read(size, &batches), Ok(chunks));
        }
    }

    #[test]
    fn what_is_not_described_or_unknown_is_nothing() {
        for algorithm in ["", "fastcdc-v2030"] {
            let header = v1::DescriptionHeader { algorithm: algorithm.to_owned(), size: u64::MAX };
            assert!(DescriptionReader::new(&header).unwrap().is_none());
        }
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let batch = |sizes: &[u32], hash_bytes: usize| v1::ChunkBatch {
            sizes: sizes.to_vec(),
            hashes: vec![7; hash_bytes].into(),
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

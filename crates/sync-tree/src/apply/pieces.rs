//! A file that is put together from pieces: what of it is here is read, and all of it hashed, while what came before is written.
//!
//! Invariants:
//! * Bytes are written in their order, so a file whose transfer is cut holds a first part of the whole and nothing else.
//! * Memory is bounded: a few buffers, and as many pieces as lie between the threads.

use std::{fs::File, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    ApplyError, StagedFile,
    stage::{Body, write_failed},
};
use crate::rooted::read_file_at;

/// How much is read at a time. It stays in the caches of both cores until it is written.
const BLOCK_BYTES: usize = 256 << 10;
/// Buffers between the threads: enough that neither waits for the other over a hiccup, and no more than a cache holds.
const BLOCKS: usize = 4;

/// A piece of a file.
#[derive(Debug)]
pub enum Piece<B> {
    /// These bytes.
    Bytes(B),
    /// A part of another file, from `at` on.
    Part {
        /// That file.
        of: Arc<File>,
        /// Where the part begins.
        at: u64,
        /// How many bytes it has.
        len: u64,
    },
}

/// Bytes between the threads.
enum Block<B> {
    Given(B),
    Read { buffer: Vec<u8>, len: usize },
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Block<B> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Given(bytes) => bytes.as_ref(),
            Self::Read { buffer, len } => &buffer[..*len],
        }
    }
}

impl StagedFile {
    /// Appends pieces as they come, until there are no more. Blocks.
    ///
    /// # Errors
    /// A part cannot be read or is not there, or the disk is full or failed. Nothing can be appended afterwards.
    pub fn append_pieces<B: AsRef<[u8]> + Send>(
        mut self,
        pieces: impl Iterator<Item = Piece<B>>,
    ) -> Result<Self, ApplyError> {
        // What a failure leaves is not known.
        self.temp.ours = true;
        let (full, to_write) = bounded(BLOCKS);
        let (empty, buffers) = bounded(BLOCKS);
        for _ in 0..BLOCKS {
            // There is room for all.
            let _ = empty.send(Vec::new());
        }
        let Self { body, hasher, .. } = &mut self;
        let (read, written) = thread::scope(|scope| {
            let writing = scope.spawn(move || write_blocks(body, &to_write, &empty));
            let mut reading = Reading { hasher, full, buffers };
            let read = pieces.into_iter().try_for_each(|piece| reading.pass_on(piece));
            // Nothing more comes.
            drop(reading);
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (read, written)
        });
        written?;
        match read {
            Ok(()) => {}
            Err(Stopped::Reading(source)) => {
                return Err(ApplyError::of_state("read the old version", source));
            }
            // The writer ends before the reader only with an error.
            Err(Stopped::Writing) => return Err(write_failed(std::io::ErrorKind::Interrupted.into())),
        }
        self.keep()?;
        Ok(self)
    }
}

/// Why no more is read.
enum Stopped {
    Reading(std::io::Error),
    Writing,
}

struct Reading<'a, B> {
    hasher: &'a mut blake3::Hasher,
    full: Sender<Block<B>>,
    buffers: Receiver<Vec<u8>>,
}

impl<B: AsRef<[u8]>> Reading<'_, B> {
    fn pass_on(&mut self, piece: Piece<B>) -> Result<(), Stopped> {
        let (of, mut at, len) = match piece {
            Piece::Bytes(bytes) => return self.pass_block_on(Block::Given(bytes)),
            Piece::Part { of, at, len } => (of, at, len),
        };
        let end = at + len;
        while at < end {
            let mut buffer = self.buffers.recv().map_err(|_| Stopped::Writing)?;
            buffer.resize(BLOCK_BYTES, 0);
            let len = usize::try_from(end - at).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
            read_file_at(&of, &mut buffer[..len], at).map_err(Stopped::Reading)?;
            self.pass_block_on(Block::Read { buffer, len })?;
            at += len as u64;
        }
        Ok(())
    }

    fn pass_block_on(&mut self, block: Block<B>) -> Result<(), Stopped> {
        self.hasher.update(block.as_ref());
        self.full.send(block).map_err(|_| Stopped::Writing)
    }
}

fn write_blocks<B: AsRef<[u8]>>(
    body: &mut Body,
    blocks: &Receiver<Block<B>>,
    empty: &Sender<Vec<u8>>,
) -> Result<(), ApplyError> {
    for block in blocks {
        body.append(block.as_ref()).map_err(write_failed)?;
        if let Block::Read { buffer, .. } = block {
            // The reader may have ended.
            let _ = empty.send(buffer);
        }
    }
    Ok(())
}

//! A file that is put together from pieces: what of it is here is read, and all of it hashed, while what came before is written.
//!
//! Where the file system can give two files the same blocks, large parts of what is here are not written at all. They are read
//! where they went, because that is what must be right.
//!
//! Invariants:
//! * Bytes are written in their order, so a file whose transfer is cut holds a first part of the whole and nothing else.
//! * Each byte is hashed once, and what is hashed is what is in the file.
//! * Memory is bounded: a few buffers, and as many pieces as lie between the threads.

use std::{fs::File, os::fd::AsFd as _, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    ApplyError, StagedFile,
    stage::{Body, write_failed},
};
use crate::{hash, platform, rooted::read_file_at};

/// How much is read at a time. It stays in the caches of both cores until it is written.
const BLOCK_BYTES: usize = 256 << 10;
/// Buffers between the threads: enough that neither waits for the other over a hiccup, and no more than a cache holds.
const BLOCKS: usize = 4;

/// The blocks of file systems that share them are of this size; if one has larger ones, they are copied.
const SHARED_MULTIPLE: u64 = 4096;
/// A part is shared from this size on: the threads wait for each other over it.
const SHARE_FROM_BYTES: u64 = 256 << 10;

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

/// Work for the thread that writes.
enum Block<B> {
    Given(B),
    Read {
        buffer: Vec<u8>,
        len: usize,
    },
    /// A part of another file, to be shared. `done` hears how much of it was.
    Shared {
        of: Arc<File>,
        at: u64,
        len: u64,
        done: Sender<u64>,
    },
}

impl StagedFile {
    /// Appends pieces as they come, until there are no more. Blocks.
    ///
    /// # Errors
    /// A part cannot be read or is not there, or the disk is full or failed. Nothing can be appended afterwards.
    pub fn append_pieces<B: AsRef<[u8]> + Send>(
        self,
        pieces: impl Iterator<Item = Piece<B>>,
    ) -> Result<Self, ApplyError> {
        let dir = self.temp.dir.clone();
        self.append_pieces_sharing(pieces, &|file| platform::shares_blocks(file, dir.as_fd()))
    }

    /// The same, but somebody else tells whether parts can be shared.
    pub(super) fn append_pieces_sharing<B: AsRef<[u8]> + Send>(
        mut self,
        pieces: impl Iterator<Item = Piece<B>>,
        may_share: &MayShare<'_>,
    ) -> Result<Self, ApplyError> {
        let (full, to_write) = bounded(BLOCKS);
        let (empty, buffers) = bounded(BLOCKS);
        for _ in 0..BLOCKS {
            // There is room for all.
            let _ = empty.send(Vec::new());
        }
        let Self { temp, body, hasher, .. } = &mut self;
        let (at, may_share) = (body.size(), Some((body.reader().map_err(write_failed)?, may_share)));
        let (read, written) = thread::scope(|scope| {
            let writing = thread::Builder::new()
                .spawn_scoped(scope, move || write_blocks(body, &to_write, &empty))
                .map_err(|source| ApplyError::of_state("start a thread", source))?;
            // What a failure leaves from now on is not known.
            temp.ours = true;
            let mut reading = Reading { hasher, full, buffers, at, may_share, shared: None };
            let read = pieces.into_iter().try_for_each(|piece| reading.pass_on(piece));
            // Nothing more comes.
            drop(reading);
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((read, written))
        })?;
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

/// Tells whether parts of a file can be shared.
type MayShare<'a> = dyn Fn(&File) -> bool + 'a;

/// Why no more is read.
enum Stopped {
    Reading(std::io::Error),
    Writing,
}

struct Reading<'a, B> {
    hasher: &'a mut blake3::Hasher,
    full: Sender<Block<B>>,
    buffers: Receiver<Vec<u8>>,
    /// Where in the file the next piece goes.
    at: u64,
    /// A handle of the file, and who tells whether parts of others can be shared, until that is known.
    may_share: Option<(File, &'a MayShare<'a>)>,
    /// A handle of the file, if they can.
    shared: Option<File>,
}

impl<B: AsRef<[u8]>> Reading<'_, B> {
    fn pass_on(&mut self, piece: Piece<B>) -> Result<(), Stopped> {
        let (of, mut at, len) = match piece {
            Piece::Bytes(bytes) => {
                self.note(bytes.as_ref());
                return self.send(Block::Given(bytes));
            }
            Piece::Part { of, at, len } => (of, at, len),
        };
        let end = at + len;
        if let Some((first, middle)) = shareable(at, len, self.at)
            && self.can_share(&of)
        {
            self.read(&of, at, first)?;
            at += first + self.share(&of, at + first, middle)?;
        }
        self.read(&of, at, end - at)
    }

    fn read(&mut self, of: &File, at: u64, len: u64) -> Result<(), Stopped> {
        let (mut at, end) = (at, at + len);
        while at < end {
            let mut buffer = self.buffers.recv().map_err(|_| Stopped::Writing)?;
            buffer.resize(BLOCK_BYTES, 0);
            let len = usize::try_from(end - at).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
            read_file_at(of, &mut buffer[..len], at).map_err(Stopped::Reading)?;
            self.note(&buffer[..len]);
            self.send(Block::Read { buffer, len })?;
            at += len as u64;
        }
        Ok(())
    }

    /// Answers how much was shared; the rest is to be read.
    fn share(&mut self, of: &Arc<File>, at: u64, len: u64) -> Result<u64, Stopped> {
        let Some(file) = self.shared.take() else { return Ok(0) };
        let (done, answer) = bounded(1);
        self.send(Block::Shared { of: of.clone(), at, len, done })?;
        let shared = answer.recv().map_err(|_| Stopped::Writing)?;
        let end = self.at + shared;
        hash::with_buffer(|buffer| {
            while self.at < end {
                let len = usize::try_from(end - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
                read_file_at(&file, &mut buffer[..len], self.at).map_err(Stopped::Reading)?;
                self.note(&buffer[..len]);
            }
            Ok(())
        })?;
        // If it could not be done once it is not tried again.
        self.shared = (shared == len).then_some(file);
        Ok(shared)
    }

    fn can_share(&mut self, of: &File) -> bool {
        if let Some((file, may_share)) = self.may_share.take()
            && may_share(of)
        {
            self.shared = Some(file);
        }
        self.shared.is_some()
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
    }

    fn send(&mut self, block: Block<B>) -> Result<(), Stopped> {
        self.full.send(block).map_err(|_| Stopped::Writing)
    }
}

/// How much of a part must be read before what can be shared, and how much that is, if it is worth it.
fn shareable(at: u64, len: u64, to: u64) -> Option<(u64, u64)> {
    let first = at.next_multiple_of(SHARED_MULTIPLE) - at;
    let middle = len.checked_sub(first)? / SHARED_MULTIPLE * SHARED_MULTIPLE;
    let fits = at % SHARED_MULTIPLE == to % SHARED_MULTIPLE;
    (fits && middle >= SHARE_FROM_BYTES).then_some((first, middle))
}

fn write_blocks<B: AsRef<[u8]>>(
    body: &mut Body,
    blocks: &Receiver<Block<B>>,
    empty: &Sender<Vec<u8>>,
) -> Result<(), ApplyError> {
    for block in blocks {
        match block {
            Block::Given(bytes) => body.append(bytes.as_ref()).map_err(write_failed)?,
            Block::Read { buffer, len } => {
                body.append(&buffer[..len]).map_err(write_failed)?;
                // The reader may have ended.
                let _ = empty.send(buffer);
            }
            Block::Shared { of, at, len, done } => {
                let shared = body.append_shared(&of, at, len).map_err(write_failed)?;
                let _ = done.send(shared);
            }
        }
    }
    Ok(())
}

//! What a location can do, and what it promises.
//!
//! The trait is object-safe: the engine holds `Arc<dyn Location>` and knows no kinds. Everything that flows is a stream
//! with a `next` that may be dropped midway without losing anything, so that it can stand in a `select!`. Dropping a stream
//! ends it and frees what it holds on the other side.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use sync_core::{Chunk, Cursor, Digest, FeedEvent, NodeId};
use tokio::sync::mpsc::Receiver;

use crate::error::LocationError;

/// A future behind a pointer, so that traits with it stay object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The most parts that [`Location::fetch_ranges`] takes at once: a request of some 100 KiB.
pub const MOST_RANGES: usize = sync_wire::MAX_RANGES;

/// Checks what [`Location::fetch_ranges`] is asked for, as far as that can be told without the file. Gives the number of
/// bytes.
pub(crate) fn check_ranges(ranges: &[(u64, u64)]) -> Result<u64, LocationError> {
    let refused = |message: &str| LocationError::Refused { message: message.to_owned() };
    if ranges.is_empty() || ranges.len() > MOST_RANGES {
        return Err(refused("there are no ranges, or too many"));
    }
    ranges.iter().try_fold(0_u64, |sum, &(offset, length)| {
        if length == 0 || offset.checked_add(length).is_none() {
            return Err(refused("a range is empty or has no end"));
        }
        sum.checked_add(length).ok_or_else(|| refused("the ranges are too long"))
    })
}

/// The parts of a content that a caller has heard of before.
#[derive(Debug, Clone)]
pub struct KnownChunks {
    /// Which content.
    pub digest: Digest,
    /// All of its parts, in order.
    pub chunks: Arc<[Chunk]>,
}

/// A tree that can be read: what is in it, how it changes, and its bytes.
pub trait Location: Send + Sync {
    /// What this is, for people: an address and a share, a directory.
    fn describe(&self) -> String;

    /// Reads the feed from a cursor on, or from nothing, which begins with a reset and the full tree. With `live` it goes
    /// on for ever; else it ends after the first commit point that holds everything from before the call, or after saying
    /// that the share is halted.
    ///
    /// The future may be dropped midway.
    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>>;

    /// Fetches small files, many at a time. The stream ends when the sender of `wants` is dropped and everything is
    /// answered. Answers may come in another order than the wants; each want is answered once.
    ///
    /// Wants are taken only as fast as answers are, so a caller that sends all its wants before it takes an answer may wait
    /// for ever: the two belong in two tasks, or in one `select!`.
    ///
    /// The future may be dropped midway; what was taken out of `wants` by then is lost.
    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>>;

    /// Streams one file from an offset on. It must have these bytes: [`LocationError::Changed`], now or from the stream, if
    /// it has not (any more). A stream that ends without an error has given every byte from the offset to the file's end.
    ///
    /// The future may be dropped midway.
    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>>;

    /// The parts that a file with these bytes is made of, in order; `None` where that is not told. The same promise about the
    /// bytes as [`Location::fetch_file`] makes. The sizes add up to the file's. What is `known` need not be told again, and is
    /// believed.
    ///
    /// The future may be dropped midway.
    fn describe_file<'a>(
        &'a self,
        _node: NodeId,
        _digest: &'a Digest,
        _known: Option<KnownChunks>,
    ) -> BoxFuture<'a, Result<Option<Arc<[Chunk]>>, LocationError>> {
        Box::pin(async { Ok(None) })
    }

    /// Streams some parts of a file, one right after the other, in the order in which they are asked for: each is an offset and
    /// a length. One to [`MOST_RANGES`] of them, none empty or beyond the end. The same promise as [`Location::fetch_file`];
    /// a stream that ends without an error has given every byte of all parts.
    ///
    /// The future may be dropped midway.
    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>>;

    /// The largest file that [`Location::fetch_packed`] answers.
    fn max_packed_bytes(&self) -> u64;

    /// Message bytes that came over the wire so far, on all connections; 0 where there is no wire.
    fn bytes_received(&self) -> u64;
}

/// A feed that is being read.
pub trait ChangeStream: Send {
    /// The next event; `None` after the end. After an error there is nothing more to come. May be dropped midway: no event
    /// is lost.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>>;
}

/// Answers to wants.
pub trait AnswerStream: Send {
    /// The next answers, those that came in one message; their bytes are slices of it. `None` after the last. After an error
    /// there is nothing more to come. May be dropped midway: no answer is lost.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Answer>, LocationError>>>;
}

/// The bytes of a file, in order.
pub trait ByteStream: Send {
    /// The next bytes, never none; `None` after the last. After an error there is nothing more to come. May be dropped
    /// midway: no bytes are lost.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, LocationError>>>;
}

/// A small file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Chosen by the caller and repeated in the answer. Not used twice in one stream.
    pub number: u64,
    /// The file.
    pub node: NodeId,
    /// The digest it must have.
    pub digest: Digest,
}

/// What became of a want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The want's number.
    pub number: u64,
    /// The file's bytes, which are the caller's to check, or why there are none.
    pub result: Result<Bytes, FetchFailure>,
}

/// Why one file could not be fetched. The others are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// It does not have these bytes any more: the feed has, or will have, its newer state.
    #[error("The file changed while it was being fetched")]
    Changed,
    /// It cannot be read there.
    #[error("The file cannot be read on the server: {0}")]
    Unreadable(String),
    /// It is larger than [`Location::max_packed_bytes`].
    #[error("The file is too large to be packed")]
    TooLarge,
}

//! A location in front of another one that goes wrong as a script says, for tests of what reads locations.
//!
//! The script is asked before each call and before each message of a stream, and is told which one it is by its number, not
//! by a time: the same script over the same calls does the same each time. It may also use the moment to change the share,
//! the target or anything else, as others do while a sync runs.
//!
//! What it can do falls into three kinds: what the contract allows (a message is late, a heartbeat or the same nodes come
//! again, answers in another order), what every network does (calls fail, streams are cut), and what a broken server does
//! (wrong bytes, a lost change, a stream that ends without a word).

mod streams;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sync_core::{Chunk, Cursor, Digest, NodeId};
use tokio::sync::mpsc::Receiver;

use crate::{
    error::LocationError,
    location::{
        AnswerStream, BoxFuture, ByteStream, ChangeStream, FetchFailure, KnownChunks, Location, Want,
    },
};
use streams::{Answers, FileBytes, Line};

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Location::changes`].
    Changes,
    /// [`Location::fetch_packed`].
    FetchPacked,
    /// [`Location::fetch_file`].
    FetchFile,
    /// [`Location::describe_file`].
    DescribeFile,
    /// [`Location::fetch_ranges`].
    FetchRanges,
}

/// How many kinds of calls there are.
const CALLS: usize = 5;

/// A moment at which something may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    /// What was called.
    pub call: Call,
    /// Which call of that kind it is, from 1.
    pub number: u64,
    /// 0 for the call itself, else which message of its stream is next.
    pub message: u64,
}

/// What happens at a moment. What makes no sense there is nothing.
#[derive(Debug)]
pub enum Turn {
    /// Nothing.
    Pass,
    /// It takes that long.
    Late(Duration),
    /// The call, or the stream, ends with this error.
    Fail(LocationError),
    /// The stream ends as if all had been said.
    End,
    /// A feed shows a sign of life.
    Heartbeat,
    /// The same when nothing else came for so long.
    Beat(Duration),
    /// A feed repeats its last nodes.
    Again,
    /// The answers come one by one, the last first; bytes come in two parts.
    Scatter,
    /// The answers come after the next ones, if there are any by then.
    HoldBack,
    /// The first of the answers is this.
    Refuse(FetchFailure),
    /// One bit of the bytes is wrong; nodes lack the last of them, if it is a file; a commit point has another digest; the list of a file's
    /// parts has two of them in each other's place.
    Spoil,
}

/// Decides what goes wrong.
pub trait Script: Send + Sync {
    /// Asked before anything happens at this moment.
    fn meets(&self, moment: Moment) -> Turn;
}

/// The location that goes wrong.
pub struct Faulty {
    inner: Arc<dyn Location>,
    script: Arc<dyn Script>,
    calls: [AtomicU64; CALLS],
    most_packed: u64,
}

impl Faulty {
    /// In front of this location, by this script.
    #[must_use]
    pub fn new(inner: Arc<dyn Location>, script: Arc<dyn Script>) -> Self {
        let most_packed = inner.max_packed_bytes();
        Self { inner, script, calls: Default::default(), most_packed }
    }

    /// Says that it packs no larger files than these.
    #[must_use]
    pub fn packing_at_most(self, bytes: u64) -> Self {
        Self { most_packed: self.most_packed.min(bytes), ..self }
    }

    /// Begins a call; with it the error that it ends with, if it does.
    async fn begin(&self, call: Call) -> Result<Line, LocationError> {
        let number = self.calls[call as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let mut line = Line::new(self.script.clone(), Moment { call, number, message: 0 });
        match line.turn().await {
            Turn::Fail(error) => Err(error),
            turn => Ok(line.opened_with(turn)),
        }
    }
}

impl Location for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>> {
        Box::pin(async move {
            let line = self.begin(Call::Changes).await?;
            let inner = self.inner.changes(cursor, live).await?;
            Ok(Box::new(streams::Feed::new(line, inner)) as Box<dyn ChangeStream>)
        })
    }

    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>> {
        Box::pin(async move {
            let line = self.begin(Call::FetchPacked).await?;
            let inner = self.inner.fetch_packed(wants).await?;
            Ok(Box::new(Answers::new(line, inner)) as Box<dyn AnswerStream>)
        })
    }

    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        Box::pin(async move {
            let line = self.begin(Call::FetchFile).await?;
            let inner = self.inner.fetch_file(node, digest, offset).await?;
            Ok(Box::new(FileBytes::new(line, inner)) as Box<dyn ByteStream>)
        })
    }

    fn describe_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        known: Option<KnownChunks>,
    ) -> BoxFuture<'a, Result<Option<Arc<[Chunk]>>, LocationError>> {
        Box::pin(async move {
            let line = self.begin(Call::DescribeFile).await?;
            let mut chunks = self.inner.describe_file(node, digest, known).await?;
            if let (true, Some(chunks)) = (line.is_spoiled(), &mut chunks)
                && let [first, .., last] = Arc::make_mut(chunks)
            {
                std::mem::swap(&mut first.hash, &mut last.hash);
            }
            Ok(chunks)
        })
    }

    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        Box::pin(async move {
            let line = self.begin(Call::FetchRanges).await?;
            let inner = self.inner.fetch_ranges(node, digest, ranges).await?;
            Ok(Box::new(FileBytes::new(line, inner)) as Box<dyn ByteStream>)
        })
    }

    fn max_packed_bytes(&self) -> u64 {
        self.most_packed
    }

    fn bytes_received(&self) -> u64 {
        self.inner.bytes_received()
    }
}

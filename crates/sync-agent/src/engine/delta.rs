//! A large file that has an old version here: only what the old one lacks is fetched.
//!
//! The server describes the new file as a list of chunks, meanwhile the old one is cut into chunks here, and what both have is
//! copied. The new file is written from its start to its end, so a cut leaves a partial like any other, and in the end its
//! digest is checked like any other's: a chunk that was mistaken for another costs time, never content.

use std::{collections::HashMap, fs::File, sync::Arc};

use sync_core::{
    Chunk, ChunkHash, Content, Digest, NodeId,
    chunk::{self, Step},
    plan::Put,
};
use sync_locations::{ByteStream, Location, LocationError, MOST_RANGES};
use sync_tree::{
    apply::{ApplyError, Expect, StagedFile},
    chunks::for_each_chunk,
};

use super::{EngineError, context::Context, transfer::off_the_runtime};

/// Copying must save at least this part of what is missing.
const WORTH_PART: u64 = 8;

/// The file that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub node: NodeId,
    pub size: u64,
    pub digest: Digest,
    /// The bytes from its start that are here already.
    pub have: u64,
}

/// How an old version saves fetching.
pub(super) struct Reuse {
    old: Arc<File>,
    steps: Vec<Step>,
}

/// Finds out what of a wanted file is in the one that it replaces; `None` if that is too little, or cannot be known.
pub(super) async fn find_reuse(
    context: &Arc<Context>,
    remote: &Arc<dyn Location>,
    put: &Put,
    wanted: &Wanted,
) -> Result<Option<Reuse>, EngineError> {
    let Some(old_size) = old_size(put, wanted) else { return Ok(None) };
    let Some(old) = open_old(context, put) else { return Ok(None) };
    let old = Arc::new(old);
    let file = old.clone();
    let cut = off_the_runtime(move || Ok(cut_up(&file, old_size)));
    let (described, places) = tokio::join!(remote.describe_file(wanted.node, &wanted.digest), cut);
    let (Some(chunks), Some(places)) = (described?, places?) else { return Ok(None) };
    let steps = chunk::steps(&chunks, wanted.have, |chunk| places.get(&chunk.hash).copied());
    let (copied, missing) = (chunk::copied(&steps), wanted.size - wanted.have);
    tracing::debug!(path = %put.path(), copied, missing, "the old version was compared");
    Ok((copied >= missing / WORTH_PART).then_some(Reuse { old, steps }))
}

/// The size of the file in the place, if a comparison with it may be worth it. One of the same content is fetched only because
/// somebody asked for that.
fn old_size(put: &Put, wanted: &Wanted) -> Option<u64> {
    let Put::File { over: Some(over), .. } = put else { return None };
    let Content::File { size, digest } = over.local.entry.content else { return None };
    let fit = chunk::is_taken_apart(size) && chunk::is_taken_apart(wanted.size);
    (fit && digest != wanted.digest && wanted.have < wanted.size).then_some(size)
}

fn open_old(context: &Context, put: &Put) -> Option<File> {
    let Put::File { over: Some(over), path, .. } = put else { return None };
    let Ok(Expect::File(identity)) = context.expect(&over.local) else { return None };
    let opened = context.applier.open_expected(path, &identity);
    opened.inspect_err(|error| tracing::debug!(%path, %error, "the old version cannot be used")).ok()
}

/// Where the old file has which chunk. What cannot be read is not used.
fn cut_up(file: &File, size: u64) -> Option<HashMap<ChunkHash, u64>> {
    let mut places = HashMap::new();
    let whole = for_each_chunk(file, size, |at, chunk: Chunk| {
        places.entry(chunk.hash).or_insert(at);
    });
    matches!(whole, Ok(true)).then_some(places)
}

/// Appends everything that is missing.
pub(super) async fn assemble(
    mut staged: StagedFile,
    reuse: Reuse,
    remote: &Arc<dyn Location>,
    wanted: &Wanted,
    progress: impl Fn(u64),
) -> Result<StagedFile, EngineError> {
    let mut fetched = Fetched::new(remote, wanted, &reuse.steps);
    for step in reuse.steps {
        match step {
            Step::Copy { from, len } => {
                let old = reuse.old.clone();
                staged =
                    off_the_runtime(move || staged.append_from(&old, from, len).map(|()| staged)).await?;
                progress(len);
            }
            Step::Fetch { len, .. } => {
                let mut left = len;
                while left > 0 {
                    let bytes = fetched.next(left).await?;
                    let count = bytes.len() as u64;
                    left -= count;
                    staged = off_the_runtime(move || staged.append(&bytes).map(|()| staged)).await?;
                    progress(count);
                }
            }
        }
    }
    Ok(staged)
}

/// The parts that are fetched, one right after the other.
struct Fetched<'a> {
    remote: &'a Arc<dyn Location>,
    wanted: &'a Wanted,
    ranges: std::vec::IntoIter<(u64, u64)>,
    stream: Option<Box<dyn ByteStream>>,
    /// What came and belongs to a later part.
    rest: bytes::Bytes,
}

impl<'a> Fetched<'a> {
    fn new(remote: &'a Arc<dyn Location>, wanted: &'a Wanted, steps: &[Step]) -> Self {
        let range = |step: &Step| if let Step::Fetch { at, len } = *step { Some((at, len)) } else { None };
        let ranges: Vec<_> = steps.iter().filter_map(range).collect();
        Self { remote, wanted, ranges: ranges.into_iter(), stream: None, rest: bytes::Bytes::new() }
    }

    /// The next bytes, at most so many.
    async fn next(&mut self, most: u64) -> Result<bytes::Bytes, EngineError> {
        while self.rest.is_empty() {
            let Some(stream) = &mut self.stream else {
                let ranges: Vec<_> = self.ranges.by_ref().take(MOST_RANGES).collect();
                if ranges.is_empty() {
                    return Err(LocationError::Changed.into());
                }
                let stream = self.remote.fetch_ranges(self.wanted.node, &self.wanted.digest, ranges).await?;
                self.stream = Some(stream);
                continue;
            };
            match stream.next().await {
                Some(bytes) => self.rest = bytes?,
                None => self.stream = None,
            }
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(self.rest.split_to(count))
    }
}

/// Whether what was assembled is not what was wanted.
pub(super) fn is_mistaken(error: &EngineError) -> bool {
    matches!(error, EngineError::Apply(ApplyError::Digest { .. } | ApplyError::Io { .. }))
}

//! A large file that has an old version here, all or a part of it: only what that lacks is fetched.
//!
//! The server describes the new file as a list of chunks, meanwhile the old one is cut into chunks here unless its list was kept
//! when it came, and what both have is copied. An old version is the file in the place, one that the plan holds for it, or what
//! had come of one when its transfer was cut. The new file is written from its start to its end, so a cut leaves a partial like
//! any other, and in the end its digest is checked like any other's: a chunk that was mistaken for another costs time, never
//! content.

use std::{collections::HashMap, fs::File, io, sync::Arc};

use bytes::Bytes;
use sync_core::{
    Chunk, ChunkHash, Content, Digest, NodeId, TreePath,
    chunk::{self, Step},
    plan::Put,
};
use sync_locations::{ByteStream, KnownChunks, Location, LocationError, MOST_RANGES};
use sync_tree::{
    apply::{ApplyError, Expect, StagedFile, pieces::Piece},
    chunks::chunk_file,
    shelf::Shelf,
};
use tokio::sync::mpsc::Sender;

use super::{
    EngineError,
    context::Context,
    material::{Material, Old, Relation},
    threads::{self, done_apart, off_the_runtime},
};

/// Copying must save at least this part of what is missing.
const WORTH_PART: u64 = 8;
/// How many files that were cut are compared with a wanted one, and how many times as large as that they may be.
const MOST_PARTIALS: usize = 2;
const LARGER: u64 = 4;
/// Pieces that wait to be appended, and how much of what is here is one piece: an end by a signal waits for no more than
/// these.
const PIECES_AHEAD: usize = 4;
const PIECE_BYTES: u64 = 4 << 20;

/// The file that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub node: NodeId,
    pub size: u64,
    pub digest: Digest,
    /// The bytes from its start that are here already.
    pub have: u64,
}

/// How what is here saves fetching.
pub(super) struct Reuse {
    sources: Arc<Sources>,
    steps: Vec<Step>,
}

/// Files that may hold parts of the wanted one, laid one behind the other: a place in them is one number.
#[derive(Default)]
pub(super) struct Sources(Vec<Source>);

struct Source {
    file: Arc<File>,
    size: u64,
    /// What it is, where that is known.
    known: Option<(Digest, Relation)>,
    /// Where it begins among all.
    base: u64,
}

impl Sources {
    /// The version in the place, what the plan holds for it, and what came of other contents before their transfers were cut:
    /// of this very file an earlier version may be among them, and nothing else tells which.
    pub(super) fn find(context: &Context, put: &Put, wanted: &Wanted, material: &Material) -> Self {
        let mut sources = Self::default();
        if !chunk::is_taken_apart(wanted.size) || is_refetch(put, wanted) {
            return sources;
        }
        let old = material.take(put.remote().id);
        for old in old_version(context, put).into_iter().chain(old) {
            if old.relation == Relation::Earlier || context.guesses.may_be_made() {
                sources.add(old.file, old.size, Some((old.digest, old.relation)));
            }
        }
        for (file, size) in context.applier.other_partials(&wanted.digest, MOST_PARTIALS) {
            if size <= wanted.size.saturating_mul(LARGER) {
                sources.add(file, size, None);
            }
        }
        sources
    }

    fn add(&mut self, file: File, size: u64, known: Option<(Digest, Relation)>) {
        // A gap, so that no step goes on from one into the next.
        let base = self.0.last().map_or(0, |last| last.base + last.size + 1);
        if chunk::is_taken_apart(size) {
            self.0.push(Source { file: Arc::new(file), size, known, base });
        }
    }

    /// The chunks of each, where they were kept.
    fn kept(&self, shelf: &Shelf) -> Vec<Option<Arc<[Chunk]>>> {
        let kept = |source: &Source| Some(shelf.get(source.size, &source.known?.0)?.into());
        self.0.iter().map(kept).collect()
    }

    /// What the server may have heard of too.
    fn known(&self, kept: &[Option<Arc<[Chunk]>>]) -> Option<KnownChunks> {
        let known = |(source, chunks): (&Source, &Option<Arc<[Chunk]>>)| {
            Some(KnownChunks { digest: source.known?.0, chunks: chunks.clone()? })
        };
        self.0.iter().zip(kept).find_map(known)
    }

    /// Where which chunk is. What cannot be read is not used.
    fn cut_up(&self, kept: Vec<Option<Arc<[Chunk]>>>, shelf: &Shelf) -> HashMap<ChunkHash, u64> {
        let mut places = HashMap::new();
        for (source, kept) in self.0.iter().zip(kept) {
            match kept.map_or_else(|| source.cut_up(shelf), |chunks| Ok(Some(chunks))) {
                Ok(Some(chunks)) => source.note(&chunks, &mut places),
                other => tracing::debug!(?other, "a part of what is here cannot be used"),
            }
        }
        places
    }

    /// The contents that are no longer here when the wanted one is.
    pub(super) fn leaving(&self) -> Vec<Digest> {
        let known = self.0.iter().filter_map(|source| source.known);
        known.filter(|(_, relation)| *relation != Relation::Stays).map(|(digest, _)| digest).collect()
    }

    /// Whether nothing but names and sizes speaks for any of them.
    fn are_guessed(&self) -> bool {
        self.0.iter().all(|source| source.known.is_some_and(|(_, relation)| relation != Relation::Earlier))
    }

    /// Forgets what was believed to be known about these and about what was made of them.
    pub(super) fn forget(&self, context: &Context, wanted: &Wanted) {
        let known = self.0.iter().filter_map(|source| Some(source.known?.0));
        known.chain([wanted.digest]).for_each(|digest| context.shelf.remove(&digest));
    }

    /// So much from a place on.
    fn piece(&self, place: u64, len: u64) -> Result<Piece<Bytes>, EngineError> {
        let source = self.0.iter().rfind(|source| source.base <= place);
        let source = source.ok_or(ApplyError::Digest { path: TreePath::root() })?;
        Ok(Piece::Part { of: source.file.clone(), at: place - source.base, len })
    }
}

impl Source {
    fn cut_up(&self, shelf: &Shelf) -> io::Result<Option<Arc<[Chunk]>>> {
        let chunks = chunk_file(&self.file, self.size)?;
        if let (Some(chunks), Some((digest, Relation::Stays))) = (&chunks, self.known) {
            shelf.put(&digest, chunks);
        }
        Ok(chunks)
    }

    fn note(&self, chunks: &[Chunk], places: &mut HashMap<ChunkHash, u64>) {
        let mut at = self.base;
        for chunk in chunks {
            places.entry(chunk.hash).or_insert(at);
            at += u64::from(chunk.size);
        }
    }
}

/// Finds out what of a wanted file is here already; `None` if that is too little, or cannot be known.
pub(super) async fn find_reuse(
    context: &Arc<Context>,
    remote: &Arc<dyn Location>,
    sources: &Arc<Sources>,
    wanted: &Wanted,
) -> Result<Option<Reuse>, EngineError> {
    if sources.0.is_empty() || wanted.have >= wanted.size {
        return Ok(None);
    }
    let (asked, shelf) = (sources.clone(), context.clone());
    let kept = off_the_runtime(move || Ok(asked.kept(&shelf.shelf))).await?;
    let known = sources.known(&kept);
    let (cut, shelf) = (sources.clone(), context.clone());
    let cut = off_the_runtime(move || Ok(cut.cut_up(kept, &shelf.shelf)));
    let (described, places) = tokio::join!(describe(context, remote, wanted, known), cut);
    let described = described?;
    context.cut_descriptions.forget(&wanted.digest);
    let (Some(chunks), places) = (described, places?) else { return Ok(None) };
    let steps = chunk::steps(&chunks, wanted.have, |chunk| places.get(&chunk.hash).copied());
    let (copied, missing) = (chunk::copied(&steps), wanted.size - wanted.have);
    tracing::debug!(node = wanted.node.0, copied, missing, "compared with what is here");
    let is_worth_it = copied >= missing / WORTH_PART;
    if sources.are_guessed() {
        context.guesses.was(is_worth_it);
    }
    Ok(is_worth_it.then(|| Reuse { sources: sources.clone(), steps }))
}

/// The chunks of a wanted file. They are kept: when it is replaced in its turn it need not be cut up, and when its transfer is
/// cut they need not be sent again.
async fn describe(
    context: &Arc<Context>,
    remote: &Arc<dyn Location>,
    wanted: &Wanted,
    known: Option<KnownChunks>,
) -> Result<Option<Arc<[Chunk]>>, EngineError> {
    let Wanted { node, size, digest, .. } = *wanted;
    let kept = context.clone();
    if let Some(chunks) = off_the_runtime(move || Ok(kept.shelf.get(size, &digest))).await? {
        return Ok(Some(chunks.into()));
    }
    let Some(chunks) = remote.describe_file(node, &digest, known).await? else { return Ok(None) };
    let (keeping, keep) = (context.clone(), chunks.clone());
    off_the_runtime(move || {
        keeping.shelf.put(&digest, &keep);
        Ok(())
    })
    .await?;
    Ok(Some(chunks))
}

/// Whether the place has this content: then it is fetched only because somebody asked for that.
fn is_refetch(put: &Put, wanted: &Wanted) -> bool {
    let Put::File { over: Some(over), .. } = put else { return false };
    matches!(over.local.entry.content, Content::File { digest, .. } if digest == wanted.digest)
}

/// The file in the place.
fn old_version(context: &Context, put: &Put) -> Option<Old> {
    let Put::File { over: Some(over), path, .. } = put else { return None };
    let Content::File { size, digest } = over.local.entry.content else { return None };
    let Ok(Expect::File(identity)) = context.expect(&over.local) else { return None };
    let opened = context.applier.open_expected(path, &identity);
    let opened = opened.inspect_err(|error| tracing::debug!(%path, %error, "the old version cannot be used"));
    Some(Old { file: opened.ok()?, size, digest, relation: Relation::Earlier })
}

/// Appends everything that is missing. What is fetched and what is here arrive at the file in turn, and neither waits for a
/// thread: pieces are lined up here while those before them are read, hashed and written.
pub(super) async fn assemble(
    staged: StagedFile,
    reuse: Reuse,
    remote: &Arc<dyn Location>,
    wanted: &Wanted,
    progress: impl Fn(u64),
) -> Result<StagedFile, EngineError> {
    let line_up = |pieces| line_up(&reuse, remote, wanted, pieces, progress);
    let (lined_up, staged) =
        threads::hand_over(PIECES_AHEAD, line_up, |pieces| staged.append_pieces(pieces)).await;
    // If what is fetched breaks off, what came before it is kept for the next attempt.
    lined_up.and(done_apart(staged))
}

/// Ends early, and with success, if nobody takes the pieces any more: whoever took them says why.
async fn line_up(
    reuse: &Reuse,
    remote: &Arc<dyn Location>,
    wanted: &Wanted,
    pieces: Sender<Piece<Bytes>>,
    progress: impl Fn(u64),
) -> Result<(), EngineError> {
    let mut fetched = Fetched::new(remote, wanted, &reuse.steps);
    for step in &reuse.steps {
        let (mut done, len) = (0, step.bytes());
        while done < len {
            let (piece, count) = match *step {
                Step::Copy { from, .. } => {
                    let count = (len - done).min(PIECE_BYTES);
                    (reuse.sources.piece(from + done, count)?, count)
                }
                Step::Fetch { .. } => {
                    let bytes = fetched.next(len - done).await?;
                    let count = bytes.len() as u64;
                    (Piece::Bytes(bytes), count)
                }
            };
            if pieces.send(piece).await.is_err() {
                return Ok(());
            }
            done += count;
            progress(count);
        }
    }
    Ok(())
}

/// The parts that are fetched, one right after the other.
struct Fetched<'a> {
    remote: &'a Arc<dyn Location>,
    wanted: &'a Wanted,
    ranges: std::vec::IntoIter<(u64, u64)>,
    stream: Option<Box<dyn ByteStream>>,
    /// What came and belongs to a later part.
    rest: Bytes,
}

impl<'a> Fetched<'a> {
    fn new(remote: &'a Arc<dyn Location>, wanted: &'a Wanted, steps: &[Step]) -> Self {
        let range = |step: &Step| if let Step::Fetch { at, len } = *step { Some((at, len)) } else { None };
        let ranges: Vec<_> = steps.iter().filter_map(range).collect();
        Self { remote, wanted, ranges: ranges.into_iter(), stream: None, rest: Bytes::new() }
    }

    /// The next bytes, at most so many.
    async fn next(&mut self, most: u64) -> Result<Bytes, EngineError> {
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

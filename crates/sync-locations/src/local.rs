//! A directory of this machine as a location: the reading side of a [`LiveTree`].
//!
//! What blocks (index, disk) runs on the runtime's blocking threads, in a task that each stream owns: dropping the stream
//! ends the task. The task is at most a few messages ahead of its reader.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use sync_core::{Chunk, Cursor, Digest, FeedEvent, NodeId};
use sync_tree::{
    feed::{FeedReader, Step},
    index::IndexError,
    live::{BarrierError, LiveTree, TreeState},
    serve::{Packer, ServeError, ServedFile},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
};

use crate::{
    error::LocationError,
    location::{
        Answer, AnswerStream, BoxFuture, ByteStream, ChangeStream, FetchFailure, KnownChunks, Location, Want,
        check_ranges,
    },
};

/// Messages that a task may be ahead of its reader.
const AHEAD: usize = 2;
/// The largest file that is packed; larger ones are streamed.
const MAX_PACKED_BYTES: u64 = 768 << 10;
/// One list of answers has about this many bytes, or this many answers.
const BYTES_TOGETHER: usize = 256 << 10;
const WANTS_TOGETHER: usize = 256;
/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 512 << 10;

/// A directory of this machine.
#[derive(Debug, Clone)]
pub struct LocalFolder {
    tree: Arc<LiveTree>,
}

impl LocalFolder {
    /// The location over a tree that is kept up with.
    #[must_use]
    pub fn new(tree: Arc<LiveTree>) -> Self {
        Self { tree }
    }
}

impl Location for LocalFolder {
    fn describe(&self) -> String {
        sync_core::name::escape(&self.tree.root_path().to_string_lossy()).into_owned()
    }

    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>> {
        let cursor = cursor.map_or_else(Box::default, |cursor| cursor.0.clone());
        let feed = Feed { tree: Arc::clone(&self.tree), cursor };
        let stream = Produced::by(|out| feed.feed_task(live, out));
        Box::pin(async { Ok(Box::new(stream) as Box<dyn ChangeStream>) })
    }

    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>> {
        let stream = Produced::by(|out| answer_task(Arc::clone(&self.tree), wants, out));
        Box::pin(async { Ok(Box::new(stream) as Box<dyn AnswerStream>) })
    }

    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        let (tree, digest) = (Arc::clone(&self.tree), *digest);
        Box::pin(async move {
            let file = blocking(move || tree.open_file(node, Some(&digest)).map_err(read_error)).await?;
            let size = file.node.entry.content.size();
            if offset > size {
                return Err(LocationError::Refused {
                    message: "the offset is behind the end of the file".into(),
                });
            }
            let stream = Produced::by(|out| file_task(file, vec![(offset, size - offset)], out));
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn describe_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        _known: Option<KnownChunks>,
    ) -> BoxFuture<'a, Result<Option<Arc<[Chunk]>>, LocationError>> {
        let (tree, digest) = (Arc::clone(&self.tree), *digest);
        Box::pin(async move {
            let waited_for = Arc::new(AtomicBool::new(true));
            let _waiting = Waiting(Arc::clone(&waited_for));
            let describe = move || {
                let file = tree.open_file(node, Some(&digest)).map_err(read_error)?;
                let parts = file.describe(|| waited_for.load(Ordering::Relaxed)).map_err(read_error)?;
                Ok(parts.map(|parts| parts.chunks))
            };
            blocking(describe).await
        })
    }

    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        let (tree, digest) = (Arc::clone(&self.tree), *digest);
        Box::pin(async move {
            check_ranges(&ranges)?;
            let file = blocking(move || tree.open_file(node, Some(&digest)).map_err(read_error)).await?;
            let size = file.node.entry.content.size();
            if ranges.iter().any(|(offset, length)| offset + length > size) {
                return Err(LocationError::Refused {
                    message: "a range reaches beyond the end of the file".into(),
                });
            }
            let stream = Produced::by(|out| file_task(file, ranges, out));
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn max_packed_bytes(&self) -> u64 {
        MAX_PACKED_BYTES
    }

    fn bytes_received(&self) -> u64 {
        0
    }
}

/// Says when it is dropped that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What a task of its own produces. Dropping it ends the task.
struct Produced<T> {
    items: Receiver<Result<T, LocationError>>,
    _task: JoinSet<()>,
}

type Out<T> = Sender<Result<T, LocationError>>;

impl<T: Send + 'static> Produced<T> {
    fn by<F: Future<Output = Result<(), End>> + Send + 'static>(task: impl FnOnce(Out<T>) -> F) -> Self {
        let (out, items) = channel(AHEAD);
        let running = task(out.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(End::Failed(error)) = running.await {
                // Nobody is left to tell if this fails.
                let _ = out.send(Err(error)).await;
            }
        });
        Self { items, _task: tasks }
    }
}

impl ChangeStream for Produced<FeedEvent> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>> {
        Box::pin(self.items.recv())
    }
}

impl AnswerStream for Produced<Vec<Answer>> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Answer>, LocationError>>> {
        Box::pin(self.items.recv())
    }
}

impl ByteStream for Produced<Bytes> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, LocationError>>> {
        Box::pin(self.items.recv())
    }
}

/// Why a task ends before its time.
enum End {
    /// The reader is gone.
    Gone,
    Failed(LocationError),
}

impl From<LocationError> for End {
    fn from(error: LocationError) -> Self {
        Self::Failed(error)
    }
}

async fn put<T>(out: &Out<T>, item: T) -> Result<(), End> {
    out.send(Ok(item)).await.map_err(|_| End::Gone)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocationError> + Send + 'static,
) -> Result<T, LocationError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work is never cancelled by us and panics are bugs: both only happen when the runtime ends.
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(LocationError::cut("the program is ending")),
    }
}

fn index_error(error: IndexError) -> LocationError {
    LocationError::Cut { source: error.into() }
}

/// Why a file cannot be streamed.
fn read_error(error: ServeError) -> LocationError {
    match error {
        ServeError::NoSuchNode | ServeError::NotAFile | ServeError::Changed => LocationError::Changed,
        ServeError::Index(error) => index_error(error),
        ServeError::Unreadable { .. } | ServeError::TooLarge => {
            LocationError::Refused { message: told(&error) }
        }
    }
}

/// An error and its causes in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A subscription.
struct Feed {
    tree: Arc<LiveTree>,
    /// Where to go on from after a halt.
    cursor: Box<[u8]>,
}

impl Feed {
    async fn feed_task(mut self, live: bool, out: Out<FeedEvent>) -> Result<(), End> {
        loop {
            match self.follow(live, &out).await {
                Err(Stop::Halted { reason }) => put(&out, FeedEvent::Halted { reason }).await?,
                Err(Stop::End(end)) => return Err(end),
                Ok(()) => return Ok(()),
            }
            if !live {
                return Ok(());
            }
            let mut status = self.tree.status();
            let back = status.wait_for(|now| !matches!(now.state, TreeState::Halted { .. })).await;
            back.map_err(|_| LocationError::cut("the directory is being closed"))?;
        }
    }

    /// Sends what was before the call, and goes on if it is live.
    async fn follow(&mut self, live: bool, out: &Out<FeedEvent>) -> Result<(), Stop> {
        let mut status = self.tree.status();
        self.tree.barrier().await?;
        let (tree, cursor) = (Arc::clone(&self.tree), self.cursor.clone());
        let start = blocking(move || FeedReader::start(tree.index(), &cursor).map_err(index_error));
        let mut reader = start.await.map_err(End::from)?;
        loop {
            status.borrow_and_update();
            reader = self.catch_up(reader, out).await?;
            if !live {
                return Ok(());
            }
            if status.changed().await.is_err() {
                return Err(End::from(LocationError::cut("the directory is being closed")).into());
            }
            if let TreeState::Halted { reason } = &status.borrow().state {
                return Err(Stop::Halted { reason: reason.clone() });
            }
        }
    }

    async fn catch_up(&mut self, mut reader: FeedReader, out: &Out<FeedEvent>) -> Result<FeedReader, End> {
        loop {
            let tree = Arc::clone(&self.tree);
            let read = blocking(move || reader.step(&tree).map(|step| (reader, step)).map_err(index_error));
            let (returned, step) = read.await?;
            reader = returned;
            let Step::Events(events) = step else { return Ok(reader) };
            for event in events {
                let stands_at = match &event {
                    FeedEvent::Nodes { resume, .. } => Some(resume.0.clone()),
                    FeedEvent::Commit(commit) => Some(commit.cursor.0.clone()),
                    _ => None,
                };
                put(out, event).await?;
                if let Some(cursor) = stands_at {
                    self.cursor = cursor;
                }
            }
        }
    }
}

/// Why following stops.
enum Stop {
    Halted { reason: String },
    End(End),
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<BarrierError> for Stop {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::Halted { reason } => Self::Halted { reason },
            BarrierError::Stopped => Self::End(LocationError::cut("the directory is being closed").into()),
        }
    }
}

async fn answer_task(
    tree: Arc<LiveTree>,
    mut wants: Receiver<Want>,
    out: Out<Vec<Answer>>,
) -> Result<(), End> {
    let mut taken = Vec::new();
    let _fetching = tree.fetching();
    while wants.recv_many(&mut taken, WANTS_TOGETHER).await > 0 {
        while !taken.is_empty() {
            let (of, batch) = (Arc::clone(&tree), taken);
            let (answers, rest) = blocking(move || pack(&of, batch)).await?;
            put(&out, answers).await?;
            taken = rest;
        }
    }
    Ok(())
}

/// Answers wants until there are enough bytes; gives back the rest. Blocks.
fn pack(tree: &LiveTree, wants: Vec<Want>) -> Result<(Vec<Answer>, Vec<Want>), LocationError> {
    tree.pack(|packer| pack_with(packer, wants)).map_err(index_error)?
}

fn pack_with(packer: &mut Packer<'_>, wants: Vec<Want>) -> Result<(Vec<Answer>, Vec<Want>), LocationError> {
    let mut payload = Vec::new();
    let mut found = Vec::new();
    packer.expect(wants.iter().map(|want| want.node));
    let mut wants = wants.into_iter();
    while payload.len() < BYTES_TOGETHER
        && let Some(want) = wants.next()
    {
        let start = payload.len();
        let result = match packer.append(want.node, &want.digest, MAX_PACKED_BYTES, &mut payload) {
            Ok(_) => Ok(start..payload.len()),
            Err(error) => {
                payload.truncate(start);
                Err(failure(error)?)
            }
        };
        found.push((want.number, result));
    }
    let payload = Bytes::from(payload);
    let answer =
        |(number, result): (u64, Result<_, _>)| Answer { number, result: result.map(|at| payload.slice(at)) };
    Ok((found.into_iter().map(answer).collect(), wants.collect()))
}

fn failure(error: ServeError) -> Result<FetchFailure, LocationError> {
    Ok(match error {
        ServeError::NoSuchNode | ServeError::NotAFile | ServeError::Changed => FetchFailure::Changed,
        ServeError::Unreadable { .. } => FetchFailure::Unreadable(told(&error)),
        ServeError::TooLarge => FetchFailure::TooLarge,
        ServeError::Index(error) => return Err(index_error(error)),
    })
}

/// Sends parts of a file, each an offset and a length.
async fn file_task(mut file: ServedFile, parts: Vec<(u64, u64)>, out: Out<Bytes>) -> Result<(), End> {
    let mut parts = VecDeque::from(parts);
    parts.retain(|(_, length)| *length > 0);
    while !parts.is_empty() {
        let read = blocking(move || read_some(&mut file, &mut parts).map(|bytes| (file, parts, bytes)));
        let (returned, rest, bytes) = read.await?;
        (file, parts) = (returned, rest);
        put(&out, bytes).await?;
    }
    Ok(blocking(move || file.finish().map_err(read_error)).await?)
}

/// Reads what comes next, from as many parts as it takes.
fn read_some(file: &mut ServedFile, parts: &mut VecDeque<(u64, u64)>) -> Result<Bytes, LocationError> {
    let mut buffer = Vec::new();
    while buffer.len() < READ_BYTES
        && let Some((offset, length)) = parts.pop_front()
    {
        let (begin, room) = (buffer.len(), READ_BYTES - buffer.len());
        buffer.resize(begin + usize::try_from(length).map_or(room, |length| length.min(room)), 0);
        let read = file.read_at(offset, &mut buffer[begin..]).map_err(|error| cannot_read(file, &error))?;
        buffer.truncate(begin + read);
        if (read as u64) < length {
            parts.push_front((offset + read as u64, length - read as u64));
        }
    }
    Ok(buffer.into())
}

fn cannot_read(file: &ServedFile, error: &io::Error) -> LocationError {
    match error.kind() {
        // Shorter than the index says.
        io::ErrorKind::UnexpectedEof => LocationError::Changed,
        _ => LocationError::Refused { message: format!("cannot read {}: {error}", file.node.name) },
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and change their own trees")]
mod tests {
    use std::{fs, path::PathBuf};

    use sync_tree::live::LiveOptions;
    use tempfile::TempDir;

    use super::*;
    use crate::conformance::{Stage, conformance_tests};

    struct Folder {
        dir: TempDir,
        location: LocalFolder,
    }

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let tree = LiveTree::start(LiveOptions::new(dir.path().to_owned())).unwrap();
            Self { dir, location: LocalFolder::new(tree) }
        }

        fn path(&self, path: &str) -> PathBuf {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }
    }

    impl Stage for Folder {
        fn location(&self) -> Arc<dyn Location> {
            Arc::new(self.location.clone())
        }

        fn write(&self, path: &str, bytes: &[u8]) {
            fs::write(self.path(path), bytes).unwrap();
        }

        fn remove(&self, path: &str) {
            let path = self.path(path);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.path(from), self.path(to)).unwrap();
        }
    }

    conformance_tests!(Folder::new());
}

//! The bytes of a share in memory.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use sync_core::{Chunk, Content, Digest, NodeId, TreePath, chunk::is_taken_apart};
use sync_tree::chunks::chunk_bytes;
use tokio::sync::mpsc::Receiver;

use super::{MAX_PACKED_BYTES, Shared, tree::State};
use crate::{
    error::LocationError,
    location::{Answer, AnswerStream, BoxFuture, ByteStream, FetchFailure, Want, check_ranges},
};

/// Answers in one list.
const ANSWERS_TOGETHER: usize = 16;
/// Bytes of a file that are given at a time.
const BYTES_TOGETHER: usize = 32 << 10;

/// The bytes of a node that must have this digest, with whatever the test wants to be wrong.
fn read(shared: &Shared, node: NodeId, digest: &Digest, most: u64) -> Result<Bytes, FetchFailure> {
    let mut state = shared.state();
    let (path, mut bytes) = find(&state, node, digest)?;
    if bytes.len() as u64 > most {
        return Err(FetchFailure::TooLarge);
    }
    if state.faults.wrong.contains(&path) {
        let mut wrong = bytes.to_vec();
        wrong.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        bytes = wrong.into();
    }
    state.fetched.push(path);
    Ok(bytes)
}

/// Why a single file cannot be had.
fn file_error(failure: FetchFailure) -> LocationError {
    match failure {
        FetchFailure::Changed | FetchFailure::TooLarge => LocationError::Changed,
        FetchFailure::Unreadable(message) => LocationError::Refused { message },
    }
}

/// The parts of a file. A file with a wrong byte has the parts of its right bytes, as a daemon that did not notice has.
pub(super) fn describe(
    shared: &Shared,
    node: NodeId,
    digest: &Digest,
) -> Result<Option<Arc<[Chunk]>>, LocationError> {
    let (_, bytes) = find(&shared.state(), node, digest).map_err(file_error)?;
    Ok(is_taken_apart(bytes.len() as u64).then(|| chunk_bytes(&bytes).into()))
}

/// The path and the right bytes of a node that must have this digest.
fn find(state: &State, node: NodeId, digest: &Digest) -> Result<(TreePath, Bytes), FetchFailure> {
    let held = state.nodes.get(&node).ok_or(FetchFailure::Changed)?;
    let is_it = matches!(&held.node.entry.content, Content::File { digest: now, .. } if now == digest);
    let path = state.path_of(node).ok_or(FetchFailure::Changed)?;
    if !is_it || state.faults.changed.contains(&path) {
        return Err(FetchFailure::Changed);
    }
    if let Some(reason) = state.faults.unreadable.get(&path) {
        return Err(FetchFailure::Unreadable(reason.clone()));
    }
    Ok((path, held.bytes.clone()))
}

fn count(shared: &Shared, bytes: u64) {
    shared.given_bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// Messages until a cut, taken from what the test has asked for.
struct Cut(Option<u64>);

impl Cut {
    fn take(shared: &Shared) -> Self {
        Self(shared.state().faults.cut_fetch.take())
    }

    /// Counts a message. False when it is not to come any more.
    fn lets_through(&mut self) -> bool {
        match &mut self.0 {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// Answers to wants.
pub(super) struct Answers {
    shared: Arc<Shared>,
    /// `None` after the end.
    wants: Option<Receiver<Want>>,
    batch: Vec<Want>,
    cut: Cut,
}

impl Answers {
    pub(super) fn new(shared: Arc<Shared>, wants: Receiver<Want>) -> Self {
        Self { cut: Cut::take(&shared), shared, wants: Some(wants), batch: Vec::new() }
    }

    async fn answers(&mut self) -> Option<Result<Vec<Answer>, LocationError>> {
        let wants = self.wants.as_mut()?;
        if wants.recv_many(&mut self.batch, ANSWERS_TOGETHER).await == 0 {
            self.wants = None;
            return None;
        }
        if !self.cut.lets_through() {
            self.wants = None;
            return Some(Err(LocationError::cut("the test cut it")));
        }
        let shared = &self.shared;
        Some(Ok(self.batch.drain(..).map(|want| answer(shared, &want)).collect()))
    }
}

fn answer(shared: &Shared, want: &Want) -> Answer {
    let result = read(shared, want.node, &want.digest, MAX_PACKED_BYTES);
    count(shared, result.as_ref().map_or(0, |bytes| bytes.len() as u64));
    Answer { number: want.number, result }
}

impl AnswerStream for Answers {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Answer>, LocationError>>> {
        Box::pin(self.answers())
    }
}

/// The bytes of one file.
pub(super) struct FileBytes {
    shared: Arc<Shared>,
    left: Bytes,
    cut: Cut,
}

impl FileBytes {
    pub(super) fn open(
        shared: Arc<Shared>,
        node: NodeId,
        digest: &Digest,
        offset: u64,
    ) -> Result<Self, LocationError> {
        let mut bytes = read(&shared, node, digest, u64::MAX).map_err(file_error)?;
        let offset = usize::try_from(offset).ok().filter(|offset| *offset <= bytes.len());
        let offset = offset.ok_or_else(|| LocationError::Refused {
            message: "the offset is behind the end of the file".into(),
        })?;
        let left = bytes.split_off(offset);
        Ok(Self { cut: Cut::take(&shared), shared, left })
    }

    pub(super) fn open_ranges(
        shared: Arc<Shared>,
        node: NodeId,
        digest: &Digest,
        ranges: &[(u64, u64)],
    ) -> Result<Self, LocationError> {
        check_ranges(ranges)?;
        let bytes = read(&shared, node, digest, u64::MAX).map_err(file_error)?;
        let mut left = BytesMut::new();
        for (offset, length) in ranges {
            let part = usize::try_from(*offset).ok().zip(usize::try_from(offset + length).ok());
            let part = part.and_then(|(begin, end)| bytes.get(begin..end));
            left.extend_from_slice(part.ok_or_else(|| LocationError::Refused {
                message: "a range reaches beyond the end of the file".into(),
            })?);
        }
        Ok(Self { cut: Cut::take(&shared), shared, left: left.freeze() })
    }

    fn bytes(&mut self) -> Option<Result<Bytes, LocationError>> {
        if self.left.is_empty() {
            return None;
        }
        if !self.cut.lets_through() {
            self.left.clear();
            return Some(Err(LocationError::cut("the test cut it")));
        }
        let next = self.left.split_to(self.left.len().min(BYTES_TOGETHER));
        count(&self.shared, next.len() as u64);
        Some(Ok(next))
    }
}

impl ByteStream for FileBytes {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, LocationError>>> {
        let next = self.bytes();
        Box::pin(async { next })
    }
}

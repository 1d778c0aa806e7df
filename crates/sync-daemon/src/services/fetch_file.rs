//! One file, streamed.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use sync_core::{Content, Digest, NodeId, TreePath};
use sync_tree::{
    live::{LiveTree, TreeState},
    serve::{ServeError, ServedFile},
};
use sync_wire::{Frame, frame, frame_data, node_to_wire, v1};
use v1::{fetch_file_request::File, fetch_file_response::Part};

use super::{
    errors::{RequestError, blocking},
    replies::Sender,
    squeeze::Squeeze,
};
use crate::shares::Share;

/// How many bytes of a file one message carries at most. At most three such messages exist for a stream.
const BYTES_IN_A_MESSAGE: usize = 512 << 10;
/// And the first one; they double from there. Of a message that is cut nothing is left, so large ones over a line that is cut
/// all the time would bring nothing.
const BYTES_IN_THE_FIRST: usize = 64 << 10;

/// A file that was found and opened, and the parts of it that are wanted.
pub(super) struct Opened {
    file: ServedFile,
    header: v1::FileHeader,
    parts: Vec<(u64, u64)>,
    /// Whether the client puts parts together, and checks the whole.
    scattered: bool,
}

/// Finds and opens what a request wants. Blocks.
pub(super) fn open(share: &Share, request: &v1::FetchFileRequest) -> Result<Opened, RequestError> {
    let digest = match request.digest.as_slice() {
        [] => None,
        bytes => Some(
            Digest::from_slice(bytes)
                .ok_or(RequestError::Malformed { what: "a digest that is not 32 bytes" })?,
        ),
    };
    let id = find(&share.tree, request)?;
    let file =
        share.tree.open_file(id, digest.as_ref()).map_err(|error| while_scanning(&share.tree, error))?;
    let Content::File { size, .. } = file.node.entry.content else { return Err(ServeError::NotAFile.into()) };
    let parts = wanted_parts(request, size)?;
    // The sum cannot be too large: the parts were counted, and no file has even 2^50 bytes.
    let length = parts.iter().map(|(_, length)| length).sum();
    let mut node = node_to_wire(&file.node);
    if let Some(File::Path(path)) = &request.file {
        node.path.clone_from(path);
    }
    let (header, scattered) = (v1::FileHeader { node: Some(node), length }, !request.ranges.is_empty());
    Ok(Opened { file, header, parts, scattered })
}

/// The wanted parts of a file of this size, each an offset and a length.
fn wanted_parts(request: &v1::FetchFileRequest, size: u64) -> Result<Vec<(u64, u64)>, RequestError> {
    let malformed = |what| RequestError::Malformed { what };
    if request.ranges.is_empty() {
        let rest = size.checked_sub(request.offset);
        let rest = rest.ok_or(malformed("an offset behind the end of the file"))?;
        let length = if request.length == 0 { rest } else { rest.min(request.length) };
        return Ok(vec![(request.offset, length)]);
    }
    if request.offset != 0 || request.length != 0 {
        return Err(malformed("ranges beside an offset or a length"));
    }
    if request.ranges.len() > sync_wire::MAX_RANGES {
        return Err(malformed("too many ranges"));
    }
    let part = |range: &v1::ByteRange| {
        if range.length == 0 {
            return Err(malformed("an empty range"));
        }
        match range.offset.checked_add(range.length) {
            Some(end) if end <= size => Ok((range.offset, range.length)),
            _ => Err(malformed("a range beyond the end of the file")),
        }
    };
    request.ranges.iter().map(part).collect()
}

fn find(tree: &LiveTree, request: &v1::FetchFileRequest) -> Result<NodeId, RequestError> {
    let path = match &request.file {
        Some(File::NodeId(id)) => return Ok(NodeId(*id)),
        Some(File::Path(path)) => TreePath::new(path).map_err(|source| RequestError::Path { source })?,
        None => return Err(RequestError::Malformed { what: "neither a node id nor a path" }),
    };
    match tree.index().find(&path)? {
        Some(found) => Ok(found.node.id),
        None if scanning(tree) => Err(RequestError::Scanning),
        None => Err(RequestError::NoSuchPath),
    }
}

/// What is not there yet may only not have been found yet.
pub(super) fn while_scanning(tree: &LiveTree, error: ServeError) -> RequestError {
    match error {
        ServeError::NoSuchNode if scanning(tree) => RequestError::Scanning,
        error => error.into(),
    }
}

fn scanning(tree: &LiveTree) -> bool {
    tree.status().borrow().state == TreeState::Scanning
}

/// Sends an opened file.
pub(super) async fn send_task(opened: Opened, squeeze: Squeeze, out: Sender<Frame>) {
    if let Some(Err(error)) = send(opened, squeeze, &out).await {
        // Nobody is left to tell if this fails.
        let _ = out.send(Err(error.into())).await;
    }
}

/// `None` if the client is gone.
async fn send(opened: Opened, squeeze: Squeeze, out: &Sender<Frame>) -> Option<Result<(), RequestError>> {
    let Opened { file, header, parts, scattered } = opened;
    let mut left = header.length;
    let rest = Rest { parts: parts.into_iter(), now: (0, 0) };
    out.send(Ok(frame(&v1::FetchFileResponse { part: Some(Part::Header(header)) }).into())).await.ok()?;
    let mut sending = Sending { file, rest, squeeze, buffers: Buffers::default() };
    let mut most = BYTES_IN_THE_FIRST;
    while left > 0 {
        let want = usize::try_from(left).map_or(most, |left| left.min(most));
        most = (2 * most).min(BYTES_IN_A_MESSAGE);
        let part;
        (sending, part) = match sending.next(want).await {
            Ok(made) => made,
            Err(error) => return Some(Err(error)),
        };
        left -= want as u64;
        out.send(Ok(part)).await.ok()?;
    }
    let file = sending.file;
    Some(blocking(move || if scattered { file.finish_parts() } else { file.finish() }).await)
}

/// What makes the messages of one response.
struct Sending {
    file: ServedFile,
    rest: Rest,
    squeeze: Squeeze,
    buffers: Buffers,
}

/// How to read from a file: [`ServedFile::read_at`] or [`ServedFile::read_cached_at`].
type ReadAt = fn(&mut ServedFile, u64, &mut [u8]) -> io::Result<usize>;

impl Sending {
    /// The next bytes, which must be there.
    ///
    /// What is in memory is read here and now: to have a thread do it takes longer than that, and leaves the bytes in the caches of
    /// another core than the one that sends them. What takes its time, a disk or compressing, a thread does. None is held
    /// while the client takes its time.
    async fn next(mut self, count: usize) -> Result<(Self, Frame), RequestError> {
        let mut buffer = self.buffers.take(count);
        // Whatever is wrong, the thread finds out what.
        if !self.squeeze.is_wanted() && self.read(&mut buffer, count, ServedFile::read_cached_at).is_ok() {
            return Ok((self, plain(buffer)));
        }
        blocking(move || {
            self.read(&mut buffer, count, ServedFile::read_at).map_err(|error| self.not_read(error))?;
            let message = match self.squeeze.try_on(buffer.as_ref()) {
                Some(compressed) => {
                    frame(&v1::FetchFileResponse { part: Some(Part::Compressed(compressed)) }).into()
                }
                None => plain(buffer),
            };
            Ok::<_, RequestError>((self, message))
        })
        .await
    }

    /// Fills the buffer with what comes next, up to `count` bytes. What was read before an error is in it, and what follows
    /// that comes next.
    fn read(&mut self, buffer: &mut Buffer, count: usize, read: ReadAt) -> io::Result<()> {
        while buffer.used < count {
            let (offset, length) = self.rest.now();
            let part = &mut buffer.bytes[buffer.used..count];
            let want = usize::try_from(length).map_or(part.len(), |length| length.min(part.len()));
            match read(&mut self.file, offset, &mut part[..want])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    self.rest.pass(read);
                    buffer.used += read;
                }
            }
        }
        Ok(())
    }

    fn not_read(&self, error: io::Error) -> RequestError {
        let error = match error.kind() {
            // Shorter than the index says.
            io::ErrorKind::UnexpectedEof => ServeError::Changed,
            _ => ServeError::Unreadable { path: self.file.path().clone(), source: error },
        };
        error.into()
    }
}

fn plain(buffer: Buffer) -> Frame {
    frame_data(Bytes::from_owner(buffer))
}

/// The parts of a file that are still to be read.
struct Rest {
    parts: std::vec::IntoIter<(u64, u64)>,
    /// What is left of the part that was begun.
    now: (u64, u64),
}

impl Rest {
    /// Where what comes next begins, and how much of it lies there; nothing after the last part.
    fn now(&mut self) -> (u64, u64) {
        while self.now.1 == 0
            && let Some(next) = self.parts.next()
        {
            self.now = next;
        }
        self.now
    }

    /// So much of it was read.
    fn pass(&mut self, count: usize) {
        let (offset, length) = self.now;
        self.now = (offset + count as u64, length - count as u64);
    }
}

/// Buffers that come back when their message is sent: clearing half a MiB for each message costs as much as reading it.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

struct Buffer {
    bytes: Box<[u8]>,
    used: usize,
    home: Buffers,
}

impl Buffers {
    /// A buffer of at least this size. The first few are too small for what comes later.
    fn take(&self, size: usize) -> Buffer {
        let back = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let back = back.filter(|buffer| buffer.len() >= size);
        let bytes = back.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        Buffer { bytes, used: 0, home: self.clone() }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

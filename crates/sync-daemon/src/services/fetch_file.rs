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
use sync_wire::{node_to_wire, v1};
use v1::{fetch_file_request::File, fetch_file_response::Part};

use super::{
    errors::{RequestError, blocking},
    replies::Sender,
};
use crate::shares::Share;

/// How many bytes of a file one message carries. At most three such messages exist for a stream.
const BYTES_IN_A_MESSAGE: usize = 512 << 10;

/// A file that was found and opened, and the part of it that is wanted.
pub(super) struct Opened {
    file: ServedFile,
    header: v1::FileHeader,
    offset: u64,
}

/// Finds and opens what a request wants. Blocks.
pub(super) fn open(share: &Share, request: &v1::FetchFileRequest) -> Result<Opened, RequestError> {
    let digest = match request.digest.as_ref() {
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
    let rest = size.checked_sub(request.offset);
    let rest = rest.ok_or(RequestError::Malformed { what: "an offset behind the end of the file" })?;
    let length = if request.length == 0 { rest } else { rest.min(request.length) };
    let mut node = node_to_wire(&file.node);
    if let Some(File::Path(path)) = &request.file {
        node.path.clone_from(path);
    }
    Ok(Opened { file, header: v1::FileHeader { node: Some(node), length }, offset: request.offset })
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
fn while_scanning(tree: &LiveTree, error: ServeError) -> RequestError {
    match error {
        ServeError::NoSuchNode if scanning(tree) => RequestError::Scanning,
        error => error.into(),
    }
}

fn scanning(tree: &LiveTree) -> bool {
    tree.status().borrow().state == TreeState::Scanning
}

/// Sends an opened file.
pub(super) async fn send_task(opened: Opened, out: Sender<v1::FetchFileResponse>) {
    if let Some(Err(error)) = send(opened, &out).await {
        // Nobody is left to tell if this fails.
        let _ = out.send(Err(error.into())).await;
    }
}

/// `None` if the client is gone.
async fn send(opened: Opened, out: &Sender<v1::FetchFileResponse>) -> Option<Result<(), RequestError>> {
    let Opened { mut file, header, mut offset } = opened;
    let end = offset + header.length;
    out.send(Ok(v1::FetchFileResponse { part: Some(Part::Header(header)) })).await.ok()?;
    let buffers = Buffers::default();
    while offset < end {
        // No thread is held while the client takes its time: a thread reads one buffer, this task passes it on.
        let want =
            usize::try_from(end - offset).map_or(BYTES_IN_A_MESSAGE, |rest| rest.min(BYTES_IN_A_MESSAGE));
        let mut buffer = buffers.take(want);
        let read = blocking(move || {
            let read = read_full(&mut file, offset, &mut buffer.bytes[..want]);
            read.map(|()| (file, buffer))
        });
        let mut filled = match read.await {
            Ok((returned, filled)) => {
                file = returned;
                filled
            }
            Err(error) => return Some(Err(error)),
        };
        filled.used = want;
        offset += want as u64;
        let data = Bytes::from_owner(filled);
        out.send(Ok(v1::FetchFileResponse { part: Some(Part::Data(data)) })).await.ok()?;
    }
    Some(blocking(move || file.finish()).await)
}

fn read_full(file: &mut ServedFile, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), RequestError> {
    while !buffer.is_empty() {
        let read = match file.read_at(offset, buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(source) => return Err(RequestError::Read { path: file.node.name.to_string(), source }),
        };
        if read == 0 {
            // Shorter than the index says.
            return Err(ServeError::Changed.into());
        }
        offset += read as u64;
        buffer = &mut buffer[read..];
    }
    Ok(())
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
    /// A buffer of at least this size; the sizes that are asked for do not grow.
    fn take(&self, size: usize) -> Buffer {
        let back = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
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

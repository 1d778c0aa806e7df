//! What one file is made of.

use std::{pin::pin, sync::Arc, time::Duration};

use sync_core::{Digest, NodeId, chunk::is_taken_apart};
use sync_tree::serve::ServedFile;
use sync_wire::{chunks_to_wire, description_header, v1};
use tokio::time::sleep;
use v1::describe_file_response::Part;

use super::{
    descriptions::{Description, Descriptions},
    errors::RequestError,
    fetch_file::while_scanning,
    replies::Sender,
};
use crate::shares::Share;

/// A file that was found and opened.
pub(super) struct Wanted {
    file: ServedFile,
    digest: Digest,
    /// The content whose description the client has, if it has one.
    known: Option<Digest>,
}

/// Finds and opens what a request wants. Blocks.
pub(super) fn open(share: &Share, request: &v1::DescribeFileRequest) -> Result<Wanted, RequestError> {
    let digest = Digest::from_slice(&request.digest)
        .ok_or(RequestError::Malformed { what: "a digest that is not 32 bytes" })?;
    let known = match &*request.known_digest {
        [] => None,
        bytes => {
            let malformed = RequestError::Malformed { what: "a known digest that is not 32 bytes" };
            Some(Digest::from_slice(bytes).ok_or(malformed)?)
        }
    };
    let file = share.tree.open_file(NodeId(request.node_id), Some(&digest));
    Ok(Wanted { file: file.map_err(|error| while_scanning(&share.tree, error))?, digest, known })
}

/// Finds out what the file is made of, and sends it.
pub(super) async fn send_task(
    wanted: Wanted,
    descriptions: Arc<Descriptions>,
    heartbeat: Duration,
    out: Sender<v1::DescribeFileResponse>,
) {
    let size = wanted.file.node.entry.content.size();
    // Looked up first: it is the older one, and what is kept has a bound.
    let known = wanted.known.and_then(|known| descriptions.kept(&known));
    // Nobody is left to tell if sending fails.
    let _ = match describe(wanted, &descriptions, heartbeat, &out).await {
        None => return,
        Some(Ok(description)) => send(size, (description, known), &out).await,
        Some(Err(error)) => out.send(Err(error.into())).await.ok(),
    };
}

/// Waits for the description, with signs of life. `None` if the client is gone.
async fn describe(
    wanted: Wanted,
    descriptions: &Arc<Descriptions>,
    heartbeat: Duration,
    out: &Sender<v1::DescribeFileResponse>,
) -> Option<Result<Description, RequestError>> {
    let Wanted { file, digest, .. } = wanted;
    if !is_taken_apart(file.node.entry.content.size()) {
        return Some(Ok(None));
    }
    let mut made = pin!(descriptions.get(digest, move |go_on| file.describe(go_on)));
    loop {
        tokio::select! {
            made = &mut made => return Some(made),
            () = out.closed() => return None,
            () = sleep(heartbeat) => put(out, Part::Heartbeat(v1::Heartbeat {})).await?,
        }
    }
}

/// `None` if the client is gone.
async fn send(
    size: u64,
    (description, known): (Description, Description),
    out: &Sender<v1::DescribeFileResponse>,
) -> Option<()> {
    let Some(parts) = description else {
        return put(out, Part::Header(v1::DescriptionHeader { size, ..Default::default() })).await;
    };
    put(out, Part::Header(description_header(size))).await?;
    let known = known.as_ref().map_or(&[][..], |known| &known.chunks);
    for batch in chunks_to_wire(&parts.chunks, known) {
        put(out, Part::Chunks(batch)).await?;
    }
    Some(())
}

async fn put(out: &Sender<v1::DescribeFileResponse>, part: Part) -> Option<()> {
    out.send(Ok(v1::DescribeFileResponse { part: Some(part) })).await.ok()
}

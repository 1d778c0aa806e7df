//! The description of a file, read to its end.

use std::sync::Arc;

use sync_core::Chunk;
use sync_wire::{DescriptionReader, v1};
use tokio::time::Instant;
use v1::describe_file_response::Part;

use super::streams::Incoming;
use crate::error::LocationError;

/// Reads a description, for somebody who knows these chunks. `None` if there is none for this file, or none that this version understands.
pub(super) async fn read(
    mut incoming: Incoming<v1::DescribeFileResponse>,
    known: Arc<[Chunk]>,
) -> Result<Option<Arc<[Chunk]>>, LocationError> {
    let began = Instant::now();
    let mut reader: Option<DescriptionReader> = None;
    while let Some(message) = incoming.next(|| Some(began)).await {
        match (message?.part, &mut reader) {
            (Some(Part::Header(header)), None) => {
                match DescriptionReader::new(&header, Arc::clone(&known))? {
                    Some(begun) => reader = Some(begun),
                    None => return Ok(None),
                }
            }
            (Some(Part::Chunks(batch)), Some(reader)) => reader.take(&batch)?,
            (Some(Part::Header(_) | Part::Chunks(_)), _) => {
                return Err(LocationError::protocol("the parts of a description came in the wrong order"));
            }
            // A sign of life, or a later version's part.
            (Some(Part::Heartbeat(_)) | None, _) => {}
        }
    }
    let reader = reader.ok_or_else(|| LocationError::protocol("a description came without its header"))?;
    Ok(Some(reader.finish()?.into()))
}

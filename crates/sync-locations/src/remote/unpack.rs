//! Bytes as they are in files, of messages that may have them compressed.

use bytes::Bytes;
use sync_wire::{Decompressor, v1};

use crate::error::LocationError;

/// What unpacks the messages of one stream.
#[derive(Debug)]
pub(super) struct Unpack(Option<Decompressor>);

impl Unpack {
    /// For a stream of which it was asked for, or not.
    pub(super) fn new(asked: bool) -> Self {
        Self(asked.then(Decompressor::default))
    }

    /// The bytes of a message's compressed part: half a millisecond's work for the largest.
    pub(super) fn bytes(&mut self, compressed: &v1::Compressed) -> Result<Bytes, LocationError> {
        let Some(decompressor) = &mut self.0 else {
            return Err(LocationError::protocol("it compressed what it was not asked to"));
        };
        Ok(decompressor.decompress(compressed)?)
    }

    /// The bytes of a message that has them in one of two ways.
    pub(super) fn either(
        &mut self,
        plain: Bytes,
        compressed: Option<&v1::Compressed>,
    ) -> Result<Bytes, LocationError> {
        match compressed {
            None => Ok(plain),
            Some(compressed) if plain.is_empty() => self.bytes(compressed),
            Some(_) => Err(LocationError::protocol("it sent bytes compressed and not")),
        }
    }
}

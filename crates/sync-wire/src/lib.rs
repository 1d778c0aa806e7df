//! The generated contract of `proto/sync/v1` and the only conversions between its messages and the types of `sync-core`.
//!
//! What comes from a peer is checked here, once: a message that breaks the contract's rules (a bad name, a digest of the
//! wrong length) becomes a [`WireError`], never a half-valid value. Generated types go no further than a gRPC service's
//! handler or a client's adapter.

mod compress;
mod convert;
mod describe;
mod frame;
mod limits;

pub use compress::{Compressor, Decompressor};
pub use convert::{
    WireError, feed_event, node_from_wire, node_to_wire, response, rules_to_wire, watching_to_wire,
};
pub use describe::{DescriptionReader, chunks_to_wire, description_header, ranges_to_wire};
pub use frame::{Frame, Unframe, UnframeError, frame, frame_answers, frame_data};
pub use limits::{
    CAN_COMPRESS, CAN_DESCRIBE, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, MAX_PROBLEMS_SENT, MAX_RANGES,
    wire_bytes,
};

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("sync.v1");
}

/// The encoded descriptor set of the contract: what reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sync.v1.bin"));

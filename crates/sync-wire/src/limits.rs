//! The numbers and names of the contract.

/// No message is larger than this (the default decode limit of most gRPC implementations).
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// No payload within a message is larger than this.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// How many problems one message names; the total is said beside them.
pub const MAX_PROBLEMS_SENT: usize = 1000;

/// How many parts of a file one request names.
pub const MAX_RANGES: usize = 8192;

/// The capability of a daemon that describes files and sends scattered parts of them.
pub const CAN_DESCRIBE: &str = "describe-file";

/// The capability of a daemon that compresses what it sends.
pub const CAN_COMPRESS: &str = "zstd";

/// How many bytes a message takes on the wire: its encoding, and the five bytes that gRPC puts before it.
#[must_use]
pub fn wire_bytes<M: prost::Message>(message: &M) -> u64 {
    message.encoded_len() as u64 + 5
}

//! A message as gRPC puts it on the wire, for those who send the same one to many.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

/// A byte that says "not compressed" and the length of what follows.
const HEADER_BYTES: usize = 5;

/// Encodes a message with its length before it, in a buffer of just that size.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("messages are bounded far below 4 GiB"));
    message.encode(&mut buffer).expect("the buffer has room for all of it");
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn a_frame_is_a_header_and_the_message() {
        let message = v1::WatchChangesRequest { share: "abc".into(), live: true, ..Default::default() };
        let framed = frame(&message);
        let encoded = message.encode_to_vec();
        let length = u8::try_from(encoded.len()).unwrap();
        assert_eq!(framed[..HEADER_BYTES], [0, 0, 0, 0, length]);
        assert_eq!(framed[HEADER_BYTES..], encoded);
        assert_eq!(frame(&v1::WatchChangesRequest::default())[..], [0; HEADER_BYTES]);
    }
}

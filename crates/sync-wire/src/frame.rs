//! Messages as gRPC puts them on the wire, without the copies that a codec makes.
//!
//! A codec copies each message into a buffer, and each that comes out of one. For what is sent to many, and for what consists
//! of a file's bytes, that is a good part of all work. So a sender encodes what is around the bytes and sends the bytes from
//! where they are ([`Frame`]); a receiver's messages refer to what was received, where they carry contents ([`Unframe`]). On the wire
//! there is no difference.

use std::{collections::VecDeque, marker::PhantomData};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::v1;

/// A byte that says "not compressed" and the length of what follows.
const HEADER_BYTES: usize = 5;

/// `FetchFileResponse.data`.
const DATA: u32 = 2;
/// `FetchFilesResponse.payload`.
const PAYLOAD: u32 = 2;

/// Smaller pieces are put together. Each has a price, whatever its size: HTTP/2 ends connections on which too many small frames
/// wait to be read, and of those that are received whoever sends them decides how many there are.
const SMALL_PIECE: usize = 1024;

/// A message on its way, in two pieces if the second is large.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// Its header and its fields but for the last.
    pub head: Bytes,
    /// The bytes of the last field, as they lie in memory; may be empty.
    pub payload: Bytes,
}

impl From<Bytes> for Frame {
    fn from(head: Bytes) -> Self {
        Self { head, payload: Bytes::new() }
    }
}

/// Encodes a message with its length before it, in a buffer of just that size.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    begin(message, 0, 0).freeze()
}

/// A part of a file as `FetchFile` sends it.
#[must_use]
pub fn frame_data(data: Bytes) -> Frame {
    // A field of a oneof is sent also if it is empty.
    around(&v1::FetchFileResponse::default(), DATA, data)
}

/// Files as `FetchFiles` sends them.
#[must_use]
pub fn frame_answers(mut answers: v1::FetchFilesResponse) -> Frame {
    let payload = std::mem::take(&mut answers.payload);
    if payload.is_empty() { frame(&answers).into() } else { around(&answers, PAYLOAD, payload) }
}

/// A message with one more field of bytes behind all others.
fn around(message: &impl Message, field: u32, payload: Bytes) -> Frame {
    let length = payload.len() as u64;
    let key_bytes = key_len(field) + encoded_len_varint(length);
    let (beside, elsewhere) =
        if payload.len() < SMALL_PIECE { (payload.len(), 0) } else { (0, payload.len()) };
    let mut head = begin(message, key_bytes + beside, elsewhere);
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    if elsewhere > 0 {
        return Frame { head: head.freeze(), payload };
    }
    head.put(payload);
    head.freeze().into()
}

/// The header and the message, with room for so many bytes that belong to it; so many more follow elsewhere.
fn begin(message: &impl Message, more: usize, elsewhere: usize) -> BytesMut {
    let length = message.encoded_len() + more;
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length + elsewhere).expect("messages are bounded far below 4 GiB"));
    message.encode(&mut buffer).expect("the buffer has room for all of it");
    buffer
}

/// Why what was received is no message.
#[derive(Debug, thiserror::Error)]
pub enum UnframeError {
    /// We never offer to unpack a message, so whoever packs one breaks the rules.
    #[error("it sent a message that is compressed as a whole")]
    Compressed,
    /// It is larger than it may be.
    #[error("it sent a message of {length} bytes, where {most} are allowed")]
    TooLarge {
        /// Its size.
        length: usize,
        /// What is allowed.
        most: usize,
    },
    /// It cannot be decoded.
    #[error("it sent a message that cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Takes what was received apart into messages. Contents of files in them are not copied, unless they were received in pieces.
#[derive(Debug)]
pub struct Unframe<M> {
    received: Pieces,
    /// Of the message that is being received.
    length: Option<usize>,
    most: usize,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Unframe<M> {
    /// For messages of at most so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { received: Pieces::default(), length: None, most, messages: PhantomData }
    }

    /// Takes what comes next.
    pub fn take(&mut self, piece: Bytes) {
        self.received.push(piece);
    }

    /// Whether no message is begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.length.is_none() && self.received.remaining() == 0
    }

    /// The next message, if all of it is here.
    ///
    /// # Errors
    /// It is none of this type; nothing that follows is of use.
    pub fn message(&mut self) -> Result<Option<M>, UnframeError> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.received.remaining() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(M::decode(self.received.readable().take(length))?))
    }

    fn length(&mut self) -> Result<Option<usize>, UnframeError> {
        if self.length.is_none() && self.received.remaining() >= HEADER_BYTES {
            let received = self.received.readable();
            if received.get_u8() != 0 {
                return Err(UnframeError::Compressed);
            }
            let length = received.get_u32() as usize;
            if length > self.most {
                return Err(UnframeError::TooLarge { length, most: self.most });
            }
            self.length = Some(length);
        }
        Ok(self.length)
    }
}

/// Pieces of bytes that follow each other. To be read once it is [`readable`](Self::readable).
#[derive(Debug, Default)]
struct Pieces {
    /// The first, which is looked at for each field of a message. It is empty only if there is none.
    first: Bytes,
    /// None of them is empty.
    others: VecDeque<Bytes>,
    /// Small ones behind all others.
    small: BytesMut,
    remaining: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.remaining += piece.len();
        if piece.len() < SMALL_PIECE {
            self.small.extend_from_slice(&piece);
        } else {
            self.readable().append(piece);
        }
    }

    fn readable(&mut self) -> &mut Self {
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.append(small);
        }
        self
    }

    fn append(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.others.push_back(piece);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "there is no more");
        self.remaining -= count;
        while count >= self.first.len() && !self.first.is_empty() {
            count -= self.first.len();
            self.first = self.others.pop_front().unwrap_or_default();
        }
        self.first.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        if count <= self.first.len() {
            let bytes = self.first.slice(..count);
            self.advance(count);
            return bytes;
        }
        assert!(count <= self.remaining, "there is no more");
        let mut gathered = BytesMut::with_capacity(count);
        gathered.put(self.take(count));
        gathered.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(frame: &Frame) -> Vec<u8> {
        [&frame.head[..], &frame.payload[..]].concat()
    }

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

    fn data(size: usize) -> v1::FetchFileResponse {
        let bytes = (0..size).map(|at| (at % 251) as u8).collect();
        v1::FetchFileResponse { part: Some(v1::fetch_file_response::Part::Data(bytes)) }
    }

    fn answers(size: usize, errors: bool) -> v1::FetchFilesResponse {
        let file = |number: usize| v1::FetchedFile {
            number: number as u64,
            size: size as u64,
            error: errors.then(|| v1::FetchError { message: "a reason".into(), ..v1::FetchError::default() }),
        };
        let payload = (0..3 * size).map(|at| (at % 13) as u8).collect();
        v1::FetchFilesResponse { files: (0..3).map(file).collect(), payload, compressed: None }
    }

    #[test]
    fn bytes_beside_their_message_are_the_same_on_the_wire() {
        for size in [0, 1, 127, 128, SMALL_PIECE - 1, SMALL_PIECE, 20_000, 3 << 20] {
            let message = data(size);
            let Some(v1::fetch_file_response::Part::Data(bytes)) = message.part.clone() else {
                unreachable!()
            };
            let place = bytes.as_ptr();
            let framed = frame_data(bytes);
            assert_eq!(whole(&framed), frame(&message), "{size}");
            match framed.payload.is_empty() {
                true => assert!(size < SMALL_PIECE, "they were copied"),
                false => assert_eq!((framed.payload.as_ptr(), framed.payload.len()), (place, size)),
            }
            for errors in [false, true] {
                let message = answers(size, errors);
                assert_eq!(whole(&frame_answers(message.clone())), frame(&message), "{size}");
            }
        }
        let mut compressed = answers(0, false);
        compressed.compressed = Some(v1::Compressed { frame: Bytes::from_static(b"frame"), size: 9 });
        assert_eq!(whole(&frame_answers(compressed.clone())), frame(&compressed));
    }

    /// All messages in what was received, in pieces of these sizes in turn.
    fn received<M: Message + Default>(wire: &Bytes, sizes: &[usize]) -> Vec<M> {
        let mut unframe = Unframe::new(1 << 20);
        let (mut at, mut messages) = (0, Vec::new());
        for size in sizes.iter().cycle() {
            let end = (at + size).min(wire.len());
            unframe.take(wire.slice(at..end));
            at = end;
            while let Some(message) = unframe.message().unwrap() {
                messages.push(message);
            }
            if at == wire.len() {
                break;
            }
        }
        assert!(unframe.is_between());
        messages
    }

    #[test]
    fn messages_come_out_as_they_went_in_whatever_the_pieces() {
        let sent =
            [answers(1, false), answers(0, true), answers(2000, false), answers(0, false), answers(70, true)];
        let wire: Bytes = sent.iter().flat_map(frame).collect();
        let small = [&[usize::MAX >> 1][..], &[1], &[2, 3], &[5], &[6, 1, 0]];
        let large = [&[4096][..], &[2003, 7], &[1024], &[1024, 0, 1], &[1100, 1023, 3000]];
        for sizes in small.into_iter().chain(large) {
            assert_eq!(received::<v1::FetchFilesResponse>(&wire, sizes), sent, "{sizes:?}");
            // What is not known of a message is left out, however many pieces it is in.
            assert_eq!(received::<()>(&wire, sizes).len(), sent.len(), "{sizes:?}");
        }
    }

    #[test]
    fn bytes_that_were_received_in_one_piece_are_not_copied() {
        let wire = frame(&answers(5000, false));
        let mut unframe = Unframe::<v1::FetchFilesResponse>::new(1 << 20);
        unframe.take(wire.clone());
        let payload = unframe.message().unwrap().unwrap().payload;
        let end = wire.as_ptr_range().end;
        assert_eq!(payload.as_ptr_range().end, end);

        // Two pieces are what our own daemon sends.
        let Frame { head, payload } = frame_answers(answers(5000, false));
        unframe.take(head);
        assert!(unframe.message().unwrap().is_none());
        assert!(!unframe.is_between());
        unframe.take(payload.clone());
        assert_eq!(unframe.message().unwrap().unwrap().payload.as_ptr(), payload.as_ptr());
    }

    #[test]
    fn a_message_in_countless_pieces_takes_no_more_memory_than_its_bytes() {
        let wire = frame(&answers(40_000, false));
        let mut unframe = Unframe::<v1::FetchFilesResponse>::new(1 << 20);
        for at in 0..wire.len() - 1 {
            unframe.take(wire.slice(at..=at));
            assert!(unframe.message().unwrap().is_none());
            let kept = unframe.received.others.len();
            assert!(kept <= 1, "{kept} pieces are kept beside the first");
        }
        unframe.take(wire.slice(wire.len() - 1..));
        assert_eq!(unframe.message().unwrap(), Some(answers(40_000, false)));
    }

    #[test]
    fn what_is_no_message_is_refused_before_it_is_received() {
        let mut unframe = Unframe::<v1::FetchFilesResponse>::new(100);
        unframe.take(Bytes::from_static(&[1, 0, 0, 0, 9]));
        assert!(matches!(unframe.message(), Err(UnframeError::Compressed)));

        let mut unframe = Unframe::<v1::FetchFilesResponse>::new(100);
        unframe.take(Bytes::from_static(&[0, 0, 0, 0, 101]));
        assert!(matches!(unframe.message(), Err(UnframeError::TooLarge { length: 101, most: 100 })));

        let mut unframe = Unframe::<v1::FetchFilesResponse>::new(100);
        unframe.take(Bytes::from_static(&[0, 0, 0, 0, 2, 0x12, 0x05, 1, 2, 3, 4, 5]));
        assert!(matches!(unframe.message(), Err(UnframeError::Malformed(_))), "a field beyond its message");
    }
}

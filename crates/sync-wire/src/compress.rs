//! Bytes as zstd frames, and back within bounds.
//!
//! Every frame stands alone: a message can be sent compressed or not whatever the one before it was, and what a frame unpacks
//! to is known, and bounded, before a byte of it is touched. Invariants:
//! * Unpacking takes no more memory than the contract's largest payload, whatever a peer says and sends.
//! * Nothing is ever sent larger than it was.
//! * Data that does not compress costs little: after a try that gained nothing the next ones are left out, twice as many each
//!   time.

use std::{fmt, io};

use bytes::Bytes;
use zstd::{bulk, zstd_safe};

use crate::{MAX_PAYLOAD_BYTES, WireError, v1};

/// On source text in frames of 256 KiB: level 1 makes 410 MB/s at 4.97 : 1, level 3 makes 330 MB/s at 5.26 : 1, level 6
/// 130 MB/s at 6.3 : 1. A line that is worth compressing for carries less than any of them makes, but for the last.
const LEVEL: i32 = 3;

/// Less than this is not worth a frame.
const LEAST_BYTES: usize = 512;

/// How many payloads in a row are left out at most, after tries that gained nothing.
const MOST_SKIPPED: u32 = 64;

/// Compresses the payloads of one response, as long as they get smaller. It holds about 1 MiB once it was used.
#[derive(Default)]
pub struct Compressor {
    context: Option<bulk::Compressor<'static>>,
    frame: Vec<u8>,
    skip: Skip,
}

impl Compressor {
    /// The bytes as a frame. `None` if they do not get at least an eighth smaller, or are not worth a try.
    pub fn compress(&mut self, payload: &[u8]) -> Option<v1::Compressed> {
        if !(LEAST_BYTES..=MAX_PAYLOAD_BYTES).contains(&payload.len()) || self.skip.this_one() {
            return None;
        }
        let gained = self.try_compress(payload);
        self.skip.learn(gained.is_ok());
        let size = u32::try_from(payload.len()).ok()?;
        gained.ok().map(|frame| v1::Compressed { frame, size })
    }

    /// An error if the frame does not fit into seven eighths of the payload.
    fn try_compress(&mut self, payload: &[u8]) -> io::Result<Bytes> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(bulk::Compressor::new(LEVEL)?),
        };
        let most = payload.len() / 8 * 7;
        // Kept for the next payload, and with another size: what is sent should not hold more memory than it has bytes.
        self.frame.clear();
        self.frame.reserve_exact(most);
        let length = context.compress_to_buffer(payload, &mut self.frame)?;
        if length > most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Bytes::copy_from_slice(&self.frame))
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("skip", &self.skip).finish_non_exhaustive()
    }
}

/// Which payloads are left out because those before them gained nothing.
#[derive(Debug, Default)]
struct Skip {
    left: u32,
    last: u32,
}

impl Skip {
    fn this_one(&mut self) -> bool {
        let skipped = self.left > 0;
        self.left = self.left.saturating_sub(1);
        skipped
    }

    fn learn(&mut self, gained: bool) {
        self.last = if gained { 0 } else { (self.last * 2).clamp(1, MOST_SKIPPED) };
        self.left = self.last;
    }
}

/// Unpacks frames that may come from anybody. It holds about 150 KiB once it was used.
#[derive(Default)]
pub struct Decompressor {
    context: Option<bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// Unpacks one frame.
    ///
    /// # Errors
    /// It is not one frame as the contract wants it, or not of the bytes that it says. What was allocated until then is less
    /// than the largest payload.
    pub fn decompress(&mut self, compressed: &v1::Compressed) -> Result<Bytes, WireError> {
        let size = usize::try_from(compressed.size).unwrap_or(usize::MAX);
        if !(1..=MAX_PAYLOAD_BYTES).contains(&size) {
            return Err(WireError::Field { field: "size of compressed bytes" });
        }
        let bad = WireError::Field { field: "zstd frame" };
        if !is_one_frame(&compressed.frame, size) {
            return Err(bad);
        }
        match self.try_decompress(&compressed.frame, size) {
            Ok(bytes) if bytes.len() == size => Ok(bytes.into()),
            _ => Err(bad),
        }
    }

    fn try_decompress(&mut self, frame: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(bulk::Decompressor::new()?),
        };
        // All at once and into a buffer that is the window as well: nothing else is allocated, and what does not fit is an
        // error.
        let mut bytes = Vec::with_capacity(size);
        context.decompress_to_buffer(frame, &mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

/// Whether this is just one frame that says it has `size` bytes, by its headers.
fn is_one_frame(frame: &[u8], size: usize) -> bool {
    frame.len() <= size
        && window_bytes(frame, size).is_some_and(|window| window <= MAX_PAYLOAD_BYTES as u64)
        && zstd_safe::get_frame_content_size(frame).is_ok_and(|said| said == Some(size as u64))
        && zstd_safe::find_frame_compressed_size(frame).is_ok_and(|length| length == frame.len())
}

/// The window that a frame of so much content asks for (RFC 8878, 3.1.1.1). `None` for what is no frame with content.
fn window_bytes(frame: &[u8], size: usize) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let header = frame.strip_prefix(&zstd_safe::MAGICNUMBER.to_le_bytes())?;
    let (&descriptor, rest) = header.split_first()?;
    if descriptor & SINGLE_SEGMENT != 0 {
        return Some(size as u64);
    }
    let window = *rest.first()?;
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

#[cfg(test)]
mod tests {
    use sync_core::Digest;

    use super::*;

    const MIB: usize = 1 << 20;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let block = |number: u64| Digest::of(&[seed.to_le_bytes(), number.to_le_bytes()].concat()).0;
        (0..).flat_map(block).take(bytes).collect()
    }

    fn text(bytes: usize) -> Vec<u8> {
        let line =
            |number: usize| format!("    let value_{} = compute({number});\n", number % 17).into_bytes();
        (0..).flat_map(line).take(bytes).collect()
    }

    fn framed(payload: &[u8]) -> v1::Compressed {
        Compressor::default().compress(payload).expect("it gets smaller")
    }

    fn unpack(compressed: &v1::Compressed) -> Result<Bytes, WireError> {
        Decompressor::default().decompress(compressed)
    }

    /// A frame made elsewhere, which says what its bytes are.
    fn by_hand(header: &[u8], blocks: &[&[u8]]) -> Vec<u8> {
        let magic = zstd_safe::MAGICNUMBER.to_le_bytes();
        [&magic[..], header].into_iter().chain(blocks.iter().copied()).flatten().copied().collect()
    }

    /// The last block of a frame: one byte, `count` times.
    fn repeated(count: u32) -> [u8; 4] {
        let [a, b, c, _] = (count << 3 | 0b011).to_le_bytes();
        [a, b, c, b'x']
    }

    #[test]
    fn what_gets_smaller_survives() {
        let mut compressor = Compressor::default();
        let mut decompressor = Decompressor::default();
        for size in [LEAST_BYTES, 4096, 100_001, 256 << 10, MIB] {
            for payload in [text(size), vec![0; size], [noise(size / 3, 1), text(size - size / 3)].concat()] {
                let compressed = compressor.compress(&payload).expect("it gets smaller");
                assert!(compressed.frame.len() <= payload.len() / 8 * 7, "{}", compressed.frame.len());
                assert_eq!(decompressor.decompress(&compressed).as_deref(), Ok(&payload[..]));
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_left_as_it_is_and_soon_not_tried() {
        let mut compressor = Compressor::default();
        let mut tried = 0;
        for number in 0..1000 {
            tried += u32::from(compressor.skip.left == 0);
            assert_eq!(compressor.compress(&noise(8 << 10, number)), None);
        }
        assert!((5..25).contains(&tried), "{tried} of 1000 were tried");
        // What compresses again is noticed before long, and then nothing is left out.
        let payload = text(8 << 10);
        let first = (0..=MOST_SKIPPED).position(|_| compressor.compress(&payload).is_some());
        assert!(first.is_some());
        assert!((0..10).all(|_| compressor.compress(&payload).is_some()));
        // One that does not is no reason to leave out many.
        assert_eq!(compressor.compress(&noise(8 << 10, 1)), None);
        assert_eq!(compressor.compress(&payload), None);
        assert!(compressor.compress(&payload).is_some());
    }

    #[test]
    fn what_is_too_small_or_too_large_for_a_frame_is_left_as_it_is() {
        let mut compressor = Compressor::default();
        for size in [0, 1, LEAST_BYTES - 1, MIB + 1] {
            assert_eq!(compressor.compress(&vec![0; size]), None, "{size}");
        }
        assert_eq!(compressor.skip.left, 0, "that says nothing about the next");
    }

    #[test]
    fn frames_of_others_are_taken_within_the_contract() {
        // A window of 1 MiB beside the size of the content, in four bytes; and no window at all.
        let windowed = [&[0b1000_0000, 10 << 3][..], &1000_u32.to_le_bytes()].concat();
        let single = [&[0b0110_0000][..], &(1000_u16 - 256).to_le_bytes()].concat();
        for header in [windowed, single] {
            let frame = by_hand(&header, &[&repeated(1000)]).into();
            assert_eq!(unpack(&v1::Compressed { frame, size: 1000 }).as_deref(), Ok(&[b'x'; 1000][..]));
        }
    }

    #[test]
    fn hostile_frames_are_refused() {
        let good = framed(&text(10_000));
        let with_size = |size| v1::Compressed { size, ..good.clone() };
        let with_frame = |frame: Vec<u8>| v1::Compressed { frame: frame.into(), size: 10_000 };
        let frame = good.frame.to_vec();
        let four_bytes = |size: u32| [&[0b1010_0000][..], &size.to_le_bytes()].concat();
        let unknown = |window: u8| by_hand(&[0, window], &[&repeated(10_000)]);
        let windowed = |window| {
            by_hand(&[&[0b1000_0000, window][..], &10_000_u32.to_le_bytes()].concat(), &[&repeated(10_000)])
        };
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
        assert!(unpack(&with_frame(windowed(10 << 3))).is_ok());
        for (what, compressed) in [
            ("nothing", v1::Compressed::default()),
            ("a size of nothing", with_size(0)),
            ("less than it has", with_size(9_999)),
            ("more than it has", with_size(10_001)),
            ("more than a message may have", with_size(MIB as u32 + 1)),
            ("very much more", with_size(u32::MAX)),
            ("an empty frame", with_frame(Vec::new())),
            ("half a frame", with_frame(frame[..frame.len() / 2].to_vec())),
            ("a frame without its last byte", with_frame(frame[..frame.len() - 1].to_vec())),
            ("something after it", with_frame([&frame[..], &[0]].concat())),
            ("another frame after it", with_frame(frame.repeat(2))),
            ("a frame to skip after it", with_frame([&frame[..], &skippable].concat())),
            ("a frame to skip before it", with_frame([&skippable[..], &frame].concat())),
            ("only a frame to skip", with_frame(skippable)),
            ("something else", with_frame(text(200))),
            ("no size in the frame", with_frame(unknown(0))),
            ("a window of 2 MiB", with_frame(windowed(11 << 3))),
            ("a window of 3.75 TiB", with_frame(windowed(0xFF))),
            (
                "a bomb that says a small size",
                with_frame(by_hand(&four_bytes(10_000), &[&repeated(1 << 17)])),
            ),
            ("a bomb that says its size", with_frame(by_hand(&four_bytes(1 << 30), &[&repeated(1 << 17)]))),
            (
                "a frame that is larger than what it has",
                v1::Compressed {
                    frame: by_hand(&[0b0010_0000, 1], &[&[0; 3], &[0; 3], &repeated(1)]).into(),
                    size: 1,
                },
            ),
        ] {
            assert!(unpack(&compressed).is_err(), "{what}");
        }
    }

    #[test]
    fn damaged_frames_give_an_error_or_as_many_bytes_as_they_say() {
        let good = framed(&[text(3000), noise(500, 3)].concat());
        let mut decompressor = Decompressor::default();
        let mut refused = 0;
        for number in 0..20_000 {
            let [at, a, b, c, ..] = Digest::of(&u64::to_le_bytes(number)).0;
            let mut frame = good.frame.to_vec();
            let at = (usize::from(at) << 8 | usize::from(a)) % frame.len();
            frame[at] = b;
            frame[usize::from(c) % 24] ^= u8::from(number % 2 == 0);
            match decompressor.decompress(&v1::Compressed { frame: frame.into(), size: good.size }) {
                Ok(bytes) => assert_eq!(bytes.len(), good.size as usize),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 5_000, "{refused}");
        // And nothing of it sticks.
        assert!(decompressor.decompress(&good).is_ok());
    }
}

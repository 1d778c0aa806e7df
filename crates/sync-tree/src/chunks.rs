//! Takes files apart where their content says so: the parts that [`sync_core::chunk`] describes.
//!
//! * Where the borders are is part of the wire contract ([`chunk::ALGORITHM`]). The golden vectors in the tests guard it: a
//!   release of the library that moves a border fails them, and would need a name of its own.
//! * A large file is taken apart in several places at once, each as if a part began there. Borders depend on so little that
//!   two lists meet after a few parts; from there on they are the same, so what comes out is what one reader would find.
//! * Whoever knows the parts of another version passes them on. Where the same part comes next, its mark tells, and neither is
//!   a border looked for nor a hash made. This too gives what one reader would find without, unless two parts have the same
//!   mark, which is as likely as a lucky guess of 64 bits: then the whole is not what it should be, and whoever checks it sees.
//! * The digest of the whole can be had from the same reading.
//! * Memory is bounded: a buffer for each reader, and the list itself.
//! * A file of size n is its first n bytes, read by position: what is appended meanwhile does not matter.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use blake3::hazmat::ChainingValue;
use fastcdc::v2020::{Normalization, cut, get_gear_with_seed, select_masks};
use foldhash::quality::RandomState;
use rayon::prelude::*;
use sync_core::{
    Digest,
    chunk::{self, Chunk, ChunkHash},
};

use crate::{
    blocks::{BLOCK_BYTES, Blocks, digest_of},
    probe::probed,
};

/// How much is read at a time. Finding borders takes 0.34 s for a GiB of random bytes on one core, hashing the parts 0.41 s,
/// reading 0.13 s.
const BUFFER_BYTES: usize = 512 << 10;
/// A piece that is worth a reader of its own, and how many there are at most: a disk with an arm must not be sent all over
/// the place.
const SEGMENT_BYTES: u64 = 16 << 20;
const MOST_SEGMENTS: u64 = 8;

/// How taking a file apart ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Apart {
    /// These are its parts.
    Complete(Parts),
    /// The file is shorter than it should be.
    TooShort,
    /// Nobody wants the parts any more, or they are more than [`chunk::MOST_CHUNKS`].
    Stopped,
}

/// The parts of a content, in order, with what finds them again in its next version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The parts, as everybody knows them.
    pub chunks: Arc<[Chunk]>,
    /// For each a number that this process makes of its bytes, many times as fast as its hash, and that others make differently:
    /// whoever writes a file cannot know which parts would be mistaken for each other.
    marks: Arc<[u64]>,
}

impl Parts {
    /// The parts of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        cut_up(bytes).collect()
    }

    /// How much memory they take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.chunks) + size_of_val(&*self.marks)
    }
}

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        let (chunks, marks): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.chunk, part.mark)).unzip();
        Self { chunks: chunks.into(), marks: marks.into() }
    }
}

/// A part that was found.
#[derive(Debug, Clone, Copy)]
struct Part {
    chunk: Chunk,
    mark: u64,
}

/// The parts of the first `size` bytes of a file, wherever its position is; `None` if it is shorter, or has too many.
///
/// # Errors
/// Reading failed.
pub fn chunk_file(file: &File, size: u64) -> io::Result<Option<Arc<[Chunk]>>> {
    let read =
        |offset, part: &mut [u8]| probed!(Read { file: file, at: offset } => file.read_at(part, offset));
    Ok(match take_apart(&read, size, &|| true)? {
        Apart::Complete(parts) => Some(parts.chunks),
        Apart::TooShort | Apart::Stopped => None,
    })
}

/// The parts of these bytes.
#[must_use]
pub fn chunk_bytes(bytes: &[u8]) -> Vec<Chunk> {
    cut_up(bytes).map(|part| part.chunk).collect()
}

fn cut_up(mut bytes: &[u8]) -> impl Iterator<Item = Part> {
    let cutter = Cutter::new();
    std::iter::from_fn(move || {
        let (part, rest) = bytes.split_at(cutter.first(bytes));
        bytes = rest;
        (!part.is_empty()).then(|| part_of(part))
    })
}

/// Takes `size` bytes apart, which `read` gives from an offset on (0: there are no more), from several threads. Stops soon after
/// `go_on` says false.
///
/// # Errors
/// Reading failed.
pub fn take_apart<R>(read: &R, size: u64, go_on: &(dyn Fn() -> bool + Sync)) -> io::Result<Apart>
where
    R: Fn(u64, &mut [u8]) -> io::Result<usize> + Sync,
{
    let known = Known::default();
    Ok(match Job::new(read, size, &known, go_on).run() {
        Ok(Found { parts, .. }) => Apart::Complete(parts.into_iter().collect()),
        Err(Broken::TooShort) => Apart::TooShort,
        Err(Broken::Stopped) => Apart::Stopped,
        Err(Broken::Failed(error)) => return Err(error),
    })
}

/// The digest of `size` bytes and their parts, found like [`take_apart`] does from one reading. `known` are the parts of another
/// version. `None` if there are fewer bytes, if they have too many parts, or if they are too few for several threads: 256 KiB.
///
/// # Errors
/// Reading failed.
pub fn hash_and_take_apart<R>(read: &R, size: u64, known: &Parts) -> io::Result<Option<(Digest, Parts)>>
where
    R: Fn(u64, &mut [u8]) -> io::Result<usize> + Sync,
{
    let (known, go_on) = (Known::new(known), || true);
    let job = Job { is_hashed: true, ..Job::new(read, size, &known, &go_on) };
    match job.run() {
        Ok(Found { parts, blocks }) => {
            Ok(digest_of(&blocks).map(|digest| (digest, parts.into_iter().collect())))
        }
        Err(Broken::TooShort | Broken::Stopped) => Ok(None),
        Err(Broken::Failed(error)) => Err(error),
    }
}

fn part_of(bytes: &[u8]) -> Part {
    // A part has at most `MAX_BYTES`.
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Part { chunk: Chunk { size, hash: ChunkHash::of(bytes) }, mark: mark_of(bytes) }
}

fn mark_of(bytes: &[u8]) -> u64 {
    static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    let mut hasher = MARKS.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

/// Why there is no list.
enum Broken {
    TooShort,
    Stopped,
    Failed(io::Error),
}

/// One file that is taken apart.
struct Job<'a, R> {
    read: &'a R,
    size: u64,
    cutter: Cutter,
    known: &'a Known<'a>,
    go_on: &'a (dyn Fn() -> bool + Sync),
    /// Whether the digest of the whole is wanted too.
    is_hashed: bool,
    /// How many parts were found so far.
    found: AtomicUsize,
}

/// The parts from a place on, as if one began there, up to the first that ends at or behind the next segment's start.
struct Segment {
    start: u64,
    parts: Vec<Part>,
    end: u64,
    blocks: Vec<ChainingValue>,
}

/// What a whole file is made of.
struct Found {
    parts: Vec<Part>,
    blocks: Vec<ChainingValue>,
}

impl<'a, R: Fn(u64, &mut [u8]) -> io::Result<usize> + Sync> Job<'a, R> {
    fn new(read: &'a R, size: u64, known: &'a Known<'a>, go_on: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let (cutter, found) = (Cutter::new(), AtomicUsize::new(0));
        Self { read, size, cutter, known, go_on, is_hashed: false, found }
    }

    fn run(&self) -> Result<Found, Broken> {
        let count = (self.size / SEGMENT_BYTES).clamp(1, MOST_SEGMENTS);
        // Where all bytes are the same, borders meet only if the places differ by whole parts; blocks have several of those.
        let step = (self.size / count).next_multiple_of(BLOCK_BYTES);
        let segment = |number: u64| self.segment(number * step, ((number + 1) * step).min(self.size));
        let count = self.size.div_ceil(step.max(1)).max(1);
        if count == 1 {
            let Segment { parts, blocks, .. } = segment(0)?;
            return Ok(Found { parts, blocks });
        }
        let segments: Result<Vec<_>, Broken> = (0..count).into_par_iter().map(segment).collect();
        self.join(segments?)
    }

    fn segment(&self, start: u64, end: u64) -> Result<Segment, Broken> {
        let blocks = self.is_hashed.then(|| Blocks::new(start, end));
        let mut cutting = Cutting::new(self, start, blocks);
        let mut parts = Vec::new();
        while cutting.at() < end {
            parts.push(cutting.next()?);
        }
        let end = cutting.at();
        let blocks = cutting.blocks.map(Blocks::finish).unwrap_or_default();
        Ok(Segment { start, parts, end, blocks })
    }

    /// Goes on from where each segment ends until that is a border in the next one as well.
    fn join(&self, segments: Vec<Segment>) -> Result<Found, Broken> {
        let mut segments = segments.into_iter();
        let Some(Segment { mut parts, end: mut at, mut blocks, .. }) = segments.next() else {
            return Ok(Found { parts: Vec::new(), blocks: Vec::new() });
        };
        for next in segments {
            blocks.extend(next.blocks);
            let mut cutting = None;
            let (mut border, mut rest) = (next.start, next.parts.as_slice());
            while at < next.end {
                while let [first, behind @ ..] = rest
                    && border < at
                {
                    border += u64::from(first.chunk.size);
                    rest = behind;
                }
                if border == at {
                    parts.extend_from_slice(rest);
                    at = next.end;
                } else {
                    parts.push(cutting.get_or_insert_with(|| Cutting::new(self, at, None)).next()?);
                    at += parts.last().map_or(0, |part| u64::from(part.chunk.size));
                }
            }
        }
        Ok(Found { parts, blocks })
    }
}

/// Finds one part after the other.
struct Cutting<'a, R> {
    job: &'a Job<'a, R>,
    buffer: Vec<u8>,
    /// What the buffer holds of the file begins there.
    offset: u64,
    /// The bytes of the buffer that hold something and are not used up.
    used: usize,
    filled: usize,
    /// The known part that may come next.
    guess: Option<usize>,
    /// How many parts were found since the others were told.
    found: usize,
    /// What was read, as far as it is to be hashed.
    blocks: Option<Blocks>,
}

impl<'a, R: Fn(u64, &mut [u8]) -> io::Result<usize> + Sync> Cutting<'a, R> {
    fn new(job: &'a Job<'a, R>, start: u64, blocks: Option<Blocks>) -> Self {
        let left = usize::try_from(job.size - start).unwrap_or(usize::MAX);
        let buffer = vec![0; left.min(BUFFER_BYTES)];
        // Versions begin alike more often than not.
        let guess = (start == 0).then_some(0);
        Self { job, buffer, offset: start, used: 0, filled: 0, guess, found: 0, blocks }
    }

    /// Where the next part begins.
    fn at(&self) -> u64 {
        self.offset + self.used as u64
    }

    /// The next part; there must be one.
    fn next(&mut self) -> Result<Part, Broken> {
        self.fill()?;
        let bytes = &self.buffer[self.used..self.filled];
        let guessed = self.guess.and_then(|number| self.job.guessed(number, bytes));
        let part = match guessed {
            Some(part) => {
                self.guess = self.guess.map(|number| number + 1);
                part
            }
            None => {
                let part = part_of(&bytes[..self.job.cutter.first(bytes)]);
                self.guess = self.job.known.places.get(&part.mark).map(|number| number + 1);
                part
            }
        };
        self.used += part.chunk.size as usize;
        self.found += 1;
        Ok(part)
    }

    /// Sees to it that the whole next part is in the buffer, and the byte behind it, which decides about the border.
    fn fill(&mut self) -> Result<(), Broken> {
        let left = usize::try_from(self.job.size - self.at()).unwrap_or(usize::MAX);
        if self.filled - self.used >= left.min(chunk::MAX_BYTES as usize) {
            return Ok(());
        }
        let found = self.job.found.fetch_add(std::mem::take(&mut self.found), Ordering::Relaxed);
        if found > chunk::MOST_CHUNKS || !(self.job.go_on)() {
            return Err(Broken::Stopped);
        }
        self.buffer.copy_within(self.used..self.filled, 0);
        self.offset += self.used as u64;
        self.filled -= self.used;
        self.used = 0;
        let want = left.min(self.buffer.len());
        while self.filled < want {
            let part = &mut self.buffer[self.filled..want];
            match (self.job.read)(self.offset + self.filled as u64, part) {
                Ok(0) => return Err(Broken::TooShort),
                Ok(count) => {
                    if let Some(blocks) = &mut self.blocks {
                        blocks.update(&part[..count]);
                    }
                    self.filled += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Failed(error)),
            }
        }
        Ok(())
    }
}

impl<R> Job<'_, R> {
    /// This known part, if these bytes begin with it.
    fn guessed(&self, number: usize, bytes: &[u8]) -> Option<Part> {
        let guess = self.known.part(number)?;
        // Close to the file's end the end itself decides.
        if bytes.len() < chunk::MAX_BYTES as usize {
            return None;
        }
        let part = bytes.get(..guess.chunk.size as usize)?;
        // Up to its last byte there is no border, as there was none when it was cut; behind it there must be one here too.
        (self.cutter.is_border(bytes, part.len()) && mark_of(part) == guess.mark).then_some(guess)
    }
}

/// The parts of another version.
#[derive(Default)]
struct Known<'a> {
    chunks: &'a [Chunk],
    marks: &'a [u64],
    places: HashMap<u64, usize, RandomState>,
}

impl<'a> Known<'a> {
    fn new(parts: &'a Parts) -> Self {
        // The last one ended where its file did.
        let count = parts.chunks.len().saturating_sub(1);
        let (chunks, marks) = (&parts.chunks[..count], &parts.marks[..count]);
        let places = marks.iter().enumerate().map(|(number, mark)| (*mark, number)).collect();
        Self { chunks, marks, places }
    }

    fn part(&self, number: usize) -> Option<Part> {
        Some(Part { chunk: *self.chunks.get(number)?, mark: *self.marks.get(number)? })
    }
}

/// Finds borders.
struct Cutter {
    masks: (u64, u64),
    gear: Cow<'static, [u64]>,
}

impl Cutter {
    fn new() -> Self {
        let masks = select_masks(chunk::AVERAGE_BYTES as usize, Normalization::Level0);
        Self { masks, gear: get_gear_with_seed(0).0 }
    }

    /// How long the first part of these bytes is; they end the file, or are at least as many as a part may have.
    fn first(&self, bytes: &[u8]) -> usize {
        let (small, large) = self.masks;
        let [least, average, most] =
            [chunk::MIN_BYTES, chunk::AVERAGE_BYTES, chunk::MAX_BYTES].map(|size| size as usize);
        cut(bytes, least, average, most, small, large, small << 1, large << 1).1
    }

    /// Whether a part that begins with these bytes ends after so many, provided that it does not end before.
    fn is_border(&self, bytes: &[u8], size: usize) -> bool {
        if size >= chunk::MAX_BYTES as usize {
            return size == chunk::MAX_BYTES as usize;
        }
        // The rolling hash starts behind the least size, and forgets a byte after 64 more.
        let from = size.saturating_sub(63).max(chunk::MIN_BYTES as usize);
        let Some(window) = bytes.get(from..=size) else { return false };
        let roll = |hash: u64, byte: &u8| (hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
        let mask = if size < chunk::AVERAGE_BYTES as usize { self.masks.0 } else { self.masks.1 };
        window.iter().fold(0, roll) & mask == 0
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own files")]
mod tests {
    use std::{collections::HashSet, fs};

    use proptest::prelude::*;
    use sync_core::Digest;
    use sync_testkit::rng::Rng;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("f"), bytes).unwrap();
        File::open(tmp.path().join("f")).unwrap()
    }

    /// Bytes of which parts repeat and parts are all the same, as in real files.
    fn mixed(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = Rng::new(seed);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let some = 1 + rng.below(200_000);
            match rng.below(4) {
                0 => bytes.resize(bytes.len() + some, 0),
                1 => bytes.extend(b"a line of text\n".iter().cycle().take(some)),
                _ => bytes.extend(rng.bytes(some)),
            }
        }
        bytes.truncate(len);
        bytes
    }

    fn all_in_one(chunks: &[Chunk]) -> String {
        let bytes: Vec<u8> =
            chunks.iter().flat_map(|chunk| [&chunk.size.to_le_bytes()[..], &chunk.hash.0].concat()).collect();
        Digest::of(&bytes).to_hex()
    }

    /// The contract: these numbers never change for this name of the algorithm.
    #[test]
    fn the_borders_are_those_of_the_contract() {
        assert_eq!(chunk::ALGORITHM, "fastcdc-v2020-4k-8k-64k-n0");
        for (bytes, sizes, count, digest) in [
            (
                Rng::new(1).bytes(8 << 20),
                &[16594, 4854, 6680, 16852, 8403, 8984, 7368, 12030, 5997, 21446, 5086, 11193][..],
                683,
                "38c2b4bfd36d1e12f2c4f4b92b874e939f9eef10cc5993924826daed01b0dfef",
            ),
            (
                mixed(2, 5_000_001),
                &[43533, 12140, 4404, 7234, 32227, 8654, 9820, 8932, 5800, 5101, 8140, 65536],
                238,
                "5441de2894c1b48045a14e31ae1dd1890eb00ef0733115b03674da8674c0a461",
            ),
            (
                vec![0; 200_000],
                &[65536, 65536, 65536, 3392],
                4,
                "b32b5c86d94eda0a4bcd2b097e4ec36a674b621fa8d56787cc9b6dbb5351cc09",
            ),
        ] {
            let chunks = chunk_bytes(&bytes);
            let found: Vec<_> = chunks.iter().take(12).map(|chunk| chunk.size).collect();
            assert_eq!(
                (found.as_slice(), chunks.len(), all_in_one(&chunks).as_str()),
                (sizes, count, digest)
            );
        }
    }

    #[test]
    fn the_sizes_add_up_and_keep_their_bounds() {
        for len in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, BUFFER_BYTES, BUFFER_BYTES + 1, 9_000_001]
        {
            let bytes = mixed(len as u64, len);
            let chunks = chunk_bytes(&bytes);
            let sum: usize = chunks.iter().map(|chunk| chunk.size as usize).sum();
            assert_eq!(sum, len);
            let last = chunks.len().saturating_sub(1);
            for (number, chunk) in chunks.iter().enumerate() {
                let least = if number == last { 1 } else { chunk::MIN_BYTES };
                assert!((least..=chunk::MAX_BYTES).contains(&chunk.size), "{number} of {last}: {chunk:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_file_has_the_parts_of_its_bytes(seed: u64, len in 0..3_500_000_usize, more in 0..3_usize) {
            let bytes = mixed(seed, len + more * 40_000);
            let file = file_of(&bytes);
            let want = chunk_bytes(&bytes[..len]);
            prop_assert_eq!(chunk_file(&file, len as u64).unwrap(), Some(want.into()));
            prop_assert_eq!(chunk_file(&file, bytes.len() as u64 + 1).unwrap(), None);
        }
    }

    /// What reading these bytes gives.
    fn reader(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> io::Result<usize> + Sync {
        |offset, part| {
            let from = usize::try_from(offset).unwrap().min(bytes.len());
            let count = part.len().min(bytes.len() - from);
            part[..count].copy_from_slice(&bytes[from..from + count]);
            Ok(count)
        }
    }

    #[test]
    fn reads_may_be_short_and_interrupted_and_fail() {
        let bytes = mixed(4, 2_500_000);
        let turn = AtomicUsize::new(0);
        let odd = |offset: u64, part: &mut [u8]| {
            if turn.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = part.len().min(70_001);
            reader(&bytes)(offset, &mut part[..count])
        };
        let take = |go_on: &(dyn Fn() -> bool + Sync)| take_apart(&odd, bytes.len() as u64, go_on);
        assert_eq!(take(&|| true).unwrap(), Apart::Complete(Parts::of(&bytes)));
        let asked = AtomicUsize::new(0);
        assert_eq!(take(&|| asked.fetch_add(1, Ordering::Relaxed) < 3).unwrap(), Apart::Stopped);
        let failing = |_, _: &mut [u8]| Err(io::ErrorKind::PermissionDenied.into());
        assert!(take_apart(&failing, 1, &|| true).is_err());
    }

    #[test]
    fn many_readers_find_what_one_does() {
        for (seed, len) in
            [(1, 2 * SEGMENT_BYTES), (2, 3 * SEGMENT_BYTES + 12_345), (3, 5 * SEGMENT_BYTES - 1)]
        {
            let bytes = mixed(seed, usize::try_from(len).unwrap());
            let found = take_apart(&reader(&bytes), len, &|| true).unwrap();
            assert_eq!(found, Apart::Complete(Parts::of(&bytes)));
            let short = take_apart(&reader(&bytes), len + 1, &|| true).unwrap();
            assert_eq!(short, Apart::TooShort);
        }
        // After bytes that are all the same the lists never meet, unless the places are well chosen.
        let mut bytes = vec![0; 3 * usize::try_from(SEGMENT_BYTES).unwrap()];
        for head in [0, 1000] {
            bytes[..head].copy_from_slice(&Rng::new(1).bytes(head));
            let found = take_apart(&reader(&bytes), bytes.len() as u64, &|| true).unwrap();
            assert_eq!(found, Apart::Complete(Parts::of(&bytes)));
        }
    }

    #[test]
    fn what_is_known_of_another_version_changes_nothing() {
        for seed in 0..40 {
            let old = mixed(seed, 900_000);
            let mut rng = Rng::new(seed + 1000);
            let mut new = old.clone();
            for _ in 0..rng.below(6) {
                let at = rng.below(new.len());
                let gone = at..(at + rng.below(3) * rng.below(30_000)).min(new.len());
                let fresh = rng.below(3) * rng.below(20_000);
                new.splice(gone, rng.bytes(fresh));
            }
            // An end at any place of a part, and ends close behind what was an end.
            new.truncate(new.len() - rng.below(50_000));
            for (known, bytes) in [(&old, &new), (&new, &old)] {
                let found = hash_and_take_apart(&reader(bytes), bytes.len() as u64, &Parts::of(known));
                let want = (Digest::of(bytes), Parts::of(bytes));
                assert_eq!(found.unwrap(), Some(want), "seed {seed}");
            }
        }
    }

    #[test]
    fn the_digest_is_that_of_the_whole_however_many_read_it() {
        let none = Parts::of(&[]);
        for len in [BLOCK_BYTES + 1, SEGMENT_BYTES, 3 * SEGMENT_BYTES + 70_000] {
            let old = mixed(6, usize::try_from(len).unwrap());
            let new = [&[1, 2, 3], old.as_slice()].concat();
            let size = new.len() as u64;
            for known in [&none, &Parts::of(&old), &Parts::of(&new)] {
                let found = hash_and_take_apart(&reader(&new), size, known).unwrap();
                assert_eq!(found, Some((Digest::of(&new), Parts::of(&new))), "{len} bytes");
                // What is appended meanwhile does not count, and less is nothing.
                let found = hash_and_take_apart(&reader(&new), len, known).unwrap();
                assert_eq!(found.unwrap().0, Digest::of(&new[..old.len()]));
                assert_eq!(hash_and_take_apart(&reader(&new), size + 1, known).unwrap(), None);
            }
        }
        assert_eq!(hash_and_take_apart(&reader(b"few"), 3, &none).unwrap(), None);
        let failing = |_, _: &mut [u8]| Err(io::ErrorKind::PermissionDenied.into());
        assert!(hash_and_take_apart(&failing, 1 << 20, &none).is_err());
    }

    /// A border depends on the byte behind it too.
    #[test]
    fn a_known_part_before_another_byte_may_end_elsewhere() {
        let old = Rng::new(5).bytes(300_000);
        let parts = Parts::of(&old);
        let known = &parts.chunks;
        let mut moved = 0;
        for number in 0..10 {
            let end: u32 = known[..=number].iter().map(|chunk| chunk.size).sum();
            let mut new = old.clone();
            new[end as usize] ^= 0x55;
            let want = Parts::of(&new);
            moved += usize::from(want.chunks[number] != known[number]);
            let found = hash_and_take_apart(&reader(&new), new.len() as u64, &parts).unwrap();
            assert_eq!(found.unwrap().1, want, "part {number}");
        }
        assert!(moved > 5, "only {moved} borders moved");
    }

    #[test]
    fn a_byte_at_the_front_changes_only_the_first_parts() {
        for seed in 0..20 {
            let bytes = Rng::new(seed).bytes(4 << 20);
            let before = chunk_bytes(&bytes);
            let after = chunk_bytes(&[&[7], bytes.as_slice()].concat());
            let known: HashSet<_> = before.iter().copied().collect();
            let new = after.iter().filter(|chunk| !known.contains(chunk)).count();
            assert!(new <= 8, "seed {seed}: {new} of {} parts are new", after.len());
            assert_eq!(after.last(), before.last());
        }
    }
}

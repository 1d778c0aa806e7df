//! A large file, and the ways in which large files change.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::rng::Rng;

const SEED: u64 = 0x5EED + 1;
const BLOCK_BYTES: usize = 1 << 20;

/// A directory with one large file, `large.bin`. Its content does not compress.
#[derive(Debug)]
pub struct LargeFile {
    path: PathBuf,
    rng: Rng,
}

impl LargeFile {
    /// Makes it, of whole MiB.
    ///
    /// # Panics
    /// If there is no room.
    #[must_use]
    pub fn make(dir: &Path, bytes: u64) -> Self {
        fs::create_dir_all(dir).expect("a directory can be made");
        let path = dir.join("large.bin");
        let mut file = File::create(&path).expect("a file can be made");
        let mut rng = Rng::new(SEED);
        for _ in 0..bytes / BLOCK_BYTES as u64 {
            file.write_all(&rng.bytes(BLOCK_BYTES)).expect("there is room for the large file");
        }
        Self { path, rng }
    }

    /// How many bytes it has.
    ///
    /// # Panics
    /// If somebody took it away.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.path).expect("the large file is there").len()
    }

    /// Writes that many pieces of new bytes in its place, each somewhere in its own part of the file.
    ///
    /// # Panics
    /// If it cannot be written, or the pieces do not fit.
    pub fn rewrite(&mut self, pieces: u64, piece_bytes: usize) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("the large file is there");
        let part = self.bytes() / pieces;
        for number in 0..pieces {
            let room = usize::try_from(part).expect("a part fits into memory") - piece_bytes;
            let at = number * part + self.rng.below(room + 1) as u64;
            file.write_all_at(&self.rng.bytes(piece_bytes), at).expect("the large file can be written");
        }
    }

    /// Appends new bytes.
    ///
    /// # Panics
    /// If there is no room.
    pub fn append(&mut self, bytes: usize) {
        let mut file = OpenOptions::new().append(true).open(&self.path).expect("the large file is there");
        file.write_all(&self.rng.bytes(bytes)).expect("there is room for more");
    }

    /// Puts bytes in at its front: a new file with them and the old content takes its place.
    ///
    /// # Panics
    /// If there is no room for both.
    pub fn insert_at_front(&mut self, bytes: usize) {
        // Beside the directory, so that nobody syncs it.
        let beside = self.path.with_file_name("..").join("large.new");
        let mut new = File::create(&beside).expect("a file can be made");
        new.write_all(&self.rng.bytes(bytes)).expect("there is room for the new file");
        let mut old = File::open(&self.path).expect("the large file is there");
        io::copy(&mut old, &mut new).expect("there is room for the new file");
        fs::rename(beside, &self.path).expect("the new file can take the old one's place");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn it_changes_as_it_says() {
        let scratch = Scratch::new();
        let mut large = LargeFile::make(&scratch.path().join("share"), 2 << 20);
        let path = scratch.path().join("share/large.bin");
        let first = fs::read(&path).unwrap();
        large.rewrite(16, 4096);
        let second = fs::read(&path).unwrap();
        assert_eq!((first.len(), second.len()), (2 << 20, 2 << 20));
        for (first, second) in first.chunks(128 << 10).zip(second.chunks(128 << 10)) {
            let changed = first.iter().zip(second).filter(|(first, second)| first != second).count();
            assert!((4000..=4096).contains(&changed), "{changed}");
        }
        large.append(5);
        let third = fs::read(&path).unwrap();
        assert!(third.len() == second.len() + 5 && third.starts_with(&second));
        large.insert_at_front(3);
        let fourth = fs::read(&path).unwrap();
        assert!(fourth.len() as u64 == large.bytes() && fourth.ends_with(&third));
        assert_eq!((fourth.len(), fs::read_dir(scratch.path()).unwrap().count()), (third.len() + 3, 1));
    }
}

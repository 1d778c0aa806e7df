//! The trees that are measured. The same number gives the same tree.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use crate::rng::Rng;

const SEED: u64 = 0x5EED;
const FILES_PER_DIRECTORY: usize = 100;

/// The sizes of small files, unless said otherwise.
pub const SMALL: RangeInclusive<usize> = 256..=8192;

/// A tree of many small files: two halves, each with directories of a hundred files.
#[derive(Debug)]
pub struct SmallFiles {
    root: PathBuf,
    count: usize,
    sizes: RangeInclusive<usize>,
    second_half: &'static str,
    rng: Rng,
}

impl SmallFiles {
    /// Makes the tree. Contents do not compress.
    #[must_use]
    pub fn make(root: &Path, count: usize, sizes: RangeInclusive<usize>) -> Self {
        let mut tree = Self::unmade(root, count, sizes, 0);
        for number in 0..count {
            let contents = tree.contents(None);
            tree.put_new(number, &contents);
        }
        tree
    }

    fn unmade(root: &Path, count: usize, sizes: RangeInclusive<usize>, number: u64) -> Self {
        let rng = Rng::new(SEED + number);
        Self { root: root.into(), count, sizes, second_half: HALVES[1], rng }
    }

    /// How many files it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The relative path of a file.
    #[must_use]
    pub fn path(&self, number: usize) -> PathBuf {
        let half = if number < self.count / 2 { HALVES[0] } else { self.second_half };
        PathBuf::from(format!("{half}/directory {:04}/file {number:06}.dat", number / FILES_PER_DIRECTORY))
    }

    /// Gives that many files, spread over the tree, new contents of another size.
    pub fn rewrite(&mut self, files: usize) {
        let step = (self.count / files).max(1);
        let first = self.rng.below(step);
        for number in (first..self.count).step_by(step).take(files) {
            self.rewrite_one(number);
        }
    }

    /// Renames the directory that holds half of the files, there or back.
    pub fn rename_half(&mut self) {
        let new = if self.second_half == HALVES[1] { HALVES[2] } else { HALVES[1] };
        fs::rename(self.root.join(self.second_half), self.root.join(new))
            .expect("a directory can be renamed");
        self.second_half = new;
    }

    /// A number of some file.
    pub fn any(&mut self) -> usize {
        self.rng.below(self.count)
    }

    fn rewrite_one(&mut self, number: usize) {
        let path = self.root.join(self.path(number));
        let old = fs::metadata(&path).expect("the file is there").len();
        let contents = self.contents(Some(old));
        put(&path, &contents);
    }

    /// The next contents, of another size than the one that is given.
    fn contents(&mut self, old_size: Option<u64>) -> Vec<u8> {
        let (least, most) = (*self.sizes.start(), *self.sizes.end());
        let mut len = least + self.rng.below(most - least + 1);
        if Some(len as u64) == old_size {
            len = if len == least { most } else { len - 1 };
        }
        self.rng.bytes(len)
    }

    /// Writes a file that comes after the one with the number before, or first.
    fn put_new(&self, number: usize, contents: &[u8]) {
        let path = self.root.join(self.path(number));
        if number.is_multiple_of(FILES_PER_DIRECTORY) || number == self.count / 2 {
            fs::create_dir_all(path.parent().expect("a file is in a directory"))
                .expect("directories can be made");
        }
        put(&path, contents);
    }
}

fn put(path: &Path, contents: &[u8]) {
    fs::write(path, contents).expect("there is room for the small files");
}

/// A tree whose contents are in memory, so that making it is no more than writing files.
#[derive(Debug)]
pub struct Prepared {
    tree: SmallFiles,
    contents: Vec<Vec<u8>>,
}

impl Prepared {
    /// Prepares a tree with contents of which none is one of the tree with another number, or of [`SmallFiles::make`]'s (0).
    #[must_use]
    pub fn new(root: &Path, count: usize, sizes: RangeInclusive<usize>, number: u64) -> Self {
        let mut tree = SmallFiles::unmade(root, count, sizes, number);
        let contents = (0..count).map(|_| tree.contents(None)).collect();
        Self { tree, contents }
    }

    /// Writes it.
    #[must_use]
    pub fn make(self) -> SmallFiles {
        for (number, contents) in self.contents.iter().enumerate() {
            self.tree.put_new(number, contents);
        }
        self.tree
    }
}

/// The names of the halves, and the second one's other name.
const HALVES: [&str; 3] = ["first half", "second half", "second half, renamed"];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{Scratch, tree::snapshot};

    #[test]
    fn a_rewrite_changes_the_size_of_as_many_files_as_it_says() {
        let scratch = Scratch::new();
        let mut tree = SmallFiles::make(scratch.path(), 250, 1..=3);
        let before = snapshot(scratch.path());
        tree.rewrite(25);
        let after = snapshot(scratch.path());
        let changed = before.iter().filter(|(path, seen)| after[*path].size != seen.size).count();
        assert_eq!((changed, before.len()), (25, after.len()));
    }

    #[test]
    fn trees_of_other_numbers_have_no_content_in_common() {
        let scratch = Scratch::new();
        let contents = |number: u64| -> HashSet<Vec<u8>> {
            let root = scratch.path().join(number.to_string());
            let tree = Prepared::new(&root, 250, SMALL, number).make();
            (0..250).map(|file| fs::read(root.join(tree.path(file))).unwrap()).collect()
        };
        let (first, second) = (contents(0), contents(1));
        assert_eq!(first.len(), 250);
        assert!(first.is_disjoint(&second));
    }

    #[test]
    fn a_prepared_tree_is_the_one_that_is_made() {
        let scratch = Scratch::new();
        let (made, prepared) = (scratch.path().join("made"), scratch.path().join("prepared"));
        let tree = SmallFiles::make(&made, 250, 1..=3);
        let again = Prepared::new(&prepared, 250, 1..=3, 0).make();
        assert_eq!((tree.count(), again.count(), again.root()), (250, 250, &*prepared));
        for path in (0..250).map(|number| tree.path(number)) {
            assert_eq!(fs::read(made.join(&path)).unwrap(), fs::read(prepared.join(&path)).unwrap());
        }
    }

    #[test]
    fn a_rename_moves_half_of_the_files_and_back() {
        let scratch = Scratch::new();
        let mut tree = SmallFiles::make(scratch.path(), 250, 1..=3);
        for _ in 0..3 {
            tree.rename_half();
            assert!((0..250).all(|number| scratch.path().join(tree.path(number)).exists()));
        }
        assert_ne!(tree.path(125).iter().next(), tree.path(124).iter().next());
    }
}

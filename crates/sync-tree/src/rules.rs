//! Which paths are not part of a tree: configured patterns and every `.syncignore`, in gitignore syntax.
//!
//! Rules travel with the tree as text ([`RuleSet`]) and both sides compile the same text with the same code, so they
//! always agree on what is ignored. Invariants:
//! * Compiling reads nothing from disk and never fails: a line that is not understood is left out, on both sides alike,
//!   and kept in [`Rules::bad_lines`].
//! * What lies below an ignored directory is ignored, whatever later rules say; as in git, nothing can be taken back
//!   from there.
//! * A deeper directory's rules win over a shallower one's, a later line over an earlier one.
//! * What does not fit the bounds is left out, on both sides alike: all rules travel in one message, and every path is
//!   matched against them. [`too_much`] says so.
//!
//! A `.syncignore` itself is an ordinary entry: it is sent like any file, unless a rule ignores it.

use std::{cell::RefCell, collections::HashMap, fmt, path::Path, sync::Arc};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use sync_core::{Digest, Problem, RuleFile, RuleSet, TreePath};

/// The name of the files that hold ignore rules.
pub const SYNCIGNORE: &str = ".syncignore";

/// A longer text counts up to the last line end within this: nobody writes so much by hand.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// The texts of a tree count in their order for as long as they fit this: half of what a message of the wire may be.
pub const MAX_SET_BYTES: usize = 2 << 20;

/// What a file takes in a message beside its directory's name and its text, at most.
const FILE_BYTES: usize = 16;

/// A line that is not understood and therefore not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// The directory whose rules hold it; the root for the configured patterns as well.
    pub dir: TreePath,
    /// The line, or all of the directory's rules when only together they are too much.
    pub text: String,
    /// What is wrong with it.
    pub error: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.dir.join(SYNCIGNORE);
        write!(f, "The ignore pattern {:?} in {file}", self.text)?;
        if self.dir.is_root() {
            f.write_str(" or the configuration")?;
        }
        write!(f, " is left out: {}", self.error)
    }
}

/// All rules of a tree, ready to be asked.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By directory; only directories with at least one pattern.
    dirs: Arc<HashMap<Box<str>, Gitignore>>,
    /// Directories whose rules are others than those, the last change first.
    changed: Option<Arc<Changed>>,
    bad_lines: Vec<BadLine>,
    digest: Digest,
}

/// The rules of one directory, in place of what was known of them.
#[derive(Debug)]
struct Changed {
    dir: TreePath,
    matcher: Option<Gitignore>,
    before: Option<Arc<Changed>>,
}

impl Rules {
    /// Compiles the rules of a tree.
    #[must_use]
    pub fn compile(set: &RuleSet) -> Self {
        let mut texts: HashMap<&str, Vec<Counted<'_>>> = HashMap::new();
        for file in counted(set) {
            texts.entry(file.dir.as_str()).or_default().push(file);
        }
        let (mut dirs, mut bad_lines) = (HashMap::new(), Vec::new());
        for (dir, files) in texts {
            if let Some(matcher) = compile_dir(&files, &mut bad_lines) {
                dirs.insert(dir.into(), matcher);
            }
        }
        bad_lines.sort_by(|a, b| a.dir.cmp(&b.dir));
        Self { dirs: Arc::new(dirs), changed: None, bad_lines, digest: digest(set) }
    }

    /// The same rules but for one directory, which has these files now: for the rest of a look that finds them, without
    /// compiling all others again. Whether they fit the bounds is the caller's business, see [`cost`]; digest and bad lines
    /// stay those of before.
    #[must_use]
    pub(crate) fn with_dir(&self, dir: &TreePath, files: &[RuleFile]) -> Self {
        let files: Vec<_> =
            files.iter().map(|file| Counted { dir: &file.dir, text: whole_lines(&file.text) }).collect();
        let matcher = compile_dir(&files, &mut Vec::new());
        let changed = Changed { dir: dir.clone(), matcher, before: self.changed.clone() };
        Self { changed: Some(Arc::new(changed)), ..self.clone() }
    }

    /// The matcher of a directory.
    fn matcher(&self, dir: &str) -> Option<&Gitignore> {
        let mut changed = self.changed.as_deref();
        while let Some(change) = changed {
            if change.dir.as_str() == dir {
                return change.matcher.as_ref();
            }
            changed = change.before.as_deref();
        }
        self.dirs.get(dir)
    }

    /// Whether a path, or any directory above it, is ignored.
    #[must_use]
    pub fn is_ignored(&self, path: &TreePath, is_dir: bool) -> bool {
        let path = path.as_str();
        if self.is_empty() || path.is_empty() {
            return false;
        }
        let above = path.match_indices('/').map(|(end, _)| &path[..end]);
        above.into_iter().any(|dir| self.decides_to_ignore(dir, true)) || self.decides_to_ignore(path, is_dir)
    }

    /// Whether a name in a directory is ignored, where the directory is known not to be. For walks.
    #[must_use]
    pub fn is_ignored_below(&self, dir: &TreePath, name: &str, is_dir: bool) -> bool {
        thread_local! {
            /// Spares an allocation for every entry of a walk.
            static PATH: RefCell<String> = const { RefCell::new(String::new()) };
        }
        if self.is_empty() {
            return false;
        }
        if dir.is_root() {
            return self.decides_to_ignore(name, is_dir);
        }
        PATH.with_borrow_mut(|path| {
            path.clear();
            path.push_str(dir.as_str());
            path.push('/');
            path.push_str(name);
            self.decides_to_ignore(path, is_dir)
        })
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.changed.is_none()
    }

    /// The lines that were left out, by directory.
    #[must_use]
    pub fn bad_lines(&self) -> &[BadLine] {
        &self.bad_lines
    }

    /// The digest of the rules' text: equal digests, equal rules.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Asks the rules of every directory above `path`, the deepest first. Looks at this path only, not at those above.
    fn decides_to_ignore(&self, path: &str, is_dir: bool) -> bool {
        let mut dir_end = path.rfind('/');
        loop {
            let (dir, rest) = dir_end.map_or(("", path), |end| (&path[..end], &path[end + 1..]));
            if let Some(matcher) = self.matcher(dir) {
                match matcher.matched(Path::new(rest), is_dir) {
                    Match::Ignore(_) => return true,
                    Match::Whitelist(_) => return false,
                    Match::None => {}
                }
            }
            let Some(end) = dir_end else { return false };
            dir_end = path[..end].rfind('/');
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::compile(&RuleSet::default())
    }
}

/// Puts the configured patterns and the `.syncignore` files of a tree together in the order in which they count.
#[must_use]
pub fn rule_set(configured: &[String], files: impl IntoIterator<Item = (TreePath, String)>) -> RuleSet {
    let mut files: Vec<_> = files.into_iter().map(|(dir, text)| RuleFile { dir, text }).collect();
    files.sort_by(|a, b| a.dir.cmp(&b.dir));
    if !configured.is_empty() {
        files.insert(0, RuleFile { dir: TreePath::root(), text: configured.join("\n") });
    }
    RuleSet { files }
}

/// What of a rule file counts.
#[derive(Debug, Clone, Copy)]
struct Counted<'a> {
    dir: &'a TreePath,
    text: &'a str,
}

fn counted(set: &RuleSet) -> impl Iterator<Item = Counted<'_>> {
    let mut room = MAX_SET_BYTES;
    set.files.iter().map_while(move |file| {
        room = room.checked_sub(cost(&file.dir, &file.text))?;
        Some(Counted { dir: &file.dir, text: whole_lines(&file.text) })
    })
}

/// What of [`MAX_SET_BYTES`] a directory's rules take.
pub(crate) fn cost(dir: &TreePath, text: &str) -> usize {
    whole_lines(text).len() + dir.as_str().len() + FILE_BYTES
}

/// The lines of a text that fit. Half a pattern would match something else.
fn whole_lines(text: &str) -> &str {
    if text.len() <= MAX_TEXT_BYTES {
        return text;
    }
    let end = text.as_bytes()[..MAX_TEXT_BYTES].iter().rposition(|byte| *byte == b'\n');
    end.map_or("", |end| &text[..=end])
}

/// The part of the rules that counts; all that is sent.
#[must_use]
pub fn bounded(set: &RuleSet) -> RuleSet {
    let files = counted(set).map(|file| RuleFile { dir: file.dir.clone(), text: file.text.to_owned() });
    RuleSet { files: files.collect() }
}

/// The rule files that do not count, or not as a whole. Of those that find no more room only the first is named.
#[must_use]
pub fn too_much(set: &RuleSet) -> Vec<Problem> {
    let problem = |file: &RuleFile, error: String| Problem {
        unknown: false,
        ..Problem::new(file.dir.join(SYNCIGNORE), error)
    };
    let fits = counted(set).count();
    let long = set.files[..fits].iter().filter(|file| file.text.len() > MAX_TEXT_BYTES).map(|file| {
        let or_config = if file.dir.is_root() { " (or in the configuration)" } else { "" };
        problem(
            file,
            format!("Only the first {} KiB of ignore rules{or_config} are applied", MAX_TEXT_BYTES >> 10),
        )
    });
    let no_room = set.files.get(fits).map(|file| {
        let most = MAX_SET_BYTES >> 20;
        problem(
            file,
            format!("The share has more than {most} MiB of ignore rules: from here on they are not applied"),
        )
    });
    long.chain(no_room).collect()
}

/// One matcher for all rules of one directory; `None` if there is nothing in them.
fn compile_dir(files: &[Counted<'_>], bad_lines: &mut Vec<BadLine>) -> Option<Gitignore> {
    // Paths are given relative to the rules' directory, so the matcher has nothing to strip.
    let mut builder = GitignoreBuilder::new(".");
    let mut bad = |file: &Counted<'_>, text: &str, error: &ignore::Error| {
        bad_lines.push(BadLine { dir: file.dir.clone(), text: text.to_owned(), error: error.to_string() });
    };
    for file in files {
        // Editors on Windows put a mark in front and CR at the line ends; `lines` takes the latter away.
        for line in file.text.trim_start_matches('\u{feff}').lines() {
            if let Err(error) = builder.add_line(None, line) {
                bad(file, line, &error);
            }
        }
    }
    match builder.build() {
        Ok(matcher) if matcher.is_empty() => None,
        Ok(matcher) => Some(matcher),
        Err(error) => {
            for file in files {
                bad(file, file.text, &error);
            }
            None
        }
    }
}

fn digest(set: &RuleSet) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for file in counted(set) {
        for part in [file.dir.as_str(), file.text] {
            // The length in front keeps "ab" + "c" apart from "a" + "bc".
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests;

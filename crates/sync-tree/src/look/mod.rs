//! Compares what is on the disk with the index and commits the difference. The only way anything gets into the index.
//!
//! One look covers everything or some dirty places. Directories are walked in parallel; what differs goes through a bounded
//! channel to one committer. Invariants:
//!
//! * **Unreadable is not gone.** A node is removed only if its directory was listed completely and lacks it. What cannot be
//!   listed or read keeps its row, and a problem says so.
//! * **Names keep their nodes.** A name that was there before and after keeps its node whatever it holds now. A name that
//!   appeared with the inode of a node whose own place lost it is that node, moved; also if it cannot be read, as long as
//!   its size and time are those that are known.
//! * Removals are decided last, when every move is known, and a look that would empty the tree commits none of them. What
//!   nobody said to be gone may be moving just now: its removal waits for the next look.
//! * A digest is believed without reading only if identity vouches for it, see [`crate::hash`].
//!
//! It does not watch, wait or decide when to look: see `live`.

mod batch;
mod claim;
mod commit;
mod enter;
mod file;
mod mounts;
mod news;
mod rules;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make and look at their own trees")]
mod tests;
mod walk;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
};

use sync_core::{Hint, Kind, NodeId, Problem, RuleSet, TreePath, name::STATE_DIR};

use crate::{
    described::Described,
    fresh::Fresh,
    hash::{CLOCK_FILE, FsClock},
    index::{Head, Index, IndexError, IndexedNode},
    rooted::{Dir, Root},
    trouble,
};

pub(crate) use commit::MAX_REVISITS;
use mounts::Mounts;
pub use rules::{bad_root_lines, small_text};
pub use walk::{SHARE_ID, TARGET_OF};

/// What to look at.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The whole tree.
    Everything,
    /// These places.
    Places(Vec<Dirty>),
}

/// A place that may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dirty {
    /// The place.
    pub path: TreePath,
    /// Whether everything below it may have changed too.
    pub deep: bool,
}

/// Hears of directories while they are walked. Called from several threads.
pub trait LookObserver: Sync {
    /// The directory is about to be listed: what watches it must be in place when this returns.
    fn entering(&self, dir: &TreePath);
    /// Whether it is sure that what is not in this place any more is gone: an event said so, or there are none that could.
    /// Otherwise it may be on its way to another place, which a look at some places knows nothing of. Then it stays in the
    /// index, and the report has it.
    fn is_gone_for_good(&self, path: &TreePath) -> bool {
        let _ = path;
        true
    }
    /// Whether the look should end early, with [`LookError::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never cancels.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl LookObserver for NoObserver {
    fn entering(&self, _dir: &TreePath) {}
}

/// What a look may not do by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct LookLimits {
    /// The most files the tree had lately. If it was [`EMPTIED_FLOOR`] or more and none are left, the look is refused.
    pub files_recently: u64,
    /// A person said that what is on the disk now is right: an emptied tree and vanished mounts are taken as they are.
    pub accept_emptied: bool,
    /// Every file is read again, whatever vouches for it.
    pub distrust: bool,
}

/// A tree of fewer files may become empty without anybody being asked.
pub const EMPTIED_FLOOR: u64 = 10;

/// Where the ignore rules come from.
#[derive(Debug, Clone)]
pub enum RulePolicy {
    /// The tree's own `.syncignore` files, after these configured patterns.
    Own {
        /// Patterns for the whole tree.
        config: Vec<String>,
    },
    /// These rules and no others: a target obeys the share's rules, not what lies in the target.
    Given(RuleSet),
}

/// What a change was, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOp {
    /// It was not there.
    Created,
    /// Its content changed.
    Modified,
    /// Only its mode or time changed.
    Metadata,
    /// It is gone.
    Deleted,
    /// It was somewhere else.
    Renamed {
        /// Where.
        from: TreePath,
    },
    /// It is ignored from now on.
    Forgotten,
}

/// One change, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeNote {
    /// What happened.
    pub op: ChangeOp,
    /// Where.
    pub path: TreePath,
    /// What kind of thing it is.
    pub kind: Kind,
    /// A file's size.
    pub size: u64,
}

/// What a look found.
#[derive(Debug)]
pub struct LookReport {
    /// The tree now.
    pub head: Head,
    /// What changed, at most [`MAX_NOTES`].
    pub notes: Vec<ChangeNote>,
    /// How many more changed.
    pub notes_left_out: u64,
    /// Places whose digest nothing vouches for yet, or that never held still: to be looked at again in a while.
    pub revisit: Vec<TreePath>,
    /// Places whose news contradicted the index, because something moved meanwhile; [`Looker::look`] looks again at once.
    pub(crate) refused: Vec<TreePath>,
    /// Places that are empty without anybody having said so, and that were left as they are known: to be looked at again when
    /// it was said, or in a moment.
    pub(crate) unsaid: Vec<TreePath>,
    /// Whether the list of unreadable paths changed.
    pub problems_changed: bool,
    /// Whether the ignore rules changed.
    pub rules_changed: bool,
    /// Directories that were moved: from, to.
    pub moved: Vec<(TreePath, TreePath)>,
    /// Directories that are gone.
    pub gone_dirs: Vec<TreePath>,
    /// Sockets, devices and FIFOs that were seen, at most a thousand.
    pub skipped: Vec<TreePath>,
}

impl LookReport {
    /// Adds what a look right after this one found.
    fn add(&mut self, later: LookReport) {
        self.head = later.head;
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes_left_out += later.notes_left_out + later.notes.len().saturating_sub(room) as u64;
        self.notes.extend(later.notes.into_iter().take(room));
        self.revisit.extend(later.revisit);
        self.refused.extend(later.refused);
        self.unsaid.extend(later.unsaid);
        self.problems_changed |= later.problems_changed;
        self.rules_changed |= later.rules_changed;
        self.moved.extend(later.moved);
        self.gone_dirs.extend(later.gone_dirs);
        self.skipped.extend(later.skipped);
    }
}

/// How many changes a report names: a console can show no more, and memory stays bounded.
pub const MAX_NOTES: usize = 10_000;

/// Why a look ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// All files are gone at once.
    #[error("All {files} files are gone")]
    Emptied {
        /// How many there were.
        files: u64,
    },
    /// The observer asked for it.
    #[error("The look was cancelled")]
    Cancelled,
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The root itself cannot be read.
    #[error("Cannot read the directory {path}")]
    Root {
        /// The root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The state directory cannot be written: the file system's clock is asked through a file in it.
    #[error("Cannot write into {path}")]
    Clock {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Hint for LookError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Emptied { .. } => {
                Some("if that is right, accept it; if not, bring the files back or mount the disk")
            }
            Self::Cancelled => None,
            Self::Index(error) => error.hint(),
            Self::Root { source, .. } => {
                trouble::advice(source).or(Some("check that the directory exists and may be read"))
            }
            Self::Clock { source, .. } => {
                trouble::advice(source).or(Some("check that this user may write there"))
            }
        }
    }
}

/// Looks at one tree. Only one look runs at a time.
#[derive(Debug)]
pub struct Looker {
    root: Root,
    clock: FsClock,
    index: Index,
    policy: RulePolicy,
    /// The share that this tree is a target of: its own directory, if it lies in here, is left alone.
    target_of: Option<String>,
    memory: Mutex<Memory>,
    /// Where the parts of large files are kept, if anybody may ask for them.
    described: Option<Arc<Described>>,
    /// Where contents are kept that are about to be asked for.
    fresh: Option<Arc<Fresh>>,
}

/// What one look leaves for the next within a run.
#[derive(Debug, Default)]
struct Memory {
    /// How often a file did not hold still while it was read.
    restless: HashMap<TreePath, u32>,
    mounts: Mounts,
}

/// How often a look goes back at once to places whose news contradicted what it had just committed.
const MAX_AGAIN: usize = 8;

/// The places, everything below them, and the directories above them: what contradicts a place may be any of these.
fn around(places: &[TreePath]) -> Vec<Dirty> {
    let mut all = std::collections::BTreeMap::new();
    for path in places {
        all.insert(path.clone(), true);
        for above in std::iter::successors(path.parent(), TreePath::parent).filter(|above| !above.is_root()) {
            all.entry(above).or_insert(false);
        }
    }
    all.into_iter().map(|(path, deep)| Dirty { path, deep }).collect()
}

/// How often a file may change under reading before that is called a problem.
const RESTLESS_LIMIT: u32 = 20;

impl Looker {
    /// A looker for the tree at `root` with its index; `state` is its state directory.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn new(root: Root, state: &Dir, index: Index, policy: RulePolicy) -> Result<Self, LookError> {
        let mounts = Mounts::new(index.mounts()?);
        let clock = FsClock::open(state).map_err(|source| clock_error(&root, source))?;
        let memory = Mutex::new(Memory { restless: HashMap::new(), mounts });
        let target_of = small_text(state, TARGET_OF);
        Ok(Self { root, clock, index, policy, target_of, memory, described: None, fresh: None })
    }

    /// Where a file has changed of which the parts are kept there, those of the new version are found out while it is read.
    /// Somebody asked for them when it changed before, and is about to ask again.
    #[must_use]
    pub fn keeping(self, described: Arc<Described>) -> Self {
        Self { described: Some(described), ..self }
    }

    /// Contents of small files that are read because they have changed are kept there.
    pub(crate) fn keeping_contents(self, fresh: Arc<Fresh>) -> Self {
        Self { fresh: Some(fresh), ..self }
    }

    /// Compares and commits.
    ///
    /// # Errors
    /// See [`LookError`]; single paths that fail are problems in the index instead.
    pub fn look(
        &self,
        scope: &Scope,
        observer: &dyn LookObserver,
        limits: &LookLimits,
    ) -> Result<LookReport, LookError> {
        let mut memory = self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut report = walk::look(self, &mut memory, scope, observer, limits)?;
        for _ in 0..MAX_AGAIN {
            if report.refused.is_empty() {
                break;
            }
            let again = Scope::Places(around(&std::mem::take(&mut report.refused)));
            report.add(walk::look(self, &mut memory, &again, observer, limits)?);
        }
        // Somebody moves things about faster than they can be looked at; their events will bring us back.
        for path in std::mem::take(&mut report.refused) {
            report.revisit.push(path);
        }
        Ok(report)
    }

    /// Whether there are places that [`Looker::changed_mounts`] can say something about.
    #[must_use]
    pub fn has_mounts(&self) -> bool {
        !self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).mounts.is_empty()
    }

    /// The known mount points where a file system came or went since the last look. Cheap; waits for a look that is running.
    #[must_use]
    pub fn changed_mounts(&self) -> Vec<TreePath> {
        let crosses = |path: &TreePath| {
            let (dir, name) = self.root.open_parent(path).ok()?;
            Some(dir.stat(&name).ok()?.dev != dir.stat_self().ok()?.dev)
        };
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).mounts.changed(crosses)
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The tree's index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }
}

fn clock_error(root: &Root, source: io::Error) -> LookError {
    let path = root.path().join(STATE_DIR).join(CLOCK_FILE);
    LookError::Clock { path: path.display().to_string(), source }
}

/// What the walkers found, on its way to the committer.
#[derive(Debug)]
enum Found {
    /// A node is new or looks different.
    Put(Put),
    /// A name is not in its directory any more, or is ignored from now on.
    Vanished { path: TreePath, node: Box<IndexedNode>, forgotten: bool },
    /// A path cannot be read.
    Problem(Problem),
    /// The same, for a reason that may pass without any event.
    Passing(Problem),
    /// A place should be looked at again.
    Revisit(TreePath),
    /// A socket, device or FIFO.
    Skipped(TreePath),
    /// The text of a directory's `.syncignore` is this now. If it was not applied, all has to be looked at once more.
    Rule { dir: TreePath, text: Option<String>, applied: bool },
    /// The directory has no sheet, or a wrong one.
    Sheetless(NodeId),
    /// A file did not hold still.
    Restless(TreePath),
    /// A file was read in one piece.
    Settled(TreePath),
    /// This part of the tree was looked at completely: problems from before that lie there are void.
    Covered { path: TreePath, deep: bool },
    /// The directory is another file system than its parent.
    Mount(TreePath),
    /// The directory was left alone, for a mount that came or went. `crosses`: it is another file system than its parent.
    LeftAlone { path: TreePath, crosses: bool },
    /// The look cannot go on.
    Broken(LookError),
}

/// What is in a place now.
#[derive(Debug)]
struct Put {
    path: TreePath,
    /// What the index had there, or had where it moved from, when it was read.
    old: Option<Box<IndexedNode>>,
    new: Box<IndexedNode>,
    moved_from: Option<TreePath>,
}

impl Put {
    /// A file or link that nobody knew.
    fn is_new_file(&self) -> bool {
        self.old.is_none() && !self.new.node.entry.content.is_dir()
    }
}

/// The rules a look begins with, by directory.
type RuleTexts = BTreeMap<TreePath, String>;

/// The parent of a dirty place and the names in it, as the walk takes them.
type Places = BTreeMap<TreePath, BTreeMap<String, bool>>;

/// A directory on the way: its node and its place.
#[derive(Debug, Clone)]
struct Here {
    id: NodeId,
    path: TreePath,
}

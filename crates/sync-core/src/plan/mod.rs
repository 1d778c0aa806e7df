//! What has to be done so that two sides agree.
//!
//! [`gather`](gather::gather) looks at the places that may differ and describes each by one [`Slot`]: what the remote, the
//! base and the local tree have there. [`plan`] turns slots into a [`Plan`], or into a [`Halt`](crate::Halt) if the result
//! looks like a disaster. Both only read what they are given.
//!
//! A plan is done in phases, and the phases are what makes swaps, cycles and changes of kind safe in any combination:
//!
//! 1. `captures`: content that is needed again but is about to be moved or replaced is copied into staging.
//! 2. `clear`: everything that must leave its place leaves it, deepest first. All paths are those of *before*.
//! 3. `build`: directories are made and moved things put in, from the top down. From here on all paths are the final ones.
//! 4. `files`: files and links, each by itself and in any order.
//! 5. `finish`: modes and times of directories, deepest first.
//!
//! What a plan cannot know is checked when it is carried out: every action names what must be in the place.

pub mod decide;
pub mod fill;
pub mod fresh;
pub mod gather;
mod known;
mod phases;
pub mod slot;
pub mod whole;

pub use decide::{Decision, Policy, Side, decide};
pub use fill::Filling;
pub use fresh::Fresh;
pub use gather::{Keep, Scope, Trees, gather, gather_all};
pub use known::MAX_DEPTH;
pub use phases::{plan, plan_filling};
pub use slot::{Arrival, Base, Copy, Slot};
pub use whole::{Whole, take_wholes};

use std::collections::HashSet;

use crate::{entry::Node, entry::NodeId, name::TreePath};

/// What becomes of something that has to make way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Displaced {
    /// The other side had it: it may go.
    Delete,
    /// Only this side has it: it goes to the trash.
    Trash,
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the remote.
    Fetch,
    /// From another file on this side, which stays as it is meanwhile.
    Copy(Copy),
    /// From staging, where phase 1 put it.
    Captured,
}

/// Phase 1: copy a file's content into staging before it is disturbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The remote node that will need it.
    pub id: NodeId,
    /// The local file that has it.
    pub from: Copy,
}

/// Phase 2: something leaves its place. Paths are those of before the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of actions are said in the variants' sentences")]
pub enum Clear {
    /// A file or link goes.
    Remove { path: TreePath, local: Node, displaced: Displaced },
    /// A directory goes; by now nothing of the tree is in it any more.
    RemoveDir { path: TreePath, local: Node },
    /// A node moves straight to its new place, which is free.
    Move { from: TreePath, to: TreePath, local: Node, remote: Node },
    /// A node goes into staging, to be put in its new place later.
    TakeOut { path: TreePath, local: Node, remote: Node },
}

impl Clear {
    /// The place that becomes free.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Clear::Remove { path, .. } | Clear::RemoveDir { path, .. } | Clear::TakeOut { path, .. } => path,
            Clear::Move { from, .. } => from,
        }
    }
}

/// Phase 3: a directory appears, or something that was taken out is put in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of actions are said in the variants' sentences")]
pub enum Build {
    /// A new directory.
    MakeDir { path: TreePath, remote: Node },
    /// What was taken out in phase 2.
    PutIn { path: TreePath, from: TreePath, local: Node, remote: Node },
}

impl Build {
    /// The place that is filled.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Build::MakeDir { path, .. } | Build::PutIn { path, .. } => path,
        }
    }
}

/// Phase 4: a file or link gets its content or metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of actions are said in the variants' sentences")]
pub enum Put {
    /// A file's content, and its metadata with it. `over`: the file or link that is there and makes way.
    File { path: TreePath, remote: Node, over: Option<Over>, source: Source },
    /// A link. `over` as above.
    Link { path: TreePath, remote: Node, over: Option<Over> },
    /// Only mode and time.
    Metadata { path: TreePath, remote: Node, local: Node },
}

impl Put {
    /// The place.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Put::File { path, .. } | Put::Link { path, .. } | Put::Metadata { path, .. } => path,
        }
    }

    /// The node it brings.
    #[must_use]
    pub fn remote(&self) -> &Node {
        match self {
            Put::File { remote, .. } | Put::Link { remote, .. } | Put::Metadata { remote, .. } => remote,
        }
    }
}

/// What a new content replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The node that is there.
    pub local: Node,
    /// What becomes of it.
    pub displaced: Displaced,
}

/// Phase 5: a directory's mode and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// The directory.
    pub path: TreePath,
    /// What it should be like.
    pub remote: Node,
}

/// A change of what both sides agreed on, without any action.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of actions are said in the variants' sentences")]
pub enum Record {
    /// Both sides have this.
    Agree { remote: Node, local: NodeId },
    /// Neither side has it, or it is ignored from now on.
    Drop { id: NodeId },
}

/// Everything that has to be done, by phase.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Phase 1.
    pub captures: Vec<Capture>,
    /// Phase 2, deepest first.
    pub clear: Vec<Clear>,
    /// Phase 3, from the top.
    pub build: Vec<Build>,
    /// Phase 4.
    pub files: Vec<Put>,
    /// Phase 5, deepest first.
    pub finish: Vec<Finish>,
    /// What is only to be written down.
    pub records: Vec<Record>,
    /// Places that were left alone because what the remote has there is unknown or ignored.
    pub kept: Vec<TreePath>,
}

impl Plan {
    /// Whether nothing has to be done on the disk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.captures.is_empty()
            && self.clear.is_empty()
            && self.build.is_empty()
            && self.files.is_empty()
            && self.finish.is_empty()
    }

    /// How many files and links would be deleted (moved ones are not).
    #[must_use]
    pub fn deletions(&self) -> u64 {
        self.clear.iter().filter(|clear| matches!(clear, Clear::Remove { .. })).count() as u64
    }

    /// Local files whose content appears in another place at the same time: if one is removed, it has moved in all but name.
    #[must_use]
    pub fn reused(&self) -> HashSet<NodeId> {
        self.captures.iter().map(|capture| capture.from.local).collect()
    }
}

/// What the guards compare a plan with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    /// A person allowed it for this run.
    pub allow: bool,
    /// Nothing was ever agreed on with this target.
    pub first_run: bool,
    /// Files and links in the target ten minutes ago.
    pub files_then: u64,
    /// How many of them were deleted since.
    pub deleted_since: u64,
}

/// A first run may put this many of a target's own files aside without asking.
pub const FOREIGN_LIMIT: u64 = 10;

/// Fewer deletions than this never halt a run.
pub const MASS_DELETE_FLOOR: u64 = 100;

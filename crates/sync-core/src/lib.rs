//! What a tree is and, without touching anything, what each side must do to become equal.
//!
//! Nothing here reads a file, a clock, the environment or the network, and nothing logs: functions take values and
//! return values. `clippy.toml` beside this crate's manifest bans the ways around that. The part of a sync tool that can
//! lose data is therefore the part that is easiest to test.
//!
//! Reading order: [`name`] and [`entry`] (the words), [`treehash`] (how two trees are compared), [`feed`] (what a share
//! tells), [`plan`] (what has to be done), [`chunk`] (what large files are made of).

pub mod chunk;
pub mod entry;
pub mod feed;
pub mod name;
pub mod plan;
pub mod problem;
pub mod treehash;

pub use chunk::{Chunk, ChunkHash};
pub use entry::{Content, Digest, Entry, Kind, Node, NodeId, Seq, Time};
pub use feed::{CommitPoint, Cursor, FeedEvent, NodeChange, RuleFile, RuleSet, ShareId, Watching};
pub use name::{Name, NameError, TreePath};
pub use problem::{Halt, Hint, Problem};

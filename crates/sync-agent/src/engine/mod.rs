//! The sync cycle of one target: scan, plan, stage, apply, record.
//!
//! Reading order: this file (what a run is), `catch_up` (how the feed is read), `store` and `base` (what is known), `trees` (what a
//! plan is made of; `foreseen` reads that ahead, `sent_for` has contents come before there is a plan), `fill` (a first run; `arrived` is
//! what it need not read), `phases`, `transfer`, `large` and `whole` (how a plan is carried out), `record` (how that becomes known),
//! `counts` (what is told of it), `target` (what can be wrong with the directory itself).
//! Deciding is not here but in `sync_core::plan`.
//!
//! Invariants:
//! * A run acts only on a remote tree whose digest is the daemon's, and says "equal" only after comparing the digest of the
//!   target as it is on the disk with it. Only a target that has nothing is filled with files of a tree that still comes.
//! * What is pending stays so until it is recorded as done. Errors, kills and cut connections only make a run shorter.
//! * Nothing is planned twice in one run without looking again at what was in the way.

mod ahead;
mod arrived;
mod base;
mod catch_up;
mod context;
mod counts;
mod cycle;
mod delta;
mod fill;
mod foreseen;
mod large;
mod material;
mod outcome;
mod part;
mod phases;
mod queue;
mod record;
pub mod reporter;
mod sent_for;
mod small;
mod status;
mod store;
mod target;
mod threads;
mod told;
mod transfer;
mod trees;
mod whole;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sync_core::{Cursor, Digest, Halt, Hint, Problem, ShareId, name::STATE_DIR};
use sync_locations::LocationError;
use sync_tree::{
    apply::{Applier, ApplyError, ApplyOptions, Durability, Recovered},
    durable,
    index::{Index, IndexError},
    lock::{Lock, LockError},
    look::{LookError, Looker, RulePolicy, SHARE_ID, TARGET_OF, small_text},
    rooted::Dir,
    shelf::Shelf,
    state::{StateDir, StateError},
    trouble::advice,
};

pub use counts::Done;
pub(crate) use outcome::describe;
pub use reporter::{AppliedOp, Phase, Reporter, Silent};
pub use status::{StatusReport, status};
pub use store::ToldWatching;
pub use target::TargetError;

use context::Context;
use store::Store;

/// The lock of a target, and its database.
const LOCK: &str = "agent";
const DATABASE: &str = "target.db";

/// What an engine works on and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The directory to keep equal. It is made if its parent exists.
    pub target: PathBuf,
    /// Where its state goes, if not into the target.
    pub state_dir: Option<PathBuf>,
    /// The share's name.
    pub share: String,
    /// The share's id, as the server says it.
    pub share_id: ShareId,
    /// When what was written is flushed.
    pub durability: Durability,
    /// How many large files are fetched at once.
    pub concurrency: usize,
    /// A person allowed a mass deletion for this run.
    pub allow_mass_delete: bool,
    /// How long the trash keeps what was put aside.
    pub trash_keep: Duration,
    /// How often a following engine looks at the whole target.
    pub rescan: Duration,
}

/// How a pull differs from the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct PullMode {
    /// Every file is transferred again.
    pub full: bool,
    /// Nothing is changed; the counts are those that a pull would have.
    pub dry_run: bool,
}

/// What came of a run. Counts are of files and links.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// All files of the share: changed and unchanged.
    pub checked: u64,
    /// Synced and failed.
    pub changed: u64,
    /// Brought into place, moved ones included.
    pub synced: u64,
    /// Could not be. A directory that cannot be read is a problem, and counts as none.
    pub failed: u64,
    /// Were as they should be.
    pub unchanged: u64,
    /// Are of a kind that is not carried. Always 0: the server says nothing about them.
    pub skipped: u64,
    /// Removed from the target.
    pub deleted: u64,
    /// Moved on the target instead of transferred.
    pub renamed: u64,
    /// Message bytes that came over the wire.
    pub bytes_received: u64,
    /// The sizes of the changed files.
    pub bytes_total: u64,
    /// Where the feed goes on.
    pub cursor: Option<Cursor>,
    /// The digest of the share's tree.
    pub root_digest: Option<Digest>,
    /// Paths that failed.
    pub problems: Vec<Problem>,
    /// The digests of share and target were compared and are the same.
    pub equal: bool,
}

impl Summary {
    /// The same run, seen from before what earlier calls of it did.
    #[must_use]
    pub fn after(mut self, before: Done) -> Self {
        self.synced += before.synced;
        self.deleted += before.deleted;
        self.renamed += before.renamed;
        self.bytes_total += before.bytes_total;
        self.balanced()
    }

    /// All that is known of a run that did not come to its end.
    #[must_use]
    pub fn unfinished(done: Done, bytes_received: u64) -> Self {
        Self { bytes_received, ..Self::default() }.after(done)
    }

    /// Makes the sums right: changed are those synced and failed, and what is checked are those and the unchanged. A file
    /// that changed meanwhile may have been synced more than once.
    fn balanced(mut self) -> Self {
        self.changed = self.synced + self.failed;
        self.checked = self.checked.max(self.changed);
        self.unchanged = self.checked - self.changed;
        self
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It looks like a disaster.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The server.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The target's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The target itself, or another agent that has it.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The database cannot be opened.
    #[error("Cannot use {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IndexError,
    },
    /// A change of the target that makes going on senseless, such as a full disk.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The target's index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Looking at the target.
    #[error(transparent)]
    Look(#[from] LookError),
    /// Somebody asked to stop.
    #[error("Stopped before it was done; what is in place stays, and the next pull goes on from here")]
    Cancelled,
    /// The daemon's tree and its digest do not fit together, twice in a row.
    #[error("The share's tree does not have the digest that the server says it has")]
    Digest,
    /// Something that cannot happen.
    #[error("Something is wrong in sync-agent itself: {reason}")]
    Broken {
        /// What.
        reason: String,
    },
}

impl Hint for EngineError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Halt(error) => error.hint(),
            Self::Location(error) => error.hint(),
            Self::State(error) => state_hint(error),
            Self::Apply(error) => error.hint(),
            Self::Index(error) => error.hint(),
            Self::Look(error) => error.hint(),
            Self::Target(error) => error.hint(),
            Self::Database {
                source: source @ (IndexError::Damaged { .. } | IndexError::Aside { .. }),
                ..
            } => source.hint(),
            Self::Database { .. } => Some(
                "look at its permissions, at the space on its disk and at how many files may be open (ulimit -n), or choose another place with --state-dir",
            ),
            Self::Digest => Some("restart the daemon; if it stays so, please report it"),
            Self::Cancelled | Self::Broken { .. } => None,
        }
    }
}

/// In the words of this program's flags. Nothing can do without `.syncd` in the target, so another place for the database is
/// no advice where that is in the way.
fn state_hint(error: &StateError) -> Option<&'static str> {
    match error {
        StateError::OtherOwner { path } if path.ends_with(STATE_DIR) => {
            Some("run as that user, or choose another --target")
        }
        StateError::OtherOwner { .. } => Some("run as that user, or choose another --state-dir"),
        StateError::Homeless { .. } => Some("name a directory that this user may write with --state-dir"),
        StateError::Io { source, .. } => {
            advice(source).or(Some("check its permissions, or choose another --state-dir"))
        }
        StateError::NotADirectory { .. } => error.hint(),
    }
}

/// Keeps one target equal to one share. Holds the target's lock for as long as it lives.
pub struct Engine {
    options: EngineOptions,
    context: Arc<Context>,
    /// The state directory on the target's own file system, for the clock.
    work: Dir,
    looker: Option<Arc<Looker>>,
    /// A look that goes on while the feed is read.
    looking: Option<catch_up::Looking>,
    /// What comes while the feed is read.
    filling: Option<fill::Fill>,
    /// What was read for the next plan.
    foreseen: Option<foreseen::Foreseen>,
    /// What was sent for while a look went on.
    sent_for: Option<sent_for::SentFor>,
    /// The last plan may not be carried out. As long as that is so, nothing is sent for.
    halted: bool,
    /// Problems of single paths that the last runs could not solve.
    failing: Mutex<BTreeMap<sync_core::TreePath, Problem>>,
    first_look_done: bool,
    /// What the present or last call did, or in following the last round.
    done: Done,
    /// The last run was cut off, and what it did without recording it is not adopted yet.
    cut_off: bool,
    /// See [`Engine::announce`].
    announced: bool,
    _lock: Lock,
}

impl Engine {
    /// Opens the target, takes its lock and settles what an earlier run left.
    ///
    /// # Errors
    /// It cannot be used, another agent has it, or it is another share's.
    pub fn open(options: EngineOptions) -> Result<Self, EngineError> {
        let root = target::make_and_open(&options.target)?;
        target::prepare(&root)?;
        let state = StateDir::open(&root, &status::state_options(options.state_dir.as_deref()))?;
        let work_path = root.path().join(STATE_DIR);
        let refused = |source| TargetError::Io { action: "write into", path: work_path.clone(), source };
        let Some(work) = state.work.clone() else {
            return Err(refused(io::ErrorKind::PermissionDenied.into()).into());
        };
        let lock = take_lock(&options, &state)?;
        let store = open_store(&state.path.join(DATABASE))?;
        check_share(&store, &options.share)?;
        let id = options.share_id.to_hex();
        if small_text(&work.dir, SHARE_ID).is_some_and(|share| share == id) {
            return Err(TargetError::ShareItself { target: options.target }.into());
        }
        durable::sweep(&work.dir, TARGET_OF).map_err(refused)?;
        if small_text(&work.dir, TARGET_OF).is_none_or(|share| share != id) {
            durable::write(&work.dir, TARGET_OF, id.as_bytes(), 0o600).map_err(refused)?;
        }
        let applier = Applier::open(root.clone(), &work, apply_options(&options)?)?;
        let recovered = applier.recover()?;
        let cut_off = store.begin_run()?;
        for recovered in recovered {
            match recovered {
                Recovered::PutBack { path } => {
                    tracing::warn!(%path, "was being moved when an earlier run ended; it is back");
                }
                Recovered::Trashed { path } => {
                    tracing::warn!(%path, "was being moved when an earlier run ended; it is in .syncd/trash");
                }
            }
        }
        let context = Context {
            root,
            applier,
            store,
            shelf: Shelf::new(state.dir),
            durability: options.durability,
            concurrency: options.concurrency,
            trouble: context::Trouble::default(),
            guesses: material::Guesses::default(),
            unrecorded: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            cut_descriptions: Default::default(),
            opened: Mutex::default(),
        };
        Ok(Self {
            options,
            context: Arc::new(context),
            work: work.dir,
            looker: None,
            looking: None,
            filling: None,
            foreseen: None,
            sent_for: None,
            halted: false,
            failing: Mutex::default(),
            first_look_done: false,
            done: Done::default(),
            cut_off,
            announced: false,
            _lock: lock,
        })
    }

    /// What the last pull did, also if it failed.
    #[must_use]
    pub fn done(&self) -> Done {
        self.done
    }

    fn store(&self) -> &Store {
        &self.context.store
    }

    /// The looker for the rules that are known now.
    fn looker(&mut self) -> Result<Arc<Looker>, EngineError> {
        if let Some(looker) = &self.looker {
            return Ok(looker.clone());
        }
        let rules = RulePolicy::Given(self.store().index().rule_set()?);
        let index = self.store().index().clone();
        let looker = Arc::new(Looker::new(self.context.root.clone(), &self.work, index, rules)?);
        self.looker = Some(looker.clone());
        Ok(looker)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.cut_off
            && let Err(error) = self.store().end_run()
        {
            tracing::debug!(%error, "the next run will look for what this one did");
        }
        self.context.applier.clean_run();
    }
}

fn take_lock(options: &EngineOptions, state: &StateDir) -> Result<Lock, TargetError> {
    Lock::acquire(&state.dir, LOCK).map_err(|error| match error {
        LockError::Held { pid } => TargetError::Held { target: options.target.clone(), pid },
        LockError::Io { name, source } => {
            TargetError::Io { action: "use the lock file", path: state.path.join(name), source }
        }
    })
}

fn open_store(path: &Path) -> Result<Store, EngineError> {
    Index::open_or_rebuild(path).and_then(Store::open).map_err(|error| match error {
        // These say which file it is.
        IndexError::TooNew { .. } => error.into(),
        source => EngineError::Database { path: path.to_owned(), source },
    })
}

fn check_share(store: &Store, name: &str) -> Result<(), EngineError> {
    match store.share()? {
        Some((recorded, _)) if recorded != name => {
            Err(Halt::OtherShare { recorded, asked: name.to_owned() }.into())
        }
        Some(_) => Ok(()),
        None => Ok(store.set_share_name(name)?),
    }
}

fn apply_options(options: &EngineOptions) -> Result<ApplyOptions, EngineError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| EngineError::Broken { reason: error.to_string() })?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Without colons, which not every file system takes.
    let time = sync_cli::show::now().replace(['-', ':'], "");
    Ok(ApplyOptions {
        durability: options.durability,
        trash_run: format!("{time}-{random}"),
        trash_keep: options.trash_keep,
    })
}

fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

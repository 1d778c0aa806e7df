//! A share and a target on the same disk, and the engine between them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{path::Path, sync::Arc, time::Duration};

use sync_agent::engine::{Engine, EngineError, EngineOptions, PullMode, Reporter, Silent, Summary};
use sync_core::ShareId;
use sync_locations::{LocalFolder, Location, Memory};
use sync_testkit::{
    Scratch,
    tree::{Tree, assert_same},
};
use sync_tree::{
    apply::Durability,
    live::{LiveOptions, LiveTree},
};
use tokio_util::sync::CancellationToken;

/// A share and a target.
pub(crate) struct Pair {
    pub(crate) scratch: Scratch,
    pub(crate) share: Tree,
    pub(crate) target: Tree,
    pub(crate) live: Arc<LiveTree>,
    pub(crate) remote: Arc<dyn Location>,
    pub(crate) durability: Durability,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::within(Scratch::new(), Durability::None)
    }

    pub(crate) fn within(scratch: Scratch, durability: Durability) -> Self {
        let share = Tree::at(scratch.path().join("share"));
        let target = Tree::at(scratch.path().join("target"));
        let live = LiveTree::start(LiveOptions::new(share.root().to_owned())).unwrap();
        let remote = Arc::new(LocalFolder::new(live.clone()));
        Self { scratch, share, target, live, remote, durability }
    }

    /// An engine for the target.
    pub(crate) fn engine(&self) -> Engine {
        Engine::open(self.options(self.target.root())).unwrap()
    }

    pub(crate) async fn try_pull(&self, mode: PullMode) -> Result<Summary, EngineError> {
        self.pull_with(self.options(self.target.root()), mode).await
    }

    /// Pulls into any target.
    pub(crate) async fn pull_with(
        &self,
        options: EngineOptions,
        mode: PullMode,
    ) -> Result<Summary, EngineError> {
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        Engine::open(options)?.pull(&self.remote, mode, &reporter, &CancellationToken::new()).await
    }

    /// Pulls until both are equal.
    pub(crate) async fn pull(&self) -> Summary {
        let summary = self.try_pull(PullMode::default()).await.unwrap();
        assert!(summary.equal, "{summary:?}");
        assert_same(self.share.root(), self.target.root());
        summary
    }

    /// The options of an engine for any target.
    pub(crate) fn options(&self, target: &Path) -> EngineOptions {
        EngineOptions { durability: self.durability, ..options_for(target, self.live.index().share_id()) }
    }
}

/// A share in memory, which can be told to fail, and a target.
pub(crate) struct Scripted {
    _scratch: Scratch,
    pub(crate) share: Memory,
    pub(crate) target: Tree,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let target = Tree::at(scratch.path().join("target"));
        Self { _scratch: scratch, share: Memory::new("docs"), target }
    }

    pub(crate) async fn try_pull(&self, reporter: Arc<dyn Reporter>) -> Result<Summary, EngineError> {
        let remote: Arc<dyn Location> = Arc::new(self.share.clone());
        let mut engine = Engine::open(options_for(self.target.root(), self.share.share_id())).unwrap();
        engine.pull(&remote, PullMode::default(), &reporter, &CancellationToken::new()).await
    }

    pub(crate) async fn pull(&self) -> Summary {
        self.try_pull(Arc::new(Silent)).await.unwrap()
    }
}

/// The options of an engine for a target of any share.
pub(crate) fn options_for(target: &Path, share_id: ShareId) -> EngineOptions {
    EngineOptions {
        target: target.to_owned(),
        state_dir: None,
        share: "docs".to_owned(),
        share_id,
        durability: Durability::None,
        concurrency: 4,
        allow_mass_delete: false,
        trash_keep: Duration::from_secs(3600),
        rescan: Duration::from_secs(3600),
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.live.stop();
    }
}

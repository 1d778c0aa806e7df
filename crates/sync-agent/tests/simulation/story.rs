//! What happens in one seed: runs of the engine while everything else goes wrong, and a last one when nothing does.

use std::{io, sync::Arc, time::Duration};

use sync_agent::engine::{Engine, EngineError, EngineOptions, PullMode, Reporter, Summary};
use sync_core::Halt;
use sync_locations::{Faulty, Location};
use sync_testkit::rng::Rng;
use sync_tree::{
    apply::Durability,
    probe::{self, Installed, OpKind},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    editor::Habits,
    world::{Disk, Ear, Listener, Network, Odds, World},
};

/// No run takes longer, by the simulated clock.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How often a following engine looks at everything.
const RESCAN: Duration = Duration::from_secs(3600);

/// What is different about a seed as a whole.
#[derive(Debug, Clone, Copy)]
struct Profile {
    habits: Habits,
    odds: Odds,
    /// Whether anybody edits the target.
    edits: bool,
    /// Whether the agent ends in the middle, or its disk fails.
    crashes: bool,
    bad_disk: bool,
    /// Whether the share's side fails in whole.
    restarts: bool,
    unreadable: bool,
    runs: usize,
    packed: u64,
    durability: Durability,
}

impl Profile {
    fn draw(rng: &mut Rng) -> Self {
        let mut up_to = |most: usize| if rng.chance(55) { rng.below(most) } else { 0 };
        let odds = Odds {
            call_fails: up_to(80),
            message_fails: up_to(40),
            disorder: up_to(150),
            refused: up_to(60),
            spoiled: up_to(25),
            share_changes: up_to(50),
            target_changes: up_to(40),
            daemon_restarts: up_to(10),
        };
        let edits = rng.chance(60);
        Self {
            habits: Habits { names: 4 + rng.below(10), large: rng.chance(15) },
            odds: Odds { target_changes: if edits { odds.target_changes } else { 0 }, ..odds },
            edits,
            crashes: rng.chance(50),
            bad_disk: rng.chance(25),
            restarts: rng.chance(40),
            unreadable: rng.chance(30),
            runs: 2 + rng.below(6),
            packed: [20, 200, 1 << 20][rng.below(3)],
            durability: [Durability::None, Durability::None, Durability::Batch, Durability::File]
                [rng.below(4)],
        }
    }
}

/// How a run is to be.
#[derive(Debug, Clone, Copy)]
enum Act {
    Pull(PullMode),
    Verify,
    Follow,
}

/// One seed from its beginning to its end.
pub(crate) struct Story {
    world: Arc<World>,
    profile: Profile,
    remote: Arc<dyn Location>,
    engine: Option<Engine>,
    allowed: bool,
    _listening: Installed,
}

impl Story {
    pub(crate) fn new(seed: u64, is_told: bool) -> Self {
        let profile = Profile::draw(&mut Rng::new(seed ^ 0x5eed));
        let world = World::new(seed, profile.habits, is_told);
        world.tell(format!("{profile:?}"));
        let inner: Arc<dyn Location> = Arc::new(world.share.clone());
        let network = Arc::new(Network(world.clone()));
        let remote = Arc::new(Faulty::new(inner, network).packing_at_most(profile.packed));
        let listening = probe::install(world.target.root(), Arc::new(Listener(world.clone())));
        Self { world, profile, remote, engine: None, allowed: false, _listening: listening }
    }

    pub(crate) fn world(&self) -> Arc<World> {
        self.world.clone()
    }

    pub(crate) async fn play(mut self) {
        let world = self.world.clone();
        world.change_share(world.draw(|rng| rng.below(40)));
        if self.profile.edits && world.draw(|rng| rng.chance(40)) {
            world.edit_target(world.draw(|rng| 1 + rng.below(25)));
        }
        for number in 0..self.profile.runs {
            world.set_odds(Odds::default());
            self.between_runs();
            world.set_odds(self.profile.odds);
            let act = self.next_act();
            world.tell(format!("run {number}: {act:?}"));
            self.run(act).await;
        }
        self.end().await;
    }

    /// What happens while no engine runs.
    fn between_runs(&mut self) {
        let world = &self.world;
        if world.draw(|rng| rng.chance(70)) {
            world.change_share(world.draw(|rng| 1 + rng.below(8)));
        }
        if self.profile.edits && world.draw(|rng| rng.chance(35)) {
            world.edit_target(world.draw(|rng| 1 + rng.below(5)));
        }
        if self.profile.restarts && world.draw(|rng| rng.chance(25)) {
            world.restart_daemon();
        }
        if self.profile.unreadable && world.draw(|rng| rng.chance(50)) {
            world.change_readability();
        }
        let halted = self.profile.restarts && world.draw(|rng| rng.chance(8));
        world.share.set_halted(halted.then_some("the disk is gone"));
        if world.draw(|rng| rng.chance(40)) {
            self.engine = None;
        }
    }

    fn next_act(&self) -> Act {
        self.world.draw(|rng| match rng.below(100) {
            0..70 => Act::Pull(PullMode::default()),
            70..76 => Act::Pull(PullMode { full: true, dry_run: false }),
            76..80 => Act::Pull(PullMode { full: false, dry_run: true }),
            80..84 => Act::Verify,
            _ => Act::Follow,
        })
    }

    fn next_disk(&self) -> Disk {
        self.world.draw(|rng| {
            let kinds = [
                io::ErrorKind::Other,
                io::ErrorKind::PermissionDenied,
                io::ErrorKind::StorageFull,
                io::ErrorKind::ReadOnlyFilesystem,
            ];
            // Of what changes nothing there are more calls, and fewer ways to fail.
            let (of, most, ways) = match rng.below(4) {
                0 => (OpKind::Flushes, 12, 1),
                1 => (OpKind::Reads, 300, 2),
                _ => (OpKind::Changes, 60, kinds.len()),
            };
            let kind = kinds[rng.below(ways)];
            if self.profile.crashes && rng.chance(40) {
                let after = rng.below(80) as u64;
                if rng.chance(70) { Disk::OffAfter(after) } else { Disk::OffAtCommit(after / 4) }
            } else if self.profile.bad_disk && rng.chance(40) {
                Disk::FailsOnce(of, 1 + rng.below(most) as u64, kind)
            } else {
                Disk::Good
            }
        })
    }

    fn open(&mut self) -> Result<&mut Engine, EngineError> {
        if self.engine.is_none() {
            self.engine = Some(Engine::open(EngineOptions {
                target: self.world.target.root().to_owned(),
                state_dir: None,
                share: "docs".to_owned(),
                share_id: self.world.share.share_id(),
                durability: self.profile.durability,
                concurrency: 2,
                allow_mass_delete: self.allowed,
                trash_keep: Duration::from_secs(3600),
                rescan: RESCAN,
            })?);
        }
        Ok(self.engine.as_mut().expect("it was just opened"))
    }

    /// Runs the engine once, and judges what it leaves.
    async fn run(&mut self, act: Act) {
        let world = self.world.clone();
        let disk = self.next_disk();
        let cancel = CancellationToken::new();
        let cancel_at = world.draw(|rng| rng.chance(5).then(|| 1 + rng.below(40) as u64));
        // A new engine first puts back what one that ended in the middle had taken out.
        let looks_only = matches!(act, Act::Verify | Act::Pull(PullMode { dry_run: true, .. }));
        let before = (looks_only && self.engine.is_some()).then(|| world.target.snapshot());
        // An engine that follows looks at the target when it is new, and once an hour.
        let edited = world.was_edited();
        let looks = self.engine.is_none() || !matches!(act, Act::Follow);
        world.begin_run(disk, cancel.clone(), cancel_at);
        if looks {
            world.forget_edits();
        }
        let ended = self.act(act, &cancel).await;
        if matches!(disk, Disk::OffAfter(_) | Disk::OffAtCommit(_)) {
            // Nothing of this process comes after.
            self.engine = None;
        }
        let failed = world.mend_disk();
        world.judge_whole();
        if let Some(before) = before
            && !world.was_edited()
        {
            assert_eq!(before, world.target.snapshot(), "{act:?} changed the target");
        }
        match ended {
            Ok(Some(summary)) => {
                world.tell(format!("  ended: equal {}, {} problems", summary.equal, summary.problems.len()));
                if summary.equal {
                    world.judge_equal(&summary);
                }
            }
            Ok(None) => world.tell("  ended"),
            Err(error) => {
                // It may not have come to look.
                world.recall_edits(edited);
                self.judge_error(&error, failed, cancel.is_cancelled());
            }
        }
    }

    /// `None` for following, which has no summary.
    async fn act(&mut self, act: Act, cancel: &CancellationToken) -> Result<Option<Summary>, EngineError> {
        let (world, remote) = (self.world.clone(), self.remote.clone());
        let reporter: Arc<dyn Reporter> = Arc::new(Ear(world.clone()));
        let engine = self.open()?;
        let run = async {
            match act {
                Act::Pull(mode) => engine.pull(&remote, mode, &reporter, cancel).await.map(Some),
                Act::Verify => engine.verify(&remote, &reporter, cancel).await.map(Some),
                Act::Follow => {
                    let (followed, ()) =
                        tokio::join!(engine.follow(&remote, &reporter, cancel), meanwhile(&world, cancel));
                    followed.map(|()| None)
                }
            }
        };
        let ended = timeout(LONGEST, run).await;
        ended.unwrap_or_else(|_| panic!("{act:?} did not end in {LONGEST:?}"))
    }

    /// Only what was made to fail may.
    fn judge_error(&mut self, error: &EngineError, disk_failed: bool, cancelled: bool) {
        self.world.tell(format!("  ended: {error}"));
        let odds = self.profile.odds;
        let expected = match error {
            EngineError::Halt(Halt::Share { .. }) => self.profile.restarts,
            EngineError::Halt(Halt::ForeignTarget { .. } | Halt::MassDelete { .. }) => {
                // A person decides. The next engine is another one.
                self.allowed = true;
                self.engine = None;
                true
            }
            EngineError::Location(error) => {
                error.is_transient() && odds.call_fails + odds.message_fails + odds.spoiled > 0
            }
            EngineError::Digest => odds.spoiled > 0,
            EngineError::Cancelled => cancelled,
            _ => disk_failed,
        };
        assert!(expected, "nothing was to make it fail: {error:?}");
    }

    /// Nothing changes and nothing fails any more: one run ends equal, and has left nothing.
    async fn end(&mut self) {
        let world = self.world.clone();
        world.tell("the end");
        world.set_odds(Odds::default());
        world.make_readable();
        world.share.set_halted(None);
        world.begin_run(Disk::Good, CancellationToken::new(), None);
        if world.draw(|rng| rng.chance(20)) {
            self.end_following().await;
        } else {
            self.end_pulling().await;
        }
        world.same().unwrap_or_else(|lines| panic!("share and target differ in the end:\n{lines}"));
        let again = self.quiet_pull().await.expect("nothing fails");
        assert_eq!((again.synced, again.deleted, again.equal), (0, 0, true), "{again:?}");
        self.engine = None;
        if self.profile.bad_disk {
            // What could not be cleaned up when the disk failed is when an engine starts.
            assert!(self.open().is_ok());
            self.engine = None;
        }
        world.judge_own();
        world.judge_staging();
        // Where the disk fails right after a swap, what was there may go to the trash when the share has moved on.
        if !self.profile.edits && !self.profile.bad_disk {
            world.judge_tidy();
        }
    }

    async fn quiet_pull(&mut self) -> Result<Summary, EngineError> {
        let cancel = CancellationToken::new();
        let summary = self.act(Act::Pull(PullMode::default()), &cancel).await?;
        Ok(summary.expect("a pull has a summary"))
    }

    async fn end_pulling(&mut self) {
        let mut ended = self.quiet_pull().await;
        if let Err(EngineError::Halt(Halt::ForeignTarget { .. } | Halt::MassDelete { .. })) = ended {
            self.allowed = true;
            self.engine = None;
            ended = self.quiet_pull().await;
        }
        let summary = ended.unwrap_or_else(|error| panic!("nothing was to make it fail: {error:?}"));
        assert!(summary.equal && summary.problems.is_empty(), "the end is not equal: {summary:?}");
        self.world.judge_equal(&summary);
    }

    async fn end_following(&mut self) {
        self.allowed = true;
        self.engine = None;
        let spoiled = self.profile.odds.spoiled > 0;
        let (world, remote, cancel) = (self.world.clone(), self.remote.clone(), CancellationToken::new());
        let reporter: Arc<dyn Reporter> = Arc::new(Ear(world));
        let engine = self.open().unwrap_or_else(|error| panic!("nothing was to make it fail: {error:?}"));
        let follow = async {
            let mut followed = engine.follow(&remote, &reporter, &cancel).await;
            // What came wrong before the last cut is noticed at the next commit point, and read from nothing.
            if spoiled && matches!(followed, Err(EngineError::Location(_))) {
                followed = engine.follow(&remote, &reporter, &cancel).await;
            }
            followed
        };
        let wait = async {
            sleep(RESCAN * 2).await;
            cancel.cancel();
        };
        let (followed, ()) = tokio::join!(follow, wait);
        assert!(matches!(followed, Err(EngineError::Cancelled)), "{followed:?}");
    }
}

/// What happens while the engine follows.
async fn meanwhile(world: &World, cancel: &CancellationToken) {
    for _ in 0..world.draw(|rng| 1 + rng.below(6)) {
        sleep(Duration::from_millis(world.draw(|rng| rng.below(20_000)) as u64)).await;
        world.change_share(world.draw(|rng| 1 + rng.below(4)));
    }
    sleep(RESCAN + Duration::from_secs(60)).await;
    cancel.cancel();
}

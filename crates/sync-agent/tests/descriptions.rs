//! A large file changed, and what the share says it is made of does not come, or makes no sense.
#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::{Scripted, options_for};
use sync_agent::engine::{Engine, EngineError, PullMode, Reporter, Silent, Summary};
use sync_locations::{
    Faulty, Location, LocationError, ProtocolError,
    faulty::{Call, Moment, Script, Turn},
};
use tokio_util::sync::CancellationToken;

/// Says what happens to which description, from 1.
struct Describing(fn(u64) -> Turn);

impl Script for Describing {
    fn meets(&self, moment: Moment) -> Turn {
        if moment.call == Call::DescribeFile { (self.0)(moment.number) } else { Turn::Pass }
    }
}

fn cut() -> Turn {
    Turn::Fail(LocationError::Cut { source: "cut".into() })
}

/// A line on which no description comes through, and the first few files do not either.
#[derive(Default)]
struct BadLine(AtomicU64);

impl Script for BadLine {
    fn meets(&self, moment: Moment) -> Turn {
        match moment.call {
            Call::DescribeFile => {
                self.0.fetch_add(1, Ordering::Relaxed);
                cut()
            }
            Call::FetchFile if moment.number <= 4 => cut(),
            _ => Turn::Pass,
        }
    }
}

/// A share and a target with a large file, and what pulls when it has changed.
struct Scene {
    pair: Scripted,
    old: Vec<u8>,
    remote: Arc<dyn Location>,
    engine: Engine,
}

impl Scene {
    async fn new(script: Arc<dyn Script>) -> Self {
        let pair = Scripted::new();
        let old = sync_testkit::rng::Rng::new(1).bytes(2 << 20);
        pair.share.edit(|edit| edit.file("big", old.clone()));
        pair.pull().await;
        let remote: Arc<dyn Location> = Arc::new(Faulty::new(Arc::new(pair.share.clone()), script));
        let engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
        Self { pair, old, remote, engine }
    }

    /// Puts something in front of the share's file. Answers what it is then.
    fn change(&self, front: &[u8]) -> Vec<u8> {
        let new = [front, &self.old].concat();
        self.pair.share.edit(|edit| edit.file("big", new.clone()));
        new
    }

    async fn pull(&mut self) -> Result<Summary, EngineError> {
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        self.engine.pull(&self.remote, PullMode::default(), &reporter, &CancellationToken::new()).await
    }

    fn has(&self, wanted: &[u8]) -> bool {
        self.pair.target.read("big") == wanted
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_description_never_comes_through_is_fetched_whole() {
    let mut scene = Scene::new(Arc::new(Describing(|_| cut()))).await;
    let new = scene.change(b"at the front");
    let mut cuts = 0;
    while let Err(error) = scene.pull().await {
        assert!(matches!(&error, EngineError::Location(error) if error.is_transient()), "{error:?}");
        cuts += 1;
        assert!(cuts < 10, "it makes no headway");
    }
    assert!(cuts > 1, "one cut says nothing about the line");
    assert!(scene.has(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_asked_for_again_when_the_file_is_cut_too() {
    let line = Arc::new(BadLine::default());
    let mut scene = Scene::new(line.clone()).await;
    let new = scene.change(b"at the front");
    for round in 0.. {
        if scene.pull().await.is_ok() {
            break;
        }
        assert!(round < 20, "it makes no headway");
    }
    assert!(scene.has(&new));
    assert_eq!(line.0.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_description_makes_no_sense_is_fetched_whole_and_the_next_one_is_asked_for() {
    let mut scene = Scene::new(Arc::new(Describing(|number| match number {
        1 => Turn::Fail(LocationError::Protocol { source: ProtocolError::Other("nonsense") }),
        _ => Turn::Pass,
    })))
    .await;
    let mut received = scene.remote.bytes_received();
    for (front, is_whole) in [("at the front", true), ("once more", false)] {
        let new = scene.change(front.as_bytes());
        let summary = scene.pull().await.unwrap();
        assert!(summary.equal, "{summary:?}");
        assert!(scene.has(&new), "{front}");
        let came = scene.remote.bytes_received() - received;
        assert_eq!(came > 1 << 20, is_whole, "{front}: {came} bytes came");
        received += came;
    }
}

//! A follower settles together what had come before it asked.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Scripted, options_for};
use sync_agent::engine::{Engine, EngineError, Reporter, Summary};
use sync_core::{Cursor, Digest, FeedEvent, NodeId};
use sync_locations::{
    AnswerStream, BoxFuture, ByteStream, ChangeStream, Location, LocationError, Memory, Want,
};
use sync_testkit::eventually;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// What is known of a feed that is held back.
#[derive(Default)]
struct Gate {
    /// So many commit points are let through only together; 0 or 1 for none.
    together: AtomicUsize,
    /// How many have come that were not let through.
    held: AtomicUsize,
    /// How often the follower had caught up.
    caught_up: AtomicUsize,
}

impl Reporter for Gate {
    fn caught_up(&self, summary: &Summary) {
        assert!(summary.equal && summary.problems.is_empty(), "{summary:?}");
        self.caught_up.fetch_add(1, Ordering::SeqCst);
    }
}

/// A share whose live feed is held back.
struct Gated(Memory, Arc<Gate>);

struct Feed {
    feed: Box<dyn ChangeStream>,
    gate: Arc<Gate>,
    came: VecDeque<FeedEvent>,
}

impl Feed {
    async fn event(&mut self) -> Option<Result<FeedEvent, LocationError>> {
        while self.came.is_empty() || self.gate.held.load(Ordering::SeqCst) > 0 {
            let event = match self.feed.next().await? {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            let commits = matches!(event, FeedEvent::Commit(_));
            self.came.push_back(event);
            let held =
                self.gate.held.fetch_add(usize::from(commits), Ordering::SeqCst) + usize::from(commits);
            let together = self.gate.together.load(Ordering::SeqCst);
            if held >= together || together < 2 {
                self.gate.held.store(0, Ordering::SeqCst);
                self.gate.together.store(0, Ordering::SeqCst);
                break;
            }
        }
        self.came.pop_front().map(Ok)
    }
}

impl ChangeStream for Feed {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>> {
        Box::pin(self.event())
    }
}

impl Location for Gated {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>> {
        Box::pin(async move {
            let feed = self.0.changes(cursor, live).await?;
            let feed = Feed { feed, gate: self.1.clone(), came: VecDeque::new() };
            Ok(Box::new(feed) as Box<dyn ChangeStream>)
        })
    }

    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>> {
        self.0.fetch_packed(wants)
    }

    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        self.0.fetch_file(node, digest, offset)
    }

    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        self.0.fetch_ranges(node, digest, ranges)
    }

    fn max_packed_bytes(&self) -> u64 {
        self.0.max_packed_bytes()
    }

    fn bytes_received(&self) -> u64 {
        self.0.bytes_received()
    }
}

fn reaches(count: &AtomicUsize, wanted: usize) {
    eventually(Duration::from_secs(20), || match count.load(Ordering::SeqCst) {
        count if count == wanted => Ok(()),
        count => Err(format!("{count}, not {wanted}")),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_points_that_have_come_are_settled_by_one_round() {
    let pair = Scripted::new();
    pair.share.edit(|edit| edit.file("old", "was there"));
    let gate = Arc::new(Gate::default());
    let remote: Arc<dyn Location> = Arc::new(Gated(pair.share.clone(), gate.clone()));
    let mut engine = Engine::open(options_for(pair.target.root(), pair.share.share_id())).unwrap();
    let (reporter, end): (Arc<dyn Reporter>, _) = (gate.clone(), CancellationToken::new());
    let until = end.clone();
    let following = tokio::spawn(async move { engine.follow(&remote, &reporter, &until).await });
    reaches(&gate.caught_up, 1);

    // Two that are let through together: one round. What the first one made the other one changed, moved or removed.
    gate.together.store(2, Ordering::SeqCst);
    pair.share.edit(|edit| {
        edit.file("dir/changed", "first");
        edit.file("dir/moved", "moves");
        edit.file("dir/removed", "goes");
    });
    reaches(&gate.held, 1);
    pair.share.edit(|edit| {
        edit.file("dir/changed", "second");
        edit.rename("dir/moved", "moved");
        edit.remove("dir/removed");
    });
    reaches(&gate.caught_up, 2);
    for (path, bytes) in [("dir/changed", "second"), ("moved", "moves"), ("old", "was there")] {
        assert_eq!(pair.target.read(path), bytes.as_bytes(), "{path}");
    }
    assert!(!pair.target.has("dir/removed") && !pair.target.has("dir/moved"));
    assert!(
        pair.share.fetched().iter().all(|path| path.as_str() != "dir/removed"),
        "nobody wants it any more"
    );

    // One alone is not waited for.
    pair.share.edit(|edit| edit.file("alone", "comes"));
    reaches(&gate.caught_up, 3);
    assert_eq!(pair.target.read("alone"), b"comes");
    end.cancel();
    assert!(matches!(following.await.unwrap(), Err(EngineError::Cancelled)));
    assert_eq!(gate.caught_up.load(Ordering::SeqCst), 3);
}

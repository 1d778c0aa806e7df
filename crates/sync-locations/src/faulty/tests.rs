//! What the contract allows a location to do keeps the contract; what it does not is seen by whoever reads.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sync_core::FeedEvent;

use super::*;
use crate::{
    Memory,
    conformance::{Stage, conformance_tests},
};

/// Does, one after the other and round and round, everything that the contract allows.
struct Allowed(AtomicU64);

impl Script for Allowed {
    fn meets(&self, _moment: Moment) -> Turn {
        match self.0.fetch_add(1, Ordering::Relaxed) % 5 {
            0 => Turn::HoldBack,
            1 => Turn::Late(Duration::from_millis(1)),
            2 => Turn::Scatter,
            3 => Turn::Heartbeat,
            _ => Turn::Pass,
        }
    }
}

struct Disturbed {
    memory: Memory,
    location: Arc<Faulty>,
}

impl Disturbed {
    fn new() -> Self {
        let memory = Memory::new("docs");
        memory.set_page(2);
        let location = Arc::new(Faulty::new(Arc::new(memory.clone()), Arc::new(Allowed(AtomicU64::new(0)))));
        Self { memory, location }
    }
}

impl Stage for Disturbed {
    fn location(&self) -> Arc<dyn Location> {
        self.location.clone()
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        self.memory.write(path, bytes);
    }

    fn remove(&self, path: &str) {
        self.memory.remove(path);
    }

    fn rename(&self, from: &str, to: &str) {
        self.memory.rename(from, to);
    }
}

conformance_tests!(Disturbed::new());

/// One turn at each of some moments.
#[derive(Default)]
struct Once(Mutex<HashMap<Moment, Turn>>);

impl Once {
    fn then(&self, call: Call, number: u64, message: u64, turn: Turn) {
        let moment = Moment { call, number, message };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(moment, turn);
    }
}

impl Script for Once {
    fn meets(&self, moment: Moment) -> Turn {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&moment).unwrap_or(Turn::Pass)
    }
}

#[tokio::test]
async fn a_feed_fails_where_the_script_says() {
    let memory = Memory::new("docs");
    memory.edit(|edit| edit.file("a", "text"));
    let script = Arc::new(Once::default());
    let faulty = Faulty::new(Arc::new(memory.clone()), script.clone());
    script.then(Call::Changes, 1, 0, Turn::Fail(LocationError::cut("no")));
    assert!(matches!(faulty.changes(None, false).await.map(drop), Err(LocationError::Cut { .. })));

    script.then(Call::Changes, 2, 4, Turn::Again);
    script.then(Call::Changes, 2, 6, Turn::Spoil);
    let mut feed = faulty.changes(None, false).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = feed.next().await {
        events.push(event.unwrap());
    }
    let nodes: Vec<_> = events.iter().filter(|event| matches!(event, FeedEvent::Nodes { .. })).collect();
    assert_eq!(nodes.len(), 2, "{events:?}");
    assert_eq!(nodes[0], nodes[1]);
    let Some(FeedEvent::Commit(commit)) = events.last() else { panic!("{events:?}") };
    assert_ne!(commit.root_digest, memory.root_digest());

    script.then(Call::Changes, 3, 1, Turn::Fail(LocationError::cut("no")));
    script.then(Call::Changes, 4, 2, Turn::End);
    let mut feed = faulty.changes(None, false).await.unwrap();
    assert!(matches!(feed.next().await, Some(Err(LocationError::Cut { .. }))));
    assert!(feed.next().await.is_none());
    let mut feed = faulty.changes(None, false).await.unwrap();
    assert!(feed.next().await.is_some_and(|event| event.is_ok()));
    assert!(feed.next().await.is_none());
}

#[tokio::test]
async fn bytes_are_wrong_where_the_script_says() {
    let memory = Memory::new("docs");
    memory.edit(|edit| edit.file("a", vec![7; 100_000]));
    let (node, digest) = (memory.node("a").unwrap().id, Digest::of(&[7; 100_000]));
    let script = Arc::new(Once::default());
    let faulty = Faulty::new(Arc::new(memory), script.clone()).packing_at_most(1000);
    assert_eq!(faulty.max_packed_bytes(), 1000);
    script.then(Call::FetchFile, 1, 2, Turn::Spoil);
    script.then(Call::FetchFile, 2, 2, Turn::Scatter);
    script.then(Call::FetchFile, 3, 3, Turn::End);
    for (is_right, is_whole) in [(false, true), (true, true), (true, false)] {
        let mut stream = faulty.fetch_file(node, &digest, 0).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend(bytes.unwrap());
        }
        assert_eq!(all.iter().all(|byte| *byte == 7), is_right);
        assert_eq!(all.len() == 100_000, is_whole);
    }
    script.then(Call::FetchPacked, 1, 1, Turn::Refuse(FetchFailure::Unreadable("no".into())));
    let (wants, queue) = tokio::sync::mpsc::channel(1);
    wants.send(Want { number: 5, node, digest }).await.unwrap();
    drop(wants);
    let answers = faulty.fetch_packed(queue).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(answers[0].result, Err(FetchFailure::Unreadable("no".into())));
}

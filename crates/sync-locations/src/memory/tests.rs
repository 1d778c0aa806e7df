//! The suite over a share in memory, and the faults that it can be told to have.

use std::sync::Arc;

use sync_core::FeedEvent;

use super::*;
use crate::conformance::{Stage, conformance_tests};

impl Stage for Memory {
    fn location(&self) -> Arc<dyn Location> {
        Arc::new(self.clone())
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        self.edit(|edit| edit.file(path, bytes.to_vec()));
    }

    fn remove(&self, path: &str) {
        self.edit(|edit| edit.remove(path));
    }

    fn rename(&self, from: &str, to: &str) {
        self.edit(|edit| edit.rename(from, to));
    }
}

fn small_pages() -> Memory {
    let memory = Memory::new("docs");
    memory.set_page(2);
    memory
}

conformance_tests!(small_pages());

#[tokio::test]
async fn faults_happen_when_they_are_asked_for() {
    let memory = Memory::new("docs");
    memory.edit(|edit| edit.file("a", "text"));
    memory.cut_feed_after(2);
    let mut feed = memory.changes(None, false).await.unwrap();
    assert!(feed.next().await.unwrap().is_ok() && feed.next().await.unwrap().is_ok());
    assert!(matches!(feed.next().await, Some(Err(LocationError::Cut { .. }))));
    assert!(feed.next().await.is_none());

    let a = memory.node("a").unwrap();
    let digest = Digest::of(b"text");
    memory.set_wrong_bytes("a", true);
    let wrong = memory.fetch_file(a.id, &digest, 0).await.unwrap().next().await.unwrap().unwrap();
    assert_ne!(Digest::of(&wrong), digest);
    memory.set_wrong_bytes("a", false);
    memory.set_changed("a", true);
    let changed = memory.fetch_file(a.id, &digest, 0).await.map(drop);
    assert!(matches!(changed, Err(LocationError::Changed)));
    memory.set_changed("a", false);
    memory.cut_fetch_after(0);
    let mut cut = memory.fetch_file(a.id, &digest, 0).await.unwrap();
    assert!(matches!(cut.next().await, Some(Err(LocationError::Cut { .. }))));
    assert_eq!(memory.bytes_received(), 4);
    assert_eq!(memory.fetched().len(), 2);
}

#[tokio::test]
async fn a_halt_is_told_and_ends() {
    let memory = Memory::new("docs");
    memory.set_halted(Some("gone"));
    let mut feed = memory.changes(None, false).await.unwrap();
    assert!(matches!(feed.next().await, Some(Ok(FeedEvent::Halted { .. }))));
    assert!(feed.next().await.is_none());
    let mut feed = memory.changes(None, true).await.unwrap();
    assert!(matches!(feed.next().await, Some(Ok(FeedEvent::Halted { .. }))));
    memory.set_halted(None);
    assert!(matches!(feed.next().await, Some(Ok(FeedEvent::Reset { .. }))));
}

#[tokio::test]
async fn a_new_epoch_and_forgotten_deletions_are_resets() {
    let memory = Memory::new("docs");
    memory.edit(|edit| {
        edit.file("a", "1");
        edit.file("b", "2");
    });
    let commit = async |cursor: Option<&Cursor>| {
        let mut feed = memory.changes(cursor, false).await.unwrap();
        let mut reset = false;
        loop {
            match feed.next().await.unwrap().unwrap() {
                FeedEvent::Reset { .. } => reset = true,
                FeedEvent::Commit(commit) => return (reset, commit),
                _ => {}
            }
        }
    };
    let (_, first) = commit(None).await;
    memory.edit(|edit| edit.remove("a"));
    assert!(!commit(Some(&first.cursor)).await.0);
    memory.forget_deletions();
    let (reset, second) = commit(Some(&first.cursor)).await;
    assert!(reset);
    memory.new_epoch();
    let (reset, third) = commit(Some(&second.cursor)).await;
    assert!(reset);
    assert_eq!(second.root_digest, third.root_digest);
    assert_eq!(third.root_digest, memory.root_digest());
}

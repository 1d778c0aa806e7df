//! A live feed of which it can be asked whether one more commit point has come.
//!
//! While a round is carried out more may have come. What is complete is taken together then: a round for each would do again
//! what every round does, and one after the other.

use std::{collections::VecDeque, future::ready};

use sync_core::FeedEvent;
use sync_locations::{BoxFuture, ChangeStream, LocationError};

/// So many nodes and pieces wait here at most, and one piece more.
const MOST_NODES: usize = 8192;
const MOST_PIECES: usize = 256;

type Piece = Result<FeedEvent, LocationError>;

/// Dropping it ends the feed.
pub(super) struct Queue {
    feed: Box<dyn ChangeStream>,
    /// What came, and was not taken. The last one may be the feed's end.
    came: VecDeque<Option<Piece>>,
}

impl Queue {
    pub(super) fn of(feed: Box<dyn ChangeStream>) -> Self {
        Self { feed, came: VecDeque::new() }
    }

    /// Whether the next commit point has come with all that leads to it, which is nothing but nodes. Waits for nothing. It answers no
    /// as well if that is more than may wait.
    pub(super) async fn has_commit(&mut self) -> bool {
        while !self.is_known() {
            let piece = tokio::select! {
                biased;
                piece = self.feed.next() => piece,
                () = ready(()) => return false,
            };
            self.came.push_back(piece);
        }
        let end = self.came.iter().find(|piece| !leads_on(piece));
        matches!(end, Some(Some(Ok(FeedEvent::Commit(_)))))
    }

    /// Whether there is a commit point, or none that could be waited for.
    fn is_known(&self) -> bool {
        let nodes = |piece: &Option<Piece>| match piece {
            Some(Ok(FeedEvent::Nodes { changes, .. })) => changes.len(),
            _ => 0,
        };
        self.came.len() >= MOST_PIECES
            || !self.came.iter().all(leads_on)
            || self.came.iter().map(nodes).sum::<usize>() >= MOST_NODES
    }

    async fn piece(&mut self) -> Option<Piece> {
        match self.came.pop_front() {
            Some(piece) => piece,
            None => self.feed.next().await,
        }
    }
}

/// Whether this may come before a commit point with which nothing but nodes change.
fn leads_on(piece: &Option<Piece>) -> bool {
    matches!(piece, Some(Ok(FeedEvent::Nodes { .. } | FeedEvent::Heartbeat)))
}

impl ChangeStream for Queue {
    fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
        Box::pin(self.piece())
    }
}

#[cfg(test)]
mod tests {
    use sync_core::{CommitPoint, Cursor, Digest, NodeChange, NodeId};
    use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

    use super::*;

    struct Sent(UnboundedReceiver<Piece>);

    impl ChangeStream for Sent {
        fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
            Box::pin(self.0.recv())
        }
    }

    fn queue() -> (UnboundedSender<Piece>, Queue) {
        let (sender, sent) = mpsc::unbounded_channel();
        (sender, Queue::of(Box::new(Sent(sent))))
    }

    fn cursor() -> Cursor {
        Cursor(Box::new([1]))
    }

    fn nodes(count: usize) -> FeedEvent {
        let changes = (1..=count as u64).map(|id| NodeChange::Gone(NodeId(id))).collect();
        FeedEvent::Nodes { changes, resume: cursor() }
    }

    fn commit(files: u64) -> FeedEvent {
        FeedEvent::Commit(CommitPoint { cursor: cursor(), root_digest: Digest([0; 32]), files, bytes: 0 })
    }

    fn silent() -> LocationError {
        LocationError::Silent { after: std::time::Duration::from_secs(1) }
    }

    async fn taken(queue: &mut Queue, events: &[FeedEvent]) {
        for event in events {
            assert_eq!(queue.next().await.unwrap().unwrap(), *event);
        }
    }

    #[tokio::test]
    async fn a_commit_point_is_known_when_all_that_leads_to_it_has_come() {
        let (sender, mut queue) = queue();
        let events = [nodes(1), FeedEvent::Heartbeat, nodes(2), commit(1), nodes(3), commit(2), nodes(4)];
        assert!(!queue.has_commit().await);
        for (event, has) in events.iter().zip([false, false, false, true, true, true, true]) {
            sender.send(Ok(event.clone())).unwrap();
            assert_eq!(queue.has_commit().await, has, "{event:?}");
        }
        taken(&mut queue, &events[..4]).await;
        assert!(queue.has_commit().await, "the second one");
        taken(&mut queue, &events[4..6]).await;
        assert!(!queue.has_commit().await);
        taken(&mut queue, &events[6..]).await;
        assert!(!queue.has_commit().await);
    }

    #[tokio::test]
    async fn what_ends_a_feed_comes_after_what_came_before_and_is_waited_for_by_nobody() {
        for breaks in [true, false] {
            let (sender, mut queue) = queue();
            for event in [nodes(1), commit(1), nodes(2)] {
                sender.send(Ok(event)).unwrap();
            }
            if breaks {
                sender.send(Err(silent())).unwrap();
            }
            drop(sender);
            assert!(queue.has_commit().await);
            taken(&mut queue, &[nodes(1), commit(1)]).await;
            assert!(!queue.has_commit().await, "it ends before the next one");
            taken(&mut queue, &[nodes(2)]).await;
            assert!(!queue.has_commit().await);
            if breaks {
                assert!(matches!(queue.next().await, Some(Err(LocationError::Silent { .. }))));
            }
            assert!(queue.next().await.is_none() && !queue.has_commit().await);
            assert!(queue.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn what_is_no_node_is_not_taken_together_with_anything() {
        let (sender, mut queue) = queue();
        let halted = FeedEvent::Halted { reason: "emptied".into() };
        let events = [nodes(1), halted, nodes(1), commit(1)];
        for event in &events {
            sender.send(Ok(event.clone())).unwrap();
        }
        assert!(!queue.has_commit().await);
        taken(&mut queue, &events[..2]).await;
        assert!(queue.has_commit().await);
    }

    #[tokio::test]
    async fn signs_of_life_without_end_are_not_gathered() {
        let (sender, mut queue) = queue();
        for _ in 0..10_000 {
            sender.send(Ok(FeedEvent::Heartbeat)).unwrap();
        }
        for _ in 0..200 {
            assert!(!queue.has_commit().await);
            assert!(queue.came.len() <= MOST_PIECES);
        }
    }

    #[tokio::test]
    async fn no_more_than_a_bound_waits() {
        let (sender, mut queue) = queue();
        let events: Vec<_> = (0..20).map(|_| nodes(MOST_NODES / 8)).chain([commit(1)]).collect();
        for event in &events {
            sender.send(Ok(event.clone())).unwrap();
        }
        assert!(!queue.has_commit().await);
        assert_eq!(queue.came.len(), 8);
        taken(&mut queue, &events[..10]).await;
        assert!(!queue.has_commit().await);
        assert_eq!(queue.came.len(), 8);
        taken(&mut queue, &events[10..14]).await;
        assert!(queue.has_commit().await, "what is left of it is small enough");
        taken(&mut queue, &events[14..]).await;
    }
}

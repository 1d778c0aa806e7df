//! A live feed of which it can be asked whether one more commit point has come.
//!
//! While a round is carried out more may have come. What is complete is taken together then: a round for each would do again
//! what every round does, and one after the other.

use std::{collections::VecDeque, future::ready};

use sync_core::FeedEvent;
use sync_locations::{BoxFuture, ChangeStream, LocationError};

/// So many nodes wait here at most, and one piece more.
const MOST_NODES: usize = 16_384;

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

    /// Whether the next commit point has come with all that leads to it. Waits for nothing. What is too large for that is not known
    /// to be complete.
    pub(super) async fn has_commit(&mut self) -> bool {
        while !self.is_known() {
            let piece = tokio::select! {
                biased;
                piece = self.feed.next() => piece,
                () = ready(()) => return false,
            };
            self.came.push_back(piece);
        }
        self.came.iter().any(|piece| matches!(piece, Some(Ok(FeedEvent::Commit(_)))))
    }

    /// Whether there is a commit point, or none that could be waited for.
    fn is_known(&self) -> bool {
        let nodes = |piece: &Option<Piece>| match piece {
            Some(Ok(FeedEvent::Nodes { changes, .. })) => changes.len(),
            _ => 0,
        };
        let ends = |piece: &Option<Piece>| matches!(piece, None | Some(Ok(FeedEvent::Commit(_)) | Err(_)));
        self.came.iter().any(ends) || self.came.iter().map(nodes).sum::<usize>() >= MOST_NODES
    }

    async fn piece(&mut self) -> Option<Piece> {
        match self.came.pop_front() {
            Some(piece) => piece,
            None => self.feed.next().await,
        }
    }
}

impl ChangeStream for Queue {
    fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
        Box::pin(self.piece())
    }
}

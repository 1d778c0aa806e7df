//! A feed whose next pieces are received and taken apart while one is written down.

use std::panic::resume_unwind;

use sync_core::FeedEvent;
use sync_locations::{BoxFuture, ChangeStream, LocationError};
use tokio::{sync::mpsc, task::JoinSet};

/// Pieces that wait. They have up to some thousand nodes each.
const PIECES_AHEAD: usize = 2;

type Piece = Result<FeedEvent, LocationError>;

/// Dropping it ends the feed.
pub(super) struct Ahead {
    pieces: mpsc::Receiver<Piece>,
    reading: JoinSet<()>,
}

impl Ahead {
    pub(super) fn of(mut feed: Box<dyn ChangeStream>) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Some(piece) = feed.next().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces, reading }
    }

    async fn piece(&mut self) -> Option<Piece> {
        let piece = self.pieces.recv().await;
        if piece.is_none()
            && let Some(Err(end)) = self.reading.join_next().await
            && let Ok(panic) = end.try_into_panic()
        {
            resume_unwind(panic);
        }
        piece
    }
}

impl ChangeStream for Ahead {
    fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
        Box::pin(self.piece())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sign of life, and then it breaks.
    struct Breaks(bool);

    impl ChangeStream for Breaks {
        fn next(&mut self) -> BoxFuture<'_, Option<Piece>> {
            Box::pin(async move {
                assert!(!std::mem::replace(&mut self.0, true), "broken");
                Some(Ok(FeedEvent::Heartbeat))
            })
        }
    }

    #[tokio::test]
    #[should_panic = "broken"]
    async fn what_came_before_a_panic_comes_and_then_it_is_the_readers() {
        let mut ahead = Ahead::of(Box::new(Breaks(false)));
        let first = ahead.next().await;
        // Not an assertion: its panic would not be the one that is expected.
        if matches!(first, Some(Ok(FeedEvent::Heartbeat))) {
            ahead.next().await;
        }
    }
}

//! Wants on their way to the daemon, and how many of them are unanswered.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use sync_wire::v1;
use tokio::{
    sync::{mpsc::Receiver, oneshot},
    time::Instant,
};
use tokio_stream::Stream;

use crate::location::Want;

/// Wants in one message: about 25 KiB, so that the first answers come while later wants are still being sent.
const WANTS_IN_A_MESSAGE: usize = 512;

/// The wants that were sent and are not answered.
#[derive(Debug, Default)]
pub(super) struct Owed(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    count: u64,
    since: Option<Instant>,
}

impl Owed {
    fn asked(&self, count: usize) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.count += count as u64;
        if open.count > 0 && open.since.is_none() {
            open.since = Some(Instant::now());
        }
    }

    /// Takes note of answers. False if so many were not owed.
    pub(super) fn answered(&self, count: usize) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = open.count.checked_sub(count as u64) else { return false };
        open.count = left;
        open.since = (left > 0).then(Instant::now);
        true
    }

    /// Stops waiting for answers. True if there was anything to wait for.
    pub(super) fn forgive(&self) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *open).count > 0
    }

    /// Since when nothing was answered although something is owed.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since
    }
}

/// The wants of one stream as messages. They end when the reader of the answers is gone: the connection alone would keep them,
/// and whoever sends wants would wait for ever.
#[derive(Debug)]
pub(super) struct WantMessages {
    /// The first message, which says what all is about, without wants.
    first: Option<v1::FetchFilesRequest>,
    wants: Receiver<Want>,
    batch: Vec<Want>,
    owed: Arc<Owed>,
    reader: oneshot::Receiver<()>,
}

/// The reader's end: what is owed to it, and that it is there.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) owed: Arc<Owed>,
    _there: oneshot::Sender<()>,
}

impl WantMessages {
    pub(super) fn new(first: v1::FetchFilesRequest, wants: Receiver<Want>) -> (Self, Reader) {
        let owed = Arc::new(Owed::default());
        let (there, reader) = oneshot::channel();
        let messages = Self { first: Some(first), wants, batch: Vec::new(), owed: Arc::clone(&owed), reader };
        (messages, Reader { owed, _there: there })
    }
}

impl Stream for WantMessages {
    type Item = v1::FetchFilesRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if Pin::new(&mut this.reader).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let first = this.first.take();
        match this.wants.poll_recv_many(cx, &mut this.batch, WANTS_IN_A_MESSAGE) {
            // The share is told at once, so that the daemon can refuse it before there is anything to fetch.
            Poll::Pending if first.is_none() => return Poll::Pending,
            Poll::Ready(0) if first.is_none() => return Poll::Ready(None),
            _ => {}
        }
        this.owed.asked(this.batch.len());
        let wants = this.batch.drain(..).map(|want| to_wire(&want)).collect();
        Poll::Ready(Some(v1::FetchFilesRequest { wants, ..first.unwrap_or_default() }))
    }
}

fn to_wire(want: &Want) -> v1::Want {
    let digest = want.digest.0.to_vec();
    v1::Want { number: want.number, node_id: want.node.0, digest }
}

#[cfg(test)]
mod tests {
    use sync_core::{Digest, NodeId};
    use tokio::sync::mpsc::channel;
    use tokio_stream::StreamExt as _;

    use super::*;

    fn first() -> v1::FetchFilesRequest {
        v1::FetchFilesRequest { share: "docs".into(), ..v1::FetchFilesRequest::default() }
    }

    #[tokio::test]
    async fn wants_are_gathered_and_the_share_is_named_once_and_at_once() {
        let (sender, wants) = channel(2000);
        let (mut messages, reader) = WantMessages::new(first(), wants);
        let first = messages.next().await.unwrap();
        assert_eq!((first.share.as_str(), first.wants.len()), ("docs", 0));
        let owed = &reader.owed;
        assert_eq!(owed.since(), None);
        for number in 0..700 {
            let digest = Digest::of(b"");
            sender.send(Want { number, node: NodeId(1), digest }).await.unwrap();
        }
        drop(sender);
        let sizes: Vec<_> = messages.map(|message| (message.share, message.wants.len())).collect().await;
        assert_eq!(sizes, [(String::new(), 512), (String::new(), 188)]);
        assert!(owed.since().is_some());
        assert!(owed.answered(700) && owed.since().is_none());
        assert!(!owed.answered(1), "an answer that nobody asked for");
    }

    #[tokio::test]
    async fn without_a_reader_nobody_is_kept_waiting() {
        let (sender, wants) = channel(1);
        let (mut messages, reader) = WantMessages::new(first(), wants);
        assert!(messages.next().await.is_some());
        drop(reader);
        assert!(messages.next().await.is_none());
        drop(messages);
        sender.closed().await;
    }
}

//! The stream of a response's messages.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::errors::RequestError;

/// How many messages may wait between the task that makes them and the connection. Each costs up to 1 MiB for every open
/// stream; two are enough to make the next one while one is sent.
const MESSAGES_WAITING: usize = 2;

/// Where a task puts the messages of one response.
pub(super) type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// The messages of one response. When the daemon shuts down it ends with UNAVAILABLE, whatever the task behind it does.
pub(super) struct Replies<T> {
    messages: mpsc::Receiver<Result<T, Status>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl<T> Replies<T> {
    /// A stream and the way to feed it. Dropping the stream closes the sender.
    pub(super) fn new(stop: &CancellationToken) -> (Sender<T>, Self) {
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
        (sender, Self { messages, stop: Box::pin(stop.clone().cancelled_owned()), ended: false })
    }
}

impl<T> Stream for Replies<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // First of all, so that a stream which always has something to send ends too.
        if self.stop.as_mut().poll(cx).is_ready() {
            self.ended = true;
            self.messages.close();
            return Poll::Ready(Some(Err(RequestError::Stopping.into())));
        }
        let next = self.messages.poll_recv(cx);
        self.ended = matches!(&next, Poll::Ready(None | Some(Err(_))));
        next
    }
}

//! The messages of a response as they go over the wire, framed here.
//!
//! tonic encodes the messages of a response into one buffer, which grows to the largest of them and is kept for as long as
//! the response lasts. A feed lasts for days and begins with its largest messages, so a thousand followers would keep a
//! thousand such buffers. Here a message is encoded once, however many followers it goes to, and is freed when the last
//! of them has it. And the bytes of files go to the socket from where they were read into.
//!
//! The generated service knows no other stream than one of messages. So the handler answers with an empty one that
//! carries the frames beside it ([`Frames::into_response`]), and [`WithFrames`] puts them in the place of the body.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sync_wire::Frame;
use tokio_stream::{Empty, Stream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::replies::{Replies, Sender};

/// The frames of one response.
pub(super) struct Frames {
    replies: Replies<Frame>,
    /// What is left of the frame that was begun.
    payload: Bytes,
    ended: bool,
}

/// What the generated service takes for the messages.
pub(super) type NoMessages<T> = Empty<Result<T, Status>>;

/// Frames on their way to their response's body. An extension can be cloned; only one of the clones has them.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Frames>>>);

impl Frames {
    /// Frames and the way to feed them. Dropping them closes the sender.
    pub(super) fn new(stop: &CancellationToken) -> (Sender<Frame>, Self) {
        let (sender, replies) = Replies::new(stop);
        (sender, Self { replies, payload: Bytes::new(), ended: false })
    }

    /// A response that [`WithFrames`] completes.
    pub(super) fn into_response<T>(self) -> Response<NoMessages<T>> {
        let mut response = Response::new(tokio_stream::empty());
        response.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(self)))));
        response
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.payload.is_empty() {
            return data(std::mem::take(&mut self.payload));
        }
        let status = match ready!(Pin::new(&mut self.replies).poll_next(cx)) {
            Some(Ok(Frame { head, payload })) => {
                self.payload = payload;
                return data(head);
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| http_body::Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn data<E>(bytes: Bytes) -> Poll<Option<Result<http_body::Frame<Bytes>, E>>> {
    Poll::Ready(Some(Ok(http_body::Frame::data(bytes))))
}

/// A service some of whose responses carry [`Frames`].
#[derive(Clone)]
pub(super) struct WithFrames<S>(pub S);

impl<S: NamedService> NamedService for WithFrames<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for WithFrames<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(completed(answer.await?)) })
    }
}

fn completed(mut response: http::Response<Body>) -> http::Response<Body> {
    let carried = response.extensions_mut().remove::<Carried>();
    let frames = carried.and_then(|carried| carried.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    match frames {
        Some(frames) => response.map(|_| Body::new(frames)),
        None => response,
    }
}

//! The messages of a response. The contents in them refer to what was received instead of being copied from it.
//!
//! The generated client knows no other stream than tonic's, which copies all that comes into a buffer of its own. So
//! [`WithBodies`] takes the bodies of good responses away from it, and [`Messages::of`] finds them beside the stream, which has
//! nothing then. It is the other half of what the daemon does to send them.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http_body::Body as _;
use prost::Message;
use sync_wire::{Unframe, UnframeError};
use tonic::{
    Code, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::{self, Channel},
};

use super::LARGEST_MESSAGE;

/// A connection whose responses carry their bodies beside them.
#[derive(Debug, Clone)]
pub(super) struct WithBodies(pub Channel);

/// A body on its way to whoever reads it. An extension can be cloned; only one of the clones has it.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Body>>>);

impl Service<http::Request<Body>> for WithBodies {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(carrying(answer.await?)) })
    }
}

/// What is no good response, or has no body by gRPC's rules, is left as it is: tonic knows what it means.
fn carrying(response: http::Response<Body>) -> http::Response<Body> {
    if response.status() != http::StatusCode::OK || Status::from_header_map(response.headers()).is_some() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let mut response = http::Response::from_parts(parts, Body::empty());
    response.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(body)))));
    response
}

/// The messages of one response. Dropping it resets the stream.
#[derive(Debug)]
pub(super) struct Messages<M> {
    /// `None` after its end.
    body: Option<Body>,
    unframe: Unframe<M>,
}

impl<M: Message + Default> Messages<M> {
    /// Of a response that came over [`WithBodies`].
    ///
    /// # Errors
    /// It is none that has messages.
    pub(super) async fn of(mut response: Response<Streaming<M>>) -> Result<Self, Status> {
        let carried = response.extensions_mut().remove::<Carried>();
        let body =
            carried.and_then(|carried| carried.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        if body.is_none() {
            // What is no error has nothing in it.
            response.get_mut().message().await?;
        }
        Ok(Self { body, unframe: Unframe::new(LARGEST_MESSAGE) })
    }

    /// The next message. May be dropped midway: what was received stays.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.unframe.message().map_err(|error| refused(&error))? {
                return Ok(Some(message));
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
            let Some(frame) = frame.transpose()? else { return self.ended(None) };
            match frame.into_data() {
                Ok(data) => self.unframe.take(data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return self.ended(Some(&trailers));
                    }
                }
            }
        }
    }

    fn ended(&mut self, trailers: Option<&http::HeaderMap>) -> Result<Option<M>, Status> {
        self.body = None;
        let status = trailers.and_then(Status::from_header_map);
        // What a proxy makes of a time-out, and of a server that is gone.
        let status = status.unwrap_or_else(|| Status::aborted("the response ended without a status"));
        if status.code() != Code::Ok {
            return Err(status);
        }
        if self.unframe.is_between() {
            return Ok(None);
        }
        Err(Status::internal("the response ended in the middle of a message"))
    }
}

fn refused(error: &UnframeError) -> Status {
    match error {
        UnframeError::TooLarge { .. } => Status::out_of_range(error.to_string()),
        UnframeError::Compressed | UnframeError::Malformed(_) => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use http_body::Frame;
    use sync_wire::{frame, v1};

    use super::*;

    type Message = v1::FetchFileResponse;

    /// What comes of a response, one after the other.
    struct Script(VecDeque<Result<Frame<Bytes>, Status>>);

    impl http_body::Body for Script {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, Status> {
        Ok(Frame::data(bytes.into()))
    }

    fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        Ok(Frame::trailers(trailers))
    }

    fn message(text: &'static [u8]) -> Message {
        let part = v1::fetch_file_response::Part::Data(Bytes::from_static(text));
        Message { part: Some(part) }
    }

    /// The messages, and how it ended.
    async fn read(script: Vec<Result<Frame<Bytes>, Status>>) -> (Vec<Message>, Code) {
        let mut response = http::Response::new(Body::new(Script(script.into())));
        response = carrying(response);
        let carried = response.extensions_mut().remove::<Carried>().unwrap();
        let body = carried.0.lock().unwrap().take();
        let mut messages = Messages { body, unframe: Unframe::new(100) };
        let mut read = Vec::new();
        loop {
            match messages.next().await {
                Ok(Some(message)) => read.push(message),
                Ok(None) => {
                    assert_eq!(messages.next().await.unwrap(), None, "the end stays an end");
                    return (read, Code::Ok);
                }
                Err(status) => return (read, status.code()),
            }
        }
    }

    #[tokio::test]
    async fn messages_come_in_any_pieces_and_end_as_the_server_says() {
        let (one, two) = (message(b"one"), message(b"two and more"));
        let wire = [frame(&one), frame(&two)].concat();
        for size in 1..=wire.len() {
            let mut script: Vec<_> = wire.chunks(size).map(<[u8]>::to_vec).map(data).collect();
            script.insert(1, data(Bytes::new()));
            script.push(trailers(&Status::ok("")));
            assert_eq!(read(script).await, (vec![one.clone(), two.clone()], Code::Ok), "{size}");
        }
    }

    #[tokio::test]
    async fn an_end_that_is_not_good_is_an_error_after_the_messages_before_it() {
        let one = message(b"one");
        let whole = || data(frame(&one));
        let half = || data(frame(&one).slice(..7));
        for (what, script, code) in [
            ("it says so", vec![whole(), trailers(&Status::aborted("enough"))], Code::Aborted),
            ("it breaks", vec![whole(), Err(Status::unavailable("cut"))], Code::Unavailable),
            ("nothing is said", vec![whole()], Code::Aborted),
            ("in the middle", vec![whole(), half(), trailers(&Status::ok(""))], Code::Internal),
            (
                "in the middle, with a reason",
                vec![whole(), half(), trailers(&Status::aborted(""))],
                Code::Aborted,
            ),
            ("too large", vec![whole(), data(vec![0, 0, 0, 0, 101])], Code::OutOfRange),
            ("compressed as a whole", vec![whole(), data(vec![1, 0, 0, 0, 1])], Code::Internal),
            ("no message", vec![whole(), data(vec![0, 0, 0, 0, 1, 0x12])], Code::Internal),
        ] {
            assert_eq!(read(script).await, (vec![one.clone()], code), "{what}");
        }
    }

    #[test]
    fn the_body_of_what_is_no_good_response_is_left_to_tonic() {
        let mut bad = http::Response::new(Body::empty());
        *bad.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        assert!(carrying(bad).extensions().get::<Carried>().is_none());
        let only_trailers = Status::not_found("no such share").into_http::<Body>();
        assert!(carrying(only_trailers).extensions().get::<Carried>().is_none());
    }
}

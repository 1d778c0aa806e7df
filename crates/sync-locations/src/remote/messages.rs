//! The messages of a response, which refer to what was received instead of being copied from it.
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
        let status = status.unwrap_or_else(|| Status::unknown("the response ended without a status"));
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

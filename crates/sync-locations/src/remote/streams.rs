//! The daemon's streams as streams of values.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use prost::Message;
use sync_core::FeedEvent;
use sync_wire::{feed_event, v1, wire_bytes};
use tokio::time::Instant;
use v1::{FetchErrorReason, fetch_file_response::Part};

use super::{connect::location_error, messages::Messages, unpack::Unpack, wants::Reader, watchdog::Watchdog};
use crate::{
    error::LocationError,
    location::{Answer, AnswerStream, BoxFuture, ByteStream, ChangeStream, FetchFailure},
};

/// What all streams have in common: a watchdog, a count of bytes, and an end after which nothing comes.
pub(super) struct Incoming<M> {
    /// `None` after the end or an error. Dropping it resets the stream.
    stream: Option<Messages<M>>,
    watchdog: Watchdog,
    received: Arc<AtomicU64>,
    size: fn(&M) -> u64,
}

impl<M: Message + Default> Incoming<M> {
    /// `size` is [`wire_bytes`].
    pub(super) fn new(
        stream: Messages<M>,
        watchdog: Watchdog,
        received: Arc<AtomicU64>,
        size: fn(&M) -> u64,
    ) -> Self {
        Self { stream: Some(stream), watchdog, received, size }
    }

    /// The next message. May be dropped midway: a message that is not complete stays in the stream.
    pub(super) async fn next(
        &mut self,
        owed_since: impl Fn() -> Option<Instant>,
    ) -> Option<Result<M, LocationError>> {
        let stream = self.stream.as_mut()?;
        let end = match self.watchdog.watch(stream.next(), owed_since).await {
            Ok(Ok(Some(message))) => {
                self.received.fetch_add((self.size)(&message), Ordering::Relaxed);
                return Some(Ok(message));
            }
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(location_error(&status)),
            Err(silent) => Some(silent),
        };
        self.stream = None;
        end.map(Err)
    }

    /// Ends the stream with this error.
    fn fail<T>(&mut self, error: LocationError) -> Option<Result<T, LocationError>> {
        self.stream = None;
        Some(Err(error))
    }
}

/// A feed.
pub(super) struct Changes {
    incoming: Incoming<v1::WatchChangesResponse>,
    began: Instant,
}

impl Changes {
    pub(super) fn new(
        stream: Messages<v1::WatchChangesResponse>,
        watchdog: Watchdog,
        received: Arc<AtomicU64>,
    ) -> Self {
        Self { incoming: Incoming::new(stream, watchdog, received, wire_bytes), began: Instant::now() }
    }

    async fn event(&mut self) -> Option<Result<FeedEvent, LocationError>> {
        loop {
            // Heartbeats are owed all the time.
            let began = self.began;
            let message = match self.incoming.next(|| Some(began)).await? {
                Ok(message) => message,
                Err(error) => return Some(Err(error)),
            };
            match feed_event(message) {
                Ok(Some(event)) => return Some(Ok(event)),
                // A later version's event.
                Ok(None) => {}
                Err(error) => return self.incoming.fail(error.into()),
            }
        }
    }
}

impl ChangeStream for Changes {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>> {
        Box::pin(self.event())
    }
}

/// Answers to wants.
pub(super) struct Answers {
    incoming: Incoming<v1::FetchFilesResponse>,
    unpack: Unpack,
    reader: Reader,
}

impl Answers {
    pub(super) fn new(incoming: Incoming<v1::FetchFilesResponse>, unpack: Unpack, reader: Reader) -> Self {
        Self { incoming, unpack, reader }
    }

    async fn answers(&mut self) -> Option<Result<Vec<Answer>, LocationError>> {
        let owed = Arc::clone(&self.reader.owed);
        let unpacked = match self.incoming.next(|| owed.since()).await {
            Some(message) => message.and_then(|message| self.part(message)),
            None if owed.forgive() => {
                Err(LocationError::cut("the server ended the stream before it had answered everything"))
            }
            None => return None,
        };
        if unpacked.is_err() {
            // After an error nothing is waited for, so that the end stays an end.
            owed.forgive();
            self.incoming.stream = None;
        }
        Some(unpacked)
    }

    /// Parts a message's bytes into those of its files.
    fn part(&mut self, message: v1::FetchFilesResponse) -> Result<Vec<Answer>, LocationError> {
        if !self.reader.owed.answered(message.files.len()) {
            return Err(LocationError::protocol("it answered what nobody had asked for"));
        }
        let mut payload = self.unpack.either(message.payload, message.compressed.as_ref())?;
        let mut answers = Vec::with_capacity(message.files.len());
        for file in message.files {
            let result = match file.error {
                Some(error) => Err(failure(error)),
                None => Ok(take(&mut payload, file.size)?),
            };
            answers.push(Answer { number: file.number, result });
        }
        if payload.is_empty() {
            Ok(answers)
        } else {
            Err(LocationError::protocol("it sent bytes that belong to no file"))
        }
    }
}

fn take(payload: &mut Bytes, size: u64) -> Result<Bytes, LocationError> {
    match usize::try_from(size) {
        Ok(size) if size <= payload.len() => Ok(payload.split_to(size)),
        _ => Err(LocationError::protocol("it sent less bytes than it said")),
    }
}

fn failure(error: v1::FetchError) -> FetchFailure {
    match error.reason() {
        FetchErrorReason::Changed => FetchFailure::Changed,
        FetchErrorReason::TooLarge => FetchFailure::TooLarge,
        // A reason of a later version is told in its words.
        FetchErrorReason::Unreadable | FetchErrorReason::Unspecified => {
            FetchFailure::Unreadable(error.message)
        }
    }
}

impl AnswerStream for Answers {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Answer>, LocationError>>> {
        Box::pin(self.answers())
    }
}

/// One file, or parts of it.
pub(super) struct FileBytes {
    incoming: Incoming<v1::FetchFileResponse>,
    unpack: Unpack,
    began: Instant,
    /// Bytes to come; known from the header on.
    left: Option<u64>,
    /// What the header must say, if that is known.
    length: Option<u64>,
}

impl FileBytes {
    pub(super) fn new(incoming: Incoming<v1::FetchFileResponse>, unpack: Unpack) -> Self {
        Self { incoming, unpack, began: Instant::now(), left: None, length: None }
    }

    /// The same stream, of which it is known how many bytes it must have.
    pub(super) fn of_length(self, length: u64) -> Self {
        Self { length: Some(length), ..self }
    }

    fn unpacked(&mut self, part: Option<Part>) -> Result<Option<Part>, LocationError> {
        match part {
            Some(Part::Compressed(compressed)) => Ok(Some(Part::Data(self.unpack.bytes(&compressed)?))),
            part => Ok(part),
        }
    }

    async fn bytes(&mut self) -> Option<Result<Bytes, LocationError>> {
        loop {
            let began = self.began;
            let part = match self.incoming.next(|| Some(began)).await {
                Some(Ok(message)) => message.part,
                Some(Err(error)) => return Some(Err(error)),
                None if self.left.take().is_some_and(|left| left > 0) => {
                    return Some(Err(LocationError::cut(
                        "the server ended the stream before the end of the file",
                    )));
                }
                None => return None,
            };
            let part = match self.unpacked(part) {
                Ok(part) => part,
                Err(error) => return self.incoming.fail(error),
            };
            match (part, self.left) {
                (Some(Part::Header(header)), None)
                    if self.length.is_some_and(|length| length != header.length) =>
                {
                    return self.incoming.fail(LocationError::protocol(
                        "it sends other parts of a file than it was asked for",
                    ));
                }
                (Some(Part::Header(header)), None) => self.left = Some(header.length),
                (Some(Part::Data(data)), Some(left)) if data.len() as u64 <= left => {
                    self.left = Some(left - data.len() as u64);
                    if !data.is_empty() {
                        return Some(Ok(data));
                    }
                }
                (Some(Part::Data(_)), Some(_)) => {
                    return self.incoming.fail(LocationError::protocol("it sent more bytes than it said"));
                }
                (Some(_), _) => {
                    return self
                        .incoming
                        .fail(LocationError::protocol("the parts of a file came in the wrong order"));
                }
                // A later version's part.
                (None, _) => {}
            }
        }
    }
}

impl ByteStream for FileBytes {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, LocationError>>> {
        Box::pin(self.bytes())
    }
}

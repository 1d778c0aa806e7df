//! The streams of a location that goes wrong. Like all streams they may be waited for in slices: what the script has said of
//! a message stays until the message is there.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use sync_core::{Content, FeedEvent, NodeChange};
use tokio::time::{Sleep, sleep};

use super::{Moment, Script, Turn};
use crate::{
    error::LocationError,
    location::{Answer, AnswerStream, BoxFuture, ByteStream, ChangeStream},
};

/// One call and what follows it, as the script sees it.
pub(super) struct Line {
    script: Arc<dyn Script>,
    moment: Moment,
    /// What happens next, once it is known.
    next: Option<Turn>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Line {
    pub(super) fn new(script: Arc<dyn Script>, moment: Moment) -> Self {
        Self { script, moment, next: None, late: None }
    }

    /// What happens at this moment, when it is time for it.
    pub(super) async fn turn(&mut self) -> Turn {
        self.ready().await;
        self.taken()
    }

    /// The same, once. The script is asked again only after [`taken`](Self::taken).
    async fn ready(&mut self) -> &Turn {
        if self.next.is_none() {
            let turn = self.script.meets(self.moment);
            if let Turn::Late(time) | Turn::Beat(time) = turn {
                self.late = Some(Box::pin(sleep(time)));
            }
            self.next = Some(turn);
        }
        if let Some(late) = &mut self.late {
            late.await;
            self.late = None;
        }
        self.next.get_or_insert(Turn::Pass)
    }

    /// The message is there: the next one has a turn of its own.
    fn taken(&mut self) -> Turn {
        self.moment.message += 1;
        self.next.take().unwrap_or(Turn::Pass)
    }

    /// A turn that the call had and that is about what comes back.
    pub(super) fn opened_with(mut self, turn: Turn) -> Self {
        self.next = matches!(turn, Turn::Spoil).then_some(turn);
        self
    }

    pub(super) fn is_spoiled(&self) -> bool {
        matches!(self.next, Some(Turn::Spoil))
    }
}

/// A feed.
pub(super) struct Feed {
    line: Line,
    inner: Option<Box<dyn ChangeStream>>,
    /// The last nodes.
    last: Option<FeedEvent>,
}

impl Feed {
    pub(super) fn new(line: Line, inner: Box<dyn ChangeStream>) -> Self {
        Self { line, inner: Some(inner), last: None }
    }

    async fn event(&mut self) -> Option<Result<FeedEvent, LocationError>> {
        let inner = self.inner.as_mut()?;
        match self.line.ready().await {
            Turn::Fail(_) | Turn::End => {
                self.inner = None;
                let Turn::Fail(error) = self.line.taken() else { return None };
                return Some(Err(error));
            }
            Turn::Heartbeat | Turn::Beat(_) => {
                self.line.taken();
                return Some(Ok(FeedEvent::Heartbeat));
            }
            Turn::Again if self.last.is_some() => {
                self.line.taken();
                return self.last.clone().map(Ok);
            }
            _ => {}
        }
        let event = inner.next().await;
        let spoiled = matches!(self.line.taken(), Turn::Spoil);
        match event {
            Some(Ok(event)) => Some(Ok(self.told(event, spoiled))),
            end => {
                self.inner = None;
                end
            }
        }
    }

    fn told(&mut self, mut event: FeedEvent, spoiled: bool) -> FeedEvent {
        match &mut event {
            FeedEvent::Nodes { changes, .. } if spoiled && changes.last().is_some_and(is_file) => {
                changes.pop();
            }
            FeedEvent::Commit(commit) if spoiled => commit.root_digest.0[0] ^= 1,
            _ => {}
        }
        // What a reset voids is not repeated after it.
        match &event {
            FeedEvent::Nodes { .. } => self.last = Some(event.clone()),
            FeedEvent::Reset { .. } => self.last = None,
            _ => {}
        }
        event
    }
}

impl ChangeStream for Feed {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<FeedEvent, LocationError>>> {
        Box::pin(self.event())
    }
}

/// Answers to wants.
pub(super) struct Answers {
    line: Line,
    inner: Option<Box<dyn AnswerStream>>,
    ready: VecDeque<Vec<Answer>>,
    held: Option<Vec<Answer>>,
}

impl Answers {
    pub(super) fn new(line: Line, inner: Box<dyn AnswerStream>) -> Self {
        Self { line, inner: Some(inner), ready: VecDeque::new(), held: None }
    }

    async fn answers(&mut self) -> Option<Result<Vec<Answer>, LocationError>> {
        loop {
            if let Some(answers) = self.ready.pop_front() {
                return Some(Ok(answers));
            }
            let Some(inner) = &mut self.inner else { return self.held.take().map(Ok) };
            if matches!(self.line.ready().await, Turn::Fail(_) | Turn::End) {
                (self.inner, self.held) = (None, None);
                let Turn::Fail(error) = self.line.taken() else { return None };
                return Some(Err(error));
            }
            let mut next = inner.next();
            // Nobody may have to wait for what is held back: the wants that are to come may depend on it.
            let came = poll_fn(|context| match (next.as_mut().poll(context), &self.held) {
                (Poll::Ready(came), _) => Poll::Ready(Some(came)),
                (Poll::Pending, Some(_)) => Poll::Ready(None),
                (Poll::Pending, None) => Poll::Pending,
            });
            let came = came.await;
            drop(next);
            let answers = match came {
                None => return self.held.take().map(Ok),
                Some(Some(Ok(answers))) => answers,
                Some(Some(Err(error))) => {
                    (self.inner, self.held) = (None, None);
                    return Some(Err(error));
                }
                Some(None) => {
                    self.inner = None;
                    continue;
                }
            };
            let turn = self.line.taken();
            self.arrive(answers, turn);
        }
    }

    fn arrive(&mut self, mut answers: Vec<Answer>, turn: Turn) {
        match turn {
            Turn::HoldBack if self.held.is_none() => {
                self.held = Some(answers);
                return;
            }
            Turn::Scatter => self.ready.extend(answers.drain(..).rev().map(|answer| vec![answer])),
            Turn::Refuse(failure) => {
                if let Some(first) = answers.first_mut() {
                    first.result = Err(failure);
                }
            }
            Turn::Spoil => {
                if let Some(bytes) = answers.iter_mut().find_map(|answer| answer.result.as_mut().ok()) {
                    *bytes = spoiled(bytes);
                }
            }
            _ => {}
        }
        if !answers.is_empty() {
            self.ready.push_back(answers);
        }
        self.ready.extend(self.held.take());
    }
}

impl AnswerStream for Answers {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Answer>, LocationError>>> {
        Box::pin(self.answers())
    }
}

/// The bytes of one file.
pub(super) struct FileBytes {
    line: Line,
    inner: Option<Box<dyn ByteStream>>,
    rest: Option<Bytes>,
}

impl FileBytes {
    pub(super) fn new(line: Line, inner: Box<dyn ByteStream>) -> Self {
        Self { line, inner: Some(inner), rest: None }
    }

    async fn bytes(&mut self) -> Option<Result<Bytes, LocationError>> {
        if let Some(rest) = self.rest.take() {
            return Some(Ok(rest));
        }
        let inner = self.inner.as_mut()?;
        if matches!(self.line.ready().await, Turn::Fail(_) | Turn::End) {
            self.inner = None;
            let Turn::Fail(error) = self.line.taken() else { return None };
            return Some(Err(error));
        }
        let came = inner.next().await;
        let turn = self.line.taken();
        let Some(Ok(mut bytes)) = came else {
            self.inner = None;
            return came;
        };
        match turn {
            Turn::Scatter if bytes.len() > 1 => self.rest = Some(bytes.split_off(bytes.len() / 2)),
            Turn::Spoil => bytes = spoiled(&bytes),
            _ => {}
        }
        Some(Ok(bytes))
    }
}

impl ByteStream for FileBytes {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, LocationError>>> {
        Box::pin(self.bytes())
    }
}

/// Only of a file the digest of the tree always tells that it is missing: times of links and directories are not in it, nor is
/// what is left in a directory that is none any more.
fn is_file(change: &NodeChange) -> bool {
    matches!(change, NodeChange::Present(node) if matches!(node.entry.content, Content::File { .. }))
}

/// The same with a wrong bit, or with a byte where there should be none.
fn spoiled(bytes: &Bytes) -> Bytes {
    let mut wrong = BytesMut::from(&bytes[..]);
    match wrong.last_mut() {
        Some(byte) => *byte ^= 4,
        None => wrong.extend_from_slice(b"x"),
    }
    wrong.freeze()
}

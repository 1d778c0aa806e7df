//! Parts of a feed as ready messages, and the newest of them kept for all who follow it.
//!
//! Subscribers hold no queue: each reads on from its own cursor. Those that are up to date all stand at the same cursor,
//! so what comes next is read and converted once ([`after`]) and given to each of them. Keeping a part is always sound,
//! because a feed is state-based: a reader that is given an old part goes on from the end of that part.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use sync_core::{FeedEvent, Seq};
use sync_tree::{
    feed::{FeedReader, Step},
    live::LiveTree,
};
use sync_wire::{MAX_MESSAGE_BYTES, frame, response, v1};

use tokio::sync::Semaphore;

use super::errors::{RequestError, blocking};
use crate::shares::Share;

pub(super) type Message = v1::WatchChangesResponse;

/// A message that goes to many.
pub(super) struct Told {
    /// What it says.
    pub message: Message,
    frame: OnceLock<Bytes>,
}

impl Told {
    fn new(message: Message) -> Self {
        Self { message, frame: OnceLock::new() }
    }

    /// How it goes over the wire. Encoded by whoever sends it first.
    pub(super) fn frame(&self) -> Bytes {
        self.frame.get_or_init(|| frame(&self.message)).clone()
    }
}

/// How many parts are kept. Subscribers that are further behind make their own; a part has at most 512 KiB or so.
const PARTS_KEPT: usize = 8;

/// How many read a feed from the disk at a time. Each holds a part of it in memory, on a thread and a database connection of
/// its own, and none reads for long: of a thousand who come at once, the rest waits.
const READERS: usize = 8;

/// A part of a feed.
pub(super) struct Part {
    /// Its messages. Every part has the rules and problems; where they did not change they are the same `Arc`.
    pub messages: Vec<Arc<Told>>,
    /// Where the feed goes on after it.
    pub end: Vec<u8>,
    /// Set if the feed was read to its end: what is in this part or before it, at least.
    pub complete: Option<Reached>,
}

/// How much of a share is known: all versions up to these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reached {
    /// Numbers of different epochs have nothing to do with each other: an accepted other root has another index.
    epoch: [u8; 16],
    head: Seq,
    problems: u64,
    rules: u64,
}

impl Reached {
    /// What there is now.
    pub(super) fn now(tree: &LiveTree) -> Self {
        let epoch = tree.index().epoch();
        let status = tree.status();
        let status = status.borrow();
        Self { epoch, head: status.head.seq, problems: status.problems_version, rules: status.rules_version }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.epoch == other.epoch
            && self.head >= other.head
            && self.problems >= other.problems
            && self.rules >= other.rules
    }
}

/// The newest parts of one share's feed.
pub(crate) struct Newest {
    parts: Mutex<VecDeque<(Vec<u8>, Arc<Part>)>>,
    notices: Mutex<Notices>,
    /// Held while a part is made: a thousand subscribers wake at once, and one of them does the work.
    making: tokio::sync::Mutex<()>,
    readers: Arc<Semaphore>,
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            parts: Mutex::default(),
            notices: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }
}

/// The newest rules and problems, so that an unchanged one can be recognised without being compared each time.
#[derive(Default)]
struct Notices {
    rules: Option<Arc<Told>>,
    problems: Option<Arc<Told>>,
}

impl Newest {
    /// Runs work that reads the feed, in turn. Whoever does not wait for it any more does not end it, so the work keeps its
    /// turn by itself.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let turn = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| RequestError::Stopping)?;
        blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
    }

    fn kept(&self, cursor: &[u8], wanted: Reached) -> Option<Arc<Part>> {
        let parts = locked(&self.parts);
        let (_, part) = parts.iter().find(|(start, _)| start == cursor)?;
        // A part that leads nowhere is good only while nothing is newer.
        let leads_on = part.end != cursor || part.complete.is_some_and(|reached| reached.covers(wanted));
        leads_on.then(|| Arc::clone(part))
    }

    fn keep(&self, cursor: Vec<u8>, part: &Arc<Part>) {
        let mut parts = locked(&self.parts);
        parts.retain(|(start, _)| *start != cursor);
        parts.truncate(PARTS_KEPT - 1);
        parts.push_front((cursor, Arc::clone(part)));
    }

    fn message(&self, event: &FeedEvent) -> Arc<Told> {
        let message = response(event);
        let mut notices = locked(&self.notices);
        let known = match event {
            FeedEvent::Rules(_) => &mut notices.rules,
            FeedEvent::Problems(_) => &mut notices.problems,
            _ => return Arc::new(Told::new(message)),
        };
        let message = problems_that_fit(message);
        match known {
            Some(known) if known.message == message => Arc::clone(known),
            _ => Arc::clone(known.insert(Arc::new(Told::new(message)))),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What follows after a cursor, made by whoever asks first. `wanted` is what the caller knows to be there.
pub(super) async fn after(
    share: &Arc<Share>,
    cursor: &[u8],
    wanted: Reached,
) -> Result<Arc<Part>, RequestError> {
    if let Some(part) = share.newest.kept(cursor, wanted) {
        return Ok(part);
    }
    let _turn = share.newest.making.lock().await;
    if let Some(part) = share.newest.kept(cursor, wanted) {
        return Ok(part);
    }
    let (of, start) = (Arc::clone(share), cursor.to_vec());
    let part = share.newest.read(move || {
        let mut reader = FeedReader::start(of.tree.index(), &start)?;
        next_part(&of, &mut reader, &start)
    });
    let part = Arc::new(part.await?);
    share.newest.keep(cursor.to_vec(), &part);
    Ok(part)
}

/// Reads on until there is a place to go on from, or nothing more. Blocks.
pub(super) fn next_part(share: &Share, reader: &mut FeedReader, start: &[u8]) -> Result<Part, RequestError> {
    // Read before the feed is, so that the part has at least what this status tells.
    let reached = Reached::now(&share.tree);
    let mut messages = Vec::new();
    let mut end = None;
    let mut complete = None;
    while end.is_none() && complete.is_none() {
        let Step::Events(events) = reader.step(&share.tree)? else {
            complete = Some(reached);
            break;
        };
        for event in &events {
            match event {
                FeedEvent::Nodes { resume, .. } => (end, complete) = (Some(resume.0.to_vec()), None),
                FeedEvent::Commit(commit) => {
                    (end, complete) = (Some(commit.cursor.0.to_vec()), Some(reached));
                }
                _ => {}
            }
            messages.push(share.newest.message(event));
        }
    }
    let end = end.unwrap_or_else(|| start.to_vec());
    Ok(Part { messages, end, complete })
}

/// Long paths and long errors could make the list larger than a message may be.
fn problems_that_fit(mut message: Message) -> Message {
    use v1::watch_changes_response::Event;
    if let Some(Event::Problems(list)) = &mut message.event {
        let mut room = MAX_MESSAGE_BYTES / 2;
        list.problems.retain(|problem| {
            let size = problem.path.len() + problem.raw_name.len() + problem.error.len() + 32;
            room = room.saturating_sub(size);
            room > 0
        });
    }
    message
}

//! One subscription to a share's feed.
//!
//! It goes through the same stages each time, and again after a halt: wait for the first scan, catch up from the cursor,
//! pass the barrier, and (live) follow. What it knows is one cursor and which notices were sent; a subscriber that reads
//! slowly makes this task wait and costs nothing else.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use sync_core::{FeedEvent, Watching};
use sync_tree::{
    feed::FeedReader,
    live::{BarrierError, TreeState, TreeStatus},
};
use sync_wire::{Frame, frame, response, v1};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use v1::watch_changes_response::Event;

use super::{
    errors::{RequestError, blocking},
    newest::{Part, Reached, Told, after, next_part},
    replies::Sender,
};
use crate::shares::Share;

/// What a subscriber asked for.
pub(super) struct Wish {
    /// Where to go on from; empty for the full tree.
    pub cursor: Vec<u8>,
    /// Go on for ever.
    pub live: bool,
    /// Nodes carry their paths.
    pub paths: bool,
    /// How long it may be silent.
    pub heartbeat: Duration,
}

/// Why a subscription ends before its time.
enum End {
    /// The subscriber is gone.
    Gone,
    /// Something failed; the subscriber is told.
    Failed(RequestError),
}

impl From<RequestError> for End {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

/// How a stage ended.
enum Stage {
    Done,
    Halted { reason: String },
}

struct Subscription {
    share: Arc<Share>,
    wish: Wish,
    out: Sender<Frame>,
    status: watch::Receiver<TreeStatus>,
    has: Has,
    /// How much of the share the subscriber has.
    reached: Reached,
}

/// What was sent and need not be sent again.
#[derive(Default)]
struct Has {
    rules: Option<Arc<Told>>,
    problems: Option<Arc<Told>>,
    watching: Option<Watching>,
    /// The cursor of the last commit point.
    commit: Option<Vec<u8>>,
}

fn same(has: &Option<Arc<Told>>, new: &Arc<Told>) -> bool {
    has.as_ref().is_some_and(|has| Arc::ptr_eq(has, new))
}

/// Feeds a subscriber until it is gone, everything is said, or something fails.
pub(super) async fn watch_task(share: Arc<Share>, wish: Wish, out: Sender<Frame>) {
    let status = share.tree.status();
    let _following = share.tree.following();
    let subscription = Subscription {
        share,
        wish,
        out: out.clone(),
        status,
        has: Has::default(),
        reached: Reached::default(),
    };
    if let Err(End::Failed(error)) = subscription.run().await {
        // Nobody is left to tell if this fails.
        let _ = out.send(Err(error.into())).await;
    }
}

impl Subscription {
    async fn run(mut self) -> Result<(), End> {
        loop {
            let Stage::Halted { reason } = self.live_through().await? else { return Ok(()) };
            self.send(frame(&response(&FeedEvent::Halted { reason }))).await?;
            if !self.wish.live {
                return Ok(());
            }
            self.wait_for(|state| !matches!(state, TreeState::Halted { .. })).await?;
        }
    }

    /// All stages, until there is nothing more to say or the share halts.
    async fn live_through(&mut self) -> Result<Stage, End> {
        self.wait_for(|state| !matches!(state, TreeState::Scanning)).await?;
        if let Some(reason) = self.halted() {
            return Ok(Stage::Halted { reason });
        }
        match self.catch_up().await? {
            Stage::Done if self.wish.live => self.follow().await,
            stage => Ok(stage),
        }
    }

    /// Sends the feed up to the first commit point that has everything from before this call.
    async fn catch_up(&mut self) -> Result<Stage, End> {
        // It passes while the tree is sent; a set of one owns it and ends it with this function.
        let mut barrier = JoinSet::new();
        let tree = Arc::clone(&self.share.tree);
        barrier.spawn(async move { tree.barrier().await });
        let (of, start) = (Arc::clone(&self.share), self.wish.cursor.clone());
        let mut reader = self
            .patiently(self.share.newest.read(move || Ok(FeedReader::start(of.tree.index(), &start)?)))
            .await??;
        let mut held: Option<Part> = None;
        loop {
            let (next, mut part) = self.read(reader).await?;
            reader = next;
            if part.complete.is_none() {
                held = None;
                self.deliver(&part).await?;
                continue;
            }
            if part.messages.is_empty()
                && let Some(newest) = held.take()
            {
                part = newest;
            }
            match self.patiently(barrier.join_next()).await? {
                // Passed already, and this was read after it.
                None => {
                    self.tell_watching().await?;
                    self.deliver(&part).await?;
                    return Ok(Stage::Done);
                }
                Some(Ok(Ok(()))) => held = Some(self.deliver_without_commit(part).await?),
                Some(Ok(Err(BarrierError::Halted { reason }))) => return Ok(Stage::Halted { reason }),
                Some(Ok(Err(BarrierError::Stopped)) | Err(_)) => return Err(RequestError::Stopping.into()),
            }
        }
    }

    /// Sends a part but for its commit point, which is given back: it may be older than the barrier.
    async fn deliver_without_commit(&mut self, mut part: Part) -> Result<Part, End> {
        let end = std::mem::take(&mut part.end);
        let commit = part.messages.pop_if(|last| matches!(last.message.event, Some(Event::Commit(_))));
        // The place to go on from stays before the commit point, so that it comes again after a halt.
        part.end.clone_from(&self.wish.cursor);
        self.deliver(&part).await?;
        Ok(Part { messages: commit.into_iter().collect(), end, complete: part.complete })
    }

    async fn read(&self, mut reader: FeedReader) -> Result<(FeedReader, Part), End> {
        let (of, start) = (Arc::clone(&self.share), self.wish.cursor.clone());
        let read =
            self.share.newest.read(move || next_part(&of, &mut reader, &start).map(|part| (reader, part)));
        Ok(self.patiently(read).await??)
    }

    /// Sends changes as they come, until the share halts.
    async fn follow(&mut self) -> Result<Stage, End> {
        loop {
            self.status.mark_unchanged();
            if let Some(reason) = self.halted() {
                return Ok(Stage::Halted { reason });
            }
            self.tell_watching().await?;
            let wanted = Reached::now(&self.share.tree);
            if !self.reached.covers(wanted) {
                let part = self.patiently(after(&self.share, &self.wish.cursor, wanted)).await??;
                self.deliver(&part).await?;
                continue;
            }
            let mut status = self.status.clone();
            if self.patiently(status.changed()).await?.is_err() {
                return Err(RequestError::Stopping.into());
            }
        }
    }

    /// Says how well the share hears of changes, if that is news.
    async fn tell_watching(&mut self) -> Result<(), End> {
        let watching = self.status.borrow().watching.clone();
        if self.has.watching.as_ref() == Some(&watching) {
            return Ok(());
        }
        self.send(frame(&response(&FeedEvent::Watching(watching.clone())))).await?;
        self.has.watching = Some(watching);
        Ok(())
    }

    /// Sends a part, without what the subscriber has already.
    async fn deliver(&mut self, part: &Part) -> Result<(), End> {
        for told in &part.messages {
            match &told.message.event {
                // It makes the subscriber forget everything.
                Some(Event::Reset(_)) => self.has = Has::default(),
                Some(Event::Rules(_)) if same(&self.has.rules, told) => continue,
                Some(Event::Rules(_)) => self.has.rules = Some(Arc::clone(told)),
                Some(Event::Problems(_)) if same(&self.has.problems, told) => continue,
                Some(Event::Problems(_)) => self.has.problems = Some(Arc::clone(told)),
                Some(Event::Commit(commit)) if self.has.commit.as_ref() == Some(&commit.cursor) => continue,
                Some(Event::Commit(commit)) => self.has.commit = Some(commit.cursor.clone()),
                _ => {}
            }
            let frame = if self.wish.paths { self.frame_with_paths(told).await? } else { told.frame() };
            self.send(frame).await?;
        }
        self.wish.cursor.clone_from(&part.end);
        if let Some(reached) = part.complete {
            self.reached = reached;
        }
        Ok(())
    }

    /// Encodes a message anew, with the nodes' paths.
    async fn frame_with_paths(&self, told: &Told) -> Result<Bytes, End> {
        if !matches!(told.message.event, Some(Event::Nodes(_))) {
            return Ok(told.frame());
        }
        let (of, mut message) = (Arc::clone(&self.share), told.message.clone());
        let filled = blocking(move || {
            if let Some(Event::Nodes(batch)) = &mut message.event {
                for node in batch.nodes.iter_mut().filter(|node| !node.gone) {
                    let path = of.tree.index().path_of(sync_core::NodeId(node.id))?;
                    node.path = path.map(|path| path.as_str().to_owned()).unwrap_or_default();
                }
            }
            Ok::<_, RequestError>(frame(&message))
        });
        Ok(self.patiently(filled).await??)
    }

    fn halted(&self) -> Option<String> {
        match &self.status.borrow().state {
            TreeState::Halted { reason } => Some(reason.clone()),
            _ => None,
        }
    }

    async fn wait_for(&self, wanted: impl Fn(&TreeState) -> bool) -> Result<(), End> {
        let mut status = self.status.clone();
        let reached =
            self.patiently(async move { status.wait_for(|now| wanted(&now.state)).await.is_ok() }).await?;
        if reached { Ok(()) } else { Err(RequestError::Stopping.into()) }
    }

    /// Waits for something while giving signs of life, and no longer than the subscriber is there.
    async fn patiently<T>(&self, something: impl Future<Output = T>) -> Result<T, End> {
        let mut something = pin!(something);
        loop {
            tokio::select! {
                biased;
                value = &mut something => return Ok(value),
                () = self.out.closed() => return Err(End::Gone),
                () = sleep(self.wish.heartbeat) => self.send(frame(&response(&FeedEvent::Heartbeat))).await?,
            }
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), End> {
        self.out.send(Ok(frame.into())).await.map_err(|_| End::Gone)
    }
}

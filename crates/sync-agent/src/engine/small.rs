//! Small files: asked for one after the other in one stream, and answered many in one message.

use std::{
    collections::VecDeque,
    iter,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use sync_locations::{Answer, FetchFailure, Location, LocationError, Want};
use tokio::sync::{
    mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use super::{
    part::Item,
    sent_for::{Found, SentFor},
    transfer::{Job, Shared},
};

/// Wants on their way; enough to keep a long line busy with tiny files.
const WANTS_AHEAD: usize = 2048;
/// Items that are looked for among what was sent for, and given to a worker together.
const FOUND_AT_ONCE: usize = 32;

/// Small files to fetch, and where those go that turn out to be too large for that.
pub(super) struct SmallQueue {
    pub items: UnboundedReceiver<Item>,
    pub sent_for: Option<SentFor>,
    pub large: UnboundedSender<Item>,
}

/// Fetches small files, packed. Those that turn out to be too large for that are passed on.
pub(super) async fn fetch_small(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    queue: SmallQueue,
    jobs: &Sender<Job>,
) {
    let SmallQueue { items, sent_for, large } = queue;
    let (asked, over) = (Asked::default(), AtomicBool::new(false));
    let (to_ask, not_sent_for) = mpsc::unbounded_channel();
    let (mut missing, found) = match sent_for {
        Some(sent_for) => (not_sent_for, Some((items, sent_for))),
        None => (items, None),
    };
    let hand_out = async {
        if let Some((items, sent_for)) = found {
            hand_out(shared, items, sent_for, to_ask, jobs).await;
        }
    };
    let (wants, want_queue) = mpsc::channel(WANTS_AHEAD);
    let (begin, begun) = oneshot::channel();
    let ask = async {
        // Without any there is nothing to ask for.
        let Some(first) = missing.recv().await else { return };
        let _ = begin.send(());
        let mut next = Some(first);
        while let Some(item) = next {
            if let Some(want) = asked.want(item)
                && (wants.send(want).await.is_err() || over.load(Ordering::Relaxed))
            {
                // Nobody answers any more: what was asked for last would be taken for done.
                shared.cut_off();
                break;
            }
            next = missing.recv().await;
        }
        drop(wants);
    };
    let take = async {
        if begun.await.is_err() {
            return;
        }
        let taken =
            take_packed(shared, remote, want_queue, |answers| asked.sort(shared, answers, &large), jobs);
        let taken = taken.await;
        over.store(true, Ordering::Relaxed);
        match taken {
            Err(error) => shared.fail(error.into()),
            Ok(()) if asked.is_any() => shared.cut_off(),
            Ok(()) => {}
        }
        // Nobody asks for more.
        drop(large);
    };
    tokio::join!(take, ask, hand_out);
}

/// Gives the workers the items whose bytes were sent for, and passes on the others.
async fn hand_out(
    shared: &Shared,
    mut items: UnboundedReceiver<Item>,
    mut sent_for: SentFor,
    to_ask: UnboundedSender<Item>,
    jobs: &Sender<Job>,
) {
    let (mut open, mut comes) = (true, true);
    while open || (comes && sent_for.is_waited_for()) {
        let found = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            item = items.recv(), if open => item.map(|first| {
                let more = iter::from_fn(|| items.try_recv().ok()).take(FOUND_AT_ONCE - 1);
                iter::once(first).chain(more).map(|item| sent_for.find(item)).collect()
            }),
            found = sent_for.next(), if comes => match found {
                Some(found) => Some(found),
                None => {
                    comes = false;
                    continue;
                }
            },
        };
        let Some(found) = found else {
            open = false;
            continue;
        };
        let mut pack = Vec::new();
        for found in found {
            match found {
                Found::Here(item, bytes) => pack.push((item, Some(bytes))),
                Found::Comes => {}
                // Whoever asks is there unless the run is over.
                Found::Nowhere(item) => drop(to_ask.send(item)),
            }
        }
        if !pack.is_empty() && jobs.send(Job::Pack(pack)).await.is_err() {
            return;
        }
    }
}

/// Things by the numbers that they get in a row, for as long as nobody takes them. Those that come first are taken first, more or
/// less.
struct Numbered<T> {
    first: u64,
    /// The first one is there.
    things: VecDeque<Option<T>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { first: 0, things: VecDeque::new() }
    }
}

impl<T> Numbered<T> {
    fn put(&mut self, thing: T) -> u64 {
        self.things.push_back(Some(thing));
        self.first + self.things.len() as u64 - 1
    }

    fn take(&mut self, number: u64) -> Option<T> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let thing = self.things.get_mut(at)?.take()?;
        while self.things.pop_front_if(|first| first.is_none()).is_some() {
            self.first += 1;
        }
        Some(thing)
    }

    fn is_empty(&self) -> bool {
        self.things.is_empty()
    }
}

/// The items that are asked for and not answered yet.
#[derive(Default)]
struct Asked(Mutex<Numbered<Item>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Numbered<Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_any(&self) -> bool {
        !self.lock().is_empty()
    }

    fn want(&self, item: Item) -> Option<Want> {
        let (_, digest) = item.content()?;
        let node = item.node().id;
        Some(Want { number: self.lock().put(item), node, digest })
    }

    /// Answers the files whose bytes are here; the others are passed on or noted as failed. A worker hears of these too if a new
    /// directory waits for them.
    fn sort(
        &self,
        shared: &Shared,
        answers: Vec<Answer>,
        large: &UnboundedSender<Item>,
    ) -> Vec<(Item, Option<Bytes>)> {
        let mut pack = Vec::with_capacity(answers.len());
        let mut asked = self.lock();
        for answer in answers {
            // Nobody may answer what was not asked, or twice.
            let Some(item) = asked.take(answer.number) else { continue };
            let (path, id) = (item.put().path(), item.node().id);
            match answer.result {
                Ok(bytes) => {
                    pack.push((item, Some(bytes)));
                    continue;
                }
                Err(FetchFailure::TooLarge) => {
                    let _ = large.send(item);
                    continue;
                }
                Err(FetchFailure::Changed) => shared.outcome().fetch_changed(path, id),
                Err(error) => shared.outcome().fetch_failed(path, id, error),
            }
            if item.whole().is_some() {
                pack.push((item, None));
            }
        }
        pack
    }
}

async fn take_packed(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    wants: Receiver<Want>,
    sort: impl Fn(Vec<Answer>) -> Vec<(Item, Option<Bytes>)>,
    jobs: &Sender<Job>,
) -> Result<(), LocationError> {
    let mut answers = remote.fetch_packed(wants).await?;
    loop {
        let next = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            next = answers.next() => next,
        };
        let Some(batch) = next else { return Ok(()) };
        let pack = sort(batch?);
        if !pack.is_empty() && jobs.send(Job::Pack(pack)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Numbered;

    #[test]
    fn what_is_numbered_is_taken_once_in_any_order() {
        let mut numbered = Numbered::default();
        let numbers: Vec<u64> = (0..5).map(|thing| numbered.put(thing)).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        for taken in [2, 0, 1] {
            assert_eq!(numbered.take(taken), Some(taken));
            assert_eq!(numbered.take(taken), None, "a second time");
        }
        assert_eq!(
            (numbered.things.len(), numbered.take(5)),
            (2, None),
            "what is taken from the front takes no room"
        );
        assert_eq!(numbered.put(5), 5);
        assert_eq!([4, 3, 5].map(|number| numbered.take(number)), [Some(4), Some(3), Some(5)]);
        assert!(numbered.is_empty());
        assert_eq!(numbered.put(6), 6, "numbers are not given again");
        assert_eq!(numbered.take(u64::MAX), None);
    }
}

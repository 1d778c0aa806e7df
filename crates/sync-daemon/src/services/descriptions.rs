//! What files are made of, found out once for each content.
//!
//! Invariants:
//! * At most [`AT_ONCE`] files are read for it at a time; the others wait for their turn.
//! * Nobody reads what another is reading: the second waits, and finds it kept. If the first gives up, or its file is not
//!   what it should be, the second reads its own.
//! * Whoever is not waited for any more stops reading.
//! * What is kept takes at most [`MOST_BYTES`]. It is of a digest, so it is never out of date.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use sync_core::{Chunk, Digest};
use tokio::sync::Semaphore;

use super::errors::{RequestError, blocking};

/// How many files are read at a time: reading and hashing one keeps a core busy, and shares have their own work.
const AT_ONCE: usize = 2;

/// How much memory is spent on what may be asked for again: the parts of some 37 GiB of files.
const MOST_BYTES: usize = 64 << 20;

/// What an entry takes beside its parts, generously.
const ENTRY_BYTES: usize = 200;

/// What a file is made of; `None` if that is not told.
pub(super) type Description = Option<Arc<[Chunk]>>;

/// Finds out what files are made of, and keeps it.
pub(super) struct Descriptions {
    kept: Mutex<Kept>,
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    at_once: Arc<Semaphore>,
}

impl Descriptions {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::new(Kept::new(MOST_BYTES)),
            turns: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The description of this content; `make` is run if nobody else has made it. It blocks, and is to stop and give `None`
    /// soon after what it is given says false: dropping the future says that.
    pub(super) async fn get<E: Into<RequestError> + Send + 'static>(
        self: &Arc<Self>,
        digest: Digest,
        make: impl FnOnce(&dyn Fn() -> bool) -> Result<Option<Vec<Chunk>>, E> + Send + 'static,
    ) -> Result<Description, RequestError> {
        if let Some(found) = self.kept().get(&digest) {
            return Ok(Some(found));
        }
        let turn = self.turn(digest).lock_owned().await;
        if let Some(found) = self.kept().get(&digest) {
            return Ok(Some(found));
        }
        let permit = Arc::clone(&self.at_once).acquire_owned().await.map_err(|_| RequestError::Stopping)?;
        let (this, waited_for) = (Arc::clone(self), Arc::new(AtomicBool::new(true)));
        let _waiting = Waiting(Arc::clone(&waited_for));
        blocking(move || {
            // Both end with the work, which may go on for a moment after nobody waits for it.
            let _held = (turn, permit);
            let made = make(&|| waited_for.load(Ordering::Relaxed))?;
            let made: Description = made.map(Into::into);
            if let Some(chunks) = &made {
                this.kept().put(digest, Arc::clone(chunks));
            }
            Ok::<_, E>(made)
        })
        .await
    }

    /// What everybody who wants this content queues for.
    fn turn(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&digest).and_then(Weak::upgrade) {
            return turn;
        }
        // Those that nobody waits for any more. There are as many others as requests.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(digest, Arc::downgrade(&turn));
        turn
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says when it is dropped that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Descriptions, those least recently used going first.
struct Kept {
    most_bytes: usize,
    bytes: usize,
    uses: u64,
    by_digest: HashMap<Digest, (Arc<[Chunk]>, u64)>,
    by_use: BTreeMap<u64, Digest>,
}

impl Kept {
    fn new(most_bytes: usize) -> Self {
        Self { most_bytes, bytes: 0, uses: 0, by_digest: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn get(&mut self, digest: &Digest) -> Option<Arc<[Chunk]>> {
        let (chunks, used) = self.by_digest.get_mut(digest)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, *digest);
        Some(Arc::clone(chunks))
    }

    fn put(&mut self, digest: Digest, chunks: Arc<[Chunk]>) {
        let bytes = size_of_entry(&chunks);
        if bytes > self.most_bytes || self.by_digest.contains_key(&digest) {
            return;
        }
        while self.bytes + bytes > self.most_bytes
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((gone, _)) = self.by_digest.remove(&oldest) {
                self.bytes -= size_of_entry(&gone);
            }
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, digest);
        self.by_digest.insert(digest, (chunks, self.uses));
    }
}

fn size_of_entry(chunks: &[Chunk]) -> usize {
    size_of_val(chunks) + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{atomic::AtomicUsize, mpsc},
        time::Duration,
    };

    use sync_core::ChunkHash;
    use sync_tree::serve::ServeError;
    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn chunks(count: u32) -> Vec<Chunk> {
        (0..count).map(|size| Chunk { size, hash: ChunkHash([0; 16]) }).collect()
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_many_ask_for_is_made_once() {
        let (descriptions, made) = (Arc::new(Descriptions::new()), Arc::new(AtomicUsize::new(0)));
        let mut asking = JoinSet::new();
        for number in 0..40_u8 {
            let (descriptions, made) = (Arc::clone(&descriptions), Arc::clone(&made));
            asking.spawn(async move {
                let make = move |_: &dyn Fn() -> bool| {
                    made.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, ServeError>(Some(chunks(u32::from(number % 4))))
                };
                let found = descriptions.get(digest(number % 4), make).await.unwrap().unwrap();
                assert_eq!(&*found, chunks(u32::from(number % 4)));
            });
        }
        timeout(DEADLINE, asking.join_all()).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 4);
        assert!(descriptions.turns.lock().unwrap().len() <= 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failure_is_one_s_own() {
        let descriptions = Arc::new(Descriptions::new());
        let (entered, has_entered) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let descriptions = Arc::clone(&descriptions);
            async move {
                let make = move |_: &dyn Fn() -> bool| {
                    entered.send(()).unwrap();
                    may_go_on.recv_timeout(DEADLINE).unwrap();
                    Err(ServeError::Changed)
                };
                descriptions.get(digest(1), make).await
            }
        });
        has_entered.recv_timeout(DEADLINE).unwrap();
        let mut second = Box::pin(
            descriptions.get(digest(1), |_: &dyn Fn() -> bool| Ok::<_, ServeError>(Some(chunks(3)))),
        );
        let waits = timeout(Duration::from_millis(20), &mut second).await;
        assert!(waits.is_err(), "it waits for the first");
        go_on.send(()).unwrap();
        assert!(matches!(first.await.unwrap(), Err(RequestError::Serve(ServeError::Changed))));
        assert_eq!(timeout(DEADLINE, second).await.unwrap().unwrap().unwrap().len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_waits_for_stops_and_makes_room() {
        let descriptions = Arc::new(Descriptions::new());
        let (entered, has_entered) = mpsc::channel();
        // As many as may run, and they run until they are told to stop.
        let mut endless = JoinSet::new();
        for number in 0..AT_ONCE {
            let (descriptions, entered) = (Arc::clone(&descriptions), entered.clone());
            endless.spawn(async move {
                let make = move |go_on: &dyn Fn() -> bool| {
                    entered.send(()).unwrap();
                    while go_on() {
                        std::thread::yield_now();
                    }
                    Ok::<_, ServeError>(None)
                };
                descriptions.get(digest(u8::try_from(number).unwrap()), make).await.map(drop)
            });
        }
        (0..AT_ONCE).for_each(|_| has_entered.recv_timeout(DEADLINE).unwrap());
        let make = |_: &dyn Fn() -> bool| Ok::<_, ServeError>(Some(chunks(3)));
        let mut next = Box::pin(descriptions.get(digest(0), make));
        assert!(timeout(Duration::from_millis(20), &mut next).await.is_err(), "there is no room");
        endless.shutdown().await;
        assert_eq!(timeout(DEADLINE, next).await.unwrap().unwrap().unwrap().len(), 3);
    }

    #[test]
    fn what_is_kept_has_a_bound_and_the_oldest_goes_first() {
        let one = size_of_entry(&chunks(10));
        let mut kept = Kept::new(3 * one);
        for number in 1..=3 {
            kept.put(digest(number), chunks(10).into());
        }
        assert!(kept.get(&digest(1)).is_some());
        kept.put(digest(4), chunks(10).into());
        kept.put(digest(4), chunks(10).into());
        let here = |kept: &mut Kept| [1, 2, 3, 4].map(|number| kept.get(&digest(number)).is_some());
        assert_eq!(here(&mut kept), [true, false, true, true]);
        assert_eq!((kept.bytes, kept.by_use.len(), kept.by_digest.len()), (3 * one, 3, 3));
        kept.put(digest(5), chunks(10_000).into());
        assert_eq!(
            here(&mut kept),
            [true, false, true, true],
            "what is too large by itself displaces nothing"
        );
    }
}

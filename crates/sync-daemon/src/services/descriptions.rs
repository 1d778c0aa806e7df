//! What files are made of, found out once for each content and kept with the trees ([`Described`]).
//!
//! Invariants:
//! * At most [`AT_ONCE`] files are read for it at a time; the others wait for their turn.
//! * Nobody reads what another is reading: the second waits, and finds it kept. If the first gives up, or its file is not
//!   what it should be, the second reads its own.
//! * Whoever is not waited for any more stops reading.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use sync_core::Digest;
use sync_tree::{chunks::Parts, described::Described};
use tokio::sync::Semaphore;

use super::errors::{RequestError, blocking};

/// How many files are read at a time: reading and hashing one keeps a core busy, and shares have their own work.
const AT_ONCE: usize = 2;

/// What a file is made of; `None` if that is not told.
pub(super) type Description = Option<Parts>;

/// Finds out what files are made of, and keeps it.
pub(super) struct Descriptions {
    kept: Arc<Described>,
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    at_once: Arc<Semaphore>,
}

impl Descriptions {
    pub(super) fn new(kept: Arc<Described>) -> Self {
        Self { kept, turns: Mutex::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The description of this content, if it is kept.
    pub(super) fn kept(&self, digest: &Digest) -> Description {
        self.kept.get(digest)
    }

    /// The description of this content; `make` is run if nobody else has made it. It blocks, and is to stop and give `None`
    /// soon after what it is given says false: dropping the future says that.
    pub(super) async fn get<E: Into<RequestError> + Send + 'static>(
        self: &Arc<Self>,
        digest: Digest,
        make: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Result<Description, E> + Send + 'static,
    ) -> Result<Description, RequestError> {
        if let Some(found) = self.kept.get(&digest) {
            return Ok(Some(found));
        }
        let turn = self.turn(digest).lock_owned().await;
        if let Some(found) = self.kept.get(&digest) {
            return Ok(Some(found));
        }
        let permit = Arc::clone(&self.at_once).acquire_owned().await.map_err(|_| RequestError::Stopping)?;
        let (this, waited_for) = (Arc::clone(self), Arc::new(AtomicBool::new(true)));
        let _waiting = Waiting(Arc::clone(&waited_for));
        blocking(move || {
            // Both end with the work, which may go on for a moment after nobody waits for it.
            let _held = (turn, permit);
            let made = make(&|| waited_for.load(Ordering::Relaxed))?;
            if let Some(parts) = &made {
                this.kept.put(digest, parts.clone());
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
}

/// Says when it is dropped that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{atomic::AtomicUsize, mpsc},
        time::Duration,
    };

    use sync_tree::serve::ServeError;
    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn parts(count: usize) -> Parts {
        Parts::of(&vec![0; count * (64 << 10)])
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_many_ask_for_is_made_once() {
        let (descriptions, made) =
            (Arc::new(Descriptions::new(Arc::default())), Arc::new(AtomicUsize::new(0)));
        let mut asking = JoinSet::new();
        for number in 0..40_u8 {
            let (descriptions, made) = (Arc::clone(&descriptions), Arc::clone(&made));
            asking.spawn(async move {
                let make = move |_: &(dyn Fn() -> bool + Sync)| {
                    made.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, ServeError>(Some(parts(usize::from(number % 4))))
                };
                let found = descriptions.get(digest(number % 4), make).await.unwrap().unwrap();
                assert_eq!(found, parts(usize::from(number % 4)));
            });
        }
        timeout(DEADLINE, asking.join_all()).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 4);
        assert!(descriptions.turns.lock().unwrap().len() <= 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failure_is_one_s_own() {
        let descriptions = Arc::new(Descriptions::new(Arc::default()));
        let (entered, has_entered) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let descriptions = Arc::clone(&descriptions);
            async move {
                let make = move |_: &(dyn Fn() -> bool + Sync)| {
                    entered.send(()).unwrap();
                    may_go_on.recv_timeout(DEADLINE).unwrap();
                    Err(ServeError::Changed)
                };
                descriptions.get(digest(1), make).await
            }
        });
        has_entered.recv_timeout(DEADLINE).unwrap();
        let mut second = Box::pin(
            descriptions.get(digest(1), |_: &(dyn Fn() -> bool + Sync)| Ok::<_, ServeError>(Some(parts(3)))),
        );
        let waits = timeout(Duration::from_millis(20), &mut second).await;
        assert!(waits.is_err(), "it waits for the first");
        go_on.send(()).unwrap();
        assert!(matches!(first.await.unwrap(), Err(RequestError::Serve(ServeError::Changed))));
        assert_eq!(timeout(DEADLINE, second).await.unwrap().unwrap().unwrap().chunks.len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_waits_for_stops_and_makes_room() {
        let descriptions = Arc::new(Descriptions::new(Arc::default()));
        let (entered, has_entered) = mpsc::channel();
        // As many as may run, and they run until they are told to stop.
        let mut endless = JoinSet::new();
        for number in 0..AT_ONCE {
            let (descriptions, entered) = (Arc::clone(&descriptions), entered.clone());
            endless.spawn(async move {
                let make = move |go_on: &(dyn Fn() -> bool + Sync)| {
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
        let make = |_: &(dyn Fn() -> bool + Sync)| Ok::<_, ServeError>(Some(parts(3)));
        let mut next = Box::pin(descriptions.get(digest(0), make));
        assert!(timeout(Duration::from_millis(20), &mut next).await.is_err(), "there is no room");
        endless.shutdown().await;
        assert_eq!(timeout(DEADLINE, next).await.unwrap().unwrap().unwrap().chunks.len(), 3);
    }
}

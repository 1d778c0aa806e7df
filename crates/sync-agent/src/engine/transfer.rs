//! Phase 4: files and links, many at a time.
//!
//! Items come in parts. A sorter gives each item to whoever brings its bytes, fetchers bring them, workers verify, stage and
//! place them, one recorder writes down what is in place. The queues between them are bounded, and so is the number of parts
//! at work, so the slowest of network, disk and index sets the pace and memory does not grow with the number or size of files.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sync_core::{
    Content, NodeId,
    plan::{Over, Put, Source},
};
use sync_locations::Location;
use sync_tree::apply::{ApplyError, Displaced, Durability, Expect, Place, Staged, Unflushed};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, Receiver, Sender, UnboundedSender},
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    AppliedOp, EngineError,
    context::{Context, Dirs},
    cycle::Run,
    large::fetch_large,
    material::Material,
    outcome::Outcome,
    part::{Item, Part, Puts},
    phases::{Failed, displaced_to},
    record::{Done, record},
    reporter::Reporter,
    sent_for::SentFor,
    small::{SmallQueue, fetch_small},
    threads,
    whole::Full,
};

/// Packs between the fetchers and the workers.
const JOBS_AHEAD: usize = 8;
/// Threads that stage and place.
const WORKERS: usize = 2;
/// A batch is flushed and placed when it has this many files or bytes, or when nothing more comes for a moment.
pub(super) const BATCH_FILES: usize = 2048;
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_WAIT: Duration = Duration::from_millis(50);
/// Batches between the workers and the recorder, and rows in one transaction. Large transactions cost less for each row, but a
/// run with few rows is over sooner if they are written down while others still come: so the first ones are small.
const RECORDS_AHEAD: usize = 16;
const RECORD_ROWS: usize = 4096;
const FIRST_RECORD_ROWS: usize = 128;
const RECORD_WAIT: Duration = Duration::from_millis(20);

/// What is to be done, a part at a time. While parts are left, no more than this many are worked on: of a large plan only
/// these few are in memory.
pub(super) const PARTS_AT_WORK: usize = 16;

/// Work for a worker.
pub(super) enum Job {
    /// Small files whose bytes are here; without bytes, one of a new directory that cannot be had.
    Pack(Vec<(Item, Option<Bytes>)>),
    /// A large file that is staged.
    Staged(Item, Staged),
    /// Something that needs no bytes from outside.
    Local(Item),
    /// A large file of a new directory that cannot be had.
    GivenUp(Item),
}

/// What came of a local job: nothing more to do, or a file that has to be fetched because its local source failed.
type LocalAnswer = Option<Item>;

/// What of the files is on this side already.
#[derive(Default)]
pub(super) struct Here {
    /// Contents that wait in staging for the remote nodes that want them.
    pub captured: HashMap<NodeId, Staged>,
    /// What may hold parts of others.
    pub material: Material,
    /// What was asked for before it was planned.
    pub sent_for: Option<SentFor>,
}

/// What all parts share.
pub(super) struct Shared {
    pub(super) context: Arc<Context>,
    captured: Mutex<HashMap<NodeId, Staged>>,
    pub(super) material: Material,
    pub(super) reporter: Arc<dyn Reporter>,
    /// The new directories that have something in them and are not in place: a file of each.
    open: Mutex<BTreeMap<NodeId, Item>>,
    outcome: Mutex<Outcome>,
    failure: Mutex<Option<EngineError>>,
    /// Cancelled by the first failure that ends the whole run, and by whoever runs it.
    pub(super) stop: CancellationToken,
    /// Each local job answers once.
    answers: mpsc::UnboundedSender<LocalAnswer>,
}

impl Shared {
    pub(super) fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> MutexGuard<'_, BTreeMap<NodeId, Item>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, error: EngineError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.stop.cancel();
    }

    fn has_disk_failed(&self) -> bool {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*failure, Some(EngineError::Apply(_) | EngineError::Index(_)))
    }

    /// The answers ended before all was answered.
    pub(super) fn cut_off(&self) {
        if !self.stop.is_cancelled() {
            self.fail(super::cycle::cut());
        }
    }

    pub(super) fn place_failed(&self, error: ApplyError, put: &Put) {
        if error.is_fatal() || self.context.trouble.is_too_much(&error) {
            return self.fail(EngineError::Apply(error));
        }
        self.outcome().place_failed(&error, put.path(), Failed::Remote(put.remote().id));
    }
}

/// Nothing more will be brought into place; some of what is there is still being written down.
pub(super) struct Placed {
    shared: Arc<Shared>,
    recording: JoinHandle<()>,
}

impl Placed {
    /// Whether nothing has failed that ends the run.
    pub(super) fn is_well(&self) -> bool {
        !self.shared.stop.is_cancelled()
    }

    /// How many files and links are as they should be now.
    pub(super) fn files(&self) -> u64 {
        self.shared.outcome().synced
    }

    /// Waits until all of it is written down. What was done is said also if the run failed. `cancel` is that of the run.
    pub(super) async fn recorded(self, cancel: &CancellationToken) -> (Outcome, Option<EngineError>) {
        let Self { shared, recording } = self;
        end_of(recording).await;
        let outcome = std::mem::take(&mut *shared.outcome());
        let failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if matches!(failure, Some(EngineError::Apply(ApplyError::Full { .. }))) {
            shared.context.applier.clear_partials();
        }
        (outcome, failure.or_else(|| cancel.is_cancelled().then_some(EngineError::Cancelled)))
    }
}

/// Brings all these files and links into place, part by part as they come. What was done is recorded also if the run fails.
pub(super) async fn run(context: &Arc<Context>, parts: Receiver<Puts>, here: Here, run: &Run<'_>) -> Placed {
    let Run { remote, reporter, cancel, .. } = *run;
    let (answers, answered) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        context: context.clone(),
        captured: Mutex::new(here.captured),
        material: here.material,
        reporter: reporter.clone(),
        open: Mutex::default(),
        outcome: Mutex::new(Outcome::default()),
        failure: Mutex::new(None),
        stop: cancel.child_token(),
        answers,
    });
    let (jobs, job_queue) = mpsc::channel(JOBS_AHEAD);
    let (records, record_queue) = mpsc::channel(RECORDS_AHEAD);
    let job_queue = Arc::new(tokio::sync::Mutex::new(job_queue));
    let mut started = Vec::with_capacity(WORKERS);
    for _ in 0..WORKERS {
        let (shared, job_queue, records) = (shared.clone(), job_queue.clone(), records.clone());
        let stop = shared.stop.clone();
        let work = async move { Worker::new(&shared, records).run(&job_queue).await };
        started.push(start(stop, work));
    }
    // Only the workers hold it now. Should they panic, nobody waits for them to take more.
    drop(job_queue);
    let recording = start(shared.stop.clone(), record_all(shared.clone(), record_queue));

    feed_jobs(&shared, remote, jobs, Incoming { parts, answered }, here.sent_for).await;
    for thread in started {
        end_of(thread).await;
    }
    if shared.has_disk_failed() {
        // A failure to flush is told once: that the rest can be flushed afterwards says nothing.
        drop(records);
    } else {
        let last = shared.clone();
        let work = async move { Worker::new(&last, records).place_open().await };
        end_of(start(shared.stop.clone(), work)).await;
    }
    Placed { shared, recording }
}

/// Starts a thread. If it panics the run ends: what others wait for would never come.
fn start(stop: CancellationToken, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    threads::start(async move {
        let _on_panic = EndsOnPanic(stop);
        work.await;
    })
}

struct EndsOnPanic(CancellationToken);

impl Drop for EndsOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

/// Waits for a thread.
async fn end_of(thread: JoinHandle<()>) {
    if let Err(panic) = thread.await {
        std::panic::resume_unwind(panic.into_panic());
    }
}

/// Where items come from: new parts, and local jobs whose source failed.
struct Incoming {
    parts: Receiver<Puts>,
    answered: mpsc::UnboundedReceiver<LocalAnswer>,
}

/// Sorts the items by where their bytes come from and brings them to the workers.
async fn feed_jobs(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    jobs: Sender<Job>,
    incoming: Incoming,
    sent_for: Option<SentFor>,
) {
    let (small, small_queue) = mpsc::unbounded_channel();
    let (large, large_queue) = mpsc::unbounded_channel();
    let (local, mut local_queue) = mpsc::unbounded_channel();
    let sorter = Sorter {
        shared,
        most_packed: remote.max_packed_bytes(),
        small,
        large: large.clone(),
        local,
        waiting: 0,
    };
    let bring_local = async {
        while let Some(item) = local_queue.recv().await {
            if shared.stop.is_cancelled() || jobs.send(Job::Local(item)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(
        sorter.run(incoming),
        bring_local,
        fetch_small(shared, remote, SmallQueue { items: small_queue, sent_for, large }, &jobs),
        fetch_large(shared, remote, large_queue, &jobs)
    );
}

/// Gives every item to whoever brings its bytes.
struct Sorter<'a> {
    shared: &'a Arc<Shared>,
    most_packed: u64,
    small: UnboundedSender<Item>,
    large: UnboundedSender<Item>,
    local: UnboundedSender<Item>,
    /// Local jobs that have not answered yet.
    waiting: usize,
}

impl Sorter<'_> {
    /// Ends when there are no more parts and every local job has answered; whatever it gave out is then complete.
    async fn run(mut self, mut incoming: Incoming) {
        let permits = Arc::new(Semaphore::new(PARTS_AT_WORK));
        let mut open = true;
        while open || self.waiting > 0 {
            let next_part = async {
                let permit = permits.clone().acquire_owned().await.ok();
                (incoming.parts.recv().await, permit)
            };
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return,
                answer = incoming.answered.recv(), if self.waiting > 0 => {
                    self.waiting -= 1;
                    if let Some(item) = answer.flatten() {
                        self.fetch(item);
                    }
                }
                (puts, permit) = next_part, if open => match puts {
                    Some(puts) => self.sort(puts, permit),
                    None => open = false,
                },
            }
        }
    }

    fn sort(&mut self, puts: Puts, permit: Option<OwnedSemaphorePermit>) {
        for item in Part::begin(puts, permit) {
            if item.is_fetched() {
                self.fetch(item);
            } else {
                self.waiting += 1;
                let _ = self.local.send(item);
            }
        }
    }

    /// Whoever should take it may be gone, but only if the run is over.
    fn fetch(&self, item: Item) {
        let is_small = item.node().entry.content.size() <= self.most_packed;
        let _ = if is_small { self.small.send(item) } else { self.large.send(item) };
    }
}

/// Stages and places.
pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) dirs: Dirs<'a>,
    batch: Vec<(Item, Staged)>,
    batch_bytes: u64,
    /// A file of each new directory that waits for its place, and how many files they have together.
    pub(super) full: Vec<Item>,
    pub(super) full_files: usize,
    /// What is in place and neither flushed nor recorded yet.
    pub(super) done: Vec<Done>,
    pub(super) unflushed: Unflushed,
    /// What is in place to stay, and not on its way to the recorder yet.
    ready: Vec<Done>,
    records: Sender<Vec<Done>>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, records: Sender<Vec<Done>>) -> Self {
        Self {
            shared,
            dirs: Dirs::new(&shared.context),
            batch: Vec::new(),
            batch_bytes: 0,
            full: Vec::new(),
            full_files: 0,
            done: Vec::new(),
            unflushed: Unflushed::new(shared.context.durability),
            ready: Vec::new(),
            records,
        }
    }

    async fn run(mut self, jobs: &tokio::sync::Mutex<Receiver<Job>>) {
        let mut open = true;
        while open {
            let next = async {
                let mut jobs = jobs.lock().await;
                jobs.recv().await
            };
            // Waiting with a full hand helps nobody: the batch goes when nothing comes for a moment.
            match tokio::time::timeout(BATCH_WAIT, next).await {
                Ok(Some(job)) => self.take(job),
                Ok(None) => {
                    open = false;
                    self.place_batch();
                }
                Err(_) => self.place_batch(),
            }
            self.send_ready().await;
        }
    }

    pub(super) async fn send_ready(&mut self) {
        if !self.ready.is_empty() {
            // Only fails if the recorder has failed, and then the run has.
            let _ = self.records.send(std::mem::take(&mut self.ready)).await;
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Pack(files) => {
                for (item, bytes) in files {
                    match bytes {
                        Some(bytes) => self.small(item, &bytes),
                        None => self.settle(&item, None),
                    }
                }
                // Without flushes there is nothing to collect for.
                if self.shared.context.durability != Durability::Batch {
                    self.place_batch();
                }
            }
            Job::Staged(item, staged) => self.hold(item, Ok(staged)),
            Job::Local(item) => self.local(&item),
            Job::GivenUp(item) => self.settle(&item, None),
        }
    }

    fn small(&mut self, item: Item, bytes: &[u8]) {
        self.shared.reporter.bytes(item.put().path(), bytes.len() as u64);
        if let Some(whole) = item.whole() {
            return self.fill(&item, whole, bytes);
        }
        if let Some((_, digest)) = item.content() {
            let mode = item.node().entry.mode;
            let staged = self.shared.context.applier.stage_bytes(bytes, &digest, mode);
            self.hold(item, staged);
        }
    }

    fn hold(&mut self, item: Item, staged: Result<Staged, ApplyError>) {
        if let Some(whole) = item.whole() {
            return self.fill_staged(&item, whole, staged);
        }
        match staged {
            Ok(staged) => {
                self.batch_bytes += item.node().entry.content.size();
                self.batch.push((item, staged));
            }
            Err(error) => self.shared.place_failed(error.about(item.put().path()), item.put()),
        }
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.place_batch();
        }
    }

    /// What needs no bytes from outside: copies, captured files, links, metadata.
    fn local(&mut self, item: &Item) {
        let mut answer = None;
        match item.put() {
            Put::File { source, remote, .. } => {
                let staged = match source {
                    Source::Copy(copy) => self.copy(copy, remote),
                    _ => {
                        self.shared.captured.lock().unwrap_or_else(PoisonError::into_inner).remove(&remote.id)
                    }
                };
                match staged {
                    Some(staged) => self.hold(item.clone(), Ok(staged)),
                    None => answer = Some(item.clone()),
                }
            }
            put @ (Put::Link { .. } | Put::Metadata { .. }) => match self.place_plain(put) {
                Ok(done) => {
                    self.done.push(done);
                    // Without flushes there is nothing to collect for.
                    if self.shared.context.durability == Durability::None || self.done.len() >= BATCH_FILES {
                        self.hand_over();
                    }
                }
                Err(EngineError::Apply(error)) => self.not_placed(error, put),
                Err(error) => self.shared.fail(error),
            },
        }
        let _ = self.shared.answers.send(answer);
    }

    fn copy(&self, copy: &sync_core::plan::Copy, remote: &sync_core::Node) -> Option<Staged> {
        let row = self.shared.context.store.index().node(copy.local).ok()??;
        let Content::File { size, digest } = remote.entry.content else { return None };
        let staged = self.shared.context.applier.stage_copy(&copy.path, &row.identity, size, &digest);
        staged
            .inspect_err(
                |error| tracing::debug!(path = %copy.path, %error, "cannot be copied, will be fetched"),
            )
            .ok()
    }

    fn place_plain(&mut self, put: &Put) -> Result<Done, EngineError> {
        let context = &self.shared.context;
        let (dir, name) = self.dirs.parent(put.path())?;
        let at = Place { dir: &dir, name, path: put.path() };
        let remote = put.remote();
        let (stat, over, op) = match put {
            Put::Metadata { local, .. } => {
                let stat = context.applier.set_meta(&at, &remote.entry, &context.expect(local)?)?;
                self.unflushed.inode(&at);
                (stat, Some(local.id), AppliedOp::Metadata)
            }
            Put::Link { over, .. } | Put::File { over, .. } => {
                let Content::Symlink { target } = &remote.entry.content else {
                    return Err(EngineError::Broken {
                        reason: format!("{} is planned as a link", put.path()),
                    });
                };
                let (expect, displaced) = self.over(over.as_ref())?;
                self.unflushed.names(&dir);
                let stat = context.applier.place_link(target, &at, &remote.entry, &expect, displaced)?;
                (stat, over.as_ref().map(|over| over.local.id), op_of(over.as_ref()))
            }
        };
        self.placed(put, op);
        Ok(Done::Present { remote: remote.clone(), over, stat })
    }

    fn over(&self, over: Option<&Over>) -> Result<(Expect, Displaced), EngineError> {
        Ok(match over {
            None => (Expect::Nothing, Displaced::Trash),
            Some(over) => (self.shared.context.expect(&over.local)?, displaced_to(over.displaced)),
        })
    }

    /// Flushes the batch if that is asked for, gives every file its place, and hands over all that is in place.
    pub(super) fn place_batch(&mut self) {
        (self.batch_bytes, self.full_files) = (0, 0);
        let (batch, full) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.full));
        if !self.shared.stop.is_cancelled() {
            self.place_all(batch, full);
        }
        self.hand_over();
    }

    pub(super) fn place_all(&mut self, mut batch: Vec<(Item, Staged)>, full: Vec<Item>) {
        let full = self.dress_full(full);
        let new: Vec<_> = full.iter().filter_map(Full::unflushed).collect();
        let mut staged: Vec<_> =
            batch.iter_mut().map(|(item, staged)| (&item.node().entry, staged)).collect();
        if let Err(error) = self.shared.context.applier.flush_staged(&mut staged, &new) {
            return self.shared.fail(error.into());
        }
        for full in &full {
            self.place_full(full);
        }
        for (item, staged) in batch {
            let put = item.put();
            match self.place_file(put, staged) {
                Ok(one) => self.done.push(one),
                Err(EngineError::Apply(error)) => self.not_placed(error, put),
                Err(error) => self.shared.fail(error),
            }
        }
    }

    /// Has what is in place written down, once it is there to stay.
    pub(super) fn hand_over(&mut self) {
        if let Err(error) = self.shared.context.applier.flush(&mut self.unflushed) {
            if !std::mem::take(&mut self.done).is_empty() {
                self.shared.context.leave_unrecorded();
            }
            return self.shared.fail(error.into());
        }
        self.ready.append(&mut self.done);
    }

    fn place_file(&mut self, put: &Put, staged: Staged) -> Result<Done, EngineError> {
        let Put::File { path, remote, over, .. } = put else {
            return Err(EngineError::Broken { reason: format!("{} is planned as a file", put.path()) });
        };
        let (dir, name) = self.dirs.parent(path)?;
        let at = Place { dir: &dir, name, path };
        let (expect, displaced) = self.over(over.as_ref())?;
        self.unflushed.names(&dir);
        let stat = self.shared.context.applier.place(staged, &at, &remote.entry, &expect, displaced)?;
        self.placed(put, op_of(over.as_ref()));
        self.shared.reporter.file_done(path);
        Ok(Done::Present { remote: remote.clone(), over: over.as_ref().map(|over| over.local.id), stat })
    }

    /// In trouble that may come after the swap too, and then it is in place all the same.
    pub(super) fn not_placed(&self, error: ApplyError, put: &Put) {
        if error.is_fatal() || error.is_trouble() {
            self.shared.context.leave_unrecorded();
        }
        self.shared.place_failed(error, put);
    }

    pub(super) fn placed(&self, put: &Put, op: AppliedOp) {
        self.count_placed(&[put], op);
        self.shared.reporter.applied(op, put.path(), None);
    }

    pub(super) fn count_placed(&self, puts: &[&Put], op: AppliedOp) {
        self.shared.context.trouble.passed();
        let mut outcome = self.shared.outcome();
        outcome.synced += puts.len() as u64;
        if op != AppliedOp::Metadata {
            outcome.bytes_total += puts.iter().map(|put| put.remote().entry.content.size()).sum::<u64>();
        }
    }
}

fn op_of(over: Option<&Over>) -> AppliedOp {
    if over.is_some() { AppliedOp::Modify } else { AppliedOp::Create }
}

/// Writes down what is in place until the workers are done.
async fn record_all(shared: Arc<Shared>, mut queue: Receiver<Vec<Done>>) {
    let mut touched = HashSet::new();
    let mut enough = FIRST_RECORD_ROWS;
    while let Some(mut rows) = queue.recv().await {
        while rows.iter().map(Done::rows).sum::<usize>() < enough {
            match tokio::time::timeout(RECORD_WAIT, queue.recv()).await {
                Ok(Some(more)) => rows.extend(more),
                Ok(None) | Err(_) => break,
            }
        }
        enough = (enough * 2).min(RECORD_ROWS);
        match record(&shared.context.store, rows) {
            Ok(dirs) => touched.extend(dirs),
            Err(error) => {
                // Another failure may have come before this one, and is then what the run ends with.
                shared.context.leave_unrecorded();
                shared.fail(error.into());
            }
        }
    }
    shared.outcome().touched.extend(touched);
}

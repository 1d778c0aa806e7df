//! Phase 4: files and links, many at a time.
//!
//! Fetchers bring bytes, workers verify, stage and place them, one recorder writes down what is in place. All queues
//! between them are bounded, so the slowest of network, disk and index sets the pace and memory does not grow with the
//! number or size of files.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sync_core::{
    Content, Digest, NodeId,
    plan::{Over, Put, Source},
};
use sync_locations::{FetchFailure, Location, LocationError, Want};
use sync_tree::{
    apply::{ApplyError, Displaced, Durability, Expect, Place, Staged},
    rooted::Dir,
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    AppliedOp, EngineError,
    context::{Context, Dirs},
    cycle::Run,
    outcome::Outcome,
    phases::{Failed, displaced_to},
    record::{Done, record},
    reporter::Reporter,
};

/// Packs between the fetchers and the workers.
const JOBS_AHEAD: usize = 8;
/// Wants on their way; enough to keep a long line busy with tiny files.
const WANTS_AHEAD: usize = 2048;
/// Threads that stage and place.
const WORKERS: usize = 2;
/// A batch is flushed and placed when it has this many files or bytes, or when nothing more comes for a moment.
const BATCH_FILES: usize = 2048;
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_WAIT: Duration = Duration::from_millis(50);
/// Batches between the workers and the recorder, and rows in one transaction.
const RECORDS_AHEAD: usize = 16;
const RECORD_ROWS: usize = 4096;

/// Work for a worker.
enum Job {
    /// Small files whose bytes are here.
    Pack(Vec<(usize, Bytes)>),
    /// A large file that is staged.
    Staged(usize, Staged),
    /// Something that needs no bytes from outside.
    Local(usize),
}

/// What all parts share.
struct Shared {
    context: Arc<Context>,
    puts: Vec<Put>,
    captured: Mutex<HashMap<NodeId, Staged>>,
    reporter: Arc<dyn Reporter>,
    outcome: Mutex<Outcome>,
    failure: Mutex<Option<EngineError>>,
    /// Cancelled by the first failure that ends the whole run, and by whoever runs it.
    stop: CancellationToken,
    /// Files whose local source failed, to be fetched after all.
    fallback: mpsc::UnboundedSender<usize>,
}

impl Shared {
    fn outcome(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: EngineError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.stop.cancel();
    }

    fn place_failed(&self, error: ApplyError, put: &Put) {
        if error.is_fatal() {
            return self.fail(EngineError::Apply(error));
        }
        self.outcome().place_failed(&error, put.path(), Failed::Remote(put.remote().id));
    }

    fn wanted(&self, at: usize) -> Option<(&Put, u64, Digest)> {
        let put = &self.puts[at];
        match put.remote().entry.content {
            Content::File { size, digest } => Some((put, size, digest)),
            _ => None,
        }
    }
}

/// Brings all these files and links into place. What was done is recorded, and said, also if the run fails.
pub(super) async fn run(
    context: &Arc<Context>,
    puts: Vec<Put>,
    captured: HashMap<NodeId, Staged>,
    run: &Run<'_>,
) -> (Outcome, Option<EngineError>) {
    let Run { remote, reporter, cancel } = *run;
    let (fallback, fallen_back) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        context: context.clone(),
        puts,
        captured: Mutex::new(captured),
        reporter: reporter.clone(),
        outcome: Mutex::new(Outcome::default()),
        failure: Mutex::new(None),
        stop: cancel.child_token(),
        fallback,
    });
    let (jobs, job_queue) = mpsc::channel(JOBS_AHEAD);
    let (records, record_queue) = crossbeam_channel::bounded(RECORDS_AHEAD);
    let job_queue = Arc::new(tokio::sync::Mutex::new(job_queue));
    let mut blocking = JoinSet::new();
    for _ in 0..WORKERS {
        let (shared, job_queue, records) = (shared.clone(), job_queue.clone(), records.clone());
        let runtime = tokio::runtime::Handle::current();
        blocking.spawn_blocking(move || Worker::new(&shared, records).run(&runtime, &job_queue));
    }
    drop(records);
    let recorder = shared.clone();
    blocking.spawn_blocking(move || record_all(&recorder, &record_queue));

    feed_jobs(&shared, remote, jobs, fallen_back).await;
    while let Some(joined) = blocking.join_next().await {
        if let Err(panic) = joined {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    let outcome = std::mem::take(&mut *shared.outcome());
    let failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    (outcome, failure.or_else(|| cancel.is_cancelled().then_some(EngineError::Cancelled)))
}

/// Sorts the files by where their bytes come from and brings them to the workers.
async fn feed_jobs(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    jobs: Sender<Job>,
    mut fallen_back: mpsc::UnboundedReceiver<usize>,
) {
    let mut plain = Vec::new();
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for (at, put) in shared.puts.iter().enumerate() {
        match put {
            Put::File { source: Source::Fetch, remote: node, .. } => {
                let is_small = node.entry.content.size() <= remote.max_packed_bytes();
                if is_small { small.push(at) } else { large.push(at) }
            }
            _ => plain.push(at),
        }
    }
    let local = async {
        for at in &plain {
            if shared.stop.is_cancelled() || jobs.send(Job::Local(*at)).await.is_err() {
                return;
            }
        }
    };
    let (_, too_large, ()) = tokio::join!(
        local,
        fetch_small(shared, remote, small, &jobs),
        fetch_large(shared, remote, large, &jobs)
    );
    fetch_large(shared, remote, too_large, &jobs).await;
    // The workers are done with local sources when they have taken a last, empty job each; only then is the list of what
    // must be fetched after all complete.
    drop_local_phase(shared, remote, &jobs, &mut fallen_back, plain.len()).await;
}

/// Fetches what could not be copied from a local source. Each local job answers once, with its number or with `DONE`.
async fn drop_local_phase(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    jobs: &Sender<Job>,
    fallen_back: &mut mpsc::UnboundedReceiver<usize>,
    expected: usize,
) {
    let mut again = Vec::new();
    for _ in 0..expected {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            answer = fallen_back.recv() => match answer {
                Some(DONE) | None => {}
                Some(at) => again.push(at),
            },
        }
    }
    let (small, large) = again
        .into_iter()
        .partition(|at| shared.puts[*at].remote().entry.content.size() <= remote.max_packed_bytes());
    let too_large = fetch_small(shared, remote, small, jobs).await;
    fetch_large(shared, remote, large, jobs).await;
    fetch_large(shared, remote, too_large, jobs).await;
}

/// A local job that needs nothing more.
const DONE: usize = usize::MAX;

/// Fetches small files, packed. Answers those that turned out to be too large for that.
async fn fetch_small(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    small: Vec<usize>,
    jobs: &Sender<Job>,
) -> Vec<usize> {
    if small.is_empty() {
        return Vec::new();
    }
    match fetch_packed(shared, remote, small, jobs).await {
        Ok(too_large) => too_large,
        Err(error) => {
            shared.fail(error.into());
            Vec::new()
        }
    }
}

async fn fetch_packed(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    small: Vec<usize>,
    jobs: &Sender<Job>,
) -> Result<Vec<usize>, LocationError> {
    let (wants, want_queue) = mpsc::channel(WANTS_AHEAD);
    let ask = async {
        for at in small {
            let Some((put, _, digest)) = shared.wanted(at) else { continue };
            let want = Want { number: at as u64, node: put.remote().id, digest };
            if wants.send(want).await.is_err() {
                break;
            }
        }
        drop(wants);
    };
    let take = async {
        let mut too_large = Vec::new();
        let mut answers = remote.fetch_packed(want_queue).await?;
        loop {
            let next = tokio::select! {
                () = shared.stop.cancelled() => return Ok(too_large),
                next = answers.next() => next,
            };
            let Some(batch) = next else { return Ok(too_large) };
            let mut pack = Vec::new();
            for answer in batch? {
                let at = usize::try_from(answer.number).unwrap_or(usize::MAX);
                let Some((put, ..)) = shared.puts.get(at).and_then(|_| shared.wanted(at)) else { continue };
                match answer.result {
                    Ok(bytes) => pack.push((at, bytes)),
                    Err(FetchFailure::TooLarge) => too_large.push(at),
                    Err(FetchFailure::Changed) => shared.outcome().fetch_changed(put.path(), put.remote().id),
                    Err(error) => shared.outcome().fetch_failed(put.path(), put.remote().id, error),
                }
            }
            if !pack.is_empty() && jobs.send(Job::Pack(pack)).await.is_err() {
                return Ok(too_large);
            }
        }
    };
    let (taken, ()) = tokio::join!(take, ask);
    taken
}

/// Fetches large files, as many at a time as the concurrency allows.
async fn fetch_large(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    large: Vec<usize>,
    jobs: &Sender<Job>,
) {
    let mut running = JoinSet::new();
    for at in large {
        while running.len() >= shared.context.concurrency.max(1) {
            running.join_next().await;
        }
        if shared.stop.is_cancelled() {
            break;
        }
        let (shared, remote, jobs) = (shared.clone(), remote.clone(), jobs.clone());
        running.spawn(async move { fetch_one_task(&shared, &remote, at, &jobs).await });
    }
    while running.join_next().await.is_some() {}
}

async fn fetch_one_task(shared: &Arc<Shared>, remote: &Arc<dyn Location>, at: usize, jobs: &Sender<Job>) {
    let Some((put, size, digest)) = shared.wanted(at) else { return };
    let (path, id) = (put.path(), put.remote().id);
    shared.reporter.file_started(path, size);
    let fetched = tokio::select! {
        () = shared.stop.cancelled() => return,
        fetched = fetch_one(shared, remote, at, size, &digest) => fetched,
    };
    match fetched {
        Ok(staged) => drop(jobs.send(Job::Staged(at, staged)).await),
        Err(EngineError::Location(LocationError::Changed)) => shared.outcome().fetch_changed(path, id),
        Err(EngineError::Location(error)) if !error.is_transient() => {
            shared.outcome().fetch_failed(path, id, super::outcome::describe(&error));
        }
        Err(EngineError::Apply(error)) => shared.place_failed(error.about(path), put),
        Err(error) => shared.fail(error),
    }
}

async fn fetch_one(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    at: usize,
    size: u64,
    digest: &Digest,
) -> Result<Staged, EngineError> {
    let put = &shared.puts[at];
    let mut stream = remote.fetch_file(put.remote().id, digest, 0).await?;
    let mut file = Some(shared.context.applier.stage()?);
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        shared.reporter.bytes(put.path(), bytes.len() as u64);
        let Some(mut staged) = file.take() else { break };
        // More than was announced: the digest would say so in the end, but the disk might be full by then.
        if staged.size() + bytes.len() as u64 > size {
            return Err(LocationError::Changed.into());
        }
        // On a thread of its own: a slow disk must not hold up the connections.
        file = Some(
            tokio::task::spawn_blocking(move || staged.append(&bytes).map(|()| staged))
                .await
                .map_err(|error| EngineError::Broken { reason: error.to_string() })??,
        );
    }
    let Some(file) = file else { return Err(EngineError::Cancelled) };
    let digest = *digest;
    tokio::task::spawn_blocking(move || file.finish(size, &digest))
        .await
        .map_err(|error| EngineError::Broken { reason: error.to_string() })?
        .map_err(EngineError::Apply)
}

/// Stages and places.
struct Worker<'a> {
    shared: &'a Shared,
    dirs: Dirs<'a>,
    batch: Vec<(usize, Staged)>,
    batch_bytes: u64,
    records: crossbeam_channel::Sender<Vec<Done>>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, records: crossbeam_channel::Sender<Vec<Done>>) -> Self {
        Self { shared, dirs: Dirs::new(&shared.context), batch: Vec::new(), batch_bytes: 0, records }
    }

    fn run(mut self, runtime: &tokio::runtime::Handle, jobs: &tokio::sync::Mutex<Receiver<Job>>) {
        loop {
            let next = async {
                let mut jobs = jobs.lock().await;
                jobs.recv().await
            };
            // Waiting with a full hand helps nobody: the batch goes when nothing comes for a moment.
            match runtime.block_on(async { tokio::time::timeout(BATCH_WAIT, next).await }) {
                Ok(Some(job)) => self.take(job),
                Ok(None) => break self.place_batch(),
                Err(_) => self.place_batch(),
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Pack(files) => {
                for (at, bytes) in files {
                    if let Some((put, _, digest)) = self.shared.wanted(at) {
                        let mode = put.remote().entry.mode;
                        let staged = self.shared.context.applier.stage_bytes(&bytes, &digest, mode);
                        self.shared.reporter.bytes(put.path(), bytes.len() as u64);
                        self.hold(at, staged);
                    }
                }
                // Without flushes there is nothing to collect for.
                if self.shared.context.durability != Durability::Batch {
                    self.place_batch();
                }
            }
            Job::Staged(at, staged) => self.hold(at, Ok(staged)),
            Job::Local(at) => self.local(at),
        }
    }

    fn hold(&mut self, at: usize, staged: Result<Staged, ApplyError>) {
        let put = &self.shared.puts[at];
        match staged {
            Ok(staged) => {
                self.batch_bytes += put.remote().entry.content.size();
                self.batch.push((at, staged));
            }
            Err(error) => self.shared.place_failed(error.about(put.path()), put),
        }
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.place_batch();
        }
    }

    /// What needs no bytes from outside: copies, captured files, links, metadata.
    fn local(&mut self, at: usize) {
        let put = &self.shared.puts[at];
        let mut answer = DONE;
        match put {
            Put::File { source, remote, .. } => {
                let staged = match source {
                    Source::Copy(copy) => self.copy(copy, remote),
                    _ => {
                        self.shared.captured.lock().unwrap_or_else(PoisonError::into_inner).remove(&remote.id)
                    }
                };
                match staged {
                    Some(staged) => self.hold(at, Ok(staged)),
                    None => answer = at,
                }
            }
            Put::Link { .. } | Put::Metadata { .. } => match self.place_plain(put) {
                Ok(done) => drop(self.records.send(vec![done])),
                Err(EngineError::Apply(error)) => self.shared.place_failed(error, put),
                Err(error) => self.shared.fail(error),
            },
        }
        let _ = self.shared.fallback.send(answer);
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
                (stat, Some(local.id), AppliedOp::Metadata)
            }
            Put::Link { over, .. } | Put::File { over, .. } => {
                let Content::Symlink { target } = &remote.entry.content else {
                    return Err(EngineError::Broken {
                        reason: format!("{} is planned as a link", put.path()),
                    });
                };
                let (expect, displaced) = self.over(over.as_ref())?;
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

    /// Flushes the batch if that is asked for, then gives every file its place.
    fn place_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.shared.stop.is_cancelled() {
            return;
        }
        let staged: Vec<&Staged> = batch.iter().map(|(_, staged)| staged).collect();
        if let Err(error) = self.shared.context.applier.flush_staged(&staged) {
            return self.shared.fail(error.into());
        }
        let mut done = Vec::with_capacity(batch.len());
        let mut dirs: HashMap<NodeId, Dir> = HashMap::new();
        for (at, staged) in batch {
            let put = &self.shared.puts[at];
            match self.place_file(put, staged, &mut dirs) {
                Ok(one) => done.push(one),
                Err(EngineError::Apply(error)) => self.shared.place_failed(error, put),
                Err(error) => self.shared.fail(error),
            }
        }
        if let Err(error) = self.shared.context.applier.flush_dirs(dirs.values()) {
            return self.shared.fail(error.into());
        }
        // Only fails if the recorder has failed, and then the run has.
        let _ = self.records.send(done);
    }

    fn place_file(
        &mut self,
        put: &Put,
        staged: Staged,
        dirs: &mut HashMap<NodeId, Dir>,
    ) -> Result<Done, EngineError> {
        let Put::File { path, remote, over, .. } = put else {
            return Err(EngineError::Broken { reason: format!("{} is planned as a file", put.path()) });
        };
        let (dir, name) = self.dirs.parent(path)?;
        let at = Place { dir: &dir, name, path };
        let (expect, displaced) = self.over(over.as_ref())?;
        let stat = self.shared.context.applier.place(staged, &at, &remote.entry, &expect, displaced)?;
        dirs.entry(remote.parent).or_insert_with(|| dir.clone());
        self.placed(put, op_of(over.as_ref()));
        self.shared.reporter.file_done(path);
        Ok(Done::Present { remote: remote.clone(), over: over.as_ref().map(|over| over.local.id), stat })
    }

    fn placed(&self, put: &Put, op: AppliedOp) {
        let mut outcome = self.shared.outcome();
        outcome.synced += 1;
        if op != AppliedOp::Metadata {
            outcome.bytes_total += put.remote().entry.content.size();
        }
        drop(outcome);
        self.shared.reporter.applied(op, put.path(), None);
    }
}

fn op_of(over: Option<&Over>) -> AppliedOp {
    if over.is_some() { AppliedOp::Modify } else { AppliedOp::Create }
}

/// Writes down what is in place until the workers are done.
fn record_all(shared: &Shared, queue: &crossbeam_channel::Receiver<Vec<Done>>) {
    let mut touched = HashSet::new();
    while let Ok(mut rows) = queue.recv() {
        while rows.len() < RECORD_ROWS {
            match queue.recv_timeout(Duration::from_millis(20)) {
                Ok(more) => rows.extend(more),
                Err(_) => break,
            }
        }
        match record(&shared.context.store, &rows) {
            Ok(dirs) => touched.extend(dirs),
            Err(error) => shared.fail(error.into()),
        }
    }
    shared.outcome().touched.extend(touched);
}

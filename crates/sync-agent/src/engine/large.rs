//! Large files, each with a stream of its own: what came of one before is gone on with, what is here already is not fetched, and
//! the rest is received while what came before is hashed and written.

use std::sync::Arc;

use bytes::Bytes;
use sync_locations::{Location, LocationError};
use sync_tree::apply::{ApplyError, Staged, StagedFile, pieces::Piece};
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver},
    task::{JoinError, JoinSet},
};

use super::{
    EngineError,
    delta::{self, Sources, Wanted},
    part::Item,
    threads::{self, done_apart, off_the_runtime},
    transfer::{Job, Shared},
};

/// Messages between the connection and the thread that hashes and writes.
const MESSAGES_AHEAD: usize = 4;
/// From so many bytes on one thread hashes what another writes.
const WITH_TWO_THREADS: u64 = 8 << 20;

/// Fetches large files, as many at a time as the concurrency allows.
pub(super) async fn fetch_large(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    mut large: UnboundedReceiver<Item>,
    jobs: &Sender<Job>,
) {
    let mut running = JoinSet::new();
    while let Some(item) = large.recv().await {
        while running.len() >= shared.context.concurrency.max(1) {
            unless_panicked(running.join_next().await);
        }
        if shared.stop.is_cancelled() {
            break;
        }
        let (shared, remote, jobs) = (shared.clone(), remote.clone(), jobs.clone());
        running.spawn(async move { fetch_one_task(&shared, &remote, item, &jobs).await });
    }
    while unless_panicked(running.join_next().await) {}
}

/// Answers whether a task ended. One that panicked has settled nothing.
fn unless_panicked(ended: Option<Result<(), JoinError>>) -> bool {
    match ended {
        Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        other => other.is_some(),
    }
}

async fn fetch_one_task(shared: &Arc<Shared>, remote: &Arc<dyn Location>, item: Item, jobs: &Sender<Job>) {
    let Some((size, _)) = item.content() else { return };
    let (path, id) = (item.put().path(), item.node().id);
    shared.reporter.file_started(path, size);
    let fetched = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        fetched = fetch_one(shared, remote, &item) => fetched,
    };
    match fetched {
        Ok(staged) => return drop(jobs.send(Job::Staged(item, staged)).await),
        Err(EngineError::Location(LocationError::Changed)) => shared.outcome().fetch_changed(path, id),
        Err(EngineError::Location(error)) if !error.is_transient() => {
            shared.outcome().fetch_failed(path, id, super::outcome::describe(&error));
        }
        Err(EngineError::Apply(error)) => shared.place_failed(error.about(path), item.put()),
        Err(error) => shared.fail(error),
    }
    if item.whole().is_some() {
        let _ = jobs.send(Job::GivenUp(item)).await;
    }
}

async fn fetch_one(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    item: &Item,
) -> Result<Staged, EngineError> {
    let Some((size, digest)) = item.content() else { return Err(LocationError::Changed.into()) };
    let wanted = Wanted { node: item.node().id, size, digest, have: 0 };
    let sources = match shared.context.cut_descriptions.are_too_many(&digest) {
        true => Arc::default(),
        false => Arc::new(Sources::find(&shared.context, item.put(), &wanted, &shared.material)),
    };
    match fetch_part(shared, remote, item, (wanted, &sources)).await {
        // The old version changed meanwhile, or a chunk was taken for another: without it then.
        Err(error) if delta::is_mistaken(&error) => {
            sources.forget(&shared.context, &wanted);
            fetch_part(shared, remote, item, (wanted, &Arc::default())).await
        }
        other => other,
    }
}

/// Fetches what is missing of a file: of all of it, or of what the version in its place does not have either.
async fn fetch_part(
    shared: &Arc<Shared>,
    remote: &Arc<dyn Location>,
    item: &Item,
    (mut wanted, sources): (Wanted, &Arc<Sources>),
) -> Result<Staged, EngineError> {
    let Wanted { size, digest, .. } = wanted;
    let progress = |count: u64| shared.reporter.bytes(item.put().path(), count);
    let context = shared.context.clone();
    let mut file = off_the_runtime(move || context.applier.resume(size, &digest)).await?;
    wanted.have = file.size();
    if wanted.have > 0 {
        tracing::debug!(path = %item.put().path(), have = wanted.have, size, "goes on where an earlier transfer was cut");
        progress(wanted.have);
    }
    let reuse = match delta::find_reuse(&shared.context, remote, sources, &wanted).await {
        // It may name chunks of a list that is another one here than there, and would do so each time.
        Err(EngineError::Location(error @ LocationError::Protocol { .. })) => {
            let (path, error) = (item.put().path(), super::outcome::describe(&error));
            tracing::warn!(%path, error, "fetched whole: what the server says it is made of makes no sense");
            sources.forget(&shared.context, &wanted);
            None
        }
        Err(error) => {
            if matches!(&error, EngineError::Location(error) if error.is_transient()) {
                shared.context.cut_descriptions.count(digest);
            }
            return Err(error);
        }
        Ok(reuse) => reuse,
    };
    if let Some(reuse) = reuse {
        file = delta::assemble(file, reuse, remote, &wanted, progress).await?;
    } else if wanted.have < size || size == 0 {
        let fetch = |parts| fetch_rest(remote, &wanted, parts, progress);
        let with_two = size - wanted.have >= WITH_TWO_THREADS;
        let append = move |parts: &mut dyn Iterator<Item = Bytes>| -> Result<StagedFile, ApplyError> {
            if with_two {
                return file.append_pieces(parts.map(Piece::Bytes));
            }
            for bytes in parts {
                file.append(&bytes)?;
            }
            Ok(file)
        };
        let (fetched, appended) = threads::hand_over(MESSAGES_AHEAD, fetch, append).await;
        // If it breaks off, what came before is kept for the next attempt.
        file = fetched.and(done_apart(appended))?;
    }
    let (context, leaving) = (shared.context.clone(), sources.leaving());
    off_the_runtime(move || {
        let staged = file.finish(size, &digest)?;
        // Should it be needed once more it is cut up once more.
        leaving.iter().for_each(|digest| context.shelf.remove(digest));
        Ok(staged)
    })
    .await
}

/// Fetches what comes behind what is here already, while it is written. Ends early, and with success, if nobody takes it any
/// more: whoever took it says why.
async fn fetch_rest(
    remote: &Arc<dyn Location>,
    wanted: &Wanted,
    parts: Sender<Bytes>,
    progress: impl Fn(u64),
) -> Result<(), EngineError> {
    let mut left = wanted.size - wanted.have;
    let mut stream = remote.fetch_file(wanted.node, &wanted.digest, wanted.have).await?;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        let count = bytes.len() as u64;
        progress(count);
        // More than was announced: the digest would say so in the end, but the disk might be full by then.
        left = left.checked_sub(count).ok_or(LocationError::Changed)?;
        if parts.send(bytes).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

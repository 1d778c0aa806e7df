//! The handlers of `SyncService`.

use std::{sync::Arc, time::Duration};

use sync_tree::live::TreeState;
use sync_wire::{v1, watching_to_wire};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::{
    describe_file,
    descriptions::Descriptions,
    errors::{RequestError, blocking},
    fetch_file,
    fetch_files::{self, Packing},
    frames::{Frames, NoMessages},
    replies::Replies,
    squeeze::{Policy, Squeeze},
    watch::{Wish, watch_task},
};
use crate::{
    shares::{Share, Shares},
    tasks::Tasks,
};

/// The service's state: what it serves, and what it allows.
#[derive(Clone)]
pub(super) struct SyncHandlers {
    pub shares: Shares,
    pub tasks: Arc<Tasks>,
    pub heartbeat: Duration,
    pub packing: Packing,
    pub descriptions: Arc<Descriptions>,
    /// Whether it may be asked for.
    pub compression: bool,
}

impl SyncHandlers {
    /// Runs what fills a response's stream.
    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task.in_current_span());
    }

    fn capabilities(&self) -> Vec<String> {
        let compression = self.compression.then_some(sync_wire::CAN_COMPRESS);
        [sync_wire::CAN_DESCRIBE].into_iter().chain(compression).map(str::to_owned).collect()
    }
}

#[tonic::async_trait]
impl v1::sync_service_server::SyncService for SyncHandlers {
    async fn list_shares(
        &self,
        _: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        let shares = self.shares.clone();
        let shares =
            blocking(move || Ok::<_, RequestError>(shares.iter().map(|share| describe(share)).collect()));
        Ok(Response::new(v1::ListSharesResponse {
            shares: shares.await?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: self.capabilities(),
            limits: Some(v1::Limits {
                max_wants_in_flight: u32::try_from(self.packing.wants_in_flight).unwrap_or(u32::MAX),
                max_packed_file_bytes: self.packing.largest_file,
            }),
        }))
    }

    type WatchChangesStream = NoMessages<v1::WatchChangesResponse>;

    async fn watch_changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        let request = request.into_inner();
        let share = self.shares.find(&request.share).map_err(RequestError::from)?;
        let (out, frames) = Frames::new(&self.tasks.stop);
        let cursor = request.cursor.to_vec();
        let wish = Wish { cursor, live: request.live, paths: request.paths, heartbeat: self.heartbeat };
        self.run(watch_task(share, wish, out));
        Ok(frames.into_response())
    }

    type FetchFileStream = NoMessages<v1::FetchFileResponse>;

    async fn fetch_file(
        &self,
        request: Request<v1::FetchFileRequest>,
    ) -> Result<Response<Self::FetchFileStream>, Status> {
        let policy = Policy::new(self.compression, request.extensions());
        let request = request.into_inner();
        let share = self.shares.find(&request.share).map_err(RequestError::from)?;
        let squeeze = Squeeze::new(policy.when(request.compression()));
        let opened = blocking(move || fetch_file::open(&share, &request)).await?;
        let (out, frames) = Frames::new(&self.tasks.stop);
        self.run(fetch_file::send_task(opened, squeeze, out));
        Ok(frames.into_response())
    }

    type FetchFilesStream = NoMessages<v1::FetchFilesResponse>;

    async fn fetch_files(
        &self,
        request: Request<Streaming<v1::FetchFilesRequest>>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        let (out, frames) = Frames::new(&self.tasks.stop);
        let policy = Policy::new(self.compression, request.extensions());
        let requests = request.into_inner();
        self.run(fetch_files::answer_task(self.shares.clone(), requests, (self.packing, policy), out));
        Ok(frames.into_response())
    }

    type DescribeFileStream = Replies<v1::DescribeFileResponse>;

    async fn describe_file(
        &self,
        request: Request<v1::DescribeFileRequest>,
    ) -> Result<Response<Self::DescribeFileStream>, Status> {
        let request = request.into_inner();
        let share = self.shares.find(&request.share).map_err(RequestError::from)?;
        let wanted = blocking(move || describe_file::open(&share, &request)).await?;
        let (out, replies) = Replies::new(&self.tasks.stop);
        self.run(describe_file::send_task(wanted, Arc::clone(&self.descriptions), self.heartbeat, out));
        Ok(Response::new(replies))
    }
}

fn describe(share: &Share) -> v1::Share {
    let status = share.tree.status().borrow().clone();
    let (state, reason) = match status.state {
        TreeState::Scanning => (v1::ShareState::Scanning, String::new()),
        TreeState::Ready => (v1::ShareState::Ready, String::new()),
        TreeState::Degraded { .. } => (v1::ShareState::Degraded, status.watching.to_string()),
        TreeState::Halted { reason } => (v1::ShareState::Halted, reason),
    };
    let root_digest = match state {
        v1::ShareState::Scanning => Vec::new(),
        _ => status.head.root_digest.0.to_vec(),
    };
    v1::Share {
        name: share.name.clone(),
        id: share.tree.index().share_id().0.to_vec(),
        state: state.into(),
        root_digest,
        files: status.head.files,
        bytes: status.head.bytes,
        problems: share.tree.problems().len() as u64,
        reason,
        watching: Some(watching_to_wire(&status.watching)),
    }
}

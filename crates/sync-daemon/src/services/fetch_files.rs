//! Many small files over one stream.
//!
//! Wants are read while less than the allowed number are unanswered, and put into a queue. Packing a message is a short
//! piece of blocking work: it takes wants from the queue, a few at a time, until the payload is large enough or the queue
//! is empty, so a lone want is answered at once and a flood of them in full messages. A few are packed at a time, and each
//! has a place for its message before it starts: a client that takes no answers costs neither threads nor memory.

use std::sync::Arc;

use bytes::Bytes;
use sync_core::{Digest, NodeId};
use sync_tree::serve::{Packer, ServeError};
use sync_wire::{Frame, MAX_PAYLOAD_BYTES, frame_answers, v1};
use tokio::{sync::mpsc::OwnedPermit, task::JoinSet};
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::{
    errors::{RequestError, blocking, told},
    replies::Sender,
    squeeze::{Policy, Squeeze},
    wants::Wants,
};
use crate::shares::{Share, Shares};

/// A message is sent when it has this many bytes.
const BYTES_IN_A_MESSAGE: usize = 256 << 10;
/// And when it has this many answers, so that a flood of errors or of empty files stays small too.
const ANSWERS_IN_A_MESSAGE: usize = 2048;
/// Messages packed at a time, for one stream. Reading small files gains from a second thread and little from more.
const PACKERS: usize = 3;
/// A further packer starts only if this many wants wait for each that is there; fewer are soon taken by those.
/// What those have taken does not count: nobody else can answer it.
const WANTS_FOR_A_PACKER: usize = 32;
/// Wants that a packer takes at a time: enough to look them up together, and few beside those that have to wait before there is
/// a second packer. What does not fit into its message goes back.
const WANTS_TOGETHER: usize = 16;

type Answers = v1::FetchFilesResponse;
type Reply = Result<Frame, Status>;

/// What a stream may hold and what it packs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    /// Wants that may be unanswered; at least 1.
    pub wants_in_flight: usize,
    /// The largest file that is packed.
    pub largest_file: u64,
}

/// A message that is not full yet may get one more file of any size that is packed.
const LARGEST_FILE: u64 = (MAX_PAYLOAD_BYTES - BYTES_IN_A_MESSAGE) as u64;

/// What one stream works on.
struct Work {
    share: Arc<Share>,
    largest_file: u64,
    squeeze: Squeeze,
    wants: Wants,
}

/// Answers the wants of one stream until the client has closed its side and all are answered.
pub(super) async fn answer_task(
    shares: Shares,
    requests: Streaming<v1::FetchFilesRequest>,
    rules: (Packing, Policy),
    out: Sender<Frame>,
) {
    let answered = tokio::select! {
        answered = answer(&shares, requests, rules, &out) => answered,
        () = out.closed() => return,
    };
    if let Err(status) = answered {
        // Nobody is left to tell if this fails.
        let _ = out.send(Err(status)).await;
    }
}

async fn answer(
    shares: &Shares,
    mut requests: Streaming<v1::FetchFilesRequest>,
    (packing, policy): (Packing, Policy),
    out: &Sender<Frame>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let share = shares.find(&first.share).map_err(RequestError::from)?;
    let _fetching = share.tree.fetching();
    let work = Arc::new(Work {
        share,
        largest_file: packing.largest_file.min(LARGEST_FILE),
        squeeze: Squeeze::new(policy.when(first.compression())),
        wants: Wants::default(),
    });
    let mut unanswered = work.enqueue(first)?;
    let mut open = true;
    let mut packers: JoinSet<Result<usize, RequestError>> = JoinSet::new();
    while open || unanswered > 0 {
        while packers.len() < PACKERS && work.wants.waiting() > packers.len() * WANTS_FOR_A_PACKER {
            packers.spawn(pack_and_send(Arc::clone(&work), out.clone()));
        }
        tokio::select! {
            request = requests.next(), if open && unanswered < packing.wants_in_flight => match request {
                Some(request) => unanswered += work.enqueue(request?)?,
                None => open = false,
            },
            Some(packed) = packers.join_next() => match packed {
                Ok(answers) => unanswered -= answers?,
                Err(failed) => return Err(Status::internal(told(&failed))),
            },
        }
    }
    Ok(())
}

impl Work {
    fn enqueue(&self, request: v1::FetchFilesRequest) -> Result<usize, RequestError> {
        if !request.share.is_empty() && request.share != self.share.name {
            return Err(RequestError::Malformed { what: "another share than the first message" });
        }
        let count = request.wants.len();
        self.wants.add(request.wants);
        Ok(count)
    }
}

/// Packs one message; tells how many wants it answers.
async fn pack_and_send(work: Arc<Work>, out: Sender<Frame>) -> Result<usize, RequestError> {
    let place: OwnedPermit<Reply> = out.reserve_owned().await.map_err(|_| RequestError::Stopping)?;
    let answers = blocking(move || pack(&work)).await?;
    let count = answers.files.len();
    if count > 0 {
        place.send(Ok(frame_answers(answers)));
    }
    Ok(count)
}

/// Packs what waits into one message, up to its size. Blocks.
fn pack(work: &Work) -> Result<Answers, RequestError> {
    let mut answers = work.share.tree.pack(|packer| pack_with(work, packer))??;
    if let Some(compressed) = work.squeeze.try_on(&answers.payload) {
        answers.payload = Bytes::new();
        answers.compressed = Some(compressed);
    }
    Ok(answers)
}

fn pack_with(work: &Work, packer: &mut Packer<'_>) -> Result<Answers, RequestError> {
    let mut message = Message::default();
    while message.has_room() {
        let mut taken = work.wants.take(WANTS_TOGETHER);
        if taken.is_empty() {
            break;
        }
        packer.expect(taken.ids());
        while message.has_room()
            && let Some(want) = taken.next()
        {
            message.answer(packer, &want, work.largest_file)?;
        }
    }
    Ok(Answers { files: message.files, payload: Bytes::from(message.payload), compressed: None })
}

/// A message that is being packed.
#[derive(Default)]
struct Message {
    files: Vec<v1::FetchedFile>,
    payload: Vec<u8>,
    /// Bytes of what is told instead of files.
    words: usize,
}

impl Message {
    fn has_room(&self) -> bool {
        self.payload.len() + self.words < BYTES_IN_A_MESSAGE && self.files.len() < ANSWERS_IN_A_MESSAGE
    }

    fn answer(
        &mut self,
        packer: &mut Packer<'_>,
        want: &v1::Want,
        largest_file: u64,
    ) -> Result<(), RequestError> {
        if self.payload.capacity() == 0 {
            self.payload.reserve_exact(BYTES_IN_A_MESSAGE + BYTES_IN_A_MESSAGE / 8);
        }
        let file = answer_one(packer, want, largest_file, &mut self.payload)?;
        self.words += file.error.as_ref().map_or(0, |error| error.message.len());
        self.files.push(file);
        Ok(())
    }
}

fn answer_one(
    packer: &mut Packer<'_>,
    want: &v1::Want,
    largest_file: u64,
    payload: &mut Vec<u8>,
) -> Result<v1::FetchedFile, RequestError> {
    let digest = Digest::from_slice(&want.digest);
    let digest = digest.ok_or(RequestError::Malformed { what: "a want without a digest of 32 bytes" })?;
    let start = payload.len();
    let read = packer.append(NodeId(want.node_id), &digest, largest_file, payload);
    Ok(match read {
        Ok(size) => v1::FetchedFile { number: want.number, size, error: None },
        Err(error) => {
            payload.truncate(start);
            v1::FetchedFile { number: want.number, size: 0, error: Some(refusal(error)?) }
        }
    })
}

fn refusal(error: ServeError) -> Result<v1::FetchError, RequestError> {
    let reason = match &error {
        // A node that is gone, or another kind of thing now: the feed says so too.
        ServeError::NoSuchNode | ServeError::NotAFile | ServeError::Changed => v1::FetchErrorReason::Changed,
        ServeError::Unreadable { .. } => v1::FetchErrorReason::Unreadable,
        ServeError::TooLarge => v1::FetchErrorReason::TooLarge,
        ServeError::Index(_) => return Err(error.into()),
    };
    Ok(v1::FetchError { reason: reason.into(), message: super::errors::refusal(&error) })
}

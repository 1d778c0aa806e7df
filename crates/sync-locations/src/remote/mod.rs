//! A share of a daemon on the network.
//!
//! One connection carries the feed, others carry bytes: a feed that waits behind gigabytes would make every change late.
//! Bulk connections are made when they are first needed. Invariants:
//! * Every stream has a watchdog: if something is owed and nothing comes for the idle timeout, the stream ends with
//!   [`LocationError::Silent`]. A half-open connection is noticed, whatever the operating system believes.
//! * Nothing here tries again. A location whose connection broke stays broken for its caller, who decides when to connect
//!   anew, and whose next connection is really a new one.
//! * Messages are checked at this border; a generated type goes no further.

mod connect;
mod described;
mod messages;
mod streams;
#[cfg(test)]
mod tests;
mod unpack;
mod wants;
mod watchdog;

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost::Message;
use sync_core::{Chunk, Cursor, Digest, NodeId, ShareId, name::escape};
use sync_wire::{MAX_MESSAGE_BYTES, v1};
use tokio::{sync::mpsc::Receiver, time::Instant};
use tonic::{Status, Streaming, transport::Channel};
use v1::{fetch_file_request::File, sync_service_client::SyncServiceClient};

use crate::{
    error::LocationError,
    location::{
        AnswerStream, BoxFuture, ByteStream, ChangeStream, KnownChunks, Location, Want, check_ranges,
    },
};
use messages::{Messages, WithBodies};
use streams::{Answers, Changes, FileBytes, Incoming};
use unpack::Unpack;
use wants::WantMessages;
use watchdog::Watchdog;

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long connecting, with the first question and its answer, may take.
    pub connect_timeout: Duration,
    /// How long a stream may be silent before it counts as lost. Above twice the daemon's heartbeat.
    pub idle_timeout: Duration,
    /// How much may be on its way; for bytes no more than the line can use.
    pub windows: Windows,
    /// Connections for bytes, at most.
    pub bulk_connections: usize,
    /// Whether the bytes of files may come compressed.
    pub compression: Compression,
}

/// Whether the bytes of files may come compressed, where the daemon can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// They come as they are.
    Off,
    /// Where that saves time, as the daemon sees it: on a line that is slow, and of what gets smaller.
    #[default]
    Auto,
    /// Whatever gets smaller.
    On,
}

impl Compression {
    /// What to ask a daemon for.
    fn asked_of(self, capabilities: &[String]) -> v1::Compression {
        let can = capabilities.iter().any(|name| name == sync_wire::CAN_COMPRESS);
        match self {
            Self::Auto if can => v1::Compression::Auto,
            Self::On if can => v1::Compression::Always,
            Self::Off | Self::Auto | Self::On => v1::Compression::Unspecified,
        }
    }
}

/// How much the other side may send before it must wait, in bytes. This is also what a slow disk makes us hold in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// On one stream.
    pub stream: u32,
    /// On one connection.
    pub connection: u32,
    /// In one frame. The other side may send what *we* allow: at the default of 16 KiB a message of 512 KiB is 32 frames.
    pub frame: u32,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(25),
            windows: Windows::default(),
            bulk_connections: 1,
            compression: Compression::default(),
        }
    }
}

impl Default for Windows {
    fn default() -> Self {
        // A window is opened again when half of it is used, so 24 MiB fill a gigabit over 100 ms; 32 MiB a connection keep the
        // agent within its bound of memory.
        Self { stream: 24 << 20, connection: 32 << 20, frame: 1 << 20 }
    }
}

/// How large a window is for each second of the round trip. A line of 8 Gbit/s carries 1 GiB in a second; it is twice that, as a window is
/// opened again when half of it is used.
const WINDOW_FOR_A_SECOND: u128 = 2 << 30;
/// And never smaller than this, which is enough up to 4 ms.
const LEAST_WINDOW: u32 = 8 << 20;

impl Windows {
    /// These, but no larger than a line with this round trip can make use of. More would only be what waits in memory for its turn,
    /// in no cache any more. What is taken for a round trip may be longer than it, so nothing is lost when the machines are busy.
    fn within(self, round_trip: Duration) -> Self {
        let useful = WINDOW_FOR_A_SECOND * round_trip.as_nanos() / Duration::from_secs(1).as_nanos();
        let useful = u32::try_from(useful).unwrap_or(u32::MAX).max(LEAST_WINDOW);
        let stream = self.stream.min(useful);
        // The same room for other streams.
        let connection =
            self.connection.saturating_sub(self.stream - stream).max(stream.min(self.connection));
        Self { stream, connection, ..self }
    }
}

/// How large a message may be: what the contract says, with room for a later version's fields.
const LARGEST_MESSAGE: usize = MAX_MESSAGE_BYTES + (256 << 10);

/// A client for all calls that answer with a stream.
type Client = SyncServiceClient<WithBodies>;

fn client(channel: Channel) -> Client {
    SyncServiceClient::new(WithBodies(channel))
}

/// A share of a daemon.
#[derive(Debug)]
pub struct RemoteSyncd {
    address: String,
    share: String,
    share_id: ShareId,
    known: Vec<String>,
    version: String,
    max_packed_bytes: u64,
    /// Whether it tells what files are made of, and sends scattered parts of them.
    describes: bool,
    /// What it is asked for.
    compression: v1::Compression,
    idle_timeout: Duration,
    feed: Client,
    bulk: Vec<Client>,
    next_bulk: AtomicUsize,
    received: Arc<AtomicU64>,
}

impl RemoteSyncd {
    /// Connects to the daemon at `url` (`http://HOST:PORT`) and finds the share; without a name, its only one.
    ///
    /// # Errors
    /// Nobody answers within the timeout, it is no syncd, or there is no such share.
    pub async fn connect(
        url: &str,
        share: Option<&str>,
        options: &ConnectOptions,
    ) -> Result<Self, LocationError> {
        let endpoint = connect::endpoint(url, options)?;
        let feed = connect::first_connection(&endpoint, options.connect_timeout).await?;
        let asked = Instant::now();
        let listed = connect::list_shares(feed.clone(), &endpoint, options.connect_timeout).await?;
        let near = ConnectOptions { windows: options.windows.within(asked.elapsed()), ..options.clone() };
        let for_bytes = connect::endpoint(url, &near)?;
        let received = sync_wire::wire_bytes(&listed);
        let known: Vec<_> = listed.shares.iter().map(|share| share.name.clone()).collect();
        let found = choose(&listed.shares, share, &known)?;
        let share_id = ShareId::from_slice(&found.id)
            .ok_or_else(|| LocationError::protocol("the share has no id of 16 bytes"))?;
        // Without limits nothing may be packed; no packed file can be larger than a message.
        let max_packed = listed.limits.as_ref().map_or(0, |limits| limits.max_packed_file_bytes);
        let bulk = (0..options.bulk_connections.max(1)).map(|_| client(for_bytes.connect_lazy())).collect();
        Ok(Self {
            address: connect::address(&endpoint),
            share: found.name.clone(),
            share_id,
            known,
            version: listed.version.clone(),
            max_packed_bytes: max_packed.min(sync_wire::MAX_PAYLOAD_BYTES as u64),
            describes: listed.capabilities.iter().any(|name| name == sync_wire::CAN_DESCRIBE),
            compression: options.compression.asked_of(&listed.capabilities),
            idle_timeout: options.idle_timeout,
            feed: client(feed),
            bulk,
            next_bulk: AtomicUsize::new(0),
            received: Arc::new(AtomicU64::new(received)),
        })
    }

    /// The share's name.
    #[must_use]
    pub fn share(&self) -> &str {
        &self.share
    }

    /// The share's identity.
    #[must_use]
    pub fn share_id(&self) -> ShareId {
        self.share_id
    }

    /// Host and port of the daemon.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The daemon's version, as it says.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    fn bulk(&self) -> Client {
        // Each connection in turn. The clone shares the connection.
        let turn = self.next_bulk.fetch_add(1, Ordering::Relaxed);
        self.bulk[turn % self.bulk.len()].clone()
    }

    /// Waits for the beginning of an answer, no longer than for its parts.
    async fn begin<M: Message + Default>(
        &self,
        call: impl Future<Output = Result<tonic::Response<Streaming<M>>, Status>>,
        explain: impl FnOnce(&Status) -> LocationError,
    ) -> Result<Messages<M>, LocationError> {
        let begun = async { Messages::of(call.await?).await };
        match tokio::time::timeout(self.idle_timeout, begun).await {
            Ok(Ok(messages)) => Ok(messages),
            Ok(Err(status)) => Err(explain(&status)),
            Err(_) => Err(LocationError::Silent { after: self.idle_timeout }),
        }
    }

    /// A request for all of a file.
    fn request_for(&self, node: NodeId, digest: &Digest) -> v1::FetchFileRequest {
        v1::FetchFileRequest {
            share: self.share.clone(),
            file: Some(File::NodeId(node.0)),
            digest: digest.0.to_vec(),
            compression: self.compression.into(),
            ..v1::FetchFileRequest::default()
        }
    }

    async fn file_bytes(&self, request: v1::FetchFileRequest) -> Result<FileBytes, LocationError> {
        let mut bulk = self.bulk();
        let stream = self.begin(bulk.fetch_file(request), file_error).await?;
        let incoming =
            Incoming::new(stream, self.watchdog(), Arc::clone(&self.received), sync_wire::wire_bytes);
        Ok(FileBytes::new(incoming, self.unpack()))
    }

    fn unpack(&self) -> Unpack {
        Unpack::new(self.compression != v1::Compression::Unspecified)
    }

    fn watchdog(&self) -> Watchdog {
        Watchdog::new(self.idle_timeout)
    }

    /// An error of a feed. The share itself may be gone since the connection was made.
    fn feed_error(&self, status: &Status) -> LocationError {
        if status.code() != tonic::Code::NotFound {
            return connect::location_error(status);
        }
        let known = self.known.iter().filter(|name| **name != self.share).cloned().collect();
        LocationError::UnknownShare { share: self.share.clone(), known }
    }
}

fn choose<'a>(
    shares: &'a [v1::Share],
    name: Option<&str>,
    known: &[String],
) -> Result<&'a v1::Share, LocationError> {
    match (name, shares) {
        (Some(name), _) => shares
            .iter()
            .find(|share| share.name == name)
            .ok_or_else(|| LocationError::UnknownShare { share: name.to_owned(), known: known.to_vec() }),
        (None, [only]) => Ok(only),
        (None, _) => Err(LocationError::NoShareNamed { known: known.to_vec() }),
    }
}

impl Location for RemoteSyncd {
    fn describe(&self) -> String {
        format!("{} at {}", escape(&self.share), self.address)
    }

    fn changes<'a>(
        &'a self,
        cursor: Option<&'a Cursor>,
        live: bool,
    ) -> BoxFuture<'a, Result<Box<dyn ChangeStream>, LocationError>> {
        let cursor = cursor.map(|cursor| cursor.0.to_vec()).unwrap_or_default();
        let request = v1::WatchChangesRequest { share: self.share.clone(), cursor, live, paths: false };
        Box::pin(async move {
            let mut feed = self.feed.clone();
            let stream = self.begin(feed.watch_changes(request), |status| self.feed_error(status)).await?;
            let stream = Changes::new(stream, self.watchdog(), Arc::clone(&self.received));
            Ok(Box::new(stream) as Box<dyn ChangeStream>)
        })
    }

    fn fetch_packed<'a>(
        &'a self,
        wants: Receiver<Want>,
    ) -> BoxFuture<'a, Result<Box<dyn AnswerStream>, LocationError>> {
        Box::pin(async move {
            let first = v1::FetchFilesRequest {
                share: self.share.clone(),
                compression: self.compression.into(),
                ..v1::FetchFilesRequest::default()
            };
            let (messages, reader) = WantMessages::new(first, wants);
            let mut bulk = self.bulk();
            let stream = self.begin(bulk.fetch_files(messages), connect::location_error).await?;
            let received = Arc::clone(&self.received);
            let incoming = Incoming::new(stream, self.watchdog(), received, sync_wire::wire_bytes);
            Ok(Box::new(Answers::new(incoming, self.unpack(), reader)) as Box<dyn AnswerStream>)
        })
    }

    fn fetch_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        let request = v1::FetchFileRequest { offset, ..self.request_for(node, digest) };
        Box::pin(async move { Ok(Box::new(self.file_bytes(request).await?) as Box<dyn ByteStream>) })
    }

    fn describe_file<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        known: Option<KnownChunks>,
    ) -> BoxFuture<'a, Result<Option<Arc<[Chunk]>>, LocationError>> {
        Box::pin(async move {
            if !self.describes {
                return Ok(None);
            }
            let (share, digest) = (self.share.clone(), digest.0.to_vec());
            let (known_digest, known) = match known {
                Some(known) => (known.digest.0.to_vec(), known.chunks),
                None => Default::default(),
            };
            let request = v1::DescribeFileRequest { share, node_id: node.0, digest, known_digest };
            let mut bulk = self.bulk();
            let stream = self.begin(bulk.describe_file(request), file_error).await?;
            let received = Arc::clone(&self.received);
            let incoming = Incoming::new(stream, self.watchdog(), received, sync_wire::wire_bytes);
            described::read(incoming, known).await
        })
    }

    fn fetch_ranges<'a>(
        &'a self,
        node: NodeId,
        digest: &'a Digest,
        ranges: Vec<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, LocationError>> {
        Box::pin(async move {
            let length = check_ranges(&ranges)?;
            if !self.describes {
                // It would ignore the ranges and send all of the file.
                let message = "its version does not send scattered parts of files".into();
                return Err(LocationError::Refused { message });
            }
            let ranges = sync_wire::ranges_to_wire(&ranges);
            let request = v1::FetchFileRequest { ranges, ..self.request_for(node, digest) };
            Ok(Box::new(self.file_bytes(request).await?.of_length(length)) as Box<dyn ByteStream>)
        })
    }

    fn max_packed_bytes(&self) -> u64 {
        self.max_packed_bytes
    }

    fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A node that is gone has no more the bytes that were asked for; the feed says so too.
fn file_error(status: &Status) -> LocationError {
    match status.code() {
        tonic::Code::NotFound if status.source().is_none() => LocationError::Changed,
        _ => connect::location_error(status),
    }
}

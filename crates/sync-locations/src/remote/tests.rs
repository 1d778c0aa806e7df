//! The suite over a real connection to a small server, which serves a share in memory; and what goes wrong on networks.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use sync_wire::response;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Streaming};
use v1::{
    describe_file_response::Part as Description,
    sync_service_server::{SyncService, SyncServiceServer},
};

use super::*;
use crate::{
    conformance::{Stage, conformance_tests},
    location::FetchFailure,
    memory::Memory,
};

/// Serves shares in memory by the wire's rules.
#[derive(Clone)]
struct Served {
    share: Memory,
    names: Vec<&'static str>,
    /// Answers nothing any more, and keeps all connections.
    mute: Arc<AtomicBool>,
    /// What it is able to do.
    capabilities: Vec<String>,
    /// What it answers instead of a description.
    script: Arc<Mutex<Option<Vec<Description>>>>,
    /// What it sends instead of bytes.
    frame: Arc<Mutex<Option<v1::Compressed>>>,
    /// Messages that it compressed.
    compressed: Arc<AtomicUsize>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Served {
    fn replies<T: Send + 'static, F>(
        &self,
        task: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Response<Replies<T>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (out, replies) = mpsc::channel(2);
        self.tasks.lock().unwrap().spawn(task(out));
        Response::new(Box::pin(ReceiverStream::new(replies)))
    }

    /// Compresses as it was asked for, without a look at the line.
    fn compress(&self, asked: v1::Compression, bytes: &[u8]) -> Option<v1::Compressed> {
        let script = self.frame.lock().unwrap().clone();
        let able = self.capabilities.iter().any(|name| name == sync_wire::CAN_COMPRESS);
        let asked = able && asked != v1::Compression::Unspecified;
        let made = script.or_else(|| sync_wire::Compressor::default().compress(bytes).filter(|_| asked));
        self.compressed.fetch_add(usize::from(made.is_some()), Ordering::Relaxed);
        made
    }
}

fn status(error: &LocationError) -> Status {
    match error {
        LocationError::Changed => Status::failed_precondition("changed"),
        LocationError::Refused { message } => Status::invalid_argument(message),
        other => Status::unavailable(other.to_string()),
    }
}

#[tonic::async_trait]
impl SyncService for Served {
    async fn list_shares(
        &self,
        _: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        let share = |name: &&str| v1::Share {
            name: (*name).to_owned(),
            id: self.share.share_id().0.to_vec(),
            ..v1::Share::default()
        };
        let limits =
            v1::Limits { max_wants_in_flight: 64, max_packed_file_bytes: self.share.max_packed_bytes() };
        Ok(Response::new(v1::ListSharesResponse {
            shares: self.names.iter().map(share).collect(),
            version: "test".into(),
            capabilities: self.capabilities.clone(),
            limits: Some(limits),
        }))
    }

    type WatchChangesStream = Replies<v1::WatchChangesResponse>;

    async fn watch_changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        let request = request.into_inner();
        if request.share != "docs" {
            return Err(Status::not_found("no such share"));
        }
        let cursor = (!request.cursor.is_empty()).then(|| Cursor(request.cursor.into()));
        let mut feed =
            self.share.changes(cursor.as_ref(), request.live).await.map_err(|error| status(&error))?;
        let mute = Arc::clone(&self.mute);
        Ok(self.replies(|out| async move {
            loop {
                let event = tokio::select! {
                    event = feed.next() => match event {
                        Some(event) => event.map(|event| response(&event)).map_err(|error| status(&error)),
                        None => return,
                    },
                    () = out.closed() => return,
                    () = tokio::time::sleep(Duration::from_millis(20)) => Ok(response(&sync_core::FeedEvent::Heartbeat)),
                };
                if !mute.load(Ordering::Relaxed) && out.send(event).await.is_err() {
                    return;
                }
            }
        }))
    }

    type FetchFileStream = Replies<v1::FetchFileResponse>;

    async fn fetch_file(
        &self,
        request: Request<v1::FetchFileRequest>,
    ) -> Result<Response<Self::FetchFileStream>, Status> {
        let request = request.into_inner();
        let Some(File::NodeId(id)) = request.file else { return Err(Status::invalid_argument("no id")) };
        let digest =
            Digest::from_slice(&request.digest).ok_or_else(|| Status::invalid_argument("no digest"))?;
        let (share, node) = (self.share.clone(), NodeId(id));
        let ranges = request.ranges.iter().map(|range| (range.offset, range.length)).collect();
        let fetched = match request.ranges.is_empty() || self.capabilities.is_empty() {
            true => share.fetch_file(node, &digest, request.offset).await,
            false => share.fetch_ranges(node, &digest, ranges).await,
        };
        let mut bytes = fetched.map_err(|error| status(&error))?;
        let (served, asked) = (self.clone(), request.compression());
        Ok(self.replies(|out| async move {
            // The whole is needed for the header, as a real server has it in its index.
            let mut parts = Vec::new();
            while let Some(Ok(part)) = bytes.next().await {
                parts.push(part);
            }
            let length = parts.iter().map(|part| part.len() as u64).sum();
            let header = v1::fetch_file_response::Part::Header(v1::FileHeader { node: None, length });
            let data = parts.into_iter().map(|part| match served.compress(asked, &part) {
                Some(compressed) => v1::fetch_file_response::Part::Compressed(compressed),
                None => v1::fetch_file_response::Part::Data(part),
            });
            for part in std::iter::once(header).chain(data) {
                if out.send(Ok(v1::FetchFileResponse { part: Some(part) })).await.is_err() {
                    return;
                }
            }
        }))
    }

    type FetchFilesStream = Replies<v1::FetchFilesResponse>;

    async fn fetch_files(
        &self,
        request: Request<Streaming<v1::FetchFilesRequest>>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        let mut requests = request.into_inner();
        let (share, mute, served) = (self.share.clone(), Arc::clone(&self.mute), self.clone());
        let asked = AtomicI32::new(0);
        Ok(self.replies(|out| async move {
            let (sender, wants) = mpsc::channel(16);
            let mut answers = share.fetch_packed(wants).await.expect("memory is there");
            let asked = &asked;
            let read = async move {
                while let Ok(Some(request)) = requests.message().await {
                    asked.fetch_max(request.compression, Ordering::Relaxed);
                    for want in request.wants {
                        let digest = Digest::from_slice(&want.digest).expect("a digest");
                        let want = Want { number: want.number, node: NodeId(want.node_id), digest };
                        if sender.send(want).await.is_err() {
                            return;
                        }
                    }
                }
            };
            let answer = async move {
                while let Some(Ok(answers)) = answers.next().await {
                    let mut message = packed(answers);
                    let asked =
                        v1::Compression::try_from(asked.load(Ordering::Relaxed)).expect("it is known");
                    message.compressed = served.compress(asked, &message.payload);
                    if message.compressed.is_some() {
                        message.payload = Bytes::new();
                    }
                    if !mute.load(Ordering::Relaxed) && out.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(read, answer);
        }))
    }

    type DescribeFileStream = Replies<v1::DescribeFileResponse>;

    async fn describe_file(
        &self,
        request: Request<v1::DescribeFileRequest>,
    ) -> Result<Response<Self::DescribeFileStream>, Status> {
        let request = request.into_inner();
        let digest =
            Digest::from_slice(&request.digest).ok_or_else(|| Status::invalid_argument("no digest"))?;
        let script = self.script.lock().unwrap().clone();
        let parts = match script {
            Some(script) => script,
            None => {
                let found = self.share.describe_file(NodeId(request.node_id), &digest, None).await;
                described(found.map_err(|error| status(&error))?.as_deref())
            }
        };
        Ok(self.replies(|out| async move {
            for part in parts {
                if out.send(Ok(v1::DescribeFileResponse { part: Some(part) })).await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// What a good server answers.
fn described(chunks: Option<&[sync_core::Chunk]>) -> Vec<Description> {
    let Some(chunks) = chunks else { return vec![Description::Header(v1::DescriptionHeader::default())] };
    let size = chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
    let mut parts = vec![
        Description::Heartbeat(v1::Heartbeat {}),
        Description::Header(sync_wire::description_header(size)),
    ];
    parts.extend(sync_wire::chunks_to_wire(chunks, &[]).map(Description::Chunks));
    parts
}

fn packed(answers: Vec<crate::location::Answer>) -> v1::FetchFilesResponse {
    let mut payload = Vec::new();
    let mut files = Vec::new();
    for answer in answers {
        let (size, error) = match answer.result {
            Ok(bytes) => {
                payload.extend_from_slice(&bytes);
                (bytes.len() as u64, None)
            }
            Err(failure) => (0, Some(failure)),
        };
        let error = error.map(|failure| {
            let reason = match &failure {
                FetchFailure::Changed => v1::FetchErrorReason::Changed,
                FetchFailure::Unreadable(_) => v1::FetchErrorReason::Unreadable,
                FetchFailure::TooLarge => v1::FetchErrorReason::TooLarge,
            };
            v1::FetchError { reason: reason.into(), message: failure.to_string() }
        });
        files.push(v1::FetchedFile { number: answer.number, size, error });
    }
    v1::FetchFilesResponse { files, payload: payload.into(), compressed: None }
}

/// A server, its share, and a connection to it. Dropping it ends the server and all its connections.
struct Host {
    served: Served,
    address: SocketAddr,
    location: Arc<RemoteSyncd>,
    server: JoinSet<()>,
}

fn options() -> ConnectOptions {
    ConnectOptions { idle_timeout: Duration::from_secs(5), ..ConnectOptions::default() }
}

async fn serve(names: Vec<&'static str>, capabilities: &[&str]) -> (Served, SocketAddr, JoinSet<()>) {
    let share = Memory::new("docs");
    share.set_page(3);
    let capabilities = capabilities.iter().map(ToString::to_string).collect();
    let (mute, script, frame) = (Arc::default(), Arc::default(), Arc::default());
    let (compressed, tasks) = (Arc::default(), Arc::default());
    let served = Served { share, names, mute, capabilities, script, frame, compressed, tasks };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let router = tonic::transport::Server::builder().add_service(SyncServiceServer::new(served.clone()));
    let mut server = JoinSet::new();
    server.spawn(async move { drop(router.serve_with_incoming(incoming).await) });
    (served, address, server)
}

impl Host {
    async fn new(options: &ConnectOptions) -> Self {
        Self::able_to(&["something-new", "describe-file", "zstd"], options).await
    }

    async fn able_to(capabilities: &[&str], options: &ConnectOptions) -> Self {
        let (served, address, server) = serve(vec!["docs"], capabilities).await;
        let location = RemoteSyncd::connect(&format!("http://{address}"), None, options).await.unwrap();
        Self { served, address, location: Arc::new(location), server }
    }
}

impl Stage for Host {
    fn location(&self) -> Arc<dyn Location> {
        Arc::clone(&self.location) as _
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        self.served.share.write(path, bytes);
    }

    fn remove(&self, path: &str) {
        self.served.share.remove(path);
    }

    fn rename(&self, from: &str, to: &str) {
        self.served.share.rename(from, to);
    }
}

conformance_tests!(Host::new(&options()).await);

impl Host {
    /// One file, whichever way.
    async fn fetch(&self, path: &str, way: Way) -> Result<Bytes, LocationError> {
        let node = self.served.share.node(path).unwrap();
        let sync_core::Content::File { digest, .. } = node.entry.content else { panic!("{path} is a file") };
        match way {
            Way::Whole => whole(self.location.fetch_file(node.id, &digest, 0).await?).await,
            Way::Ranges => whole(self.location.fetch_ranges(node.id, &digest, vec![(10, 4000)]).await?).await,
            Way::Packed => {
                let (wants, receiver) = mpsc::channel(1);
                wants.send(Want { number: 1, node: node.id, digest }).await.unwrap();
                drop(wants);
                let mut answers = self.location.fetch_packed(receiver).await?;
                let answer = answers.next().await.expect("it is answered")?.remove(0);
                assert!(answers.next().await.is_none());
                Ok(answer.result.expect("it is there"))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Whole,
    Ranges,
    Packed,
}

async fn whole(mut stream: Box<dyn ByteStream>) -> Result<Bytes, LocationError> {
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes.into())
}

/// What gets a quarter of its size at most.
fn text() -> Vec<u8> {
    (0..2000).flat_map(|number: u32| format!("line {number} of a text\n").into_bytes()).collect()
}

#[tokio::test]
async fn bytes_come_compressed_if_both_sides_can_do_it_and_want_it() {
    for (compression, capability, compressed) in [
        (Compression::Auto, "zstd", true),
        (Compression::On, "zstd", true),
        (Compression::Off, "zstd", false),
        (Compression::On, "something-else", false),
    ] {
        let options = ConnectOptions { compression, ..options() };
        let host = Host::able_to(&["describe-file", capability], &options).await;
        host.write("a", &text());
        for (way, want) in
            [(Way::Whole, &text()[..]), (Way::Packed, &text()), (Way::Ranges, &text()[10..4010])]
        {
            let before = (host.location.bytes_received(), host.served.compressed.load(Ordering::Relaxed));
            assert_eq!(host.fetch("a", way).await.unwrap(), want, "{compression:?} {way:?}");
            let came = host.location.bytes_received() - before.0;
            let messages = host.served.compressed.load(Ordering::Relaxed) - before.1;
            assert_eq!(messages > 0, compressed, "{compression:?} {capability} {way:?}");
            assert_eq!(came < want.len() as u64 / 2, compressed, "{came} bytes {compression:?} {way:?}");
        }
    }
}

#[tokio::test]
async fn frames_that_break_the_contract_end_the_stream() {
    let host = Host::new(&options()).await;
    host.write("a", &text());
    let good = sync_wire::Compressor::default().compress(&text()).unwrap();
    let other = sync_wire::Compressor::default().compress(&text().repeat(2)).unwrap();
    for (what, frame) in [
        ("a bomb", v1::Compressed { size: u32::MAX, ..good.clone() }),
        ("a size that is not true", v1::Compressed { size: good.size + 1, ..good.clone() }),
        ("half of it", v1::Compressed { frame: good.frame.slice(..good.frame.len() / 2), ..good.clone() }),
        ("more than the file has", other),
        ("nothing", v1::Compressed::default()),
    ] {
        *host.served.frame.lock().unwrap() = Some(frame);
        for way in [Way::Whole, Way::Packed] {
            let end = host.fetch("a", way).await;
            assert!(matches!(end, Err(LocationError::Protocol { .. })), "{what} {way:?}: {end:?}");
        }
        // The connection is as good as before.
        *host.served.frame.lock().unwrap() = None;
        assert_eq!(host.fetch("a", Way::Whole).await.unwrap(), text());
    }
    // What was not asked for may not come.
    let host = Host::new(&ConnectOptions { compression: Compression::Off, ..options() }).await;
    host.write("a", &text());
    *host.served.frame.lock().unwrap() = Some(good);
    for way in [Way::Whole, Way::Packed] {
        let end = host.fetch("a", way).await;
        assert!(matches!(end, Err(LocationError::Protocol { .. })), "{way:?}: {end:?}");
    }
}

#[tokio::test]
async fn the_share_is_found_by_name_or_alone() {
    let host = Host::new(&options()).await;
    let remote = &host.location;
    assert_eq!(
        (remote.share(), remote.version(), remote.share_id()),
        ("docs", "test", host.served.share.share_id())
    );
    assert_eq!(remote.describe(), format!("docs at {}", host.address));
    assert!(remote.bytes_received() > 0);

    let (_served, address, _server) = serve(vec!["docs", "music"], &[]).await;
    let url = format!("http://{address}");
    assert_eq!(RemoteSyncd::connect(&url, Some("docs"), &options()).await.unwrap().share(), "docs");
    let none = RemoteSyncd::connect(&url, None, &options()).await.unwrap_err();
    assert_eq!(none.to_string(), "No share is named, and there are: docs, music");
    let unknown = RemoteSyncd::connect(&url, Some("dosc"), &options()).await.unwrap_err();
    assert_eq!(unknown.to_string(), "There is no share \"dosc\" there; there are: docs, music");
    // A share that is gone when its feed is asked for.
    let music = RemoteSyncd::connect(&url, Some("music"), &options()).await.unwrap();
    let gone = music.changes(None, false).await.map(drop).unwrap_err();
    assert_eq!(gone.to_string(), "There is no share \"music\" there; there is: docs");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = RemoteSyncd::connect(&format!("http://{address}"), None, &options()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("Cannot reach syncd at {address}"));
    let LocationError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().starts_with("Connection refused"), "{source}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn something_else_there_is_not_taken_for_a_daemon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
            held.push(stream);
        }
    });
    let error = RemoteSyncd::connect(&url, None, &options()).await.unwrap_err();
    let LocationError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "what answers there does not speak gRPC");
}

#[tokio::test]
async fn a_silent_listener_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let quick = ConnectOptions { connect_timeout: Duration::from_millis(80), ..options() };
    let error = RemoteSyncd::connect(&url, None, &quick).await.unwrap_err();
    let LocationError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "it did not answer within 0.1 s");
}

#[tokio::test]
async fn a_connection_that_says_nothing_any_more_is_noticed() {
    let quick = ConnectOptions { idle_timeout: Duration::from_millis(300), ..options() };
    let host = Host::new(&quick).await;
    host.write("a", b"text");
    let mut feed = host.location.changes(None, true).await.unwrap();
    while !matches!(feed.next().await.unwrap().unwrap(), sync_core::FeedEvent::Commit(_)) {}
    // Signs of life keep it for longer than the timeout.
    let began = std::time::Instant::now();
    while began.elapsed() < quick.idle_timeout * 2 {
        assert!(feed.next().await.unwrap().is_ok());
    }
    let (wants, receiver) = mpsc::channel(1);
    let mut answers = host.location.fetch_packed(receiver).await.unwrap();
    // Nothing is owed yet, so nothing is missed.
    assert!(tokio::time::timeout(quick.idle_timeout * 2, answers.next()).await.is_err());
    host.served.mute.store(true, Ordering::Relaxed);
    let node = host.served.share.node("a").unwrap();
    wants.send(Want { number: 1, node: node.id, digest: Digest::of(b"text") }).await.unwrap();
    assert!(matches!(answers.next().await, Some(Err(LocationError::Silent { .. }))));
    assert!(answers.next().await.is_none());
    loop {
        match feed.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, LocationError::Silent { .. }), "{error:?}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_broken_connection_is_told_as_one() {
    let mut host = Host::new(&options()).await;
    let mut feed = host.location.changes(None, true).await.unwrap();
    assert!(feed.next().await.unwrap().is_ok());
    // Ends the streams in the middle, as a daemon that is killed does.
    host.server.abort_all();
    host.served.tasks.lock().unwrap().abort_all();
    let end = loop {
        match feed.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    // The small server's streams end in order when their task does; its connections then refuse what is new.
    assert!(end.is_none_or(|end| end.unwrap_err().is_transient()));
    let error = host.location.fetch_file(NodeId(1), &Digest::of(b""), 0).await.map(drop).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn answers_that_break_the_contract_end_the_stream() {
    let host = Host::new(&options()).await;
    host.write("a", b"text");
    host.served.share.set_unreadable("a", Some("no permission"));
    let node = host.served.share.node("a").unwrap();
    let (wants, receiver) = mpsc::channel(1);
    wants.send(Want { number: 9, node: node.id, digest: Digest::of(b"text") }).await.unwrap();
    drop(wants);
    let mut answers = host.location.fetch_packed(receiver).await.unwrap();
    let answer = answers.next().await.unwrap().unwrap().remove(0);
    assert_eq!(answer.number, 9);
    assert!(matches!(answer.result, Err(FetchFailure::Unreadable(_))), "{answer:?}");

    // A stream that ends with something owed.
    host.served.share.cut_fetch_after(0);
    let (wants, receiver) = mpsc::channel(1);
    wants.send(Want { number: 1, node: node.id, digest: Digest::of(b"text") }).await.unwrap();
    let mut answers = host.location.fetch_packed(receiver).await.unwrap();
    assert!(matches!(answers.next().await, Some(Err(LocationError::Cut { .. }))));
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn an_old_server_is_not_asked_for_what_it_cannot_do() {
    let host = Host::able_to(&[], &options()).await;
    host.write("a", &[7; 2 << 20]);
    let (node, digest) = (host.served.share.node("a").unwrap().id, Digest::of(&[7; 2 << 20]));
    assert_eq!(host.location.describe_file(node, &digest, None).await.unwrap(), None);
    let refused = host.location.fetch_ranges(node, &digest, vec![(0, 1)]).await.map(drop);
    assert!(matches!(refused, Err(LocationError::Refused { .. })), "{refused:?}");
    assert!(host.served.share.fetched().is_empty());
}

#[tokio::test]
async fn descriptions_that_break_the_contract_are_refused() {
    let host = Host::new(&options()).await;
    let header = |size| Description::Header(sync_wire::description_header(size));
    let batch = |sizes: &[u32], hash_bytes: usize| {
        Description::Chunks(v1::ChunkBatch {
            sizes: sizes.to_vec(),
            hashes: vec![1; hash_bytes].into(),
            known: Vec::new(),
        })
    };
    let endless = std::iter::once(header(24 << 30))
        .chain(std::iter::repeat_n(batch(&[4096; 32_768], 32_768 * 16), 100))
        .collect();
    for (what, script) in [
        ("nothing at all", vec![]),
        ("no header", vec![batch(&[5000], 16)]),
        ("two headers", vec![header(5000), header(5000), batch(&[5000], 16)]),
        ("too little", vec![header(5001), batch(&[5000], 16)]),
        ("too much", vec![header(4999), batch(&[5000], 16)]),
        ("an empty chunk", vec![header(5000), batch(&[0, 5000], 32)]),
        ("a small chunk in the middle", vec![header(5000), batch(&[100, 4900], 32)]),
        ("hashes of the wrong length", vec![header(5000), batch(&[5000], 15)]),
        ("too large a file", vec![header(u64::MAX)]),
        ("too many chunks", endless),
    ] {
        *host.served.script.lock().unwrap() = Some(script);
        let end = host.location.describe_file(NodeId(1), &Digest::of(b""), None).await;
        assert!(matches!(end, Err(LocationError::Protocol { .. })), "{what}: {end:?}");
    }
    let unknown = v1::DescriptionHeader { algorithm: "fastcdc-v2030".into(), size: 7 };
    *host.served.script.lock().unwrap() = Some(vec![Description::Header(unknown), batch(&[1], 3)]);
    assert_eq!(host.location.describe_file(NodeId(1), &Digest::of(b""), None).await.unwrap(), None);
}

#[tokio::test]
async fn other_parts_than_were_asked_for_are_refused() {
    let host = Host::new(&options()).await;
    host.write("a", b"some text");
    let node = host.served.share.node("a").unwrap().id;
    let request = host.location.request_for(node, &Digest::of(b"some text"));
    // As from a server that ignores the ranges, and sends all of the file.
    let mut stream = host.location.file_bytes(request).await.unwrap().of_length(3);
    assert!(matches!(stream.next().await, Some(Err(LocationError::Protocol { .. }))));
    assert!(stream.next().await.is_none());
}

#[test]
fn a_window_is_no_larger_than_a_line_of_eight_gigabits_can_use() {
    let all = Windows::default();
    let small = Windows { stream: 1 << 20, connection: 2 << 20, frame: 1 << 14 };
    let mib =
        |stream: u32, connection: u32| Windows { stream: stream << 20, connection: connection << 20, ..all };
    for (windows, round_trip, within) in [
        (all, Duration::ZERO, mib(8, 16)),
        (all, Duration::from_micros(100), mib(8, 16)),
        (all, Duration::from_micros(3_906), mib(8, 16)),
        (all, Duration::from_nanos(7_812_500), mib(16, 24)),
        (all, Duration::from_millis(12), all),
        (all, Duration::from_millis(100), all),
        (all, Duration::from_secs(1 << 40), all),
        (small, Duration::ZERO, small),
        (small, Duration::from_secs(1), small),
        (mib(24, 20), Duration::ZERO, mib(8, 8)),
        (mib(24, 1), Duration::ZERO, mib(8, 1)),
    ] {
        assert_eq!(windows.within(round_trip), within, "{windows:?} over {round_trip:?}");
    }
}

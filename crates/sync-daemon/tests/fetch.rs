//! `FetchFile` and `FetchFiles`, seen from a client.

mod common;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use common::{DEADLINE, Daemon, all, by_path, fetch, nodes_of, serve, serve_with, watch};
use sync_core::Digest;
use sync_testkit::{eventually, tree::Tree};
use sync_wire::{
    Decompressor,
    v1::{
        ByteRange, Compression, FetchErrorReason, FetchFileRequest, FetchFilesRequest, FetchFilesResponse,
        ListSharesRequest, Node, Want, fetch_file_request::File, fetch_file_response::Part,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

async fn nodes_by_name(daemon: &mut Daemon) -> HashMap<String, Node> {
    let events = all(&mut daemon.client, watch(false)).await.expect("the share is watched");
    nodes_of(&events).into_iter().map(|node| (node.name.clone(), node)).collect()
}

fn message(share: &str, wants: Vec<Want>) -> FetchFilesRequest {
    FetchFilesRequest { share: share.to_owned(), wants, ..FetchFilesRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_by_id_by_path_and_in_parts() {
    let mut daemon = serve(|tree| {
        tree.bytes("sub/big", 3_000_001, 7);
        tree.file("empty", "");
    })
    .await;
    let contents = daemon.tree.read("sub/big");
    let (header, data) = fetch(&mut daemon.client, by_path("sub/big")).await.unwrap();
    assert!(data == contents && header.length == 3_000_001);
    let node = header.node.unwrap();
    assert_eq!((node.name.as_str(), node.path.as_str(), node.size), ("big", "sub/big", 3_000_001));

    let by_id = FetchFileRequest {
        file: Some(File::NodeId(node.id)),
        digest: node.digest,
        offset: 1_000_000,
        length: 1_500_000,
        ..by_path("")
    };
    let (header, data) = fetch(&mut daemon.client, by_id.clone()).await.unwrap();
    assert!(header.length == 1_500_000 && data == contents[1_000_000..2_500_000]);
    let rest = FetchFileRequest { offset: 2_999_999, length: u64::MAX, ..by_id.clone() };
    assert_eq!(fetch(&mut daemon.client, rest).await.unwrap().1, contents[2_999_999..]);
    let none = FetchFileRequest { offset: 3_000_001, ..by_id };
    assert_eq!(fetch(&mut daemon.client, none).await.unwrap().1, b"");
    assert_eq!(fetch(&mut daemon.client, by_path("empty")).await.unwrap().1, b"");
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_whole_if_parts_of_it_are_in_memory_and_others_on_the_disk() {
    // Only what is vouched for is sent from memory, and that is what was left alone for a while before it was looked at.
    let left_alone = |tree: &Tree| {
        tree.bytes("big", 5_000_001, 7);
        let written = Instant::now();
        eventually(DEADLINE, || match written.elapsed() {
            age if age > Duration::from_millis(300) => Ok(()),
            age => Err(format!("it is {age:?} old")),
        });
    };
    let mut daemon = serve(left_alone).await;
    let contents = daemon.tree.read("big");
    let page = 4096;
    for (step, len) in [(0, 5_000_001), (16 * page, 8 * page), (3 * page, page), (200 * page, 100 * page)] {
        let parts = (0..).map(|turn| (turn * step, len)).take_while(|(at, _)| *at < 5_000_001);
        daemon.tree.forget("big", parts.take(if step == 0 { 1 } else { usize::MAX }));
        let ranges = [(1, 999_999), (2_000_000, 1), (2_500_000, 2_000_000)];
        let range = |(offset, length)| ByteRange { offset, length };
        let parts = FetchFileRequest { ranges: ranges.map(range).to_vec(), ..by_path("big") };
        let (_, data) = fetch(&mut daemon.client, parts).await.unwrap();
        let wanted: Vec<u8> = ranges
            .iter()
            .flat_map(|(at, len)| &contents[*at as usize..(at + len) as usize])
            .copied()
            .collect();
        assert!(data == wanted, "parts, every {step} bytes {len} were not in memory");
        let (_, data) = fetch(&mut daemon.client, by_path("big")).await.unwrap();
        assert!(data == contents, "every {step} bytes {len} were not in memory");
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_told_by_its_code() {
    let mut daemon = serve(|tree| drop(tree.file("dir/a", "abc"))).await;
    let other = |request: FetchFileRequest| FetchFileRequest { digest: vec![1; 32], ..request };
    for (request, code) in [
        (FetchFileRequest { share: "x".into(), ..by_path("dir/a") }, Code::NotFound),
        (by_path("dir/missing"), Code::NotFound),
        (by_path("../etc/passwd"), Code::InvalidArgument),
        (by_path(".syncd/share.db"), Code::InvalidArgument),
        (by_path("dir"), Code::InvalidArgument),
        (FetchFileRequest { file: None, ..by_path("") }, Code::InvalidArgument),
        (FetchFileRequest { file: Some(File::NodeId(u64::MAX)), ..by_path("") }, Code::NotFound),
        (FetchFileRequest { digest: vec![1; 31], ..by_path("dir/a") }, Code::InvalidArgument),
        (FetchFileRequest { offset: 4, ..by_path("dir/a") }, Code::InvalidArgument),
        (FetchFileRequest { offset: u64::MAX, length: 2, ..by_path("dir/a") }, Code::InvalidArgument),
        (other(by_path("dir/a")), Code::FailedPrecondition),
    ] {
        let status = fetch(&mut daemon.client, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{request:?}: {status}");
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_never_served_torn() {
    let mut daemon = serve(|tree| drop(tree.bytes("f", 8 << 20, 1))).await;
    let node = nodes_by_name(&mut daemon).await.remove("f").unwrap();
    let request = FetchFileRequest { file: Some(File::NodeId(node.id)), digest: node.digest, ..by_path("") };
    let digest = Digest::from_slice(&request.digest).unwrap();
    for seed in 2..10 {
        // The same size and time; written over in place while it is being read, or before it is opened.
        let fetching = tokio::spawn({
            let (mut client, request) = (daemon.client.clone(), request.clone());
            async move { fetch(&mut client, request).await }
        });
        daemon.tree.rewrite_quietly("f", seed);
        match fetching.await.unwrap() {
            // It was faster than the rewriting; only the first can be.
            Ok((_, data)) => assert!(Digest::of(&data) == digest && seed == 2, "torn in rewrite {seed}"),
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "rewrite {seed}: {status}"),
        }
    }
    daemon.app.stop().await;
}

/// What each want is answered with, by its number, until the stream ends.
async fn outcomes(
    answers: &mut Streaming<FetchFilesResponse>,
) -> HashMap<u64, Result<Vec<u8>, FetchErrorReason>> {
    let mut seen = HashMap::new();
    while let Some(message) =
        timeout(DEADLINE, answers.message()).await.expect("it comes in time").expect("the stream goes on")
    {
        let mut payload = message.payload.as_ref();
        for file in message.files {
            let (bytes, rest) = payload.split_at(usize::try_from(file.size).expect("it is small"));
            payload = rest;
            let outcome = file.error.map_or(Ok(bytes.to_vec()), |error| Err(error.reason()));
            assert!(seen.insert(file.number, outcome).is_none(), "{} is answered twice", file.number);
        }
        assert!(payload.is_empty());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_wants_are_answered_each_by_its_number() {
    let mut daemon = serve_with(
        |tree| {
            for i in 0..1800 {
                tree.file(format!("d{}/f{i}", i % 7), "x".repeat(i));
            }
            tree.bytes("large", 200_000, 3);
        },
        |settings| settings.limits.max_wants_in_flight = 100,
    )
    .await;
    let nodes = nodes_by_name(&mut daemon).await;
    let want_of = |number: u64, node: &Node| Want { number, node_id: node.id, digest: node.digest.clone() };
    let mut wants: Vec<Want> = (0..1800).map(|i| want_of(i, &nodes[&format!("f{i}")])).collect();
    wants.extend((1800..1900).map(|number| Want { node_id: 1 << 60, ..want_of(number, &nodes["f1"]) }));
    wants.extend((1900..1999).map(|number| Want { digest: vec![9; 32], ..want_of(number, &nodes["f1"]) }));
    wants.push(want_of(1999, &nodes["large"]));

    let (sender, requests) = mpsc::channel(1);
    let mut answers = daemon.client.fetch_files(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let sending = tokio::spawn(async move {
        for (i, wants) in wants.chunks(70).enumerate() {
            let share = if i == 0 { "docs".to_owned() } else { String::new() };
            sender.send(message(&share, wants.to_vec())).await.unwrap();
        }
    });
    let seen = outcomes(&mut answers).await;
    sending.await.unwrap();
    assert_eq!(seen.len(), 2000);
    for (number, outcome) in seen {
        match number {
            0..1800 => assert_eq!(outcome.unwrap(), vec![b'x'; usize::try_from(number).unwrap()]),
            1800..1999 => assert_eq!(outcome, Err(FetchErrorReason::Changed), "{number}"),
            _ => assert_eq!(outcome, Err(FetchErrorReason::TooLarge)),
        }
    }
    daemon.app.stop().await;
}

/// Files of all sizes, in runs of ids and across them, so that messages are full in the middle of what was taken for them.
#[tokio::test(flavor = "multi_thread")]
async fn wants_in_any_order_are_answered_each_once() {
    let size_of = |i: usize| if i.is_multiple_of(50) { 60_000 } else { 3 * i };
    let mut daemon = serve(|tree| {
        for i in 0..1500 {
            tree.file(format!("d{}/f{i}", i / 100), "x".repeat(size_of(i)));
        }
    })
    .await;
    let nodes = nodes_by_name(&mut daemon).await;
    let mut files: Vec<(u64, usize)> = (0..1500).map(|i| (nodes[&format!("f{i}")].id, size_of(i))).collect();
    files.sort_unstable();
    let digests: HashMap<u64, _> = nodes.values().map(|node| (node.id, node.digest.clone())).collect();
    let ascending = files.iter().copied();
    let order = ascending.clone().chain(ascending.clone().rev()).chain(ascending.step_by(9));
    let (mut wants, mut sizes) = (Vec::new(), Vec::new());
    for (at, (node_id, size)) in order.enumerate() {
        let digest = digests[&node_id].clone();
        // Neither the root nor an id that was never issued is a file.
        let absent = [None, Some(0), Some(u64::MAX), Some(1 << 60)][if at % 40 < 4 { at % 40 } else { 0 }];
        let number = at as u64;
        wants.push(Want { number, node_id: absent.unwrap_or(node_id), digest });
        sizes.push(if absent.is_none() { Some(size) } else { None });
    }
    let requests: Vec<_> = wants.chunks(400).map(|wants| message("docs", wants.to_vec())).collect();
    let mut answers = daemon.client.fetch_files(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = outcomes(&mut answers).await;
    for (at, size) in sizes.into_iter().enumerate() {
        let size_or_reason = seen.remove(&(at as u64)).expect("it is answered").map(|bytes| bytes.len());
        assert_eq!(size_or_reason, size.ok_or(FetchErrorReason::Changed), "{at}");
    }
    assert!(seen.is_empty());
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_want_is_answered_while_the_stream_stays_open() {
    let mut daemon = serve(|tree| drop(tree.file("a", "abc"))).await;
    let node = nodes_by_name(&mut daemon).await.remove("a").unwrap();
    let (sender, requests) = mpsc::channel(1);
    let mut answers = daemon.client.fetch_files(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for number in 0..3 {
        let share = if number == 0 { "docs".to_owned() } else { String::new() };
        let want = Want { number, node_id: node.id, digest: node.digest.clone() };
        sender.send(message(&share, vec![want])).await.unwrap();
        let answer = timeout(DEADLINE, answers.message()).await.unwrap().unwrap().unwrap();
        assert_eq!((answer.files[0].number, answer.payload.as_ref()), (number, b"abc".as_slice()));
    }
    drop(sender);
    assert!(timeout(DEADLINE, answers.message()).await.unwrap().unwrap().is_none());
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_wants_end_the_stream() {
    let mut daemon = serve(|tree| drop(tree.file("a", "abc"))).await;
    let want = |digest: &[u8]| Want { number: 1, node_id: 1, digest: digest.to_vec() };
    let message = |share: &str, want: Want| message(share, vec![want]);
    for (requests, code) in [
        (vec![message("nothing", want(&[0; 32]))], Code::NotFound),
        (vec![message("docs", want(&[0; 3]))], Code::InvalidArgument),
        (vec![message("docs", want(&[0; 32])), message("other", want(&[0; 32]))], Code::InvalidArgument),
    ] {
        let mut answers = daemon.client.fetch_files(tokio_stream::iter(requests)).await.unwrap().into_inner();
        let ended = timeout(DEADLINE, async {
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ends with an error"),
                    Err(status) => return status,
                }
            }
        });
        assert_eq!(ended.await.unwrap().code(), code);
    }
    daemon.app.stop().await;
}

/// The bytes of all files, and how many bytes they were on the wire: packed first, then each on its own.
async fn fetch_both_ways(
    daemon: &mut Daemon,
    nodes: &HashMap<String, Node>,
    compression: Compression,
) -> [(Vec<u8>, u64); 2] {
    let mut names: Vec<_> = nodes.keys().collect();
    names.sort();
    let want = |(number, name): (usize, &&String)| Want {
        number: number as u64,
        node_id: nodes[*name].id,
        digest: nodes[*name].digest.clone(),
    };
    let wants = names.iter().enumerate().map(want).collect();
    let request = FetchFilesRequest { compression: compression.into(), ..message("docs", wants) };
    let mut answers =
        daemon.client.fetch_files(tokio_stream::iter([request])).await.expect("it is answered").into_inner();
    let (mut files, mut packed_wire) = (vec![Vec::new(); names.len()], 0);
    while let Some(message) =
        timeout(DEADLINE, answers.message()).await.expect("it comes in time").expect("the stream goes on")
    {
        packed_wire += sync_wire::wire_bytes(&message);
        let payload = match message.compressed {
            Some(compressed) => Decompressor::default().decompress(&compressed).expect("it is a frame"),
            None => message.payload,
        };
        let mut payload = payload.as_ref();
        for file in message.files {
            let (bytes, rest) = payload.split_at(usize::try_from(file.size).expect("it is small"));
            payload = rest;
            files[usize::try_from(file.number).expect("it is small")].extend_from_slice(bytes);
        }
    }
    let (mut alone, mut alone_wire) = (Vec::new(), 0);
    for name in names {
        let file = Some(File::NodeId(nodes[name].id));
        let request = FetchFileRequest { file, compression: compression.into(), ..by_path("") };
        let mut parts = daemon.client.fetch_file(request).await.expect("it is answered").into_inner();
        while let Some(message) =
            timeout(DEADLINE, parts.message()).await.expect("it comes in time").expect("the stream goes on")
        {
            alone_wire += sync_wire::wire_bytes(&message);
            match message.part.expect("every message has a part") {
                Part::Header(header) => assert_eq!(header.length, nodes[name].size),
                Part::Data(bytes) => alone.extend_from_slice(&bytes),
                Part::Compressed(frame) => {
                    alone.extend_from_slice(
                        &Decompressor::default().decompress(&frame).expect("it is a frame"),
                    );
                }
            }
        }
    }
    [(files.concat(), packed_wire), (alone, alone_wire)]
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_compressed_if_that_is_asked_for_and_allowed() {
    for allowed in [true, false] {
        let mut daemon = serve_with(
            |tree| {
                for i in 0..40 {
                    tree.file(format!("f{i:02}"), format!("{i} is the number of a line\n").repeat(2500));
                }
            },
            |settings| settings.network.compression = allowed,
        )
        .await;
        let listed = daemon.client.list_shares(ListSharesRequest {}).await.unwrap().into_inner();
        assert_eq!(listed.capabilities.iter().any(|name| name == "zstd"), allowed);
        let nodes = nodes_by_name(&mut daemon).await;
        let contents: Vec<u8> = (0..40).flat_map(|i| daemon.tree.read(format!("f{i:02}"))).collect();
        for (compression, compressed) in [
            (Compression::Unspecified, false),
            // The line is a fast one.
            (Compression::Auto, false),
            (Compression::Always, allowed),
        ] {
            for (bytes, wire) in fetch_both_ways(&mut daemon, &nodes, compression).await {
                assert!(bytes == contents, "{compression:?}");
                let few = wire < contents.len() as u64 / 4;
                assert_eq!(few, compressed, "{wire} bytes, {compression:?}, allowed: {allowed}");
            }
        }
        daemon.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compress_comes_as_it_is() {
    let mut daemon = serve(|tree| {
        for i in 0..20 {
            tree.bytes(format!("f{i:02}"), 100_000, i);
        }
    })
    .await;
    let nodes = nodes_by_name(&mut daemon).await;
    let plain = fetch_both_ways(&mut daemon, &nodes, Compression::Unspecified).await;
    let asked = fetch_both_ways(&mut daemon, &nodes, Compression::Always).await;
    for ((plain, plain_wire), (asked, asked_wire)) in plain.into_iter().zip(asked) {
        assert!(plain == asked);
        // The packs may be cut in other places.
        assert!(asked_wire <= plain_wire + 1000, "{asked_wire} instead of {plain_wire} bytes");
    }
    daemon.app.stop().await;
}

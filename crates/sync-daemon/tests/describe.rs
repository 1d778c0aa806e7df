//! `DescribeFile`, and `FetchFile` with ranges, seen from a client.

mod common;

use common::{Client, DEADLINE, Daemon, all, by_path, fetch, nodes_of, serve, serve_with, watch};
use sync_core::{Chunk, Digest};
use sync_tree::chunks::chunk_bytes;
use sync_wire::{
    DescriptionReader, MAX_RANGES, ranges_to_wire,
    v1::{
        DescribeFileRequest, DescriptionHeader, FetchFileRequest, ListSharesRequest, Node,
        describe_file_response::Part, fetch_file_request::File,
    },
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};

async fn node_of(daemon: &mut Daemon, name: &str) -> Node {
    let events = all(&mut daemon.client, watch(false)).await.expect("the share is watched");
    // What changed meanwhile comes after the whole tree.
    nodes_of(&events).into_iter().rfind(|node| node.name == name).expect("it is there")
}

fn description_of(node: &Node) -> DescribeFileRequest {
    DescribeFileRequest {
        share: "docs".to_owned(),
        node_id: node.id,
        digest: node.digest.clone(),
        ..DescribeFileRequest::default()
    }
}

fn ranges_of(node: &Node, ranges: &[(u64, u64)]) -> FetchFileRequest {
    FetchFileRequest {
        file: Some(File::NodeId(node.id)),
        digest: node.digest.clone(),
        ranges: ranges_to_wire(ranges),
        ..by_path("")
    }
}

/// A whole answer of `DescribeFile`.
async fn describe(
    client: &mut Client,
    request: DescribeFileRequest,
) -> Result<(DescriptionHeader, Option<Vec<Chunk>>), Status> {
    let (header, chunks, _) = describe_knowing(client, request, &[]).await?;
    Ok((header, chunks))
}

/// The same, to a client that knows these chunks, and how many were sent.
async fn describe_knowing(
    client: &mut Client,
    request: DescribeFileRequest,
    known: &[Chunk],
) -> Result<(DescriptionHeader, Option<Vec<Chunk>>, usize), Status> {
    let mut sent = 0;
    let mut stream = client.describe_file(request).await?.into_inner();
    let mut begun = None;
    while let Some(message) = timeout(DEADLINE, stream.message()).await.expect("it goes on in time")? {
        match (message.part.expect("every message has a part"), &mut begun) {
            (Part::Heartbeat(_), _) => {}
            (Part::Header(header), None) => {
                let reader = DescriptionReader::new(&header, known.into()).expect("a good header");
                begun = Some((header, reader));
            }
            (Part::Chunks(batch), Some((_, Some(reader)))) => {
                sent += batch.sizes.len();
                reader.take(&batch).expect("good chunks");
            }
            (part, _) => panic!("in the wrong order: {part:?}"),
        }
    }
    let (header, reader) = begun.expect("there is a header");
    Ok((header, reader.map(|reader| reader.finish().expect("the whole file")), sent))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_described_and_a_small_one_is_not() {
    let mut daemon = serve(|tree| {
        tree.bytes("large", 5_000_001, 7);
        tree.bytes("small", (1 << 20) - 1, 8);
    })
    .await;
    let listed = daemon.client.list_shares(ListSharesRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.capabilities, ["describe-file", "zstd"]);
    let want = chunk_bytes(&daemon.tree.read("large"));
    let large = node_of(&mut daemon, "large").await;
    // The second time it is known.
    for _ in 0..2 {
        let (header, chunks) = describe(&mut daemon.client, description_of(&large)).await.unwrap();
        assert_eq!((header.algorithm.as_str(), header.size), ("fastcdc-v2020-4k-8k-64k-n0", 5_000_001));
        assert_eq!(chunks.unwrap(), want);
    }
    let small = node_of(&mut daemon, "small").await;
    let (header, chunks) = describe(&mut daemon.client, description_of(&small)).await.unwrap();
    assert_eq!((header.algorithm.as_str(), header.size, chunks), ("", (1 << 20) - 1, None));
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_version_that_both_know_are_not_sent_again() {
    let mut daemon = serve(|tree| drop(tree.bytes("large", 5_000_001, 7))).await;
    let before = node_of(&mut daemon, "large").await;
    let known = describe(&mut daemon.client, description_of(&before)).await.unwrap().1.unwrap();
    let contents = [b"x", daemon.tree.read("large").as_slice()].concat();
    daemon.tree.file("large", &contents);
    let after = node_of(&mut daemon, "large").await;
    let want = chunk_bytes(&contents);
    let request = description_of(&after);
    for (digest, knows, most) in
        [(before.digest, true, 10), (vec![1; 32], true, want.len()), (Vec::new(), false, want.len())]
    {
        let request = DescribeFileRequest { known_digest: digest, ..request.clone() };
        let known = if knows { known.as_slice() } else { &[] };
        let (_, chunks, sent) = describe_knowing(&mut daemon.client, request, known).await.unwrap();
        assert_eq!(chunks.unwrap(), want);
        assert!(sent <= most && (most == 10 || sent == most), "{sent} of {}", want.len());
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_ask_for_the_same_description_and_some_may_leave() {
    let mut daemon = serve(|tree| drop(tree.bytes("large", 20 << 20, 7))).await;
    let want = chunk_bytes(&daemon.tree.read("large"));
    let request = description_of(&node_of(&mut daemon, "large").await);
    let mut asking = JoinSet::new();
    for number in 0..20 {
        let (mut client, request) = (daemon.client.clone(), request.clone());
        asking.spawn(async move {
            if number % 2 == 0 {
                drop(client.describe_file(request).await.unwrap());
                return None;
            }
            describe(&mut client, request).await.unwrap().1
        });
    }
    let answers = timeout(DEADLINE, asking.join_all()).await.unwrap();
    assert_eq!(answers.iter().flatten().count(), 10);
    assert!(answers.into_iter().flatten().all(|chunks| chunks == want));
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_come_while_a_file_is_read() {
    let mut daemon = serve_with(
        |tree| drop(tree.bytes("large", 64 << 20, 7)),
        |settings| settings.network.heartbeat = "1ms".parse().unwrap(),
    )
    .await;
    let request = description_of(&node_of(&mut daemon, "large").await);
    let mut stream = daemon.client.describe_file(request).await.unwrap().into_inner();
    let first = timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first.part, Some(Part::Heartbeat(_))), "{first:?}");
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_described_is_told_by_its_code() {
    let mut daemon = serve(|tree| {
        tree.file("dir/a", "abc");
        tree.bytes("large", 2 << 20, 7);
    })
    .await;
    let large = description_of(&node_of(&mut daemon, "large").await);
    let dir = node_of(&mut daemon, "dir").await;
    for (request, code) in [
        (DescribeFileRequest { share: "x".to_owned(), ..large.clone() }, Code::NotFound),
        (DescribeFileRequest { node_id: u64::MAX, ..large.clone() }, Code::NotFound),
        (DescribeFileRequest { node_id: dir.id, ..large.clone() }, Code::InvalidArgument),
        (DescribeFileRequest { digest: vec![1; 31], ..large.clone() }, Code::InvalidArgument),
        (DescribeFileRequest { digest: Vec::new(), ..large.clone() }, Code::InvalidArgument),
        (DescribeFileRequest { digest: vec![1; 32], ..large.clone() }, Code::FailedPrecondition),
        (DescribeFileRequest { known_digest: vec![1; 31], ..large.clone() }, Code::InvalidArgument),
    ] {
        let status = describe(&mut daemon.client, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{request:?}: {status}");
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_parts_come_in_the_order_in_which_they_are_asked_for() {
    let mut daemon = serve(|tree| drop(tree.bytes("large", 3_000_001, 7))).await;
    let contents = daemon.tree.read("large");
    let node = node_of(&mut daemon, "large").await;
    let many: Vec<_> =
        (0..MAX_RANGES as u64).map(|number| (number * 7919 % 2_999_000, 1 + number % 700)).collect();
    for ranges in [
        &[(0, 3_000_001)][..],
        &[(2_000_000, 600_000), (0, 1), (3_000_000, 1), (1_999_000, 2000), (0, 600_000)],
        &many,
    ] {
        let want: Vec<u8> = ranges
            .iter()
            .flat_map(|&(offset, length)| {
                &contents[usize::try_from(offset).unwrap()..][..usize::try_from(length).unwrap()]
            })
            .copied()
            .collect();
        let (header, data) = fetch(&mut daemon.client, ranges_of(&node, ranges)).await.unwrap();
        assert!(header.length == want.len() as u64 && data == want);
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_ranges_are_refused() {
    let mut daemon = serve(|tree| drop(tree.bytes("f", 1000, 7))).await;
    let node = node_of(&mut daemon, "f").await;
    let good = ranges_of(&node, &[(0, 10)]);
    assert!(fetch(&mut daemon.client, good.clone()).await.is_ok());
    for request in [
        FetchFileRequest { offset: 1, ..good.clone() },
        FetchFileRequest { length: 1, ..good },
        ranges_of(&node, &[(0, 10), (5, 0)]),
        ranges_of(&node, &[(0, 1001)]),
        ranges_of(&node, &[(1000, 1)]),
        ranges_of(&node, &[(u64::MAX, 2)]),
        ranges_of(&node, &[(2, u64::MAX)]),
        ranges_of(&node, &vec![(0, 1); MAX_RANGES + 1]),
    ] {
        let status = fetch(&mut daemon.client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_neither_described_nor_sent_in_parts() {
    let mut daemon = serve(|tree| drop(tree.bytes("f", 8 << 20, 1))).await;
    let node = node_of(&mut daemon, "f").await;
    let parts: Vec<_> = (0..100).map(|number| (number * 80_000, 70_000)).collect();
    let old = daemon.tree.read("f");
    let want: Vec<u8> = parts
        .iter()
        .flat_map(|&(offset, length)| old[usize::try_from(offset).unwrap()..][..length as usize].to_vec())
        .collect();
    for seed in 2..8 {
        let describing = tokio::spawn({
            let (mut client, request) = (daemon.client.clone(), description_of(&node));
            async move { describe(&mut client, request).await }
        });
        let fetching = tokio::spawn({
            let (mut client, request) = (daemon.client.clone(), ranges_of(&node, &parts));
            async move { fetch(&mut client, request).await }
        });
        // The same size and time; written over in place while it is being read, or before it is opened.
        daemon.tree.rewrite_quietly("f", seed);
        match describing.await.unwrap() {
            // It was faster than the rewriting; only the first can be, and then it is known. It is of the digest in any case.
            Ok((_, chunks)) => assert_eq!(chunks.unwrap(), chunk_bytes(&old), "rewrite {seed}"),
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "rewrite {seed}: {status}"),
        }
        match fetching.await.unwrap() {
            Ok((_, data)) => assert!(data == want && seed == 2, "torn in rewrite {seed}"),
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "rewrite {seed}: {status}"),
        }
    }
    assert_ne!(Digest::of(&daemon.tree.read("f")), Digest::of(&old));
    daemon.app.stop().await;
}

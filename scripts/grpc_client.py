#!/usr/bin/env python3
"""A client in another language, as a user would write it from proto/ alone. `scripts/clients.sh` generates the code.

Usage: grpc_client.py HOST:PORT SHARE DIRECTORY
"""

import pathlib
import sys

import grpc
from sync.v1 import sync_pb2 as pb
from sync.v1 import sync_pb2_grpc

DEADLINE_SECONDS = 30


def expect(condition, what):
    """Ends the run if a fact does not hold."""
    if not condition:
        sys.exit(f"grpcio: {what}")


def health(channel):
    """The standard health service, called without its proto file: SERVING is field 1, value 1."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check", lambda _: b"", bytes)
    return check(None, timeout=DEADLINE_SECONDS)


def read_tree(stub, share):
    """Nodes by id, and the last commit point, of the whole share."""
    nodes, commit = {}, None
    for event in stub.WatchChanges(pb.WatchChangesRequest(share=share), timeout=DEADLINE_SECONDS):
        which = event.WhichOneof("event")
        if which == "reset":
            nodes.clear()
        elif which == "nodes":
            for node in event.nodes.nodes:
                if node.gone:
                    nodes.pop(node.id, None)
                else:
                    nodes[node.id] = node
        elif which == "commit":
            commit = event.commit
    return nodes, commit


def path_of(nodes, node):
    """A node's path, put together from its parents."""
    names = [node.name]
    while node.parent_id:
        node = nodes[node.parent_id]
        names.append(node.name)
    return "/".join(reversed(names))


def fetch_one(stub, **request):
    """One file by FetchFile."""
    first, *rest = stub.FetchFile(pb.FetchFileRequest(**request), timeout=DEADLINE_SECONDS)
    expect(first.WhichOneof("part") == "header", "the first message of FetchFile is not the header")
    data = b"".join(part.data for part in rest)
    expect(len(data) == first.header.length, f"{len(data)} bytes came, {first.header.length} were announced")
    return data


def fetch_many(stub, share, files):
    """Many small files by FetchFiles, with wants sent while answers come back. Returns content by want number."""

    def wants(batch=50):
        yield pb.FetchFilesRequest(share=share)
        for at in range(0, len(files), batch):
            numbered = enumerate(files[at : at + batch], start=at)
            yield pb.FetchFilesRequest(wants=[pb.Want(number=i, node_id=n.id, digest=n.digest) for i, n in numbered])

    contents = {}
    for answer in stub.FetchFiles(wants(), timeout=DEADLINE_SECONDS):
        at = 0
        for file in answer.files:
            expect(not file.HasField("error"), f"want {file.number}: {file.error.message}")
            contents[file.number] = answer.payload[at : at + file.size]
            at += file.size
        expect(at == len(answer.payload), "sizes and payload do not match")
    return contents


def refused_want(stub, share, node):
    """The reason with which a want for other bytes than the file has is answered."""
    want = pb.Want(number=7, node_id=node.id, digest=bytes(32))
    (answer,) = stub.FetchFiles(iter([pb.FetchFilesRequest(share=share, wants=[want])]), timeout=DEADLINE_SECONDS)
    (file,) = answer.files
    return file.error.reason


def main():
    address, share, directory = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    with grpc.insecure_channel(address) as channel:
        stub = sync_pb2_grpc.SyncServiceStub(channel)
        expect(health(channel) == b"\x08\x01", "the health service does not say SERVING")
        answer = stub.ListShares(pb.ListSharesRequest(), timeout=DEADLINE_SECONDS)
        expect(share in [s.name for s in answer.shares], f"{share} is not listed")

        nodes, commit = read_tree(stub, share)
        expect(commit is not None and len(commit.root_digest) == 32, "the feed ended without a commit point")
        files = [n for n in nodes.values() if n.kind == pb.NODE_KIND_FILE]
        content = {n.id: (directory / path_of(nodes, n)).read_bytes() for n in files}
        expect(all(len(content[n.id]) == n.size for n in files), "a size is not the one on disk")

        large = max(files, key=lambda n: n.size)
        data = fetch_one(stub, share=share, node_id=large.id, digest=large.digest)
        expect(data == content[large.id], "a file by node id differs")
        data = fetch_one(stub, share=share, path=path_of(nodes, large))
        expect(data == content[large.id], "a file by path differs")
        data = fetch_one(stub, share=share, node_id=large.id, offset=1_000_000, length=300_000)
        expect(data == content[large.id][1_000_000:1_300_000], "a part of a file differs")

        small = [n for n in files if n.size <= answer.limits.max_packed_file_bytes]
        fetched = fetch_many(stub, share, small)
        expect(sorted(fetched) == list(range(len(small))), f"{len(fetched)} of {len(small)} wants were answered")
        expect(all(fetched[i] == content[n.id] for i, n in enumerate(small)), "a packed file differs")
        reason = refused_want(stub, share, small[0])
        expect(reason == pb.FETCH_ERROR_REASON_CHANGED, f"a want for other bytes was answered by {reason}")
    print(f"grpcio: {len(nodes)} nodes, {len(fetched)} files packed, one of {large.size} bytes streamed, all equal")


main()

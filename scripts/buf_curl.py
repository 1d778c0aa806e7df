#!/usr/bin/env python3
"""Drives `buf curl` against a running daemon, without proto files, and compares what comes with the share on disk.

Usage: buf_curl.py BUF URL SHARE DIRECTORY
"""

import base64
import json
import pathlib
import subprocess
import sys

SERVICE = "sync.v1.SyncService"


class Curl:
    """`buf curl` at one address. Reflection tells it the schema."""

    def __init__(self, buf, url):
        self.buf, self.url = buf, url

    def run(self, *arguments, path=""):
        command = [self.buf, "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments, self.url + path]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def list(self, reflection):
        done = self.run("--list-services", "--reflect-protocol", reflection)
        if done.returncode:
            sys.exit(f"listing services by {reflection}: {done.stderr.strip()}")
        return done.stdout.split()

    def call(self, method, request, service=SERVICE):
        """All messages of the answer."""
        done = self.run("--data", json.dumps(request), path=f"/{service}/{method}")
        if done.returncode:
            sys.exit(f"{service}/{method} {request}: {done.stderr.strip()}")
        return list(documents(done.stdout))

    def error(self, method, request):
        """The code of the status that the call must fail with; buf's exit code is 8 times the gRPC code."""
        done = self.run("--data", json.dumps(request), path=f"/{SERVICE}/{method}")
        return done.returncode >> 3


def documents(text):
    """The JSON documents in a text, one after the other."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        value, at = decoder.raw_decode(text, at)
        yield value


def expect(condition, what):
    """Ends the run if a fact does not hold."""
    if not condition:
        sys.exit(f"buf curl: {what}")


def on_disk(directory):
    """Relative path -> kind, of everything that belongs to the share."""
    kinds = {}
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        if relative.parts[0] != ".syncd":
            kind = "SYMLINK" if path.is_symlink() else "DIRECTORY" if path.is_dir() else "FILE"
            kinds[relative.as_posix()] = f"NODE_KIND_{kind}"
    return kinds


def main():
    buf, url, share, directory = sys.argv[1], sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
    curl, disk = Curl(buf, url), on_disk(directory)

    for reflection in ("grpc-v1", "grpc-v1alpha"):
        services = curl.list(reflection)
        expect(SERVICE in services, f"{SERVICE} is not listed by {reflection}: {services}")
    (health,) = curl.call("Check", {}, service="grpc.health.v1.Health")
    expect(health.get("status") == "SERVING", f"health is {health}")

    (answer,) = curl.call("ListShares", {})
    entry = next((s for s in answer["shares"] if s["name"] == share), None)
    expect(entry is not None, f"no share {share} in {answer}")
    expect(entry["state"] in ("SHARE_STATE_READY", "SHARE_STATE_DEGRADED"), f"share is {entry['state']}")
    things = [path for path, kind in disk.items() if kind != "NODE_KIND_DIRECTORY"]
    expect(int(entry["files"]) == len(things), f"{entry['files']} files listed, {len(things)} on disk")

    events = curl.call("WatchChanges", {"share": share, "live": False, "paths": True})
    nodes = {n["path"]: n for e in events for n in e.get("nodes", {}).get("nodes", [])}
    expect({p: n["kind"] for p, n in nodes.items()} == disk, f"the feed's tree is not the one on disk: {sorted(nodes)}")
    expect("reset" in events[0], f"a feed from nothing must begin with a reset, not {list(events[0])}")
    commits = [e["commit"] for e in events if "commit" in e]
    expect(commits and commits[-1]["rootDigest"] == entry["rootDigest"], f"commit points {commits}, share {entry}")

    # Going on from the cursor: nothing has changed.
    again = curl.call("WatchChanges", {"share": share, "cursor": commits[-1]["cursor"], "live": False})
    expect(not any("reset" in e or "nodes" in e for e in again), f"nothing changed, yet {again}")

    for path in [p for p, kind in disk.items() if kind == "NODE_KIND_FILE" and not p.startswith("many/")]:
        header, *parts = curl.call("FetchFile", {"share": share, "path": path})
        data = b"".join(base64.b64decode(part.get("data", "")) for part in parts)
        expect("header" in header, f"{path}: the first message is {list(header)}")
        expect(data == (directory / path).read_bytes(), f"{path}: {len(data)} bytes came, and they differ")

    expect(curl.error("WatchChanges", {"share": "no-such-share"}) == 5, "an unknown share must be NOT_FOUND")
    print(f"buf curl: {len(services)} services, {len(nodes)} nodes, files equal")


main()

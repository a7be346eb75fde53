"""Replies kept by what was asked: append-only lines, one file per shard, whole after a kill at any byte."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from trialign.enrich.protocol import Reply, Request


def request_key(request: Request, identity: str, prompt_hash: str) -> str:
    """Return the SHA-256 of question, picture, template, and the backend's model and decoding settings."""
    image = hashlib.sha256(request.image).hexdigest() if request.image is not None else None
    return hashlib.sha256(json.dumps([identity, prompt_hash, request.text, image]).encode()).hexdigest()


class ReplyCache:
    """Replies by key: reads every shard's file in `folder`, appends to `<shard>.jsonl`."""

    def __init__(self, folder: Path, shard: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._replies: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                self._load(line)
        self._file = os.open(folder / f"{shard}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under `key`, if any."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns."""
        # A line break in front too: where a killed writer left half a line, only that half is lost.
        line = b"\n" + json.dumps({"key": key} | asdict(reply)).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"half a reply written to the cache; is the disk full? key {key}")
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _load(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except ValueError:  # a blank, or the half line of a killed writer: asked for again
            return
        self._replies[record["key"]] = Reply(record["text"], record["tokens"], record["seconds"])

"""Cache of model replies by request: one append-only JSONL file per shard, readable after a kill at any byte."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from trialign.enrich.protocol import Reply, Request
from trialign.errors import StageError
from trialign.foreign import parse_json


def request_key(request: Request, identity: str, prompt_hash: str) -> str:
    """Return the SHA-256 of question, picture, template, and the backend's model and decoding settings."""
    image = hashlib.sha256(request.image).hexdigest() if request.image is not None else None
    return hashlib.sha256(json.dumps([identity, prompt_hash, request.text, image]).encode()).hexdigest()


class ReplyCache:
    """Replies by key: reads every shard's file in `folder`, appends to `<shard>.jsonl`.

    Raises:
        StageError: another process appends to that file.
    """

    def __init__(self, folder: Path, shard: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._replies: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                self._load(line)
        path = folder / f"{shard}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            # Two writers of one shard would ask the same questions. The kernel releases the lock of a killed process.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StageError(
                f"{path} is being written by another process",
                rule="each share of a catalogue is asked about once at a time",
                remedy="wait for it, or give this process another enrich.shard or enrich.cache",
            ) from None

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under `key`, if any."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns."""
        # The leading line break ends the half line that a killed writer may have left, so only that half is lost.
        line = b"\n" + json.dumps({"key": key} | asdict(reply)).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"half a reply written to the cache; is the disk full? key {key}")
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _load(self, line: bytes) -> None:
        try:
            record = parse_json(line)
            self._replies[record["key"]] = Reply(record["text"], record["tokens"], record["seconds"], record["cut"])
        except (ValueError, KeyError, TypeError):  # blank, foreign, or half a line of a killed writer: asked again
            return

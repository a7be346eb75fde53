"""What encodes one record at a time, for tests of the stream."""

from __future__ import annotations

from collections.abc import Callable

from trialign.stream.blocks import Record, Records
from trialign.stream.lanes import Encode
from trialign.stream.order import Draws, Indices
from trialign.stream.rows import Examples, TokenizedExample


def one_by_one(encode: Callable[[int, Record], TokenizedExample]) -> Encode:
    """Return an `Encode` that calls a deterministic function on one record at a time."""

    def encoded(source: int, records: Records, chosen: Indices, _draws: Draws) -> Examples:
        return Examples.of([encode(source, records[index]) for index in chosen.tolist()])

    return encoded

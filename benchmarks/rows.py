"""How much of the packed rows is padding, over one epoch of prepared datasets, by encoding, tasks and lanes."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.record import Row, alone, arguments, record
from trialign.config.train import StreamConfig
from trialign.data.dataset import Dataset
from trialign.embed.evidence import item_texts
from trialign.generate.encodings.position import PositionRows
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.mixture import open_sources
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.tokens import TokenSpace
from trialign.stream.lanes import LaneStream

SEQ_LEN, WINDOW, LEVELS, CODES = 256, 256, 3, 256
MIXTURES = (("history_to_item",), ("history_to_item", "title_to_item", "item_to_title"))


def main() -> None:
    """Measure every dataset named on the command line."""
    parser = arguments(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories with a finished prepare stage")
    chosen = parser.parse_args()
    record([row for run in chosen.runs for row in padding(run)], chosen.json)


def padding(run: Path) -> list[Row]:
    """Return the rows of one dataset; which codes an item has makes no difference to lengths."""
    dataset = Dataset(run / "prepare")
    texts = ItemTexts(dataset.items)
    tokenizer = TextTokenizer.train(item_texts(dataset.items), vocab_size=2000)
    space = TokenSpace(tokenizer.size, LEVELS, CODES)
    tokens = TokensRows(np.zeros((dataset.num_items, LEVELS), np.int64), space)
    found = []
    for encoding, name in ((tokens, "tokens"), (PositionRows(tokenizer.size), "position")):
        for tasks in MIXTURES:
            sources = open_sources(dataset, texts, dict.fromkeys(tasks, 1.0))
            encode = partial(Template(tokenizer, encoding, tasks, max_title_tokens=32).encode_many, texts)
            for lanes in (16, 64):
                stream = LaneStream(
                    sources,
                    encode,
                    StreamConfig(global_batch_size=lanes, seq_len=SEQ_LEN, packing_buffer=WINDOW),
                    seed=0,
                )
                steps = int(stream.rows_per_epoch()) // lanes
                used = sum(int((row.segments > 0).sum()) for row in islice(stream.rows(), steps * lanes))
                share = 100 * (1 - used / (steps * lanes * SEQ_LEN))
                setting = f"{run.name}, {name}, {len(tasks)} task{'s' * (len(tasks) > 1)}, {lanes} lanes"
                found.append(alone("stream.padding", setting, share, "%"))
    return found


if __name__ == "__main__":
    main()

"""Writes docs/walkthrough.md from a finished run: one user and one item, stage by stage, with what is really on disk.

python docs/walkthrough.py runs/quickstart > docs/walkthrough.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from trialign.config.instantiate import locate_recorded
from trialign.data.dataset import Dataset
from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.step import legal_children
from trialign.embed import store
from trialign.embed.evidence import item_texts
from trialign.generate.save_load import load_generator
from trialign.generate.task import ItemTexts
from trialign.generate.tasks import load_task
from trialign.manifest import Manifest
from trialign.semid.table import SIDTable
from trialign.stream.blocks import Records
from trialign.stream.shards import INDEX

INTRODUCTION = """# One user and one item, from raw record to recommendation

Everything below was read from the files of a real run, made and printed by

    make quickstart
    .venv/bin/python docs/walkthrough.py runs/quickstart > docs/walkthrough.md

Another processor rounds otherwise, and its figures differ.
The user is `{user}`, the item `{key}`: what the user chose last, and what the recommender has to find
without having seen that choice."""


def main(run: Path) -> None:
    """Print the page."""
    dataset = Dataset(run / "prepare")
    test = dataset.evaluation("test")
    user, target = test.users[0], int(test.targets[0][0])
    sids = SIDTable.load(run / "assign")
    print(INTRODUCTION.format(user=user, key=dataset.keys[target]))
    sections = [
        *raw(run, dataset, user, target),
        *prepared(run, dataset, user, target),
        *embedded(run, dataset, target),
        *quantized(run, dataset, sids, target),
        *trained(run, dataset, sids, user, target),
        *decoded(run, dataset, sids, test.histories[0], target),
        *evaluated(run, user),
    ]
    print("\n\n".join(["", *sections]))


def raw(run: Path, dataset: Dataset, user: str, target: int) -> Iterator[str]:
    """Yield what the shop exported."""
    folder = run / "prepare" / "raw"
    key = dataset.keys[target]
    yield "## 1. Raw: what a shop would export (`prepare/raw/`)"
    yield "The item, one line of `items.jsonl`:"
    yield block(next(line for line in (folder / "items.jsonl").read_text().splitlines() if f'"{key}"' in line))
    pictures = list((folder / "images").glob(f"{key}.*"))
    if pictures:
        data = pictures[0].read_bytes()
        yield f"Its picture, `images/{pictures[0].name}`, {len(data)} bytes, which begin"
        yield block(hexdump(data[:32]))
    else:
        yield "It has no picture; the storefront leaves some out, as shops do."
    events = pq.read_table(folder / "events.parquet")
    mine = events.filter(pc.equal(events["user"], user))
    yield f"The user's {mine.num_rows} events, rows of `events.parquet`; `order` is the place in the user's list:"
    yield block(rows(mine.to_pylist()))


def prepared(run: Path, dataset: Dataset, user: str, target: int) -> Iterator[str]:
    """Yield what prepare made of it."""
    folder = run / "prepare"
    yield "## 2. Prepare: item indices, and histories in blocks (`prepare/`)"
    yield f"Items are numbered by key. Row {target} of `items.parquet`:"
    yield block(json.dumps(dataset.items.slice(target, 1).to_pylist()[0]))
    place = next(found for found in find_record(dataset, "train", user))
    entry = np.load(folder / "train" / INDEX)[place[0]]
    yield (
        "The last event is the test target and the one before it the validation target; the rest is the training "
        "history. "
        f"It is record {place[1]} of block {place[0]}, which the index finds with one read:"
    )
    yield block(", ".join(f"{name} {entry[name]}" for name in entry.dtype.names))
    shard = (folder / "train" / "shards-000000.tar").read_bytes()
    start = int(entry["offset"])
    yield "The shard is a plain tar: before the block is a header with its name, then Arrow's IPC stream begins:"
    yield block(hexdump(shard[start - 512 : start - 480]) + "\n...\n" + hexdump(shard[start : start + 32]))
    for split in ("train", "validation", "test"):
        _, _, record = next(find_record(dataset, split, user))
        shown = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record.items()}
        yield f"Decoded, the user's record in `{split}/`:\n\n" + block(json.dumps(shown))


def embedded(run: Path, dataset: Dataset, target: int) -> Iterator[str]:
    """Yield the item's vectors."""
    yield "## 3. Embed: one vector per modality (`embed/`)"
    yield "The text encoder reads"
    yield block(item_texts(dataset.items)[target])
    for name, modality in store.load(run / "embed").items():
        vector = modality.vectors_ND[target]
        numbers = " ".join(f"{value:+.4f}" for value in vector[:8])
        there = "" if modality.present_N[target] else " (absent: this row is never read)"
        yield f"Row {target} of `{name}.npy`, float32 [{', '.join(map(str, modality.vectors_ND.shape))}]{there}:"
        yield block(f"{numbers} ...\nbytes " + vector[:4].tobytes().hex(" ", 4) + " ...")


def quantized(run: Path, dataset: Dataset, sids: SIDTable, target: int) -> Iterator[str]:
    """Yield codes, residuals and the semantic ID."""
    made = Manifest.read(run / "quantize").config["quantize"]
    quantizer = locate_recorded(made["_target_"], "quantize", "", run / "quantize").load(run / "quantize")
    encoded = quantizer.encode(store.load(run / "embed"))
    residual = encoded.latents_ND[target].astype(np.float64)
    lines = [f"                       what is to be said: squared norm {residual @ residual:.4f}"]
    for level, code in enumerate(encoded.codes_NL[target]):
        residual = residual - encoded.codebooks_LKD[level, code]
        lines.append(f"level {level + 1}: code {code:>4}, which leaves the squared norm {residual @ residual:.4f}")
    yield "## 4. Quantize and assign: from vectors to a semantic ID (`quantize/`, `assign/`)"
    kind = made["_target_"].rsplit(".", 1)[1]
    yield f"`{kind}`, {sids.num_levels} levels of {sids.codebook_size} codes; each says what the ones before left over:"
    yield block("\n".join(lines))
    before, after = encoded.codes_NL[target].tolist(), sids.codes_NL[target].tolist()
    moved = "kept its codes" if before == after else f"moved from {before}"
    quality = json.loads((run / "assign" / "quality.json").read_text())
    yield (
        f"{quality['collisions']['before']:.2%} of the items shared a tuple before assignment and "
        f"{quality['items_moved']} were moved; this one {moved}. Its semantic ID is "
        f"**{sid(sids, target)}**, row {target} of `assign/codes.npy`:"
    )
    yield block(hexdump(sids.codes_NL[target].tobytes()))
    near = [item for item in np.flatnonzero(sids.codes_NL[:, 0] == after[0]) if item != target][:5]
    titles = dataset.items["title"]
    yield "Items that share its first code:"
    yield block("\n".join(f"{sid(sids, int(item)):<16} {titles[int(item)].as_py()}" for item in near) or "(none)")


def trained(run: Path, dataset: Dataset, sids: SIDTable, user: str, target: int) -> Iterator[str]:
    """Yield the examples the generator learned from."""
    trained = load_generator(run / "train", sids)
    template = trained.template
    space = trained.generator.items.space
    yield "## 5. Train: the same facts as tokens (`train/`)"
    yield (
        f"Tokens below {space.text_vocab} are text, the others codes: {space.text_vocab} + level x "
        f"{space.codebook_size} + code. `*` marks the tokens that are learned; each is predicted from what "
        "is before it."
    )
    _, _, history = next(find_record(dataset, "train", user))
    _, _, item = next(find_record(dataset, "items", target))
    texts = ItemTexts(dataset.items)
    for number, task in enumerate(template.tasks):
        read = load_task(task)
        example = template.encode(number, read.given(history if read.source == "train" else item, texts))
        shown = [
            f"{token}{'*' * bool(learned)}" for token, learned in zip(example.tokens, example.targets, strict=True)
        ]
        tail = f" ... ({len(shown)} tokens)" if len(shown) > 24 else ""
        yield f"`{task}`:\n\n" + block(" ".join(shown[:24]) + tail)
    yield f"`{(run / 'train' / 'log' / 'metrics.csv').relative_to(run)}`, first and last line:"
    log = (run / "train" / "log" / "metrics.csv").read_text().splitlines()
    names = log[0].split(",")
    kept = [names.index(name) for name in ("step", "loss", "loss/history_to_item", "accuracy/history_to_item")]
    yield block("\n".join(", ".join(f"{names[i]} {line.split(',')[i]}" for i in kept) for line in (log[1], log[-1])))


def decoded(run: Path, dataset: Dataset, sids: SIDTable, history: np.ndarray, target: int) -> Iterator[str]:
    """Yield the constrained search."""
    trained = load_generator(run / "train", sids)
    trained.generator.eval()
    index = PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size)
    prompt = trained.template.history_prompt(history[-trained.max_history :])
    yield "## 6. Decode: the constrained search"
    yield f"The test history, {len(history)} items, as a prompt of {len(prompt)} tokens:"
    yield block(" ".join(map(str, prompt[:13])) + " ...")
    with torch.inference_mode():
        logits_BWK = trained.generator.items.scorer(trained.generator, [prompt]).start()[:, None]
        root_BW = torch.zeros((1, 1), dtype=torch.int64)
        first = legal_children(root_BW, 0, logits_BWK, index)
        best = first.log_probs[0, 0].topk(5)
        ranking = beam_search(trained.generator.items.scorer(trained.generator, [prompt]), index, 50)
    codes = first.codes[0, 0][best.indices].tolist()
    yield f"Of the {index.levels[0].num_children} codes that begin a semantic ID, the likeliest first codes:"
    yield block(
        "\n".join(f"<{code}>  {probability:.3f}" for code, probability in zip(codes, best.values.exp(), strict=True))
    )
    titles = dataset.items["title"]
    items = ranking.items[0].tolist()
    lines = [
        f"{place:>2}  {score.exp():.4f}  {sid(sids, item):<16} {dataset.keys[item]}  {titles[item].as_py()}"
        for place, (item, score) in enumerate(zip(items[:10], ranking.scores[0], strict=False), start=1)
    ]
    yield "Fifty beams continue down the trie, only along prefixes of real items. The ten best leaves:"
    yield block("\n".join(lines))
    place = f"on place {items.index(target) + 1}" if target in items else "not among the fifty"
    yield f"What the user really chose, `{dataset.keys[target]}` ({sid(sids, target)}), is {place}."


def evaluated(run: Path, user: str) -> Iterator[str]:
    """Yield the table and what was attainable."""
    yield "## 7. Evaluate: the same for every user (`evaluate/`)"
    oracle = Dataset(run / "prepare").oracle("test")
    if oracle is not None:
        mine = oracle.filter(pc.equal(oracle["user"], user)).to_pylist()[0]
        yield (
            "Nobody can know what a user will choose. Who knew the storefront's own probabilities would reach, for "
            f"this user and in the mean over many such choices, recall@10 {mine['recall@10']:.3f} and ndcg@10 "
            f"{mine['ndcg@10']:.3f}. Over all users:"
        )
    yield block((run / "evaluate" / "test" / "table.txt").read_text().rstrip())


def find_record(dataset: Dataset, split: str, name: str | int) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Yield (block, place in it, record) of a user, or in the store `items` of an item."""
    shards = dataset.store(split)  # type: ignore[arg-type]  # one of the stores
    for number in shards.blocks_of(name) if isinstance(name, str) else range(shards.num_blocks):
        batch = shards.read(number)
        for place in pc.indices_nonzero(pc.equal(batch[0], name)).to_pylist():
            yield number, place, Records(batch)[place]


def sid(sids: SIDTable, item: int) -> str:
    """Return a semantic ID as it is read."""
    return "<" + " ".join(map(str, sids.codes_NL[item])) + ">"


def block(text: str) -> str:
    """Return text as an indented code block of Markdown."""
    return "\n".join("    " + line for line in text.splitlines())


def rows(records: list[dict[str, object]]) -> str:
    """Return records one a line."""
    return "\n".join(json.dumps(record) for record in records)


def hexdump(data: bytes) -> str:
    """Return bytes sixteen a line, with what is readable of them."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{part.hex(' '):<47}  {readable}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

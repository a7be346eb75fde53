"""The folder `items/` of a bundle: keys, titles and semantic IDs, for every encoding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from trialign.data.dataset import Dataset
from trialign.errors import DataError
from trialign.foreign import Json, parse_json
from trialign.semid.table import SIDTable

_SHOWN = ("key", "title", "description", "brand", "categories")
_POLICY = "exported"


@dataclass(frozen=True)
class BundleItems:
    """The items of a bundle, by index.

    Args:
        table: keys, the texts that a page shows, and the semantic IDs as text.
        sids: the semantic IDs.
    """

    table: pa.Table
    sids: SIDTable

    @property
    def keys(self) -> list[str]:
        """The key of every item."""
        return self.sids.item_keys

    @cached_property
    def titles(self) -> list[str]:
        """The title of every item."""
        return list(self.table["title"].to_pylist())


def sid_token(level: int, code: int) -> str:
    """Return the token of a code, as the papers print it: `<a_12>` is code 12 of the first level."""
    return f"<{chr(ord('a') + level)}_{code}>"


def write_items(folder: Path, dataset: Dataset, sids: SIDTable, facts: dict[str, Json]) -> None:
    """Write `items/`; `facts` are what the bundle's code needs to know besides, for sids.json."""
    folder = folder / "items"
    folder.mkdir()
    arrays = {"codes_NL": sids.codes_NL, "item_of_leaf_N": np.lexsort(sids.codes_NL.T[::-1]).astype(np.int64)}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "trie.safetensors")
    header = {"digest": sids.digest, "codebook_size": sids.codebook_size, "keys": sids.item_keys, **facts}
    (folder / "sids.json").write_text(json.dumps(header) + "\n")
    texts = ["".join(sid_token(level, code) for level, code in enumerate(codes)) for codes in sids.codes_NL.tolist()]
    shown = dataset.items.select(_SHOWN).append_column("sid", pa.array(texts, pa.string()))
    pq.write_table(shown, folder / "items.parquet")


def read_items(folder: Path) -> BundleItems:
    """Read what `write_items` wrote.

    Raises:
        DataError: it cannot be read, or keys and codes do not belong together.
    """
    folder = folder / "items"
    try:
        header = parse_json((folder / "sids.json").read_text())
        codes_NL = load_file(folder / "trie.safetensors")["codes_NL"]
        table = pq.read_table(folder / "items.parquet")
        sids = SIDTable(codes_NL, header["codebook_size"], header["keys"], _POLICY)
        same = sids.digest == header["digest"] and table["key"].to_pylist() == sids.item_keys
    except (OSError, ValueError, KeyError, pa.ArrowException) as cause:
        raise DataError(
            f"no items can be read from {folder}: {cause}",
            rule="a bundle holds items/sids.json, items/trie.safetensors and items/items.parquet",
            remedy="copy the bundle again, or make it again by `trialign export`",
        ) from cause
    if not same:
        raise DataError(
            f"{folder} holds keys and codes of different catalogues",
            rule="the digest in sids.json covers the keys and the codes, and items.parquet has the same keys",
            remedy="take all files of items/ from one bundle",
        )
    return BundleItems(table, sids)

"""Image shards: one WebDataset sample per picture, `<item>.json` beside `<item>.jpg` or `.png`, bytes as they came."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialign.data.shards import TarWriter
from trialign.errors import DataError

_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


def write_images(
    images: Iterator[tuple[str, bytes]], item_of: Mapping[str, int], folder: Path, *, images_per_shard: int
) -> NDArray[np.bool_]:
    """Write pictures in the order they come.

    Args:
        images: (item key, encoded picture).
        item_of: item index by key.
        folder: where the shards go; made if missing.
        images_per_shard: pictures per tar file.

    Returns:
        has_image_N: which items have a picture.

    Raises:
        DataError: a picture belongs to no item, an item has two, or a picture is neither JPEG nor PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    has_image_N = np.zeros(len(item_of), np.bool_)
    tar: TarWriter | None = None
    for number, (key, data) in enumerate(images):
        if number % images_per_shard == 0:
            if tar is not None:
                tar.close()
            tar = TarWriter(folder / f"images-{number // images_per_shard:06d}.tar")
        assert tar is not None
        item, extension = _checked(key, data, item_of, has_image_N)
        has_image_N[item] = True
        tar.add(f"{item:08d}.json", json.dumps({"item": item, "key": key}).encode())
        tar.add(f"{item:08d}.{extension}", data)
    if tar is not None:
        tar.close()
    return has_image_N


def read_images(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (item index, encoded picture) of every picture in the shards of `folder`, in the order written."""
    for path in sorted(folder.glob("images-*.tar")):
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                stem, extension = member.name.split(".")
                content = tar.extractfile(member)
                if extension != "json" and content is not None:
                    yield int(stem), content.read()


def _checked(key: str, data: bytes, item_of: Mapping[str, int], has_image_N: NDArray[np.bool_]) -> tuple[int, str]:
    if key not in item_of:
        raise DataError(
            f"a picture belongs to '{key}', which is not in the catalogue",
            rule="every picture belongs to an item of the catalogue",
            remedy="add the item to the catalogue, or remove its picture",
        )
    item = item_of[key]
    if has_image_N[item]:
        raise DataError(
            f"item '{key}' has two pictures", rule="at most one picture per item", remedy="remove one of them"
        )
    for magic, extension in _MAGIC.items():
        if data.startswith(magic):
            return item, extension
    raise DataError(
        f"the picture of item '{key}' begins with {data[:8]!r}",
        rule="pictures are JPEG or PNG files",
        remedy="convert it, or remove it",
    )

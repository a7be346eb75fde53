"""Image shards: one WebDataset sample per picture, `<item>.json` next to `<item>.jpg` or `.png`, checked to decode."""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialign.config.data import DataConfig
from trialign.data.picture import BrokenPictureError, check_picture
from trialign.errors import DataError
from trialign.stream.shards import TarWriter

logger = logging.getLogger(__name__)


def write_images(
    images: Iterator[tuple[str, bytes]], item_of: Mapping[str, int], folder: Path, settings: DataConfig
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Write pictures in the order they come, each decoded once.

    Args:
        images: (item key, encoded picture).
        item_of: item index by key.
        folder: where the shards go; made if missing.
        settings: pictures per tar file, which pictures cannot be used, and whether that refuses all.

    Returns:
        has_image_N: which items have a picture; and counts, of what was unusual only where there was any.

    Raises:
        DataError: a picture belongs to no item, an item has two, or pictures cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    has_image_N = np.zeros(len(item_of), np.bool_)
    broken: list[str] = []
    num_converted = num_animated = number = 0
    tar: TarWriter | None = None
    for key, data in images:
        item = _owner(key, item_of, has_image_N)
        try:
            picture = check_picture(data, settings.max_pixels)
        except BrokenPictureError as cause:
            broken.append(f"item '{key}': {cause}")
            continue
        if number % settings.images_per_shard == 0:
            if tar is not None:
                tar.close()
            tar = TarWriter(folder / f"images-{number // settings.images_per_shard:06d}.tar")
        assert tar is not None
        tar.add(f"{item:08d}.json", json.dumps({"item": item, "key": key}).encode())
        tar.add(f"{item:08d}.{picture.extension}", picture.data)
        has_image_N[item] = True
        number += 1
        num_converted += picture.converted
        num_animated += picture.animated
    if tar is not None:
        tar.close()
    _judge(broken, settings.broken_images)
    found = {"converted": num_converted, "animated": num_animated, "broken": len(broken)}
    return has_image_N, {"images": number} | {f"images_{what}": num for what, num in found.items() if num}


def read_images(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (item index, encoded picture) of every picture in the shards of `folder`, in the order written."""
    for path in sorted(folder.glob("images-*.tar")):
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                stem, extension = member.name.split(".")
                content = tar.extractfile(member)
                if extension != "json" and content is not None:
                    yield int(stem), content.read()


class PictureIndex:
    """Random access to the pictures in the shards of a folder. Opening reads the headers of all of them.

    Args:
        folder: of the shards; without any, no item has a picture.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("images-*.tar"))
        self._places: dict[int, tuple[int, int, int]] = {}
        for number, path in enumerate(self._paths):
            with path.open("rb") as file:  # tarfile would keep the header of every picture in memory
                while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
                    member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
                    stem, extension = member.name.split(".")
                    if extension != "json":
                        self._places[int(stem)] = (number, file.tell(), member.size)
                    file.seek(-(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, 1)

    def read(self, item: int) -> bytes | None:
        """Return the encoded picture of an item, None where it has none."""
        if item not in self._places:
            return None
        number, offset, size = self._places[item]
        with self._paths[number].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _owner(key: str, item_of: Mapping[str, int], has_image_N: NDArray[np.bool_]) -> int:
    if key not in item_of:
        raise DataError(
            f"a picture belongs to '{key}', which is not in the catalogue",
            rule="every picture belongs to an item of the catalogue",
            remedy="add the item to the catalogue, or remove its picture",
        )
    if has_image_N[item_of[key]]:
        raise DataError(
            f"item '{key}' has two pictures", rule="at most one picture per item", remedy="remove one of them"
        )
    return item_of[key]


def _judge(broken: list[str], policy: str) -> None:
    if not broken:
        return
    told = f"{len(broken)} pictures cannot be used: {'; '.join(broken[:3])}" + ("; ..." if len(broken) > 3 else "")
    if policy == "refuse":
        raise DataError(
            told,
            rule="pictures are whole files of JPEG, PNG, GIF, WebP or BMP with at most data.max_pixels pixels",
            remedy="replace or remove them, or set data.broken_images=drop; an item without a picture is legal",
        )
    logger.warning("%s; these items have no picture", told)

"""A service of its own process, whose ranker is made by hand: `python process.py [SETTING=VALUE ...]`."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa

from trialign.config.serve import ServeConfig
from trialign.serve.catalogue import Catalogue
from trialign.serve.served import Served
from trialign.serve.server import bind, serve
from trialign.serve.service import Service
from trialign.serve.versions import Versions

NUM_ITEMS = 12


class Source:
    """Ranks the item after the last one first, in a while."""

    def load(self) -> Served:
        codes_NL = np.arange(NUM_ITEMS)[:, None]
        catalogue = Catalogue([f"k{item}" for item in range(NUM_ITEMS)], pa.array(["a thing"] * NUM_ITEMS), codes_NL)
        return Served(catalogue, _rank, "first", None)

    def size(self) -> int:
        return 0


def _rank(histories: Any, k: int, **_how: Any) -> Any:
    time.sleep(0.02)
    first = np.array([[history[-1] if len(history) else -1] for history in histories])
    steps = np.arange(1, k + 1)
    return ((first + steps) % NUM_ITEMS).astype(np.int32), np.tile(-steps.astype(np.float32), (len(histories), 1))


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    given = dict(word.split("=") for word in sys.argv[1:])
    settings = ServeConfig(port=0, **{name: type(getattr(ServeConfig, name))(value) for name, value in given.items()})
    service = Service(Versions(Source(), lambda: None), settings)
    with bind(settings) as listener:
        serve(service, listener)


if __name__ == "__main__":
    main()

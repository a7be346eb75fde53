"""Which bundle or run answers now: reload takes a newer one, rollback returns to the one before."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from trialign.errors import TrialignError
from trialign.serve.refusal import RefusedError
from trialign.serve.served import Served
from trialign.types import NO_ITEM

log = logging.getLogger("trialign")

_CGROUP = Path("/sys/fs/cgroup")
_PER_BYTE = 3
"""Memory for each byte of the files while they load: the module, the file, and what does not depend on a history."""


class Source(Protocol):
    """Where what is served comes from: a run, or a bundle."""

    def load(self) -> Served:
        """Load what is there now."""
        ...

    def size(self) -> int:
        """Return the bytes of the files that `load` would load."""
        ...


class Versions:
    """What answers now, and what answered before.

    Args:
        source: loaded at once.
        available: returns the bytes of memory that are free; None: not known.
    """

    def __init__(self, source: Source, available: Callable[[], int | None]) -> None:
        self._source, self._available = source, available
        self.current = source.load()
        self.previous: Served | None = None
        self._loading = threading.Lock()

    def reload(self) -> bool:
        """Load what is there now next to what answers, check it, and let it answer; return whether it is another one.

        Raises:
            RefusedError: it cannot be loaded, or there is no memory for two; what answered before still answers.
        """
        if not self._loading.acquire(blocking=False):
            raise RefusedError(
                409, "a reload is running", rule="one reload at a time", remedy="wait until the other has answered"
            )
        try:
            loaded = self._load()
            if loaded.digest == self.current.digest:
                return False
            self.previous, self.current = self.current, loaded
            log.info("%s answers instead of %s", loaded.digest[:12], self.previous.digest[:12])
            return True
        finally:
            self._loading.release()

    def rollback(self) -> None:
        """Let what answered before answer again; called once more, it undoes itself.

        Raises:
            RefusedError: nothing answered before.
        """
        with self._loading:
            if self.previous is None:
                raise RefusedError(
                    409,
                    "nothing to return to",
                    rule="a rollback follows a reload of another bundle",
                    remedy="put the bundle wanted in place, then POST /reload",
                )
            self.previous, self.current = self.current, self.previous
            log.info("%s answers again instead of %s", self.current.digest[:12], self.previous.digest[:12])

    def _load(self) -> Served:
        try:
            self._require_memory(self._source.size() * _PER_BYTE)
            loaded = self._source.load()
            _check(loaded)
        except RefusedError:
            raise
        except TrialignError as error:
            raise RefusedError(409, error.value, rule=error.rule, remedy=error.remedy) from error
        except Exception as cause:  # whatever a damaged file or a full GPU makes libraries raise
            log.exception("a reload failed")
            raise RefusedError(
                409,
                f"the reload failed: {type(cause).__name__}",
                rule="what is loaded is whole, and there is memory for two",
                remedy="see the log of the service, put a whole bundle in place, then POST /reload",
            ) from cause
        return loaded

    def _require_memory(self, needed: int) -> None:
        """Give up the version before the current one if there is no memory for three, and refuse if not for two."""
        if (free := self._available()) is None or free >= needed:
            return
        if self.previous is not None:
            self.previous = None
            log.warning("no memory for three bundles: the one before the current one is given up")
            if (free := self._available()) is None or free >= needed:
                return
        raise RefusedError(
            409,
            f"{free / 2**20:,.0f} MiB of memory are free",
            rule=f"a bundle is loaded next to the one that answers, which takes {needed / 2**20:,.0f} MiB here",
            remedy="start a second service with the new bundle and move the load balancer, or give this one more",
        )


def _check(loaded: Served) -> None:
    """Refuse what cannot rank an empty history."""
    items_BK, scores_BK = loaded.rank([np.empty(0, np.int32)], 1, exclude=None)
    if items_BK[0, 0] == NO_ITEM or not np.isfinite(scores_BK[0, 0]):
        raise RefusedError(
            409,
            f"{loaded.digest[:12]} ranks no item with a finite score",
            rule="what answers ranks an empty history",
            remedy="export it again from a training that ended well",
        )


def available_memory() -> int | None:
    """Return the bytes that this process can still take: of the machine, and of its control group if that has less."""
    found: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no control group, or not this kind
    return min(found, default=None)

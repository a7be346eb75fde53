"""Fixtures shared by all tests, and the rule for skipping: plainly, and never where TRIALIGN_REQUIRE forbids it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def _skip(need: str, reason: str) -> None:
    """Skip, or fail where TRIALIGN_REQUIRE says that `need` is there.

    It is a comma-separated list of slurm, spark, data and sentence-transformers.
    """
    if need in os.environ.get("TRIALIGN_REQUIRE", "").split(","):
        pytest.fail(f"TRIALIGN_REQUIRE demands {need}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def skip_for() -> Callable[[str, str], None]:
    """Return the only way to skip: for want of something that a machine may lack, and for a reason."""
    return _skip


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function from a real data set's name to its folder; it skips where the data is not at hand."""

    def find(name: str) -> Path:
        root = os.environ.get("TRIALIGN_DATA")
        folder = (Path(root) if root else CHECKOUT.parent / "shared" / "data") / name
        if not folder.is_dir():
            _skip("data", f"real data '{name}' is not here (looked in {folder.parent}; set TRIALIGN_DATA)")
        return folder

    return find


@pytest.fixture(autouse=True)
def _same_logger() -> Iterator[None]:
    """Give the package's logger back as it was: the command line, called in a test's process, sets it up for good."""
    logger = logging.getLogger("trialign")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)

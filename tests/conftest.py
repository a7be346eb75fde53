"""Fixtures shared by all tests, and the rule for skipping: plainly, and never where TRIALIGN_REQUIRE forbids it."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.defaults_list import Overrides
from hydra.core.default_element import ResultDefault
from trialign.launch import pipeline

from trialign.config.compose import compose

# The same examples in every run, however slow the machine.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

CHECKOUT = Path(__file__).resolve().parent.parent
_Loader = loader.ConfigLoaderImpl
_LISTED, _JOINED = loader.create_defaults_list, _Loader._compose_config_from_defaults_list


def _skip(need: str, reason: str) -> None:
    """Skip, or fail where TRIALIGN_REQUIRE says that `need` is there.

    It is a comma-separated list of slurm, spark, data, docs, chromium and sentence-transformers.
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


SMALL = ["data.num_items=64", "data.num_users=40", "embed.text.dim=8", "embed/image=none", "quantize.codebook_size=8"]
SMALL += ["train.steps=2", "train.backbone.hidden_size=32", "train.backbone.num_heads=2"]
SMALL += ["train.backbone.intermediate_size=64", "train.backbone.vocab_size=400", "runtime.progress=false"]
SMALL += ["evaluate.baselines=[popularity]", "evaluate.unconstrained_users=0", "evaluate.bootstrap_samples=100"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the smallest finished run, made once; a test that changes it has a copy."""
    folder = tmp_path_factory.mktemp("finished") / "r"
    pipeline.run(compose("pipeline", [f"run={folder}", *SMALL]))
    return folder


@pytest.fixture(autouse=True)
def _same_logger() -> Iterator[None]:
    """Give the package's logger back as it was: the command line, called in a test's process, sets it up for good."""
    logger = logging.getLogger("trialign")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _files_read_once() -> Iterator[None]:
    """Let Hydra put together the files of one choice of groups once, whatever is set below them: half of composing.

    Tests that start a process compose as users do.
    """
    listed: dict[str, Any] = {}
    joined: dict[tuple[str, ...], Any] = {}

    def list_once(repo: Any, config_name: str, overrides_list: list[Any], **how: bool) -> Any:
        given = Overrides(repo=repo, overrides_list=overrides_list)
        groups = given.override_choices, given.append_group_defaults, given.deletions
        key = repr((config_name, *groups, how, [source.path for source in repo.get_sources()]))
        if key not in listed:
            listed[key] = _LISTED(repo, config_name, overrides_list, **how)
        found = copy.copy(listed[key])
        found.config_overrides = given.config_overrides
        return found

    def join_once(self: Any, defaults: Sequence[ResultDefault], repo: Any) -> Any:
        key = tuple(map(repr, defaults))
        if key not in joined:
            joined[key] = _JOINED(self, defaults, repo)
        return copy.deepcopy(joined[key])

    def share(self: Any, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # Hydra copies what was read, too

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.CachingConfigRepository, "__init__", share)
        patch.setattr(loader, "create_defaults_list", list_once)
        patch.setattr(_Loader, "_compose_config_from_defaults_list", join_once)
        yield

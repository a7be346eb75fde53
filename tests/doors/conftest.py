"""What makes a door cheap: Hydra puts together the files of one choice of groups once, whatever is set below them."""

from __future__ import annotations

import copy
import gc
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.defaults_list import Overrides
from hydra.core.default_element import ResultDefault
from trialign.launch import cli, pipeline

from tests.doors.door import Run, Said
from trialign.config.compose import compose

_Loader = loader.ConfigLoaderImpl
_LISTED, _JOINED = loader.create_defaults_list, _Loader._compose_config_from_defaults_list


@pytest.fixture(scope="session")
def files_read_once() -> Iterator[None]:
    """Remember which files a choice of groups names, and what they hold together; settings are applied afresh."""
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


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], files_read_once: None
) -> Iterator[Run]:
    """Return what types a command behind `trialign`, in an empty folder and in this process, and hears the answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIALIGN_DATA", raising=False)
    listening = signal.getsignal(signal.SIGINT)
    gc.disable()  # Hydra copies so many small objects that looking for garbage is a sixth of the time

    def typed(command: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["trialign", *shlex.split(command)])
        capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return Said(code or 0, *capfd.readouterr())

    yield typed
    gc.enable()
    signal.signal(signal.SIGINT, listening)


SMALL = ["data.num_items=64", "data.num_users=40", "embed.text.dim=8", "embed/image=none", "quantize.codebook_size=8"]
SMALL += ["train.steps=2", "train.backbone.hidden_size=32", "train.backbone.num_heads=2"]
SMALL += ["train.backbone.intermediate_size=64", "train.backbone.vocab_size=400", "runtime.progress=false"]
SMALL += ["evaluate.baselines=[popularity]", "evaluate.free_users=0", "evaluate.bootstrap_samples=100"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, files_read_once: None) -> Path:
    """Return a finished run, made once; a door that changes it has a copy."""
    folder = tmp_path_factory.mktemp("finished") / "r"
    pipeline.run(compose("pipeline", [f"run={folder}", *SMALL]))
    return folder

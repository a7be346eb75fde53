"""The verb export for the encoding `position`: its folder, what it checks, what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trialign.launch import export, train

from trialign.config.compose import compose
from trialign.config.export import ExportConfig
from trialign.errors import ConfigError, StageError
from trialign.export import position, tokens
from trialign.export.bundle import Bundle
from trialign.export.export import open_source
from trialign.export.files import rank, replay
from trialign.export.form import Source
from trialign.export.graph import require_tools
from trialign.generate.ranker import GeneratorRanker
from trialign.run import Run

BACKBONE = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "vocab_size": 400}


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose generator has the encoding `position`, and its bundle."""
    folder = tmp_path_factory.mktemp("position") / "r"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "train")
    settings = [f"train.backbone.{name}={value}" for name, value in BACKBONE.items()]
    train.run(compose("train", [f"run={folder}", "train.steps=2", "train.items.encoding=position", *settings]))
    export.run(compose("export", [f"run={folder}"]))
    return folder


def test_the_bundle_answers_as_the_run_does(run: Path) -> None:
    found, bundle = Run(run), Bundle.open(run / "export")
    histories = found.dataset.train_histories()[:5]
    stock = np.arange(found.dataset.num_items) % 3 == 0
    for exclude in (None, histories):
        wanted = found.ranker().rank(histories, 10, exclude=exclude, stock=stock)  # type: ignore[call-arg]
        items, scores = bundle.ranker().rank_items(histories, 10, exclude=exclude, stock=stock)
        np.testing.assert_array_equal(items, wanted[0])
        np.testing.assert_allclose(scores, wanted[1], atol=1e-5)
    assert replay.main(str(run / "export")) == 0
    assert not list((run / "export").glob("*.safetensors"))


class Moved(Source):
    """A source whose generator is a little other than the one that was exported."""

    def ranker(self, num_beams: int) -> GeneratorRanker:
        ranker = super().ranker(num_beams)
        with torch.no_grad():
            ranker.generator.items.queries[-1].norm.weight.mul_(1.01)
        return ranker


def test_a_graph_that_ranks_otherwise_is_refused(run: Path) -> None:
    found = Run(run)
    source = open_source({verb: found.stage(verb) for verb in ("prepare", "assign", "train")}, "train")
    assert position.compare(source, run / "export", ExportConfig()).largest_difference < 1e-4
    with pytest.raises(StageError, match=rf"{rank.GRAPH} ranks otherwise"):
        position.compare(Moved(*vars(source).values()), run / "export", ExportConfig())


@pytest.mark.parametrize(
    ("items", "scores"),
    [
        ([2, 1, -1], [-1.0, -2.0, -np.inf]),  # item 3 is missing
        ([2, 1, 1], [-1.0, -2.0, -2.0]),  # twice the same
        ([2, 1, 0], [-1.0, -2.0, -3.0]),  # one that is left out
        ([2, 3, 1], [-1.0, -3.0, -2.0]),  # not the best first
        ([2, 1, 3], [-1.0, -2.0, -3.5]),  # not its score
    ],
)
def test_every_fault_of_a_list_is_a_difference(items: list[int], scores: list[float]) -> None:
    truth = np.array([-0.5, -2.0, -1.0, -3.0], np.float32)
    least_BK, allowed_BN = np.array([[-1.0, -2.0, -3.0]], np.float32), np.array([[False, True, True, True]])

    def difference(items: list[int], scores: list[float]) -> float:
        found = np.array([items], np.int32), np.array([scores], np.float32)
        return position._difference(found, truth[found[0]], least_BK, allowed_BN)

    assert difference([2, 1, 3], [-1.0, -2.0, -3.0]) == 0.0
    assert difference(items, scores) > 0.1


def test_what_has_no_graph_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Run(run)
    source = open_source({verb: found.stage(verb) for verb in ("prepare", "assign", "train")}, "train")
    with pytest.raises(ConfigError, match=r"export\.dtype=bfloat16"):
        position.facts(source.load(), replace(ExportConfig(), dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"export\.onnx=true"):
        tokens.facts(source.load(), replace(ExportConfig(), onnx=True))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"):
        require_tools(compiled=True, onnx=False)
    require_tools(compiled=False, onnx=False)


def test_a_missing_package_is_told_before_any_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialign.export.graph.find_spec", lambda name: None if name == "onnxscript" else name)
    shutil.move(run / "export", run / "kept")
    try:
        with pytest.raises(ConfigError, match="without onnxscript"):
            export.run(compose("export", [f"run={run}", "export.onnx=true"]))
        assert not (run / "export" / "items").exists()
    finally:
        shutil.rmtree(run / "export", ignore_errors=True)
        shutil.move(run / "kept", run / "export")

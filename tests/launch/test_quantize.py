"""`trialign quantize` next to settings that are meant for the training, and by classes from outside."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trialign.launch import quantize
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.config.runtime import RuntimeConfig
from trialign.errors import StageError
from trialign.manifest import MANIFEST
from trialign.runtime.ranks import launched_rank


class Noted:
    """A quantizer from outside, which trains on the ranks that it is told of."""

    def __init__(self) -> None:
        self.told = RuntimeConfig()

    def fit(self, modalities: Any, *, runtime: RuntimeConfig, folder: Path, **others: Any) -> dict[str, Any]:
        self.told = runtime
        return {}

    def save(self, folder: Path) -> None:
        (folder / "quantizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("target", "ranks"), [("other.Quantizer", (1, 1, "single")), ("our.RQVAEQuantizer", (2, 2, "ddp"))]
)
def test_a_quantizer_is_told_of_the_ranks_that_its_job_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, ranks: tuple[int, int, str]
) -> None:
    """Red: the ranks of the training, which Lightning misses in a job of one task."""
    words = ["embed/image=none", "data.num_items=60", "data.num_users=80", "embed.text.dim=8", "runtime.devices=2"]
    config = compose(
        "quantize",
        [f"run={tmp_path}", *words, "runtime.nodes=2", "runtime.strategy=ddp", "stream.global_batch_size=32"],
    )
    for verb in ("prepare", "embed"):
        script(verb)(config)
    noted = Noted()
    monkeypatch.setattr(quantize, "create", lambda settings, group: noted)
    script("quantize")(replace(config, quantize=replace(config.quantize, _target_=target)))
    assert (noted.told.nodes, noted.told.devices, noted.told.strategy) == ranks


def test_the_other_ranks_end_once_the_first_has_fitted_the_quantizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: they continue to the pipeline's next stages, which the first rank makes."""
    words = ["embed/image=none", "data.num_items=60", "data.num_users=80", "embed.text.dim=8"]
    config = compose("quantize", [f"run={tmp_path}", *words])
    for verb in ("prepare", "embed"):
        script(verb)(config)

    class Met(Noted):
        """Fitted by the second rank while the first one works."""

        def fit(self, *args: Any, **others: Any) -> dict[str, Any]:
            if launched_rank():
                monkeypatch.setenv("RANK", "0")
                assert script("quantize")(config).built
            return {}

    monkeypatch.setattr(quantize, "create", lambda settings, group: Met())
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        script("quantize")(config)
    assert ended.value.code == 0


def test_a_run_does_not_say_what_is_imported_unless_the_configuration_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: whoever assigns by a run from somebody else imports, and so runs, whatever its manifest names."""
    words = [f"run={tmp_path / 'run'}", "embed/image=none", "data.num_items=60", "data.num_users=80"]
    words += ["embed.text.dim=8", "quantize.codebook_size=16", "quantize.num_levels=2"]
    for verb in ("prepare", "embed", "quantize"):
        script(verb)(compose(verb, words))
    (tmp_path / "of_a_stranger.py").write_text(
        "from trialign.quantize.rkmeans import RQKMeansQuantizer\nclass Theirs(RQKMeansQuantizer): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "run" / "quantize" / MANIFEST
    made = json.loads(path.read_text())
    made["config"]["quantize"]["_target_"] = "of_a_stranger.Theirs"
    path.write_text(json.dumps(made))
    with pytest.raises(StageError, match=r"made by of_a_stranger\.Theirs") as refused:
        script("assign")(compose("assign", words))
    assert "of_a_stranger" not in sys.modules
    remedy = refused.value.remedy.rpartition(" ")[2]
    assert remedy == "quantize._target_=of_a_stranger.Theirs"
    script("assign")(compose("assign", [*words, remedy]))
    assert "of_a_stranger" in sys.modules
    del sys.modules["of_a_stranger"]

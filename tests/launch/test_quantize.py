"""`trialign quantize` beside settings that are meant for the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trialign.launch import quantize
from trialign.launch.cli import script

from trialign.config.compose import compose


class Noted:
    """A quantizer from outside, which trains on the ranks that it is told of."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def fit(self, modalities: Any, *, runtime: dict[str, Any], folder: Path, **others: Any) -> dict[str, Any]:
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
        "quantize", [f"run={tmp_path}", *words, "runtime.nodes=2", "runtime.strategy=ddp", "stream.lanes=32"]
    )
    for verb in ("prepare", "embed"):
        script(verb)(config)
    noted = Noted()
    monkeypatch.setattr(quantize, "instantiate", lambda node, group: noted)
    script("quantize")(replace(config, quantize={**config.quantize, "_target_": target}))
    assert (noted.told["nodes"], noted.told["devices"], noted.told["strategy"]) == ranks

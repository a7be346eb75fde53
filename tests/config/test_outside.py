"""Classes that the user brings are where ours do, by a YAML file that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialign.config.compose import compose
from trialign.config.config import Config
from trialign.config.embed import TfidfConfig
from trialign.config.instantiate import create
from trialign.errors import ConfigError

MODULE = """
class Own:
    def __init__(self, dim, codebook_size=0):
        self.dim, self.codebook_size = dim, codebook_size

class Typed:
    def __init__(self, settings):
        self.settings = settings
"""
FILES = {
    "embed/text/mine": "_target_: of_mine.Own\ndim: 3\n",
    "embed/text/bare": "_target_: trialign.embed.text.TfidfSvd\ndim: 8\n",
    "quantize/mine": "_target_: of_mine.Own\ndim: 3\n",
    "quantize/typed": "defaults: [rkmeans, _self_]\n_target_: of_mine.Typed\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def chosen(own: Path, *words: str) -> Config:
    return compose("quantize", ["run=/tmp/unused", f"hydra.searchpath=['file://{own}']", *words])


def test_a_class_from_outside_takes_the_keys_of_its_file_and_what_all_of_its_group_have(own: Path) -> None:
    config = chosen(own, "embed/text=mine", "quantize=mine", "+quantize.codebook_size=5")
    assert create(config.embed.encoders()["text"], "embed.text").dim == 3
    made = create(config.quantize, "quantize")
    assert (made.dim, made.codebook_size) == (3, 5)
    assert config.identity["embed"]["text"] == {"_target_": "of_mine.Own", "dim": 3}
    assert config.identity["quantize"] == {"_target_": "of_mine.Own", "num_levels": 3, "codebook_size": 5, "dim": 3}


def test_a_key_that_its_signature_lacks_is_refused(own: Path) -> None:
    config = chosen(own, "embed/text=mine", "+embed.text.dmi=4")
    with pytest.raises(ConfigError, match=r"embed\.text\.dmi is no setting of of_mine\.Own") as refused:
        create(config.embed.encoders()["text"], "embed.text")
    assert "'dim'" in refused.value.remedy


@pytest.mark.parametrize("word", ["embed.text.dmi=4", "+embed.text.dmi=4", "quantize.dmi=4", "+quantize.dmi=4"])
def test_where_such_a_class_may_stand_ours_have_their_own_keys_alone(word: str) -> None:
    with pytest.raises(ConfigError, match="unknown setting"):
        compose("quantize", ["run=/tmp/unused", word])


def test_a_class_of_ours_has_the_settings_of_its_schema_however_it_is_named(own: Path) -> None:
    assert chosen(own, "embed/text=bare").embed.text == TfidfConfig(dim=8)


def test_a_class_that_takes_settings_is_given_the_dataclass_that_its_file_builds_on(own: Path) -> None:
    config = chosen(own, "quantize=typed")
    assert create(config.quantize, "quantize").settings is config.quantize

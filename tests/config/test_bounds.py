"""Bounds and choices: each is declared next to its field, held there, and missing nowhere."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from trialign.config.bounds import check_bounds
from trialign.config.compose import conf_dir, to_config
from trialign.config.option import Bounds, bounds_of
from trialign.config.registry import SCHEMAS, register
from trialign.errors import ConfigError
from trialign.storefront.world import frozen_world

UNBOUNDED = {
    "data.seed": "any whole number is a seed",
    "data.cut_times": "a time may lie before 1970",
    "embed.image.seed": "any whole number is a seed",
    "enrich.clip.seed": "any whole number is a seed",
    "enrich.shuffle_captions": "any whole number is a seed",
    "evaluate.bootstrap_seed": "any whole number is a seed",
    "rl.rewards": "a negative weight punishes",
}
"""Numbers without a bound, and why."""


@dataclass
class Setting:
    """A field of a schema: `name` within it, `key` in a config."""

    path: str
    schema: type
    name: str
    found: Field[Any]
    kind: Any

    @property
    def key(self) -> str:
        return f"{self.path.replace('/', '.')}.{self.name}"

    @property
    def bounds(self) -> Bounds:
        return bounds_of(self.found)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The types it is made of: of `list[int] | None`, int is one."""
        kinds = [self.kind]
        for kind in kinds:
            kinds.extend(typing.get_args(kind))
        return tuple(kinds)

    @property
    def is_list(self) -> bool:
        return any(typing.get_origin(kind) is list for kind in self.parts)

    def check(self, value: object) -> None:
        """Check its group, where it has this value."""
        tree = config_of(self.path, self.schema)
        default = deepcopy(OmegaConf.select(tree, self.key))
        OmegaConf.update(tree, self.key, [value] if self.is_list else value)
        try:
            check_bounds(tree)
        finally:
            OmegaConf.update(tree, self.key, default)


@cache
def config_of(path: str, schema: type) -> DictConfig:
    others: dict[str, typing.Any] = {"run": "runs/x"}  # which settings refer to
    if path == "baselines":
        others["evaluate"] = {"baselines": []}
    tree = OmegaConf.create(others)
    OmegaConf.update(tree, path.replace("/", "."), OmegaConf.structured(schema))
    return tree


def settings_of(path: str, schema: type, kind: type, above: str = "") -> Iterator[Setting]:
    hints = typing.get_type_hints(kind)
    for found in fields(kind):
        if is_dataclass(nested := hints[found.name]):
            yield from settings_of(path, schema, nested, f"{above}{found.name}.")
        else:
            yield Setting(path, schema, above + found.name, found, hints[found.name])


ALL = [
    setting
    for path, schemas in SCHEMAS.items()
    for schema in schemas.values()
    for setting in settings_of(path, schema, schema)
]
BOUNDED = [setting for setting in ALL if setting.bounds != Bounds()]


def sides(setting: Setting) -> Iterator[tuple[float | str, float | str]]:
    """Yield (the last value that it takes, the first one that it does not), for every bound."""
    bounds = setting.bounds
    whole = float not in setting.parts
    for limit, way in ((bounds.least, -math.inf), (bounds.most, math.inf)):
        if limit is not None:
            yield limit, limit + int(math.copysign(1, way)) if whole else math.nextafter(limit, way)
    for limit, way in ((bounds.above, math.inf), (bounds.below, -math.inf)):
        if limit is not None:
            yield limit + int(math.copysign(1, way)) if whole else math.nextafter(limit, way), limit
    for choice in bounds.choices:
        yield choice, f"{choice}x" if isinstance(choice, str) else -1


def test_a_bounded_field_takes_its_bounds_and_refuses_what_lies_just_outside_by_a_remedy_that_works() -> None:
    assert len(BOUNDED) > 150
    for setting in BOUNDED:
        for taken, refused in sides(setting):
            setting.check(taken)
            with pytest.raises(ConfigError) as caught:
                setting.check(refused)
            assert caught.value.value.startswith((f"{setting.key}=", f"{setting.key} holds ")), setting.key
            if caught.value.remedy.startswith(f"set {setting.key}="):
                remedy = caught.value.remedy.partition("=")[2].split()[0]
                setting.check(OmegaConf.create(f"value: {remedy}").value)


def test_a_default_lies_within_the_bounds() -> None:
    for path, schemas in SCHEMAS.items():
        for schema in schemas.values():
            check_bounds(config_of(path, schema))


def test_a_number_has_a_bound_or_a_reason_to_have_none() -> None:
    free = {setting.key for setting in ALL if {int, float} & set(setting.parts) and setting.bounds == Bounds()}
    assert free == set(UNBOUNDED)


def test_no_number_is_infinite() -> None:
    for setting in ALL:
        if setting.kind in (float, float | None):
            with pytest.raises(ConfigError, match="finite number"):
                setting.check(math.inf)
    for value in (math.nan, -math.inf):
        with pytest.raises(ConfigError, match=r"rl\.rewards\.hit is a finite number"):
            check_bounds(OmegaConf.create({"rl": {"rewards": {"hit": value}}}))


def test_every_choice_composes() -> None:
    """All first choices together, all second ones, and so on."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = hydra_compose("pipeline", ["run=/tmp/unused"], return_hydra_config=True)
    with open_dict(tree):
        del tree["hydra"]
    chosen = [s for s in BOUNDED if s.bounds.choices and OmegaConf.select(tree, s.key) is not None]
    assert len(chosen) > 20
    for number in range(max(len(setting.bounds.choices) for setting in chosen)):
        node = tree.copy()
        for setting in chosen:
            value = setting.bounds.choices[number % len(setting.bounds.choices)]
            OmegaConf.update(node, setting.key, [value] if setting.is_list else value)
        to_config(node)


def test_a_class_that_a_file_names_without_a_schema_is_held_to_its_own_or_to_what_all_of_the_group_have() -> None:
    own = OmegaConf.create({"_target_": "trialign.embed.text.TfidfSvd", "dim": 0})
    with pytest.raises(ConfigError, match=r"embed\.text\.dim is at least 1"):
        check_bounds(own, "embed/text")
    foreign = OmegaConf.create({"_target_": "mine.Quantizer", "codebook_size": 1, "mine": -1})
    with pytest.raises(ConfigError, match=r"quantize\.codebook_size is at least 2"):
        check_bounds(foreign, "quantize")


def test_choices_are_what_the_code_knows() -> None:
    import torch

    from trialign.config.enrich import DTYPES
    from trialign.data.sources.formats import _READERS  # seconds to import
    from trialign.embed.transformer import POOLINGS
    from trialign.generate.backbone import ARCHITECTURES

    choices = {setting.key: set(setting.bounds.choices) for setting in BOUNDED}
    assert choices["data.format"] == set(_READERS)
    assert choices["embed.text.pooling"] == choices["embed.joint.pooling"] == set(POOLINGS)
    assert choices["embed.text.dtype"] == choices["embed.joint.dtype"] == set(DTYPES)
    assert choices["enrich.captions.dtype"] == choices["reward.judge.dtype"] == set(DTYPES)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPES)
    assert choices["train.backbone.architecture"] == set(ARCHITECTURES)


def test_the_smallest_storefront_holds_the_shortest_history_twice() -> None:
    """A history covers at most half of the catalogue."""
    (least,) = (setting.bounds.least for setting in BOUNDED if setting.key == "data.num_items")
    assert least == 2 * frozen_world().history["shortest"]

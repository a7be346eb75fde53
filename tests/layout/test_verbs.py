"""What a new verb needs, each thing named where it is missing."""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest
from trialign.launch.cli import script
from trialign.launch.settings import describe

from trialign.config.compose import compose
from trialign.config.config import Groups
from trialign.config.registry import BASES, SCHEMAS, FromConfig
from trialign.config.verbs import STAGES, VERBS
from trialign.errors import ConfigError

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
_NO_VERBS = {"__init__", "cli", "settings", "sweep"}
GROUPS = {path.split("/")[0] for path in SCHEMAS}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_of_the_table_has_a_script_and_settings(verb: str) -> None:
    assert (LAUNCH / f"{verb}.py").exists(), f"write launch/{verb}.py with a function run(config)"
    assert callable(importlib.import_module(f"trialign.launch.{verb}").run)
    spec = VERBS[verb]
    read = {*spec.reads, *(STAGES[verb].groups if verb in STAGES else ())}
    missing = sorted(read - GROUPS)
    assert not missing, f"{verb} reads {missing}: add fields to Config (trialign/config/config.py), each a dataclass"
    assert compose(verb, ["run=/runs/one"]).run.name == "one"


def test_every_script_and_every_group_of_settings_belongs_to_a_verb() -> None:
    scripts = {path.stem for path in LAUNCH.glob("*.py")} - _NO_VERBS
    assert scripts <= set(VERBS), f"add {sorted(scripts - set(VERBS))} to trialign/config/verbs.py"
    read = {group for verb in VERBS.values() for group in verb.reads} | {g for s in STAGES.values() for g in s.groups}
    assert read == GROUPS, f"{sorted(GROUPS - read)} are settings that no verb of trialign/config/verbs.py reads"


def test_a_verb_without_its_settings_or_its_script_is_refused_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red: a KeyError, a ModuleNotFoundError."""
    monkeypatch.setitem(VERBS, "extra", replace(STAGES["prepare"], groups=("extra",)))
    for ask in (script, describe):
        with pytest.raises(ConfigError, match="add the field extra to Groups"):
            ask("extra")
    monkeypatch.setitem(VERBS, "extra", replace(STAGES["prepare"]))
    for ask in (script, describe):
        with pytest.raises(ConfigError, match=r"write launch/extra.py with a function run\(config\)"):
            ask("extra")


def test_stages_read_only_what_comes_before_them() -> None:
    order = list(STAGES)
    for verb, spec in STAGES.items():
        for needed in (*spec.inputs, *spec.inputs_if):
            assert order.index(needed) < order.index(verb), f"{needed} must come before {verb} in the table"


def test_what_a_stage_reads_can_be_taken_from_another_run() -> None:
    read = {needed for spec in STAGES.values() for needed in (*spec.inputs, *spec.inputs_if)}
    assert {found.name for found in fields(FromConfig)} == read


def test_the_config_has_a_field_for_every_group() -> None:
    typed = {name: kind for name, kind in get_type_hints(Groups).items() if is_dataclass(kind)}
    for name, kind in typed.items():
        assert kind in (*SCHEMAS[name].values(), BASES.get(name)), name

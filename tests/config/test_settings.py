"""`--help` and docs/configuration.md: what a verb reads is there, with the default that it composes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from trialign.launch.settings import _rows, _shown, describe, markdown

from trialign.config.compose import choice_of, composed, conf_dir, default_choices
from trialign.config.registry import SCHEMAS, register
from trialign.config.verbs import VERBS

GROUPS = {path.split("/")[0] for path in SCHEMAS}
ALL = [(path, name, schema) for path, schemas in SCHEMAS.items() for name, schema in schemas.items()]


def groups_read(script: Path) -> set[str]:
    """Return the groups of the config that a verb's script names."""
    tree = ast.parse(script.read_text())
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & GROUPS
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return named | ({"tracking"} if "tracking_of" in called else set())


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"doctor", "status"}))
def test_help_shows_every_group_that_the_script_of_a_verb_reads(verb: str) -> None:
    shown = {line.split(".")[0].strip() for line in describe(verb).splitlines() if line.startswith("  ")}
    # Of the other groups a stage may ask what another one made.
    wanted = {verb, "runtime", "tracking", "stream", "cluster"}
    read = groups_read(conf_dir().parent / "launch" / f"{verb}.py") & wanted
    assert read <= shown, f"{verb} reads {read - shown}"


def test_what_is_tracked_is_shown_where_it_is_tracked_and_nowhere_else() -> None:
    scripts = {verb: groups_read(conf_dir().parent / "launch" / f"{verb}.py") for verb in VERBS}
    tracked = {verb for verb, read in scripts.items() if "tracking" in read} | {"pipeline"}
    assert {verb for verb in VERBS if "tracking.wandb" in describe(verb)} == tracked


def root_settings(verb: str) -> set[str]:
    """Return the settings of the run and `from.STAGE=DIR` that a verb's help lists."""
    keys = {line.strip().partition("=")[0] for line in describe(verb).splitlines() if line.startswith("  ")}
    return {key for key in keys if key in ("run", "seed", "rebuild") or key.startswith("from.")}


def test_help_lists_the_run_and_the_stages_that_another_run_may_lend() -> None:
    assert all("run" in root_settings(verb) for verb in VERBS)
    assert root_settings("train") == {
        *("run", "seed", "rebuild", "from.prepare", "from.assign", "from.embed", "from.enrich")
    }
    assert root_settings("evaluate") >= {"rebuild", "from.train", "from.rl"}
    assert "seed" not in root_settings("evaluate")
    assert root_settings("pipeline") >= {"seed", "from.prepare", "from.train"}
    assert root_settings("status") == {"run"}
    (line,) = (line for line in describe("train").splitlines() if line.startswith("  run="))
    assert line.startswith("  run=(required) ")
    assert line.endswith("[str]")


@pytest.mark.parametrize(("path", "name", "schema"), ALL)
def test_every_schema_says_what_it_is_of(path: str, name: str, schema: type) -> None:
    """Red: a dataclass without a docstring, for which Python writes its signature."""
    assert schema.__doc__, f"{path}={name}"
    assert not schema.__doc__.startswith(f"{schema.__name__}("), f"{path}={name}"


def test_defaults_are_those_that_a_verb_composes() -> None:
    """Held against the whole config; a schema's own default is often another one."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree: Any = OmegaConf.to_container(hydra_compose("train"), resolve=False)
    differ = 0
    for path, name, schema in ALL:
        choice = choice_of(path, name)
        if default_choices()[path] != choice:
            continue
        for key, _, _, shown, _ in _rows(path, schema, composed(path, choice)):
            node = tree
            for part in key.split("."):
                node = node[part]
            if key.replace(".", "/") in SCHEMAS:
                assert shown == default_choices()[key.replace(".", "/")]
            else:
                assert shown == _shown(node), key
                differ += 1
    assert differ > 100


def test_a_group_below_another_is_one_line_there_and_a_heading_of_its_own() -> None:
    """Red: its settings are twice, and what it is for is nowhere."""
    for path, name, schema in ALL:
        below = {other.replace("/", ".") for other in SCHEMAS if other.startswith(f"{path}/")}
        told = {key: text for key, _, _, _, text in _rows(path, schema, composed(path, choice_of(path, name)))}
        assert below <= told.keys(), f"{path}: {below - told.keys()}"
        assert all(told[key] for key in below)
        assert not [key for key in told for group in below if key.startswith(f"{group}.")]


def test_a_heading_names_what_is_typed() -> None:
    for path, name, _ in ALL:
        assert composed(path, choice_of(path, name))


def test_help_and_page_show_the_values_that_a_setting_takes() -> None:
    lines = [line.strip() for line in describe("train").splitlines()]
    for key, shown in {
        "train.rl_holdout": "[0 <= float < 1]",
        "train.steps": "[int >= 1 or null]",
        "train.betas": "[list of 0 <= float < 1]",
        "train.learning_rate": "[float > 0]",
        "runtime.accelerator": "[auto, cpu, cuda]",
    }.items():
        (line,) = (line for line in lines if line.startswith(f"{key}="))
        assert line.endswith(shown), line
    (line,) = (line for line in lines if line.startswith("train.lora="))
    assert not line.endswith("]"), "a file of conf/ decides"
    assert "| `train.mixture` | proportional, temperature, weights | `proportional` |" in markdown()

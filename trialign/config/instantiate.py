"""Build objects from `_target_`, with errors a person can act on.

Used only where a class is really exchangeable: a source of data, an encoder, a quantizer. The class's own signature is
the schema of last resort, so a new one needs a YAML and a file, nothing else.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trialign.config.registry import BASES
from trialign.errors import ConfigError, StageError, suggest


def create(settings: Any, group: str, stage: type | None = None) -> Any:
    """Build the object of the class that a dataclass of settings names by `_target_`.

    A class with one parameter `settings` takes the dataclass. A class from outside takes its settings as arguments; it
    need not name those that all options of the group have.

    Args:
        settings: of the group's options, or the base that stands for a class from outside.
        group: where the settings are in the config, for errors.
        stage: a dataclass whose settings the stage reads itself, so that the class need not take them.

    Raises:
        ConfigError: the target cannot be imported, or an argument is unknown or missing.
    """
    target = locate(settings._target_, group)
    accepted = inspect.signature(target).parameters
    base = BASES.get(group.replace(".", "/"))
    if type(settings) is not base and list(accepted) == ["settings"]:
        return target(settings)
    common = {found.name for schema in (base, stage) if schema is not None for found in fields(schema)}
    arguments = {key: value for key, value in vars(settings).items() if key in accepted or key not in common}
    arguments.pop("_target_", None)
    _check_names(arguments, accepted, settings._target_, group)
    return target(**arguments)


def _check_names(given: Collection[str], accepted: Mapping[str, inspect.Parameter], path: str, group: str) -> None:
    """Refuse arguments that are not in the signature of a class, and missing required ones."""
    for name in given:
        if name not in accepted:
            raise ConfigError(
                f"{group}.{name} is no setting of {path}",
                rule="every key is an argument of the target",
                remedy=suggest(name, accepted),
            )
    missing = [n for n, p in accepted.items() if p.default is inspect.Parameter.empty and n not in given]
    if missing:
        raise ConfigError(
            f"{group} lacks {', '.join(missing)}",
            rule=f"{path} needs them",
            remedy=" ".join(f"{group}.{name}=..." for name in missing),
        )


def locate(path: str, group: str) -> Any:
    """Import the object at a dotted path, e.g. `trialign.quantize.rqvae.RQVAEQuantizer`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise ConfigError(
            f"{group}._target_={path!r} cannot be imported: {cause}",
            rule="_target_ is the dotted path of a class",
            remedy=f"choose an option of {group}, or correct the path",
        ) from cause


def locate_recorded(path: str, group: str, chosen: str, folder: Path) -> Any:
    """Import the class that made a finished stage, if it is trialign's own or named by the reader's configuration.

    Runs are shared, and importing a module executes it. So of the classes in a manifest, only trialign's own
    and the one that the reader's configuration names are imported.

    Args:
        path: what the manifest names.
        group: config group that chooses such a class.
        chosen: `_target_` of that group in the configuration.
        folder: the stage's, for the error.

    Raises:
        StageError: the class is another one.
        ConfigError: it cannot be imported.
    """
    if not path.startswith("trialign.") and path != chosen:
        raise StageError(
            f"{folder} was made by {path}",
            rule="a run says nothing of what is to be imported: only trialign's own classes are, and the one that the "
            "configuration names",
            remedy=f"if you trust that code, name it: {group}=NAME, the option that it was made with, "
            f"or {group}._target_={path}",
        )
    return locate(path, group)

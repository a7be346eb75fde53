"""`_target_` to an object, with errors a person can act on.

Used only where a class is really exchangeable: a source of data, an encoder, a quantizer. The class's own signature is
the schema of last resort, so a new one needs a YAML and a file, nothing else.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from trialign.errors import ConfigError, suggest


def instantiate(node: Mapping[str, Any], group: str) -> Any:
    """Build the object that `node` describes.

    Args:
        node: `_target_`, a dotted path to a class, and its keyword arguments.
        group: where the node stands in the config, for errors.

    Raises:
        ConfigError: the target cannot be imported, or an argument is unknown or missing.
    """
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    target = locate(str(node.get("_target_", "")), group)
    accepted = inspect.signature(target).parameters
    for name in arguments:
        if name not in accepted:
            raise ConfigError(
                f"{group}.{name} is no setting of {node['_target_']}",
                rule="every key is an argument of the target",
                remedy=suggest(name, accepted),
            )
    missing = [n for n, p in accepted.items() if p.default is inspect.Parameter.empty and n not in arguments]
    if missing:
        raise ConfigError(
            f"{group} lacks {', '.join(missing)}",
            rule=f"{node['_target_']} needs them",
            remedy=" ".join(f"{group}.{name}=..." for name in missing),
        )
    return target(**arguments)


def locate(path: str, group: str) -> Any:
    """Import the object at a dotted path, e.g. `trialign.quantize.rqvae.RQVAEQuantizer`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise ConfigError(
            f"{group}._target_={path!r} cannot be imported: {cause}",
            rule="_target_ is the dotted path of a class",
            remedy=f"choose a file of conf/{group}/, or mend the path",
        ) from cause

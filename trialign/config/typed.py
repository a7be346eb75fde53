"""Quote overrides that are text: Hydra would read 1_000, 1e3 or true as numbers or booleans."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, StringNode

from trialign.config.registry import SCHEMAS, FromConfig
from trialign.errors import ConfigError

_USER, _ITEMS = "recommend.user", "recommend.items"
_QUOTED = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_ELEMENT = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*,")
_NO_TEXT = re.compile(r"[-+]?[\d_.]+(e[-+]?\d[\d_]*)?|[-+]?inf|nan|true|false", re.IGNORECASE)
"""What Hydra reads as a number or a truth value, and a little more."""


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with texts quoted, so that Hydra reads them as they were typed.

    A key of a user or an item is text whatever it looks like, `null` and `<|end|>` included; one that has a comma, or
    begins and ends with brackets or quotes, is put in quotes, as ever. Other settings that hold a text are text where
    they look like a number or a truth value (`run=2026_11_30`).

    Raises:
        ConfigError: a list of users, or items that are no list.
    """
    return [_as_typed(override) for override in overrides]


def _as_typed(override: str) -> str:
    name, equals, value = override.partition("=")
    value = value.strip()
    if not equals or re.fullmatch(_QUOTED, value):
        return override
    if name == _USER:
        if value.startswith("[") and value.endswith("]"):
            raise ConfigError(
                f"{override} is a list",
                rule="one user at a time",
                remedy=f"""set {_USER}=KEY; a key in brackets is in quotes: '{_USER}="{value}"'""",
            )
        return f"{name}={_quoted(value)}"
    if name == _ITEMS:
        if not (value.startswith("[") and value.endswith("]")):
            raise ConfigError(f"{override} is no list", rule="items are a list", remedy=f"set '{_ITEMS}=[{value}]'")
        elements = _ELEMENT.findall(value[1:-1] + ",") if value[1:-1].strip() else []
        return f"{name}=[{','.join(text if re.fullmatch(_QUOTED, text) else _quoted(text) for text in elements)}]"
    # Hydra's grammar has no `~`, and a shell does not expand it after `run=`.
    if (_NO_TEXT.fullmatch(value) or value.startswith("~/")) and name in _texts():
        return f"{name}={_quoted(value)}"
    return override


def _quoted(text: str) -> str:
    # Escaped twice: `to_config` resolves interpolations, then makes objects, which resolves again.
    quoted: str = QuotedString(text.replace("${", r"\\\${"), Quote.single).with_quotes()
    return quoted


@cache
def _texts() -> frozenset[str]:
    """Return the dotted names of all settings of type str, over all options of every group."""
    found = {"run"}
    schemas = {(group, schema) for group, choices in SCHEMAS.items() for schema in choices.values()}
    for group, schema in {*schemas, ("from", FromConfig)}:
        found |= set(_text_leaves(OmegaConf.structured(schema), group.replace("/", ".")))
    return frozenset(found)


def _text_leaves(tree: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, tree):
        node = tree._get_node(name)
        if isinstance(node, StringNode):
            yield f"{prefix}.{name}"
        elif isinstance(node, DictConfig) and not node._is_none():
            yield from _text_leaves(node, f"{prefix}.{name}")

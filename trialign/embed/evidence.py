"""What is known of an item, as one text."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from trialign.enrich.evidence import Evidence
from trialign.errors import ConfigError

FIELDS = ("title", "description", "brand", "categories", "caption", "interests")
"""What `embed.evidence` may name."""
ENRICHED = ("caption", "interests")
"""Those of them that the enrich stage makes."""


def item_texts(items: pa.Table, fields: Sequence[str] | None = None, enriched: Evidence | None = None) -> list[str]:
    """Return one text per row: what the fields hold, a line each, without empty parts.

    Args:
        items: columns `title`, `description`, `brand` (string), `categories` (list<string>), without nulls; where the
            catalogue came with captions, `caption` (string) too.
        fields: of FIELDS, in the order of the lines; None for all that the catalogue holds.
        enriched: captions and interests by the enrich stage; interests stand in their order, without confidences.

    Raises:
        ConfigError: a field is asked for that was not made.
    """
    if fields is None:
        fields = [name for name in FIELDS if name in items.column_names]
    columns = [_column(name, items, enriched) for name in fields]
    return ["\n".join(filter(None, parts)) for parts in zip(*columns, strict=True)]


def interests_of(enriched: Evidence | None, setting: str) -> list[list[str]]:
    """Return each item's interests.

    Raises:
        ConfigError: none were made.
    """
    if enriched is None or not enriched.interests:
        raise _not_made("interests", setting)
    return enriched.interests


def _column(name: str, items: pa.Table, enriched: Evidence | None) -> list[str]:
    if name == "categories":
        return [" > ".join(path) for path in items["categories"].to_pylist()]
    if name == "interests":
        return [", ".join(found) for found in interests_of(enriched, "embed.evidence")]
    if name == "caption" and enriched is not None:
        if not enriched.captions:
            raise _not_made("caption", "embed.evidence")
        return enriched.captions
    texts: list[str] = items[name].to_pylist()
    return texts


def _not_made(name: str, setting: str) -> ConfigError:
    group = "captions" if name == "caption" else name
    return ConfigError(
        f"{setting} asks for {group}, and the enrich stage made none",
        rule=f"{group} are made by the enrich stage",
        remedy=f"set enrich/{group}=builtin (see docs/embed.md for others), or leave {name} out",
    )

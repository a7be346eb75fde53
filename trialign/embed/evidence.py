"""Join the fields of an item (title, description, captions, interests) into one text to embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from trialign.config.embed import EmbedConfig, PpmiConfig
from trialign.enrich.evidence import Evidence
from trialign.errors import ConfigError, DataError

Field = Literal["title", "description", "brand", "categories", "caption", "interests"]
FIELDS: tuple[Field, ...] = get_args(Field)
"""What `embed.evidence` may name, and a task may read or write."""
ENRICHED = ("caption", "interests")
"""Those of them that the enrich stage makes."""


def item_texts(items: pa.Table, fields: Sequence[str] | None = None, enriched: Evidence | None = None) -> list[str]:
    """Return one text per item: one line per field, empty fields left out.

    Args:
        items: columns `title`, `description`, `brand` (string), `categories` (list<string>), without nulls; where the
            catalogue came with captions, `caption` (string) too.
        fields: of FIELDS, in the order of the lines; None for all that the catalogue holds.
        enriched: captions and interests by the enrich stage; interests are in their order, without confidences.

    Raises:
        ConfigError: a field is asked for that was not made.
    """
    if fields is None:
        fields = [name for name in FIELDS if name in items.column_names]
    columns = [field_texts(name, items, enriched) for name in fields]
    return ["\n".join(filter(None, parts)) for parts in zip(*columns, strict=True)]


def field_texts(name: str, items: pa.Table, enriched: Evidence | None) -> list[str]:
    """Return one field's text for every item, categories joined to a path; arguments and errors as `item_texts`."""
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


def lacking(embed: EmbedConfig, items: pa.Table, *, told: bool) -> list[str]:
    """Return the configured modalities for which no item has any data.

    Args:
        embed: the encoder of each modality.
        items: with the column `has_image`.
        told: True if any item has a text.
    """
    pictured = bool(pc.any(items["has_image"]).as_py())
    there = {"text": told, "image": pictured, "joint": told or pictured, "collaborative": True}
    return [name for name, found in there.items() if name in embed.encoders() and not found]


def without(embed: EmbedConfig, names: Sequence[str]) -> str:
    """Return the overrides that turn these modalities off, and collaborative vectors on where no other is left."""
    words = [f"embed/{name}=none" for name in names]
    found = embed.collaborative
    leans = isinstance(found, PpmiConfig) and found.text_prior and "text" in names
    if leans or embed.encoders().keys() <= set(names):
        words.append("embed/collaborative=ppmi")
    if embed.interests and "text" in names:
        words.append("embed.interests=false")
    return " ".join(words)


def require_evidence(
    embed: EmbedConfig,
    items: pa.Table,
    texts: Sequence[str],
    interests: Sequence[Sequence[str]] | None = None,
) -> None:
    """Raise an error before any encoding, which may take hours, if a configured modality has no data.

    Args:
        embed: see `lacking`.
        items: likewise.
        texts: one per item.
        interests: of each item, where they are to be embedded too.

    Raises:
        DataError: a modality describes no item, or none is to be embedded; no item has an interest.
    """
    names = lacking(embed, items, told=any(texts))
    if names or not embed.encoders():
        raise DataError(
            nothing_of(names, len(texts)),
            rule="every modality that is embedded describes at least one item, and one at least is embedded",
            remedy=f"set {without(embed, names)}",
        )
    if interests is not None and not any(interests):
        raise DataError(
            f"none of {len(texts)} items has an interest",
            rule="interests are embedded where at least one item has some",
            remedy="set embed.interests=false",
        )


def nothing_of(names: Sequence[str], num_items: int) -> str:
    """Return a phrase that says what the catalogue lacks for this modality."""
    nouns = {"text": "a text", "image": "a picture", "joint": "a text or a picture"}
    told = " or ".join(nouns[name] for name in names if name != "joint" or len(names) == 1)
    return f"none of {num_items} items has {told}" if names else "no modality is to be embedded"


def interests_of(enriched: Evidence | None, setting: str) -> list[list[str]]:
    """Return each item's interests by the enrich stage.

    Raises:
        ConfigError: none were made.
    """
    if enriched is None or not enriched.interests:
        raise _not_made("interests", setting)
    return enriched.interests


def _not_made(name: str, setting: str) -> ConfigError:
    group = "captions" if name == "caption" else name
    return ConfigError(
        f"{setting} asks for {group}, and the enrich stage made none",
        rule=f"{group} are made by the enrich stage",
        remedy=f"set enrich/{group}=builtin (see docs/embed.md for others), or leave {name} out",
    )

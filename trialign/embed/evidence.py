"""What is known of an item, as one text."""

from __future__ import annotations

import pyarrow as pa


def item_texts(items: pa.Table) -> list[str]:
    """Return one text per row: title, description, brand, category path, caption, a line each, without empty parts.

    Args:
        items: columns `title`, `description`, `brand` (string), `categories` (list<string>), without nulls; where the
            catalogue came with captions, `caption` (string) too.
    """
    columns = [items[name].to_pylist() for name in ("title", "description", "brand")]
    columns.append([" > ".join(path) for path in items["categories"].to_pylist()])
    if "caption" in items.column_names:
        columns.append(items["caption"].to_pylist())
    return ["\n".join(filter(None, parts)) for parts in zip(*columns, strict=True)]

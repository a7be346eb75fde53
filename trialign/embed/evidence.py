"""What is known of an item, as one text."""

from __future__ import annotations

import pyarrow as pa


def item_texts(items: pa.Table) -> list[str]:
    """Return one text per row: title, description, brand, category path, a line each; empty parts are left out.

    Args:
        items: columns `title`, `description`, `brand` (string) and `categories` (list<string>), without nulls.
    """
    columns = [items[name].to_pylist() for name in ("title", "description", "brand", "categories")]
    return [
        "\n".join(filter(None, (*parts, " > ".join(categories)))) for *parts, categories in zip(*columns, strict=True)
    ]

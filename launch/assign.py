"""Turn codes into unique semantic IDs, and say how good they are."""

from __future__ import annotations

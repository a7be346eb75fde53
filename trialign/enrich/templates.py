"""Prompts from their files, filled with evidence that stays data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources


def template(name: str) -> str:
    """Return the text of `prompts/<name>.txt`."""
    return resources.files("trialign.enrich.prompts").joinpath(f"{name}.txt").read_text("utf-8")


def template_hash(name: str) -> str:
    """Return the SHA-256 of the template, part of the cache key."""
    return hashlib.sha256(template(name).encode()).hexdigest()


def interests_prompt(variant: str, evidence: Mapping[str, str], max_interests: int) -> str:
    """Return the prompt; `evidence` goes in as one line of JSON, so that no text in it can close its frame."""
    # Evidence last: braces in a title must not be taken for a place to fill.
    text = template(f"interests_{variant}").replace("{max_interests}", str(max_interests))
    return text.replace("{evidence}", json.dumps(evidence))

"""Load prompt templates and fill them with evidence, escaped so that it cannot act as instructions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_FOLDER = Path(__file__).with_name("prompts")
# JSON allows escapes for these characters. Unescaped, `<|im_start|>` or `[INST]` in a title would start a chat turn
# with some tokenizers, and a line separator might end the line that holds the evidence.
_ESCAPED = {letter: f"\\u{ord(letter):04x}" for letter in ("<", ">", "[", "]", "\x7f", "\x85", "\u2028", "\u2029")}


def template_file(name: str) -> Path:
    """Return the file of a template."""
    return _FOLDER / f"{name}.txt"


def template(name: str) -> str:
    """Return a template."""
    return template_file(name).read_text("utf-8").strip()


def template_hash(name: str) -> str:
    """Return the SHA-256 of a template, part of the cache key."""
    return hashlib.sha256(template(name).encode()).hexdigest()


def interests_prompt(variant: str, evidence: Mapping[str, str], max_interests: int) -> str:
    """Return the prompt for interests; `evidence` is inserted as one line of JSON, so that its text stays data."""
    # The evidence is inserted last, so that braces in a title are not taken for placeholders.
    text = template(f"interests_{variant}").replace("{max_interests}", str(max_interests))
    return text.replace("{evidence}", _told(evidence))


def judge_prompt(evidence: Mapping[str, str], interests: Sequence[str]) -> str:
    """Return the prompt that asks of each phrase whether it is a good interest of the item; all data is JSON."""
    before, between, after = re.split(r"\{evidence\}|\{interests\}", template("judge"))
    number = str(len(interests))
    listed = "[{}]".format(", ".join(map(_quoted, interests)))
    return before + _told(evidence) + between + listed + after.replace("{number}", number)


def retry_prompt(question: str, cause: str, number: int) -> str:
    """Return the prompt of a retry, which states why the previous reply was unusable."""
    text = template("retry").replace("{cause}", cause.replace("_", " ")).replace("{number}", str(number + 1))
    return text.replace("{question}", question)


def _told(evidence: Mapping[str, str]) -> str:
    return "{{{}}}".format(", ".join(f'"{name}": {_quoted(text)}' for name, text in evidence.items()))


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(_ESCAPED.get(letter, letter) for letter in quoted)

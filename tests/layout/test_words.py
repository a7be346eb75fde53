"""The field's words, in code, help, errors and pages: none of those that we used before is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

WORDS = {
    r"(?<!trialign\.)(?<!len\()\bstream\.lanes\b": "stream.global_batch_size",
    r"row_tokens": "seq_len",
    r"micro_rows": "micro_batch_size",
    r"stream\.window": "stream.packing_buffer",
    r"(train|rl)\.clip\b": "max_grad_norm",
    r"checkpoint_activations": "activation_checkpointing",
    r"on_spike|runtime\.spike\b": "on_loss_spike, loss_spike_threshold",
    r"avoided\.json|avoided_batches": "skipped_batches",
    r"keep_back|kept_back|kept back|[Ww]ithhold": "rl_holdout, held out",
    r"\bstruck\b": "filtered",
    r"\barms?\b|\bablations?\b": "variant, an experiment that sweeps",
    r"captions_dealt|dealt_anew": "shuffle_captions",
    r"least_chance|load_chances": "min_probability",
    r"backbone=described|DescribedConfig|OwnTokens": "from_config, AddedTokens",
    r"Trie\.of\b|\bWalk\b": "Trie.from_index, ItemPaths",
    r"WholeCopy|cuts_parameters": "UnshardedCopy, shards_parameters",
    r"make_room|asked_for_room|\bmake room\b|\bmade room\b": "preemption_requested, save and end",
    r"\b[Ll]edger": "sample log",
    r"spread_events|\bSPREAD\b": "partition by user hash",
    r"(?<!trialign\.)\brl\.(group|prompts|uses|kl|normali[sz]e)\b": "group_size, num_iterations, kl_coef",
    r"\bInterview\b|\b_Round\b": "Annotator, retry round",
    r"first_wait|key_from|\.tries\b|judge\.lost\b": "backoff, api_key_env, max_attempts, max_failure_rate",
    r"\bCoded\b|\bEncoded\b(?! pictures)|\bGrowth\b": "ItemCodes, QuantizerOutput, Extension",
    r"\bartefact": "artifact",
    r"[Tt]ripwires?\b": "stopping guards",
    r"\bunderstanding\b(?!\")": "grounding",
    r"free_decoding|free_search|[Ff]ree decoding": "unconstrained decoding",
    r"item_core|user_core|\bmin_events\b": "min_item_interactions, min_user_interactions, min_eval_events",
    r"\b[Pp]ace\b": "progress",
}
"""What must not be said, as a pattern -> what is said instead."""

PROSE = {
    r"\b[Mm]end(s|ed|ing)?\b": "fix",
    r"\b(is|are|was|were|be|been|being) told\b(?! (apart|from))": "is reported",
    r"\bstands?\b(?! for| in for)|\bstood\b(?! for)": "is",
    r"\b[Gg]oes on\b|\bgo on\b|\bwent on\b": "resumes, continues",
    r"\b[Bb]eside\b": "next to",
}
"""Words of everyday speech that a reader of this field would stumble over -> what is said instead."""

ALLOWED: tuple[str, ...] = ()
"""Lines in which a word means something else."""

EXCEPTIONS = {
    "trialign/storefront/wording.py",  # sentences of the synthetic world
    "trialign/storefront/world.yaml",
    "CHANGELOG.md",  # says what was renamed
}


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every file that a user or a reader of the code reads, with its text."""
    for top in ("trialign", "launch", "conf", "slurm", "docs"):
        for path in sorted((CHECKOUT / top).rglob("*")):
            if path.suffix in (".py", ".md", ".yaml", ".html", ".sh") and "__pycache__" not in path.parts:
                yield path.relative_to(CHECKOUT), path.read_text()
    for name in ("README.md", "CONTRIBUTING.md"):
        yield Path(name), (CHECKOUT / name).read_text()


@pytest.mark.parametrize("word", [*WORDS, *PROSE])
def test_the_fields_word_is_used(word: str) -> None:
    meant = (WORDS | PROSE)[word]
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        if str(path) not in EXCEPTIONS
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(word, line) and not any(re.search(allowed, line) for allowed in ALLOWED)
    ]
    assert not found, f"say {meant}:\n" + "\n".join(found)

"""Train the small CLIP and measure its zero-shot tags on held-out pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialign.config.enrich import ClipConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.enrich.clip.metrics import commonest_accuracy, log_shares, tag_accuracy, tag_auc
from trialign.enrich.clip.model import build, save, tokenizer_of
from trialign.enrich.clip.pairs import Pairs
from trialign.enrich.clip.pictures import decode
from trialign.files import write_atomically
from trialign.progress import tracked
from trialign.runtime.seeding import numpy_generator

_SETTING = "enrich.clip"
_BATCH = 256  # pictures per forward pass in evaluation


def train_clip(
    found: Pairs, folder: Path, settings: ClipConfig, runtime: RuntimeConfig, tracking: Tracking | None = None
) -> dict[str, Any]:
    """Train a CLIP and write it to `folder` in open_clip's format, with its tags and their metrics.

    Args:
        found: the pairs.
        folder: made if missing.
        settings: the model, its schedule, and the share of the pairs that is held out.
        runtime: the accelerator; the training is one process.
        tracking: what W&B logs; None leaves it out.

    Returns:
        Counts for the manifest, tag accuracy among them.

    Raises:
        ConfigError: no such model.
        DataError: a picture cannot be decoded.
    """
    from trialign.enrich.clip.module import ClipModule, PairBatches  # lightning takes seconds to import
    from trialign.runtime.trainer import Plan, build_trainer

    built, preprocess = build(settings.model, None, settings.seed, _SETTING)
    tokenize = tokenizer_of(settings.model)
    order_M = numpy_generator(settings.seed, "enrich", "clip", "held out").permutation(len(found.pictures))
    num_judged = min(max(1, round(settings.held_out * len(order_M))), len(order_M) - 1)
    judged, trained = np.sort(order_M[:num_judged]), np.sort(order_M[num_judged:])
    # Half precision is exact enough for the 256 values of a pixel, in half the memory.
    pairs = tracked(zip(found.pictures, found.names, strict=True), "pictures read", len(found.pictures))
    pixels_M = torch.stack([preprocess(decode(*pair)).half() for pair in pairs])
    texts = [found.texts[pair] for pair in trained]
    num_texts_M = torch.tensor([len(own) for own in texts])
    batches = PairBatches(
        pixels_M[trained],
        tokenize([text for own in texts for text in own]),
        num_texts_M.cumsum(0) - num_texts_M,
        num_texts_M,
        settings.batch_size,
        settings.seed,
    )
    module = ClipModule(built, batches, settings)
    plan, each = Plan(max_epochs=settings.num_epochs), replace(runtime, log_every=1)
    build_trainer(folder, each, plan, tracking=tracking).fit(module)
    built = built.cpu().eval()
    save(built, settings.model, folder)
    report = {"pairs": len(trained), "held_out": len(judged)}
    if found.tags:
        # The contrastive loss makes a score tend to log p(tag | picture) / p(tag), without the tag's frequency;
        # `_judge` gets the log-frequencies separately.
        scores_NV = score_tags(built, pixels_M[judged], tokenize(found.prompts)) * built.logit_scale.exp().item()
        report |= _judge(found, scores_NV, log_shares(found.tags_MV[trained]), found.tags_MV[judged], folder)
    return report


@torch.inference_mode()
def score_tags(model: Any, pixels_N: Tensor, prompts_VT: Tensor) -> NDArray[np.float32]:
    """Return the cosine of every picture with every prompt: [N, V]."""
    prompts_VD = model.encode_text(prompts_VT, normalize=True)
    blocks = [model.encode_image(block.float(), normalize=True) @ prompts_VD.T for block in pixels_N.split(_BATCH)]
    scores_NV: NDArray[np.float32] = torch.cat(blocks).numpy()
    return scores_NV


def _judge(
    found: Pairs,
    scores_NV: NDArray[np.float32],
    log_shares_V: NDArray[np.float32],
    tags_NV: NDArray[np.bool_],
    folder: Path,
) -> dict[str, Any]:
    """Measure the tags on the held-out pictures, write tags.json and return its totals."""
    if not tags_NV.any():
        return {}
    aucs = tag_auc(scores_NV, tags_NV)
    known = [auc for auc in aucs if auc is not None]
    totals = {
        "tags": len(found.tags),
        "tag_accuracy": tag_accuracy(scores_NV, tags_NV),
        "tag_accuracy_with_shares": tag_accuracy(scores_NV + log_shares_V, tags_NV),
        "tag_accuracy_of_the_commonest": commonest_accuracy(tags_NV),
        "tag_auc": sum(known) / len(known) if known else None,
    }
    tags = [
        {"tag": tag, "prompt": prompt, "held_out": int(held), "auc": auc}
        for tag, prompt, held, auc in zip(found.tags, found.prompts, tags_NV.sum(axis=0), aucs, strict=True)
    ]
    write_atomically(folder / "tags.json", json.dumps(totals | {"vocabulary": tags}, indent=2) + "\n")
    return totals

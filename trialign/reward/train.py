"""The stage `reward`: train and calibrate a reward model of interests, and score the quality of every item."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from trialign.config.enrich import annotator_of
from trialign.config.instantiate import create
from trialign.config.reward import AnnotatorJudgeConfig, RewardConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.data.dataset import Dataset
from trialign.embed.evidence import item_texts
from trialign.enrich.cache import ReplyCache
from trialign.enrich.evidence import Evidence
from trialign.enrich.interests import evidence_of
from trialign.foreign import Json
from trialign.generate.adapters import merge_adapters
from trialign.html import lines, render
from trialign.progress import tracked
from trialign.reward.baselines import interest_only, overlap
from trialign.reward.judge import judged_labels
from trialign.reward.labels import Labels, builtin_labels, corpus_labels
from trialign.reward.metrics import accuracy, auc, auc_by_kind, ece, reliability
from trialign.reward.model import Reader, RewardModel, pretrained_model, tiny_model
from trialign.reward.module import RewardModule, pair_loader
from trialign.reward.quality import item_quality, write_quality
from trialign.runtime.seeding import numpy_generator, seed_global
from trialign.runtime.tracking import log_table
from trialign.runtime.trainer import Plan, build_trainer

logger = logging.getLogger(__name__)

_CORPUS = RewardConfig(epochs=3, batch_size=128, learning_rate=5e-3, weight_decay=0.01)
"""How a corpus is read before the labels are: more of it rather than more often, since few descriptions are learned by
heart (benchmarks/rl.md)."""

Aucs: TypeAlias = dict[str, dict[str, float]]
"""AUC of the model and of what it has to beat, by kind."""


def train_reward(
    dataset: Dataset,
    evidence: Evidence,
    folder: Path,
    settings: RewardConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    tracking: Tracking | None = None,
) -> dict[str, Json]:
    """Train a reward model, measure it on held-out items, and write it together with the quality of every item.

    Args:
        dataset: the prepared dataset.
        evidence: the output of enrich; its interests are scored.
        folder: an existing directory.
        settings: the judge, the model, its schedule; a share of the items is held out, and as many calibrate it.
        runtime: accelerator and log lines; the training is one process.
        seed: of labels, split, weights and order.
        tracking: what W&B logs; None leaves it out.

    Returns:
        Counts for the manifest.
    """
    texts = _texts(dataset, evidence)
    labels, asked = _labels(dataset, evidence, texts, settings, seed)
    order = numpy_generator(seed, "reward split").permutation(np.unique(labels.items_M))
    size = max(1, round(settings.held_out * len(order)))
    test, calibration, train = (labels.of(part) for part in (order[:size], order[size : 2 * size], order[2 * size :]))
    seed_global(seed, "reward")
    scorer, reader = _model(dataset, evidence, texts, folder, settings, runtime, seed=seed, tracking=tracking)
    _fit(scorer, reader, train, texts, folder, settings, runtime, seed=seed, tracking=tracking)
    scorer.eval().cpu()
    batch_size = settings.batch_size
    scale = _calibrate(score_pairs(scorer, reader, calibration, texts, batch_size), calibration.good_M)
    chances_M = _chance(score_pairs(scorer, reader, test, texts, batch_size), scale)
    scores = {"model": chances_M, "interest_only": interest_only(train, test), "overlap": overlap(texts, test)}
    aucs = {name: auc_by_kind(values_M, test) for name, values_M in scores.items()}
    truth = _truth(scores, test, dataset.truth().get("purpose"))
    record = _record(chances_M, test, aucs, truth) | {"scale": scale, "judge": asked}
    (folder / "reward.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "reward.html").write_text(_page(record, aucs, truth, reliability(chances_M, test.good_M)))
    if tracking is not None:
        log_table(replace(tracking, part="held_out"), record, "auc", *_table(aucs))
    _write_all_quality(folder, scorer, reader, scale, evidence, texts, batch_size)
    merge_adapters(scorer.encoder)  # type: ignore[arg-type]
    save_file({name: value.contiguous() for name, value in scorer.state_dict().items()}, folder / "reward.safetensors")
    logger.info("  held-out AUC: %s", ", ".join(f"{name} {value:.3f}" for name, value in aucs["model"].items()))
    counts: dict[str, Json] = {"pairs": len(labels.items_M), "held_out": len(test.items_M), "auc": aucs["model"]["all"]}
    return counts | ({"judge": asked} if asked else {})


def _model(
    dataset: Dataset,
    evidence: Evidence,
    texts: Sequence[str],
    folder: Path,
    settings: RewardConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    tracking: Tracking | None,
) -> tuple[RewardModel, Reader]:
    """Return the model before training on the labels; the small one may be pretrained on a corpus."""
    if settings.model is not None:
        return pretrained_model(settings.model, lora=settings.lora, max_tokens=settings.max_tokens, seed=seed)
    words = [*texts, *{interest for found in evidence.interests for interest in found}]
    scorer, reader = tiny_model(words, settings.tiny, max_tokens=settings.max_tokens, seed=seed)
    if settings.tiny.num_pairs:
        known, read = corpus_labels(settings.tiny.num_pairs, dataset.items["title"].to_pylist(), seed)
        reading = None if tracking is None else replace(tracking, part="corpus")
        _fit(scorer, reader, known, read, folder / "corpus", _CORPUS, runtime, seed=seed, tracking=reading)
    return scorer, reader


def _labels(
    dataset: Dataset, evidence: Evidence, texts: Sequence[str], settings: RewardConfig, seed: int
) -> tuple[Labels, dict[str, Json]]:
    """Return the labeled pairs, and the judge's counts if there is a judge."""
    built, judge = builtin_labels(evidence.interests, texts, seed), settings.judge
    if judge is None:
        return built, {}
    backend = create(judge, "reward.judge", AnnotatorJudgeConfig)
    asking = annotator_of(judge, AnnotatorJudgeConfig) or AnnotatorJudgeConfig()
    replies = ReplyCache(Path(settings.cache).expanduser().absolute(), "judge")
    try:
        told = evidence_of(dataset, evidence.captions)
        return judged_labels(built, told, backend, replies, asking, seed=seed)
    finally:
        replies.close()


def _fit(
    scorer: RewardModel,
    reader: Reader,
    labels: Labels,
    texts: Sequence[str],
    folder: Path,
    settings: RewardConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
    tracking: Tracking | None,
) -> None:
    """Train on pairs."""
    loader = pair_loader(reader, labels, texts, settings.batch_size, seed)
    num_steps = settings.epochs * len(loader)
    module = RewardModule(scorer, settings, share=float(labels.good_M.mean()), num_steps=num_steps)
    plan = Plan(max_epochs=settings.epochs, max_grad_norm=1.0)
    build_trainer(folder, runtime, plan, tracking=tracking).fit(module, loader)


@torch.inference_mode()
def score_pairs(
    model: RewardModel, reader: Reader, labels: Labels, texts: Sequence[str], batch_size: int
) -> NDArray[np.float64]:
    """Return the logits of pairs, by a model in eval mode."""
    found = []
    for start in tracked(range(0, len(labels.interests), batch_size), "batches of pairs scored"):
        rows = range(start, min(start + batch_size, len(labels.interests)))
        pairs = reader([labels.interests[row] for row in rows], [texts[labels.items_M[row]] for row in rows])
        found.append(model(pairs).double().numpy())
    return np.concatenate([np.zeros(0), *found])


def _texts(dataset: Dataset, evidence: Evidence) -> list[str]:
    """Return the text of every item: title, description and caption."""
    return item_texts(dataset.items, ["title", "description", *["caption"] * bool(evidence.captions)], evidence)


def _calibrate(logits_M: NDArray[np.float64], good_M: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and shift of the logits by Platt scaling (Platt 1999), for calibrated probabilities."""
    fitted = LogisticRegression(C=1e6).fit(logits_M[:, None], good_M)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _chance(logits_M: NDArray[np.float64], scale: tuple[float, float]) -> NDArray[np.float64]:
    chances: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-(scale[0] * logits_M + scale[1])))
    return chances


def _record(chances_M: NDArray[np.float64], test: Labels, aucs: Aucs, truth: Aucs | None) -> dict[str, Json]:
    found: dict[str, Json] = {name: {"auc": values} for name, values in aucs.items()}
    quality = {"accuracy": accuracy(chances_M, test.good_M), "ece": ece(chances_M, test.good_M)}
    found["model"] = {"auc": aucs["model"], **quality}
    found |= {"items": len(np.unique(test.items_M)), "pairs": len(test.items_M)}
    found["reliability"] = reliability(chances_M, test.good_M)
    return found if truth is None else found | {"truth": truth}


def _truth(
    scores: Mapping[str, NDArray[np.float64]], test: Labels, purposes: Sequence[str | None] | None
) -> Aucs | None:
    """Return the AUC against the true purposes of the items of a generated dataset."""
    if purposes is None:
        return None
    true_M = np.array([purposes[item] == told for item, told in zip(test.items_M, test.interests, strict=True)])
    truth, own_M = replace(test, good_M=true_M), test.kinds_M == 0
    return {
        name: auc_by_kind(values_M, truth) | {"own": auc(values_M[own_M], true_M[own_M])}
        for name, values_M in scores.items()
    }


def _page(record: Mapping[str, Json], aucs: Aucs, truth: Aucs | None, bins: Sequence[tuple[float, float, int]]) -> str:
    drawn = {"model": [(chance, share) for chance, share, _ in bins], "ideal": [(0.0, 0.0), (1.0, 1.0)]}
    return render(
        "reward.html",
        "Reward model",
        record=record,
        auc=_shown(aucs),
        truth=None if truth is None else _shown(truth),
        reliability=lines(drawn),
    )


def _table(aucs: Aucs) -> tuple[Sequence[str], list[list[str | float]]]:
    """Return the columns and rows of the AUC table: the model and its baselines, by kind of negative."""
    return ("", *aucs["model"]), [[name, *values.values()] for name, values in aucs.items()]


def _shown(aucs: Aucs) -> tuple[Sequence[str], list[list[str]]]:
    rows = [[name, *(f"{value:.3f}" for value in values.values())] for name, values in aucs.items()]
    return _table(aucs)[0], rows


def _write_all_quality(
    folder: Path,
    scorer: RewardModel,
    reader: Reader,
    scale: tuple[float, float],
    evidence: Evidence,
    texts: Sequence[str],
    batch_size: int,
) -> None:
    counts = [len(found) for found in evidence.interests]
    items_M = np.repeat(np.arange(len(counts)), counts)
    every = [interest for found in evidence.interests for interest in found]
    nothing = np.zeros(len(every), np.int64)
    chances_M = _chance(
        score_pairs(scorer, reader, Labels(items_M, every, nothing.astype(bool), nothing), texts, batch_size), scale
    )
    by_item = [part.tolist() for part in np.split(chances_M, np.cumsum(counts)[:-1])]
    write_quality(folder, item_quality(by_item, evidence.confidences), by_item)

"""What of a modality's neighbourhoods is left in the codes, and what prefixes are compared with."""

import json

import numpy as np
import pytest
import torch
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.embed.store import Modality
from trialign.semid.distortion import neighbourhoods, shared
from trialign.semid.labels import evidence_labels, text_labels

NUM_ITEMS = 400


@pytest.fixture(scope="module")
def vectors():
    """Two modalities that know nothing of each other."""
    draws = np.random.default_rng(0)
    return {name: draws.normal(size=(NUM_ITEMS, 6)).astype(np.float32) for name in ("text", "image")}


def measure(vectors, latents_ND, codes_NL, codebooks_LKD, present_N=None):
    present_N = np.ones(NUM_ITEMS, bool) if present_N is None else present_N
    given = {name: Modality(found, present_N) for name, found in vectors.items()}
    return neighbourhoods(codes_NL, latents_ND, codebooks_LKD, given)


def test_codes_that_lose_nothing_keep_all_neighbours_of_what_they_code_and_none_of_the_rest(vectors):
    own_code = np.arange(NUM_ITEMS)[:, None]
    found = measure(vectors, vectors["text"], own_code, vectors["text"][None])
    assert (found["text"].before, found["text"].after) == (1.0, 1.0)
    chance = 10 / (NUM_ITEMS - 1)
    assert found["image"].after == pytest.approx(chance, abs=0.01)
    assert found["text"].random_codes == pytest.approx(chance, abs=0.01)


def test_coarser_codes_keep_fewer(vectors):
    """Rounding moves items less than twenty codes do."""
    text_ND, kept = vectors["text"], []
    for size in (200, 20):
        books_KD = text_ND[:size]
        codes_N = np.square(text_ND[:, None] - books_KD).sum(2).argmin(1)
        kept.append(measure(vectors, text_ND, codes_N[:, None], books_KD[None])["text"].after)
    assert 1.0 > kept[0] > 1.5 * kept[1]


def test_items_without_the_modality_are_not_looked_at(vectors):
    present_N = np.arange(NUM_ITEMS) < 50
    garbled = {name: np.where(present_N[:, None], found, 1e6).astype(np.float32) for name, found in vectors.items()}
    codes = np.arange(NUM_ITEMS)[:, None]
    found = measure(garbled, vectors["text"], codes, vectors["text"][None], present_N)
    assert found["text"].num_items == 50
    assert found["text"].after == 1.0
    assert measure(vectors, vectors["text"], codes, vectors["text"][None], np.arange(NUM_ITEMS) < 10) == {}


def test_a_level_without_a_codebook_is_not_looked_at(vectors):
    codes = np.arange(NUM_ITEMS)[:, None]
    with_suffix = np.hstack([codes, codes[::-1]])
    one, same = (measure(vectors, vectors["text"], given, vectors["text"][None]) for given in (codes, with_suffix))
    assert one == same


def test_shared_by_hand():
    one, other = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 9], [4, 3]])
    assert shared(one, other) == 0.75


def test_few_texts_are_their_own_labels():
    assert text_labels(["b", "", "a", "b"]).tolist() == [1, -1, 0, 1]
    assert text_labels(["", ""]).tolist() == [-1, -1]


def test_alike_ones_of_many_texts_share_a_label():
    texts = [f"word{n % 40} twin{n % 40} number{n}" for n in range(400)]
    labels_N = text_labels(texts)
    assert labels_N.max() < 64
    same = np.arange(400)[:, None] % 40 == np.arange(400) % 40
    together = labels_N[:, None] == labels_N
    assert together[same].mean() > 0.7
    assert together[~same].mean() < 0.1


def test_labels_are_of_what_is_known():
    truth = {"category": ["a", "b"], "style": ["folk", None], "purpose": ["x", "y"]}
    assert set(evidence_labels(truth, [], [])) == {"purpose"}  # one style tells nothing
    found = evidence_labels({}, ["red", "blue"], [["b", "a"], ["a"]])
    assert {name: labels_N.tolist() for name, labels_N in found.items()} == {"caption": [1, 0], "interest": [1, 0]}


def test_the_stage_reports_them(tmp_path):
    tiny = ["data.num_items=96", "data.num_users=40", "embed.text.dim=16", "quantize.codebook_size=8"]
    enriched = ["enrich/interests=builtin", "enrich.interests.num_pairs=200"]
    for verb in ("prepare", "enrich", "embed", "quantize", "assign"):
        script(verb)(compose(verb, [f"run={tmp_path}", *tiny, *enriched]))
    report = json.loads((tmp_path / "assign" / "quality.json").read_text())
    assert set(report["neighbourhoods"]) == {"text", "image"}
    assert report["neighbourhoods"]["text"]["after"] > report["neighbourhoods"]["text"]["random_codes"]
    assert report["style"]["num_items"] == report["neighbourhoods"]["image"]["num_items"] < 96
    assert report["purpose"]["num_items"] == 96
    assert set(report["interest"]["adjusted_mutual_information"]) == {"prefix_1", "prefix_2"}
    page = (tmp_path / "assign" / "quality.html").read_text()
    assert "What is left of the modalities" in page
    assert "strongest interest" in page

"""Builtin captions and interests: how well they know the storefront, small cases, what they never see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from tests.tools import ring_dataset
from trialign.config.data import StorefrontConfig
from trialign.config.enrich import BuiltinInterestsConfig, TagCaptionsConfig
from trialign.data.dataset import Dataset
from trialign.enrich.builtin import BuiltinInterests, company, keyphrases, purposes_of
from trialign.enrich.captions import TagCaptions, shuffled_captions
from trialign.enrich.evidence import Caption, ItemInterests
from trialign.enrich.truth import judge_captions, judge_interests
from trialign.errors import ConfigError, DataError
from trialign.storefront import Storefront
from trialign.storefront.wording import write_items

SETTINGS = {
    "descriptions": True,
    "co_engagement": False,
    "fitted_on": "auto",
    "num_pairs": 100,
    "max_interests": 5,
    "min_confidence": 0.1,
    "min_share": 0.1,
    "window": 10,
}
SHOP = Storefront(StorefrontConfig(seed=3, num_items=400, num_users=10))
STYLES = [style.name for style in SHOP.world.styles]
PURPOSES = [purpose for purpose, _ in SHOP.world.purposes]


class Catalogue(Dataset):
    """A catalogue and train histories in memory."""

    def __init__(self, items, histories=()):
        self.items = pa.table(
            {
                "title": [item[0] for item in items],
                "description": [item[1] for item in items],
                "categories": pa.array([item[2] for item in items], pa.list_(pa.string())),
            }
        )
        self.keys = [str(number) for number in range(len(items))]
        self.num_items = len(items)
        self.histories = [np.array(history, np.int32) for history in histories]

    def train_histories(self):
        return self.histories


def test_the_classifier_knows_the_purposes_of_a_catalogue_it_never_saw():
    texts = [item.description for item in write_items(SHOP.world, SHOP.attributes(), SHOP.settings.seed)]
    names, chances_NV = purposes_of(texts, 20_000)
    assert sorted(names) == sorted(PURPOSES)
    np.testing.assert_allclose(chances_NV.sum(axis=1), 1.0, rtol=1e-6)
    truth = [PURPOSES[purpose] for purpose in SHOP.attributes().purpose_N]
    assert np.mean(np.array(names)[chances_NV.argmax(axis=1)] == np.array(truth)) >= 0.8


def test_keyphrases_are_special_to_their_class_and_stand_in_the_text():
    items = [
        ("Kettle", "boils water quickly, steel body", ["Kitchen", "Kettles"]),
        ("Kettle", "boils water quietly, steel body", ["Kitchen", "Kettles"]),
        ("Lamp", "warm light, steel body", ["Home", "Lamps"]),
        ("Lamp", "warm light with dimmer", ["Home", "Lamps"]),
        ("", "", []),
    ]
    found = BuiltinInterests(BuiltinInterestsConfig(**SETTINGS)).interests(Catalogue(items), [], storefront=False)
    assert found[0].interests[0] == "boils water"
    assert found[0].confidences[0] == 1.0
    assert "warm light" in found[2].interests
    for (title, description, _), own in zip(items, found, strict=True):
        told = " ".join(f"{title} {description}".lower().replace(",", " ").split())
        assert all(name in told for name in own.interests)
        assert list(own.confidences) == sorted(own.confidences, reverse=True)
    assert found[4] == ItemInterests(failure="no_evidence")
    # "boils" and "water" say nothing that "boils water" does not.
    assert not {"boils", "water"} & set(found[0].interests)
    # What is on both classes ranks below what is on one.
    assert found[0].interests.index("boils water") < found[0].interests.index("steel body")


def test_what_every_caption_begins_with_is_no_keyphrase():
    looks = ("waves", "lilac", "chrome", "linen")
    items = [(f"thing{item % 3}", "", ["Home"]) for item in range(24)]
    captions = [f"The picture shows {looks[item % 4]}." for item in range(24)]
    names, scores_NT = keyphrases(Catalogue(items), captions)
    assert not {"picture", "shows", "picture shows"} & {word for name in names for word in (name, *name.split())}
    assert {"waves", "lilac", "chrome", "linen"} <= {names[column] for column in scores_NT.tocoo().coords[1]}


def test_keyphrases_worked_by_hand():
    catalogue = Catalogue([("red", "", ["A"]), ("red", "", ["A"]), ("red blue", "", ["B"]), ("blue", "", ["B"])])
    names, scores_NT = keyphrases(catalogue, [])
    # Five words in two classes: A = 2.5. red: f = 3, blue: f = 2. Class B: red once, blue twice.
    red, blue = 1 * np.log(1 + 2.5 / 3), 2 * np.log(1 + 2.5 / 2)
    assert names == ["blue", "red"]
    np.testing.assert_allclose(scores_NT.toarray(), [[0, 1], [0, 1], [1, red / blue], [1, 0]])


def test_company_worked_by_hand():
    # Items 0, 1, 2; 0 is 5 times next to 1 and 5 times next to 2. Interest 0 is told of item 1 alone.
    together_NN = csr_array(np.array([[0.0, 5, 5], [5, 0, 0], [5, 0, 0]]))
    own_NV = csr_array(np.array([[0.0, 1], [1, 0], [0, 1]]))
    share_NV, surprise_NV = company(together_NN, own_NV)
    # Everybody's company: 10 + 5 + 5 = 20, of which item 1 is 5.
    base = 5 / 20
    share = (5 + 5 * base) / (10 + 5)
    assert share_NV.toarray()[0, 0] == pytest.approx(share)
    assert surprise_NV.toarray()[0, 0] == pytest.approx(share * np.log(share / base))
    # Item 2 is next to item 0 alone, of which interest 0 is not told.
    assert share_NV.toarray()[2, 0] == 0


def test_no_item_speaks_for_itself_and_origins_are_told():
    items = [("", "alpha alpha beta", ["X"]), ("", "alpha gamma", ["X"]), ("", "delta gamma", ["Y"])]
    items += [("", "delta beta", ["Y"])]
    histories = [[0, 2], [0, 2], [1, 3]]
    settings = SETTINGS | {"descriptions": False, "co_engagement": True, "window": 1}
    found = BuiltinInterests(BuiltinInterestsConfig(**settings)).interests(
        Catalogue(items, histories), [], storefront=False
    )
    assert set(found[0].origins) == {"co-engagement"}
    assert set(found[0].interests) <= {"delta", "gamma", "delta gamma"}
    both = BuiltinInterests(BuiltinInterestsConfig(**settings | {"descriptions": True})).interests(
        Catalogue(items, histories), [], storefront=False
    )
    assert set(both[0].origins) == {"description", "co-engagement"}
    assert len(set(both[0].interests)) == len(both[0].interests)
    # Nobody chose anything: nothing is known, and that is said.
    alone = BuiltinInterests(BuiltinInterestsConfig(**settings)).interests(Catalogue(items), [], storefront=False)
    assert {own.failure for own in alone} == {"nothing_found"}


def test_held_out_events_play_no_part(tmp_path: Path):
    settings = SETTINGS | {"co_engagement": True, "window": 2}

    def interests(name: str, last_by: int | None) -> list[ItemInterests]:
        dataset = ring_dataset(tmp_path / name, last_by)
        # Titles of the ring are alike but for a number; words make them tell.
        words = [f"word{chr(97 + item)} shared{chr(97 + item // 2)}" for item in range(dataset.num_items)]
        return BuiltinInterests(BuiltinInterestsConfig(**settings)).interests(dataset, words, storefront=False)

    assert interests("one", None) == interests("other", 5)


def test_truth_judges_what_is_named():
    truth = {"style": ["folk", "neon", None, "folk"], "purpose": ["camping", "gifts", "baking", "gifts"]}
    right = [Caption("It shows the folk look."), Caption("neon, bright"), Caption(), Caption("a folk pattern")]
    assert judge_captions(truth, right) == {"style_accuracy": 0.75, "style_accuracy_of_pictures": 1.0}
    # One that names two styles names none.
    both = [Caption("folk or neon")] * 4
    assert judge_captions(truth, both) == {"style_accuracy": 0.0, "style_accuracy_of_pictures": 0.0}
    told = [ItemInterests((purpose,), (1.0,), ("description",)) for purpose in truth["purpose"]]
    assert judge_interests(truth, told) == {"purpose_accuracy": 1.0, "purpose_precision": 1.0}
    vague = [ItemInterests(("nothing", *own.interests), (1.0, 0.5), ("description",) * 2) for own in told]
    assert judge_interests(truth, vague) == {"purpose_accuracy": 0.0, "purpose_precision": 0.5}
    assert judge_captions({}, right) == judge_interests({}, told) == {}


def test_dealt_captions_are_the_same_ones_and_an_item_without_stays_without():
    made = [Caption(f"caption {item}", "someone") if item % 3 else Caption(failure="no_picture") for item in range(300)]
    dealt = shuffled_captions(made, seed=0)
    assert dealt == shuffled_captions(made, seed=0) != shuffled_captions(made, seed=1)
    assert sorted(found.caption for found in dealt) == sorted(found.caption for found in made)
    assert [bool(found.caption) for found in dealt] == [bool(found.caption) for found in made]
    assert all(found == Caption(failure="no_picture") for found in dealt[::3])
    assert all(found.source == "someone, of another item" for found in dealt if found.caption)
    assert sum(one.caption == other.caption != "" for one, other in zip(made, dealt, strict=True)) < 10


def test_a_small_clip_without_tags_makes_no_captions(tmp_path: Path):
    tags = TagCaptions(TagCaptionsConfig("", 2))
    assert tags._sentence(np.array([0.5, 0.1, 0.3, 0.4]), list("abcd")) == "The picture shows a; d."
    assert tags._sentence(np.array([0.1, 0.9]), ["sand", "navy stripes"]) == "The picture shows navy stripes."
    from trialign.enrich.captions import _prompts

    with pytest.raises(DataError, match=r"tags\.json"):
        _prompts(tmp_path)


def test_interests_from_nowhere_are_refused():
    with pytest.raises(ConfigError, match="co_engagement=false"):
        BuiltinInterests(BuiltinInterestsConfig(**SETTINGS | {"descriptions": False}))


def test_a_catalogue_without_a_repeated_word_is_refused():
    with pytest.raises(DataError, match="no keyphrases"):
        keyphrases(Catalogue([("alpha", "", []), ("beta", "", [])]), [])

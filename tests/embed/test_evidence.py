"""What is embedded as an item's text, and the vectors of its interests."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.config.embed import TfidfConfig
from trialign.data.dataset import Dataset
from trialign.embed.encode import embed_interests
from trialign.embed.evidence import item_texts
from trialign.embed.store import load, load_interests
from trialign.embed.text import TfidfSvd
from trialign.enrich.evidence import Caption, Evidence, ItemInterests, write_captions, write_interests
from trialign.errors import ConfigError, DataError
from trialign.stage import Stage

ITEMS = pa.table(
    {
        "title": ["Lamp", "Chair"],
        "description": ["Bright.", ""],
        "brand": ["Lux", ""],
        "categories": [["Home", "Light"], []],
        "caption": ["as the shop says", ""],
    }
)
SAID = Evidence(["A brass lamp.", ""], [["reading at night", "a desk"], []], [[0.9, 0.4], []])


def write_enriched(folder, said):
    """Make a finished enrich stage that says so of the items."""
    stage = Stage.open("enrich", folder / "enrich", {})
    with stage.building() as made:
        write_captions(made, [Caption(caption) for caption in said.captions])
        write_interests(made, list(map(ItemInterests, said.interests, said.confidences)))
    return folder


def test_fields_stand_in_the_order_they_are_asked_for_without_confidences():
    fields = ["interests", "title", "caption", "categories"]
    assert item_texts(ITEMS, fields, SAID) == ["reading at night, a desk\nLamp\nA brass lamp.\nHome > Light", "Chair"]


def test_unasked_it_is_all_that_the_catalogue_holds():
    assert item_texts(ITEMS) == ["Lamp\nBright.\nLux\nHome > Light\nas the shop says", "Chair"]


@pytest.mark.parametrize("name", ["caption", "interests"])
def test_what_was_not_made_is_refused(name):
    with pytest.raises(ConfigError, match="made none") as raised:
        item_texts(ITEMS, [name], Evidence([], [], []))
    assert "set enrich/" in raised.value.remedy


def test_each_distinct_interest_is_embedded_once_where_the_texts_are(tmp_path):
    encoder = TfidfSvd(TfidfConfig(dim=6, min_df=1))
    encoder.encode(["reading lamp", "camping stove", "night light", "camping tent at night"])
    interests = [["camping", "night"], [], ["unheard", "night"], ["reading lamp"]]
    assert embed_interests(encoder, interests, tmp_path) == 3
    found = load_interests(tmp_path)
    assert isinstance(found.vectors_UD, np.memmap)
    assert found.offsets.tolist() == [0, 2, 2, 3, 4]
    assert len(found.vectors_UD) == 4  # camping, night, reading lamp, unheard
    own = [found.vectors_UD[found.ids_M[start:end]] for start, end in pairwise(found.offsets)]
    np.testing.assert_array_equal(own[0], encoder.transform(["camping", "night"]).vectors_ND)
    np.testing.assert_array_equal(own[2], own[0][1:])  # no word of "unheard" is known: it has no vector
    np.testing.assert_allclose(own[3], encoder.transform(["reading lamp"]).vectors_ND)


def test_transforming_the_fitted_texts_gives_their_vectors_again():
    texts = ["reading lamp", "camping stove", "night light", "camping tent at night"]
    encoder = TfidfSvd(TfidfConfig(dim=3, min_df=1))
    np.testing.assert_allclose(encoder.encode(texts).vectors_ND, encoder.transform(texts).vectors_ND, atol=1e-6)


def test_interests_that_nobody_has_are_refused(tmp_path):
    encoder = TfidfSvd(TfidfConfig(dim=2, min_df=1))
    encoder.encode(["a red lamp", "a blue lamp"])
    with pytest.raises(DataError, match="interests"):
        embed_interests(encoder, [["unheard"], []], tmp_path)


class TestStage:
    """As the command line runs it, on a tiny storefront."""

    SIZES = ("data.num_items=96", "data.num_users=40", "embed.text.dim=16", "embed/image=none")

    @pytest.fixture(scope="class")
    def world(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("world")
        script("prepare")(compose("prepare", [f"run={folder}", *self.SIZES]))
        purposes = Dataset(folder / "prepare").truth()["purpose"]
        write_enriched(folder, Evidence([f"for {p}" for p in purposes], [[p] for p in purposes], [[1.0]] * 96))
        return folder

    def embed(self, world, folder, *overrides):
        given = [f"run={folder}", f"from.prepare={world}", f"from.enrich={world}", *self.SIZES, *overrides]
        return script("embed")(compose("embed", given))

    def test_the_stage_reads_enrich_where_evidence_comes_from_there(self, world, tmp_path):
        plain = self.embed(world, tmp_path / "plain")
        assert set(plain.read().inputs) == {"prepare"}
        rich = self.embed(world, tmp_path / "rich", "embed.evidence=[title,interests]", "embed.interests=true")
        assert set(rich.read().inputs) == {"prepare", "enrich"}
        assert rich.counts["interests"] == {"items": 96}
        assert set(load(rich.folder)) == {"text"}  # interests are no vector of an item
        found = load_interests(rich.folder)
        same = (found.ids_M[:, None] == found.ids_M) & ~np.eye(96, dtype=bool)
        vectors_ND = load(rich.folder)["text"].vectors_ND
        cosine = vectors_ND @ vectors_ND.T
        assert cosine[same].mean() > cosine[~same].mean() + 0.3
        assert load_interests(plain.folder) is None

    def test_unknown_evidence_and_interests_without_texts_are_refused(self, world, tmp_path):
        with pytest.raises(ConfigError, match=r"embed\.evidence holds captions") as raised:
            self.embed(world, tmp_path, "embed.evidence=[captions]")
        assert "did you mean 'caption'" in raised.value.remedy
        with pytest.raises(ConfigError, match=r"embed\.interests=true"):
            compose("embed", [f"run={tmp_path}", "embed.interests=true", "embed/text=none"])
        with pytest.raises(ConfigError, match="nothing twice"):
            self.embed(world, tmp_path, "embed.evidence=[title,title]")

    def test_the_quantizer_reads_the_interests(self, world, tmp_path):
        rich = self.embed(world, tmp_path, "embed.interests=true")
        small = ["quantize=rqvae", "quantize.codebook_size=8", "quantize.num_epochs=2", "quantize.interest_weight=0.1"]
        stage = script("quantize")(compose("quantize", [f"run={tmp_path}", *small]))
        assert stage.read().inputs["embed"]["hash"] == rich.read().hash
        assert "loss/interest" in (tmp_path / "quantize" / "log" / "metrics.csv").read_text()


def test_unlikely_interests_are_dropped_and_counted():
    kept, left_out = SAID.likely([[0.3, 0.7], []], 0.5)
    assert kept == Evidence(SAID.captions, [["a desk"], []], [[0.4], []])
    assert left_out == 1
    assert SAID.likely([[0.3, 0.7], []], 0.0) == (SAID, 0)
    with pytest.raises(DataError, match="probabilities of 1 interests, of 2 mined"):
        SAID.likely([[0.3], []], 0.5)


@pytest.mark.parametrize("override", ["embed.min_probability=0.5", "embed.min_probability=1"])
def test_a_chance_that_leaves_nothing_out_or_everything_is_refused(override):
    more = ["embed.evidence=[title,interests]"] if override.endswith("=1") else []
    with pytest.raises(ConfigError, match=r"embed\.min_probability"):
        compose("embed", ["run=runs/x", override, *more])

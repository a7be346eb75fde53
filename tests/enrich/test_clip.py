import io
import json
import math
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from trialign.config.embed import OpenClipConfig
from trialign.config.enrich import ClipConfig
from trialign.config.runtime import RuntimeConfig
from trialign.data.dataset import Dataset
from trialign.embed.image import OpenClipTower
from trialign.enrich.clip.loss import info_nce
from trialign.enrich.clip.metrics import commonest_accuracy, log_shares, tag_accuracy, tag_auc
from trialign.enrich.clip.pairs import Pairs, catalogue_pairs, storefront_pairs
from trialign.enrich.clip.train import train_clip
from trialign.errors import DataError
from trialign.storefront.corpus import picture_sentences

COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (50, 60, 200), "grey": (120, 120, 120)}
SETTINGS = ClipConfig(model="micro", held_out=0.2, num_epochs=3, batch_size=16, learning_rate=3e-3)
CPU = RuntimeConfig(accelerator="cpu")


def paint(color, draws):
    pixels = np.array(color) + draws.integers(-30, 31, size=(64, 64, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def make_pairs(num_pairs=200):
    draws, names = np.random.default_rng(0), list(COLOURS)
    shown = [names[n % 4] for n in range(num_pairs)]
    said = ("all over {}", "a {} thing")
    return Pairs(
        names=[str(n) for n in range(num_pairs)],
        pictures=[paint(COLOURS[name], draws) for name in shown],
        texts=[[text.format(name) for text in said] for name in shown],
        tags=names,
        prompts=[f"{name} all over" for name in names],
        tags_MV=np.array(shown)[:, None] == np.array(names),
    )


@pytest.fixture(scope="module", autouse=True)
def micro(tmp_path_factory):
    """Let open_clip know a model small enough to be trained in a second."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 16,
            "patch_size": 8,
            "width": 32,
            "head_width": 16,
            "layers": 1,
            "no_ln_pre": True,
            "pool_type": "avg",
        },
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    folder = tmp_path_factory.mktemp("configs")
    (folder / "micro.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("enrich") / "clip"
    return folder, train_clip(make_pairs(), folder, SETTINGS, CPU)


def test_training_lowers_the_loss_and_learns_the_tags(trained):
    folder, counts = trained
    lines = (folder / "log" / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("loss/info_nce")
    losses = [float(line.split(",")[place]) for line in lines[1:]]
    # Sixteen pairs of four colors: who knows the color and no more is left with a choice among about four.
    assert losses[-1] < losses[0]
    assert losses[-1] < math.log(16) - 0.5
    assert (counts["pairs"], counts["held_out"], counts["tags"]) == (160, 40, 4)
    assert counts["tag_accuracy"] >= 0.95 > 0.6 > counts["tag_accuracy_of_the_commonest"]
    written = json.loads((folder / "tags.json").read_text())
    assert written["tag_accuracy"] == counts["tag_accuracy"]
    assert [entry["tag"] for entry in written["vocabulary"]] == list(COLOURS)
    assert sum(entry["held_out"] for entry in written["vocabulary"]) == 40


def test_embed_opens_it_like_any_open_clip_model(trained):
    folder, _ = trained
    tower = OpenClipTower(OpenClipConfig("", f"local-dir:{folder}", checkpoint=None, seed=0, batch_size=8))
    assert tower.notes == []
    weights = load_file(folder / "open_clip_model.safetensors")
    found = tower._tower.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name].cpu(), weights[name]) for name in weights)
    draws = np.random.default_rng(1)
    images = [(n, paint(color, draws)) for n, color in enumerate([*COLOURS.values()] * 3)]
    ((_, vectors_BD), (_, rest_BD)) = tower.rows(images, [str(n) for n in range(12)], skip=0)
    unit_ND = normalize(torch.from_numpy(np.concatenate([vectors_BD, rest_BD])))
    cosine_NN = (unit_ND @ unit_ND.T).numpy()
    same_NN = np.arange(12)[:, None] % 4 == np.arange(12) % 4
    assert cosine_NN[same_NN].min() > cosine_NN[~same_NN].max()


def test_the_seed_determines_every_byte(tmp_path):
    def weights(name, seed):
        train_clip(make_pairs(40), tmp_path / name, replace(SETTINGS, num_epochs=1, seed=seed), CPU)
        return (tmp_path / name / "open_clip_model.safetensors").read_bytes()

    assert weights("one", 0) == weights("same", 0) != weights("other", 1)


def test_loss_worked_by_hand():
    image_BD, text_BD = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    total, count = info_nce(image_BD, text_BD, image_BD, text_BD, torch.tensor(10.0), first=0)
    # Cosines, picture by text: [[1, .6], [0, .8]], times ten.
    to_text = math.log1p(math.exp(6 - 10)) + math.log1p(math.exp(0 - 8))
    to_image = math.log1p(math.exp(0 - 10)) + math.log1p(math.exp(6 - 8))
    assert count == 4
    assert float(total) == pytest.approx(to_text + to_image, rel=1e-5)


def test_two_ranks_together_are_one_batch():
    """Loss and gradient of two ranks on gathered vectors, against the textbook form on the whole."""
    torch.manual_seed(0)
    raw_image_GD, raw_text_GD = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    scale = torch.tensor(7.0)

    def gradients(loss):
        return torch.autograd.grad(loss, (raw_image_GD, raw_text_GD), retain_graph=True)

    image_GD, text_GD = normalize(raw_image_GD), normalize(raw_text_GD)
    parts = [
        info_nce(image_GD[first:last], text_GD[first:last], image_GD, text_GD, scale, first)
        for first, last in ((0, 3), (3, 6))
    ]
    ours = sum(total for total, _ in parts) / sum(count for _, count in parts)
    logits_GG, own_G = scale * image_GD @ text_GD.T, torch.arange(6)
    textbook = (cross_entropy(logits_GG, own_G) + cross_entropy(logits_GG.T, own_G)) / 2
    torch.testing.assert_close(ours, textbook)
    for mine, theirs in zip(gradients(ours), gradients(textbook), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_metrics_worked_by_hand():
    scores_NV = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    tags_NV = np.array([[True, False], [True, True], [False, True], [False, False]])
    assert tag_accuracy(scores_NV, tags_NV) == pytest.approx(2 / 3)  # the last has no tag and does not count
    assert commonest_accuracy(tags_NV) == pytest.approx(2 / 3)
    # Tag 0: .9 and .2 against .6 and .3: two of four pairs in order. Tag 1: .8 and .4 against .1 and .7: three of four.
    assert tag_auc(scores_NV, tags_NV) == pytest.approx([0.5, 0.75])
    assert tag_auc(scores_NV, np.ones((4, 2), bool)) == [None, None]


def test_a_pass_holds_every_pair_once_with_a_text_of_its_own():
    from trialign.enrich.clip.module import PairBatches

    num_texts_M = torch.tensor([1, 3, 2, 1, 2])
    first_text_M = num_texts_M.cumsum(0) - num_texts_M
    pixels = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2).half()
    owner = torch.repeat_interleave(torch.arange(5), num_texts_M)
    batches = PairBatches(pixels, torch.stack([owner, torch.arange(9)], dim=1), first_text_M, num_texts_M, 5, seed=0)
    heard = set()
    for _ in range(40):
        ((pixels_B, tokens_BT),) = batches
        assert sorted(pixels_B[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]
        assert pixels_B[:, 0, 0, 0].long().tolist() == tokens_BT[:, 0].tolist()
        heard |= set(tokens_BT[:, 1].tolist())
    assert heard == set(range(9))


def test_the_corpus_names_styles_and_shares_no_picture_with_another_seed():
    found = storefront_pairs(48, seed=0)
    assert found.tags_MV.sum(axis=1).tolist() == [1] * 48
    for (text,), tags_V in zip(found.texts, found.tags_MV, strict=True):
        (style,) = np.flatnonzero(tags_V)
        assert found.prompts[style].split(",")[0] in text
    assert not set(found.pictures) & {pair.picture for pair in picture_sentences(1, 48)}


class Catalogue(Dataset):
    """Five items in memory; the fourth has no picture, the fifth no text."""

    def __init__(self, pictured=(0, 1, 2, 4)):
        import pyarrow as pa

        self.keys = ["a", "b", "c", "d", "e"]
        self.pictured = pictured
        categories = [["Film", "Comedy"], ["Film", "Drama"], ["Film", "Comedy", "Drama"], ["Film"], []]
        self.items = pa.table(
            {
                "title": ["A", "B", "C", "D", ""],
                "description": ["about A", "", "", "", ""],
                "categories": pa.array(categories, pa.list_(pa.string())),
            }
        )

    def images(self):
        return iter([(item, b"picture of %d" % item) for item in self.pictured])


def test_a_catalogue_gives_what_has_both_picture_and_text():
    found = catalogue_pairs(Catalogue(), num_pairs=100)
    assert found.names == ["a", "b", "c"]
    assert found.texts == [["Comedy"], ["Drama"], ["Comedy", "Drama"]]
    assert found.tags == ["Comedy", "Drama"], "'Film' is on all of them and tells nothing apart"
    assert found.tags_MV.tolist() == [[True, False], [False, True], [True, True]]
    assert catalogue_pairs(Catalogue(), num_pairs=2).names == ["a", "b"]


def test_items_without_a_telling_category_are_paired_with_title_and_description():
    found = catalogue_pairs(Catalogue(pictured=(0, 3)), num_pairs=100)
    assert found.tags == []
    assert found.tags_MV.shape == (2, 0)
    assert found.texts == [["A", "about A"], ["D"]]


def test_a_catalogue_without_pairs_is_refused():
    with pytest.raises(DataError, match="1 items have both") as raised:
        catalogue_pairs(Catalogue(pictured=(0, 4)), num_pairs=100)
    assert "enrich/clip=none" in raised.value.remedy


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    found = make_pairs(8)
    found.pictures[5] = found.pictures[5][:40]
    with pytest.raises(DataError, match="the picture of item '5' cannot be decoded"):
        train_clip(found, tmp_path, SETTINGS, CPU)


def test_shares_put_back_what_the_contrastive_loss_takes_out() -> None:
    """Scores are log p(tag | picture) - log p(tag); with the shares, the likeliest tag of a picture is named."""
    tags_MV = np.array([[True, False], [True, False], [True, False], [True, True], [False, False]])
    # Drawn: 3.5 times the first, .5 times the second, half a time each to begin with.
    assert log_shares(tags_MV) == pytest.approx(np.log([4 / 5, 1 / 5]))
    given_picture_NV = np.array([[0.6, 0.4]])
    scores_NV = (np.log(given_picture_NV) - log_shares(tags_MV)).astype(np.float32)
    assert scores_NV.argmax() == 1
    assert (scores_NV + log_shares(tags_MV)).argmax() == 0

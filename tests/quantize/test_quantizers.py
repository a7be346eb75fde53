"""What both quantizers promise."""

import csv
import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch

from trialign.config.quantize import ModalityWeights, RQKMeansConfig, RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.embed.store import Modality
from trialign.errors import ConfigError, DataError
from trialign.quantize.module import ItemBatches
from trialign.quantize.quantizer import fitting_size
from trialign.quantize.residual import decode
from trialign.quantize.rkmeans import RQKMeansQuantizer
from trialign.quantize.rqvae import RQVAEQuantizer

SMALL = {"codebook_size": 16, "code_dim": 8, "hidden_dims": [32], "fusion_dim": 16, "num_epochs": 20, "batch_size": 64}


def make(kind, **changes):
    schema, target = {"rkmeans": (RQKMeansConfig, RQKMeansQuantizer), "rqvae": (RQVAEConfig, RQVAEQuantizer)}[kind]
    small = {
        name: value for name, value in SMALL.items() if name in {field.name for field in dataclasses.fields(schema)}
    }
    weights = ModalityWeights(**changes.pop("weights", {}))
    return target(schema(**(small | changes), weights=weights))


@pytest.fixture(scope="module", params=["rkmeans", "rqvae"])
def fitted(request, modalities, tmp_path_factory):
    quantizer = make(request.param)
    stats = quantizer.fit(modalities, seed=0, folder=tmp_path_factory.mktemp("fit"), runtime=RuntimeConfig())
    return quantizer, stats


def test_codes_are_used_and_explain_the_items(fitted, modalities):
    quantizer, stats = fitted
    encoded = quantizer.encode(modalities)
    assert encoded.codes_NL.shape == (300, 3)
    assert (encoded.codes_NL.dtype, encoded.latents_ND.dtype, encoded.codebooks_LKD.dtype) == (
        np.int64,
        np.float32,
        np.float32,
    )
    assert min(stats["usage"]) > 0.9
    energy = stats["residual_energy"]
    assert 0.5 > energy[0] > energy[1] > energy[2]
    assert stats["collisions"] == 1 - len(np.unique(encoded.codes_NL, axis=0)) / 300


def test_a_loaded_quantizer_gives_the_same_codes(fitted, modalities, tmp_path):
    quantizer, _ = fitted
    quantizer.save(tmp_path)
    one, again = quantizer.encode(modalities), type(quantizer).load(tmp_path).encode(modalities)
    for field in dataclasses.fields(one):
        assert getattr(one, field.name).tobytes() == getattr(again, field.name).tobytes()


def test_a_permutation_of_the_items_permutes_the_codes(fitted, modalities):
    quantizer, _ = fitted
    order = np.random.default_rng(1).permutation(300)
    shuffled = {name: Modality(found.vectors_ND[order], found.present_N[order]) for name, found in modalities.items()}
    assert (quantizer.encode(shuffled).codes_NL == quantizer.encode(modalities).codes_NL[order]).all()


def test_other_modalities_than_fitted_are_refused(fitted, modalities):
    quantizer, _ = fitted
    with pytest.raises(DataError, match=r"vectors of \{'text': 20\}") as raised:
        quantizer.encode({"text": modalities["text"]})
    assert "'image': 10" in raised.value.rule


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
@pytest.mark.parametrize("name", ["text", "image"])
def test_one_modality_is_enough(kind, name, modalities, tmp_path):
    quantizer = make(kind)
    stats = quantizer.fit({name: modalities[name]}, seed=0, folder=tmp_path, runtime=RuntimeConfig())
    assert stats["residual_energy"][-1] < 0.3
    assert len(np.unique(quantizer.encode({name: modalities[name]}).codes_NL, axis=0)) > 100


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
def test_what_stands_in_an_absent_row_changes_nothing(kind, modalities, tmp_path):
    image = modalities["image"]
    garbled = np.where(image.present_N[:, None], image.vectors_ND, 1e6).astype(np.float32)
    codes = []
    for number, vectors_ND in enumerate((image.vectors_ND, garbled)):
        given = {"text": modalities["text"], "image": Modality(vectors_ND, image.present_N)}
        quantizer = make(kind)
        quantizer.fit(given, seed=0, folder=tmp_path / str(number), runtime=RuntimeConfig())
        codes.append(quantizer.encode(given).codes_NL)
    assert (codes[0] == codes[1]).all()


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
def test_the_seed_decides(kind, modalities, tmp_path):
    codes = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # the global generator has no say
        quantizer = make(kind)
        quantizer.fit(modalities, seed=seed, folder=tmp_path / str(number), runtime=RuntimeConfig())
        codes.append(quantizer.encode(modalities).codes_NL)
    assert (codes[0] == codes[1]).all()
    assert (codes[0] != codes[2]).any()


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
def test_more_codes_than_items_become_an_eighth_of_these(kind, modalities, tmp_path):
    quantizer = make(kind, codebook_size=301)
    stats = quantizer.fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
    assert stats["codebook_size"] == 37
    quantizer.save(tmp_path / "saved")
    assert type(quantizer).load(tmp_path / "saved").encode(modalities).codebooks_LKD.shape[1] == 37


def test_as_many_codes_as_items_are_kept_and_one_item_is_refused(modalities):
    assert fitting_size(modalities, 300) == 300
    one = {name: Modality(found.vectors_ND[:1], found.present_N[:1]) for name, found in modalities.items()}
    with pytest.raises(DataError, match="a catalogue of 1 item"):
        fitting_size(one, 2)


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
def test_a_vector_that_is_not_finite_is_refused_by_item_and_modality(kind, modalities, tmp_path):
    vectors_ND = modalities["text"].vectors_ND.copy()
    vectors_ND[17, 3] = np.nan
    given = modalities | {"text": Modality(vectors_ND, modalities["text"].present_N)}
    with pytest.raises(DataError, match="the text vector of item in row 17 holds NaN"):
        make(kind).fit(given, seed=0, folder=tmp_path, runtime=RuntimeConfig())


@pytest.mark.parametrize("kind", ["rkmeans", "rqvae"])
class TestWeights:
    def test_a_weight_of_nothing_leaves_a_modality_out(self, kind, modalities, tmp_path):
        codes = []
        for number, (given, weights) in enumerate(
            ((modalities, {"text": 1.0, "image": 0.0}), ({"text": modalities["text"]}, {}))
        ):
            quantizer = make(kind) if not weights else make(kind, weights=weights)
            quantizer.fit(given, seed=0, folder=tmp_path / str(number), runtime=RuntimeConfig())
            quantizer.save(tmp_path / str(number) / "saved")
            codes.append(type(quantizer).load(tmp_path / str(number) / "saved").encode(given).codes_NL)
        assert (codes[0] == codes[1]).all()

    def test_weights_decide(self, kind, modalities, tmp_path):
        lost = []
        for number, weight in enumerate((0.2, 5.0)):
            quantizer = make(kind, weights={"image": weight})
            lost.append(
                quantizer.fit(modalities, seed=0, folder=tmp_path / str(number), runtime=RuntimeConfig())[
                    "reconstruction"
                ]
            )
        assert lost[1]["image"] < 0.8 * lost[0]["image"]
        assert lost[1]["text"] > lost[0]["text"]

    @pytest.mark.parametrize("weights", [{"text": 0.0, "image": 0.0}, {"joint": 2.0}])
    def test_weights_that_cannot_be_are_refused(self, kind, modalities, tmp_path, weights):
        with pytest.raises(ConfigError, match=r"quantize\.weights"):
            make(kind, weights=weights).fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())


class TestRQVAE:
    def test_decoding_the_codes_equals_the_forward_pass(self, modalities, tmp_path):
        quantizer = make("rqvae")
        quantizer.fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
        encoded = quantizer.encode(modalities)
        inputs = {name: found(modalities[name]) for name, found in quantizer.standardizers.items()}
        with torch.no_grad():
            output = quantizer.model(inputs)
        assert (output.quantized.codes_BL.numpy() == encoded.codes_NL).all()
        read_back = decode(torch.from_numpy(encoded.codes_NL), torch.from_numpy(encoded.codebooks_LKD))
        torch.testing.assert_close(read_back, output.quantized.quantized_BD, atol=1e-5, rtol=1e-5)

    def test_a_missing_modality_contributes_nothing_to_the_fused_vector(self, modalities, tmp_path):
        quantizer = make("rqvae", num_epochs=1)
        quantizer.fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
        text = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
        seen = []
        quantizer.model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        quantizer.model.encode({"text": text, "image": torch.zeros(4, 10)})
        width = quantizer.settings.fusion_dim  # the image's share of [e_image ; e_text], by name
        torch.testing.assert_close(seen[0], text @ quantizer.model.fusion.weight[:, width:].T)

    def test_losses_gradients_and_stats_are_logged_by_epoch(self, modalities, tmp_path):
        make("rqvae").fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
        with (tmp_path / "log" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        names = set(rows[-1])
        assert {"loss/reconstruction_text", "loss/reconstruction_image", "loss/commitment"} <= names
        assert {"gradient/reconstruction_text", "gradient/commitment"} <= names
        assert {
            "codebook/usage_1",
            "codebook/perplexity_3",
            "codebook/dead_codes_2",
            "codebook/residual_energy_3",
        } <= names
        assert {"codebook/collisions", "codebook/revived"} <= names
        text = [float(row["loss/reconstruction_text"]) for row in rows if row["loss/reconstruction_text"]]
        assert len(text) == SMALL["num_epochs"]
        assert text[-1] < 0.5 * text[0]
        quantized = [row for row in rows if row["codebook/usage_1"]]
        assert len(quantized) == SMALL["num_epochs"] - 6  # warmup .3
        # k-means on latents that have settled: hardly a code is dead before any was revived.
        assert min(float(quantized[0][f"codebook/usage_{level}"]) for level in (1, 2, 3)) > 0.8


def test_batches_hold_every_item_once_in_a_new_order_each_pass():
    inputs = {"text": torch.arange(10).float()[:, None]}
    batches = ItemBatches(inputs, {"text": torch.ones(10, dtype=torch.bool)}, batch_size=4, seed=0)
    passes = [[batch.inputs["text"].flatten().tolist() for batch in batches] for _ in range(2)]
    assert [len(batch) for batch in passes[0]] == [4, 4, 2]
    assert len(batches) == 3
    assert all(sorted(chain.from_iterable(one)) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]


def test_the_order_of_batches_is_of_the_seed_alone():
    def order(seed):
        torch.manual_seed(order.calls)  # the global generator has no say
        order.calls += 1
        present = {"text": torch.ones(30, dtype=torch.bool)}
        batches = ItemBatches({"text": torch.arange(30).float()[:, None]}, present, batch_size=8, seed=seed)
        return [item for batch in batches for item in batch.inputs["text"].flatten().tolist()]

    order.calls = 0
    assert order(0) == order(0)
    assert order(0) != order(1)

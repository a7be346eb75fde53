"""The terms that give codes picture and purpose: what each is, that it acts, that ranks compute it as one."""

import csv
import math
from itertools import product

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import normalize

from trialign.config.quantize import RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.errors import ConfigError
from trialign.quantize.autoencoder import RQVAE, mlp
from trialign.quantize.loss import alignment, balance, interest_reconstruction, weighted_sum
from trialign.quantize.module import Batch, ItemBatches, RQVAEModule

ALL = {"alignment_weight": 0.3, "interest_weight": 0.3, "balance_weight": 0.3}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestAlignment:
    def test_by_hand(self):
        text_BD, image_BD = torch.tensor([[5.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        term = alignment(text_BD, image_BD, temperature=0.1, weight=1.0)
        # Cosines, picture by text: [[1, 0], [.6, .8]], over .1.
        to_text = math.log1p(math.exp(0 - 10)) + math.log1p(math.exp(6 - 8))
        to_image = math.log1p(math.exp(6 - 10)) + math.log1p(math.exp(0 - 8))
        assert float(term.mean()) == pytest.approx((to_text + to_image) / 4, rel=1e-5)

    def test_of_nobody_it_is_nothing(self):
        empty_BD = torch.zeros(0, 4, requires_grad=True)
        term = alignment(empty_BD, empty_BD, temperature=0.1, weight=1.0)
        assert float(term.mean()) == 0.0
        term.mean().backward()


class TestInterests:
    def test_by_hand(self):
        """An item with two of three interests: neither is the other's negative."""
        interests_CD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        own_BC = torch.tensor([[True, True, False], [False, False, False]])
        predicted_BD = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        term = interest_reconstruction(predicted_BD, interests_CD, own_BC, temperature=0.5, weight=1.0)
        # Cosines of the first item 1, 0, -1, over .5: each of its own against the third.
        expected = (math.log1p(math.exp(-2 - 2)) + math.log1p(math.exp(-2 - 0))) / 2
        assert (float(term.total), int(term.count)) == (pytest.approx(expected, rel=1e-5), 1)

    def test_an_item_that_has_all_of_them_costs_nothing_and_breaks_nothing(self):
        predicted_BD = draw(1, 2).requires_grad_()
        term = interest_reconstruction(
            predicted_BD, torch.eye(2), torch.ones(1, 2, dtype=torch.bool), temperature=0.07, weight=1.0
        )
        term.mean().backward()
        assert float(term.mean()) == 0.0
        assert (predicted_BD.grad == 0).all()


class TestBalance:
    BOOKS_LKD = torch.tensor([[[-10.0], [10.0]]])

    def of(self, latents_BD):
        codes_BL = (latents_BD > 0).long()
        residuals_LBD = latents_BD.detach()[None] - self.BOOKS_LKD[0][codes_BL[:, 0]][None]
        return balance(latents_BD, residuals_LBD, self.BOOKS_LKD, weight=1.0)

    def test_even_use_costs_nothing_and_a_single_code_log_k(self):
        assert float(self.of(torch.tensor([[-9.0], [9.0]])).mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(self.of(torch.tensor([[9.0], [11.0]])).mean()) == pytest.approx(math.log(2), rel=1e-5)

    def test_it_pulls_towards_the_rarer_code(self):
        latents_BD = torch.tensor([[1.0], [9.0], [9.5]], requires_grad=True)
        self.of(latents_BD).mean().backward()
        assert latents_BD.grad[0] > 0  # a step against the gradient leads to -10


def make_module(**weights):
    """An autoencoder of two modalities whose codebooks are on, and its terms."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"num_levels": 2, "codebook_size": 8, "code_dim": 6, "hidden_dims": [12], "fusion_dim": 10}
        model, head = RQVAE({"text": 5, "image": 4}, RQVAEConfig(**sizes, ema_decay=0.9)), mlp([6, 12, 3])
    model.codebooks.set(0.3 * draw(2, 8, 6, seed=3))
    present = {"text": torch.ones(20, dtype=torch.bool), "image": torch.ones(20, dtype=torch.bool)}
    chosen = {"commitment": 0.25, "alignment": 0.1, "interest": 0.1, "balance": 0.1} | weights
    settings = RQVAEConfig(**{f"{name}_weight": weight for name, weight in chosen.items()}, num_epochs=1, warmup=0.0)
    batches = ItemBatches({"text": draw(20, 5), "image": draw(20, 4, seed=1)}, present, 20, seed=0)
    return RQVAEModule(model, batches, settings, interest_head=head, seed=0)


def make_batch():
    """20 items, two without a picture, three without an interest."""
    present = {"text": torch.ones(20, dtype=torch.bool), "image": torch.arange(20) > 1}
    inputs = {"text": draw(20, 5), "image": draw(20, 4, seed=1) * present["image"][:, None]}
    own_BC = (draw(20, 7, seed=4) > 0.5) & (torch.arange(20) < 17)[:, None]
    return Batch(inputs, present, normalize(draw(7, 3, seed=5)), own_BC)


def computed(module, batch):
    """Return the value of each term and the gradient of the whole loss."""
    terms = module.terms(module.model(batch.inputs), batch)
    parameters = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    gradients = torch.autograd.grad(weighted_sum(terms), list(parameters.values()))
    return {name: term.mean().detach() for name, term in terms.items()}, dict(zip(parameters, gradients, strict=True))


def on_rank(rank, folder, first_of):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    whole, part = make_batch(), slice(*first_of[rank : rank + 2])
    inputs, present = ({name: given[part] for name, given in both.items()} for both in (whole.inputs, whole.present))
    values, gradients = computed(make_module(), Batch(inputs, present, whole.interests_CD, whole.own_BC[part]))
    torch.save((values, gradients), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("first_of", [(0, 13, 20), (0, 1, 20), (0, 20, 20)])
def test_two_ranks_compute_what_one_does(tmp_path, first_of):
    """However the batch is spread: equal means and equal gradients, averaged as data parallelism does."""
    torch.multiprocessing.spawn(on_rank, (tmp_path, first_of), nprocs=2)
    values, gradients = computed(make_module(), make_batch())
    assert set(values) == {
        "reconstruction_text", "reconstruction_image", "commitment", "alignment", "interest", "balance"
    }  # fmt: skip
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, value in values.items():
        torch.testing.assert_close((found[0][0][name] + found[1][0][name]) / 2, value, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close((found[0][1][name] + found[1][1][name]) / 2, gradient, rtol=1e-4, atol=1e-6)


def test_items_without_a_picture_take_no_part_in_the_alignment():
    module, batch = make_module(), make_batch()
    whole = module.terms(module.model(batch.inputs), batch)["alignment"]
    seen = batch.present["image"]
    rest = Batch(*({k: v[seen] for k, v in given.items()} for given in batch[:2]), batch.interests_CD, None)
    assert int(whole.count) == 2 * 18
    alone = make_module()
    alone.interest_head = None
    part = alone.terms(alone.model(rest.inputs), rest)["alignment"]
    torch.testing.assert_close(whole.mean(), part.mean())


def test_the_fused_view_alone_moves_the_codebooks(monkeypatch):
    moved = []
    for weight in (0.0, 0.5):
        module = make_module(alignment=weight)
        monkeypatch.setattr(module, "log", lambda *_, **__: None)
        module.training_step(make_batch(), 1)
        moved.append(module.model.codebooks.vectors_LKD)
    assert torch.equal(*moved)


def test_a_view_is_what_one_modality_alone_becomes():
    model, batch = make_module().model, make_batch()
    view_BD = model.view(batch.inputs, "image", quantize=False)
    expected = model.encoder(model.projections["image"](batch.inputs["image"]) @ model.fusion.weight[:, :10].T)
    torch.testing.assert_close(view_BD, expected)
    codes_BL = model.codebooks(view_BD).codes_BL
    books_LKD = model.codebooks.vectors_LKD
    quantized_BD = books_LKD[0, codes_BL[:, 0]] + books_LKD[1, codes_BL[:, 1]]
    torch.testing.assert_close(model.view(batch.inputs, "image", quantize=True), quantized_BD)


def test_interests_of_a_batch_are_those_of_its_items(modalities, interests):
    inputs = {"text": torch.arange(300).float()[:, None]}
    batches = ItemBatches(inputs, {"text": torch.ones(300, dtype=torch.bool)}, 7, 0, interests)
    centred_UD = interests.vectors_UD - interests.vectors_UD.mean(0)
    unit_UD = centred_UD / np.linalg.norm(centred_UD, axis=1, keepdims=True)
    for batch in batches:
        for row, item in enumerate(batch.inputs["text"][:, 0].long().tolist()):
            own = interests.ids_M[interests.offsets[item] : interests.offsets[item + 1]]
            found = batch.interests_CD[batch.own_BC[row]].numpy()
            np.testing.assert_allclose(found, unit_UD[np.sort(own)], rtol=1e-5)


@pytest.fixture(scope="module")
def fits(make_rqvae, modalities, interests, tmp_path_factory):
    """Every combination of the three terms: settings -> quantizer, stats, codes, log."""
    found = {}
    for on in product((False, True), repeat=3):
        folder = tmp_path_factory.mktemp("fit")
        weights = {name: weight * use for use, (name, weight) in zip(on, ALL.items(), strict=True)}
        quantizer = make_rqvae(**weights)
        stats = quantizer.fit(modalities, seed=0, folder=folder, runtime=RuntimeConfig(), interests=interests)
        with (folder / "log" / "metrics.csv").open() as file:
            logged = list(csv.DictReader(file))
        found[on] = quantizer, stats, quantizer.encode(modalities).codes_NL, logged
    return found


def test_codes_are_used_under_every_combination_of_terms(fits):
    for on, (_, stats, _, _) in fits.items():
        assert min(stats["usage"]) > 0.9, on
        assert min(stats["perplexity"]) > 11, on


def test_removing_a_term_changes_codes(fits):
    _, _, codes, _ = fits[True, True, True]
    for without in ((False, True, True), (True, False, True), (True, True, False)):
        assert (fits[without][2] != codes).any(axis=1).mean() > 0.05, without


def test_each_term_is_logged_with_its_gradient_and_falls(fits):
    for name, place in (("alignment", 0), ("interest", 1), ("balance", 2)):
        for on, (*_, logged) in fits.items():
            assert (f"loss/{name}" in logged[0]) == (f"gradient/{name}" in logged[0]) == on[place]
    *_, logged = fits[True, True, True]
    for name in ("alignment", "interest"):
        losses = [float(row[f"loss/{name}"]) for row in logged if row[f"loss/{name}"]]
        assert len(losses) == 20
        assert losses[-1] < 0.9 * losses[0]
        assert all(float(row[f"gradient/{name}"]) > 0 for row in logged if row[f"gradient/{name}"])


def test_aligned_views_of_an_item_find_each_other_after_quantization(fits, modalities):
    def found(quantizer):
        inputs = {name: scale(modalities[name]) for name, scale in quantizer.standardizers.items()}
        both_N = torch.from_numpy(modalities["image"].present_N)
        inputs = {name: given[both_N] for name, given in inputs.items()}
        views = [normalize(quantizer.model.view(inputs, name, quantize=True)) for name in ("text", "image")]
        rank_N = (views[0] @ views[1].T > (views[0] * views[1]).sum(1, keepdim=True)).float().mean(1)
        return float(rank_N.mean())

    with torch.no_grad():
        assert found(fits[True, False, False][0]) < 0.7 * found(fits[False, False, False][0])


def test_the_head_that_reads_interests_is_dropped(fits, tmp_path):
    for on in ((False, False, False), (False, True, False)):
        fits[on][0].save(tmp_path / str(on))
    names = []
    for folder in sorted(tmp_path.iterdir()):
        with safe_open(folder / "quantizer.safetensors", "pt") as file:
            names.append(sorted(file.keys()))
    assert names[0] == names[1]


def test_interests_that_were_not_embedded_are_missed(make_rqvae, modalities, tmp_path):
    with pytest.raises(ConfigError, match=r"quantize\.interest_weight=0\.1") as raised:
        make_rqvae(interest_weight=0.1).fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
    assert "embed.interests=true" in raised.value.remedy

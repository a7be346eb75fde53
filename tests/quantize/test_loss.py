import math

import pytest
import torch

from trialign.quantize.loss import Term, balance, commitment, reconstruction, weighted_sum


def test_a_missing_modality_leaves_sum_and_count():
    predicted_BD = torch.tensor([[1.0, 3.0], [100.0, 100.0], [0.0, 0.0]], requires_grad=True)
    term = reconstruction(predicted_BD, torch.zeros(3, 2), torch.tensor([True, False, True]))
    assert (term.total.item(), term.count.item(), term.mean().item()) == (5.0, 2, 2.5)
    term.mean().backward()
    assert predicted_BD.grad[1].tolist() == [0.0, 0.0]


def test_a_batch_without_the_modality_costs_nothing():
    term = reconstruction(torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([False, False]))
    assert float(term.mean()) == 0.0


def test_commitment_pulls_the_latents_to_the_codes_of_every_level():
    latents_BD = torch.tensor([[2.0, 0.0]], requires_grad=True)
    residuals_LBD = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]]])
    term = commitment(latents_BD, residuals_LBD, 0.25)
    assert term.mean().item() == (4 + 1) / 2
    weighted_sum({"commitment": term}).backward()
    assert latents_BD.grad.tolist() == [[0.25 * 2 * (2 + 1) / 2, 0.0]]


def test_terms_are_added_by_weight():
    terms = {"a": Term(torch.tensor(6.0), torch.tensor(3)), "b": Term(torch.tensor(4.0), torch.tensor(1), weight=0.5)}
    assert float(weighted_sum(terms)) == 4.0


def test_unevenness_by_hand():
    """Two items at 0 and codes at 0.5 and 1.5: what the level leaves over has variance 0.25."""
    residuals_LBD = torch.full((1, 2, 1), -0.5)
    term = balance(torch.zeros(2, 1), residuals_LBD, torch.tensor([[[0.5], [1.5]]]), weight=1.0)
    near = 1 / (1 + math.exp(-(1.5**2 - 0.5**2) / (2 * 0.25)))
    entropy = -near * math.log(near) - (1 - near) * math.log(1 - near)
    assert term.mean().item() == pytest.approx(math.log(2) - entropy, rel=1e-5)

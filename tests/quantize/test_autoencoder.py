"""The network of RQ-VAE: what is missing adds nothing, and the ends are linear."""

import torch

from trialign.config.quantize import RQVAEConfig
from trialign.quantize.autoencoder import RQVAE, mlp


def test_what_an_item_lacks_adds_nothing_to_its_fused_vector():
    sizes = {"num_levels": 1, "codebook_size": 2, "code_dim": 2, "hidden_dims": [3], "fusion_dim": 5}
    model = RQVAE({"text": 3, "image": 4}, RQVAEConfig(**sizes, ema_decay=0.9))
    nothing = {"text": torch.zeros(1, 3), "image": torch.zeros(1, 4)}
    assert torch.equal(model.encode(nothing), model.encoder(torch.zeros(1, 5)))


def test_no_relu_stands_behind_the_last_layer():
    torch.manual_seed(0)
    assert (mlp([4, 8, 16])(torch.randn(50, 4)) < 0).any()

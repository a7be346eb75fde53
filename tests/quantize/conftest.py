import numpy as np
import pytest

from trialign.config.quantize import RQVAEConfig
from trialign.embed.store import Interests, Modality
from trialign.quantize.rqvae import RQVAEQuantizer


@pytest.fixture(scope="package")
def modalities():
    """300 items of 12 kinds, seen in a text and (four fifths of them) in a picture."""
    draws = np.random.default_rng(0)
    kind_N = draws.integers(12, size=300)
    text_ND = draws.normal(size=(12, 20))[kind_N] + 0.5 * draws.normal(size=(300, 20))
    image_ND = draws.normal(size=(12, 10))[kind_N] + 0.5 * draws.normal(size=(300, 10))
    present_N = draws.random(300) < 0.8
    return {
        "text": Modality(text_ND.astype(np.float32), np.ones(300, bool)),
        "image": Modality(np.where(present_N[:, None], 40 * image_ND, 0.0).astype(np.float32), present_N),
    }


@pytest.fixture(scope="package")
def interests():
    """Of the same items, by a kind of their own: one of 6 at least, a tenth of the items none at all."""
    draws = np.random.default_rng(1)
    ids = [draws.permutation(6)[: draws.integers(1, 3)] if draws.random() < 0.9 else [] for _ in range(300)]
    offsets = np.cumsum([0, *map(len, ids)])
    return Interests(draws.normal(size=(6, 5)).astype(np.float32), np.concatenate(ids).astype(np.int64), offsets)


@pytest.fixture(scope="package")
def make_rqvae():
    """Return a function from changed settings to a small RQ-VAE."""
    small = {"codebook_size": 16, "code_dim": 8, "hidden_dims": [32], "fusion_dim": 16, "num_epochs": 20}

    def make(**changes):
        return RQVAEQuantizer(RQVAEConfig(**(small | {"batch_size": 64} | changes)))

    return make

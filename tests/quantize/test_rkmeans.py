"""The vectors that RQ-KMeans quantizes: every modality with its weight, whatever its width."""

import numpy as np
import pytest

from trialign.config.quantize import ModalityWeights, RQKMeansConfig
from trialign.config.runtime import RuntimeConfig
from trialign.embed.store import Modality
from trialign.quantize.rkmeans import RQKMeansQuantizer


def test_a_modality_has_the_mean_squared_norm_of_its_weight_and_one_without_a_weight_has_one(tmp_path):
    draws = np.random.default_rng(0)
    widths = {"image": 8, "text": 3}
    modalities = {
        name: Modality(draws.normal(5.0, 3.0, (40, width)).astype(np.float32), np.ones(40, bool))
        for name, width in widths.items()
    }
    quantizer = RQKMeansQuantizer(RQKMeansConfig("", 1, 4, 1, 0.0, 0, ModalityWeights(text=4.0)))
    quantizer.fit(modalities, seed=0, folder=tmp_path, runtime=RuntimeConfig())
    latents_ND = quantizer.encode(modalities).latents_ND
    assert latents_ND.shape == (40, 11)
    norms = [np.square(part_ND).sum(axis=1).mean() for part_ND in (latents_ND[:, :8], latents_ND[:, 8:])]
    assert norms == pytest.approx([1.0, 4.0], rel=1e-4)

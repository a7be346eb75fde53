import numpy as np
import pytest

from trialign.embed.store import Modality


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

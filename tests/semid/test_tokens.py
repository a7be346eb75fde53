import numpy as np
import pytest
import torch

from trialign.semid.tokens import TokenSpace

SPACE = TokenSpace(text_vocab=100, num_levels=3, codebook_size=8)


def test_hand_worked_tokens():
    assert SPACE.encode(np.array([[0, 0, 0], [7, 7, 7]])).tolist() == [[100, 108, 116], [107, 115, 123]]
    assert SPACE.size == 124


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_codes_come_back_from_tokens(wrap):
    codes_NL = wrap(np.random.default_rng(0).integers(0, 8, size=(50, 3)))
    tokens_NL = SPACE.encode(codes_NL)
    assert (SPACE.code(tokens_NL) == codes_NL).all()
    assert (SPACE.level(tokens_NL) == wrap(np.arange(3))).all()
    assert (tokens_NL >= SPACE.text_vocab).all()


def test_every_token_is_text_or_one_code_of_one_level():
    tokens = np.arange(SPACE.size)
    assert (SPACE.level(tokens[:100]) < 0).all()
    pairs = set(zip(SPACE.level(tokens[100:]).tolist(), SPACE.code(tokens[100:]).tolist(), strict=True))
    assert len(pairs) == 24


def test_a_prefix_has_the_tokens_of_its_levels():
    codes_NL = np.array([[1, 2, 3]])
    assert (SPACE.encode(codes_NL[:, :2]) == SPACE.encode(codes_NL)[:, :2]).all()

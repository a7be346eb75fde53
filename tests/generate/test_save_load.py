"""A saved generator is read back as it was, and only next to the semantic IDs it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tools import catalogue_texts
from trialign.errors import DataError, StageError
from trialign.generate.backbone import ARCHITECTURES
from trialign.generate.model import Generator
from trialign.generate.save_load import TrainedGenerator, load_generator, save_generator
from trialign.generate.task import CatalogueItem
from trialign.generate.template import Template
from trialign.semid.table import SIDTable

TITLES = [f"a green chair {number}" for number in range(12)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_read_back_it_says_the_same(
    architecture: str, tmp_path: Path, make_generator: Callable[..., Generator], template: Template, sids: SIDTable
) -> None:
    generator = make_generator(architecture, dropout=0.3).eval()
    save_generator(tmp_path, TrainedGenerator(generator, template, max_history=9), sids)
    loaded = load_generator(tmp_path, sids)
    loaded.generator.eval()
    prompt = torch.from_numpy(template.history_prompt(np.array([1, 2, 3])))[None]
    places = torch.arange(prompt.shape[1])[None]
    assert torch.equal(loaded.generator.hidden(prompt, places), generator.hidden(prompt, places))
    names = [set(dict(model.named_parameters())) for model in (loaded.generator, generator)]
    assert names[0] == names[1]
    assert all(
        torch.equal(value, generator.state_dict()[name]) for name, value in loaded.generator.state_dict().items()
    )
    assert (loaded.max_history, loaded.template.tasks, loaded.generator.dropout) == (9, template.tasks, 0.3)
    given = CatalogueItem(3, catalogue_texts(TITLES))
    assert loaded.template.encode(1, given).tokens.tolist() == template.encode(1, given).tokens.tolist()


def test_the_limits_of_texts_are_read_back(
    tmp_path: Path, make_generator: Callable[..., Generator], template: Template, sids: SIDTable
) -> None:
    other = Template(template.tokenizer, template.rows, template.tasks, max_title_tokens=5, max_caption_tokens=7)
    save_generator(tmp_path, TrainedGenerator(make_generator(), other, max_history=9), sids)
    limits = load_generator(tmp_path, sids).template.max_tokens
    assert (limits["title"], limits["caption"]) == (5, 7)


def test_other_semantic_ids_are_refused(
    tmp_path: Path, make_generator: Callable[..., Generator], template: Template, sids: SIDTable
) -> None:
    save_generator(tmp_path, TrainedGenerator(make_generator(), template, max_history=9), sids)
    moved = sids.codes_NL.copy()
    moved[[0, 1]] = moved[[1, 0]]
    other = SIDTable(moved, sids.codebook_size, sids.item_keys, sids.policy, sids.codebooks_LKD)
    with pytest.raises(StageError, match=f"trained on semantic IDs {sids.digest[:12]}, not on {other.digest[:12]}"):
        load_generator(tmp_path, other)


def test_an_unfinished_folder_is_named(tmp_path: Path, sids: SIDTable) -> None:
    with pytest.raises(DataError, match="no generator can be read"):
        load_generator(tmp_path, sids)


def test_a_later_format_is_refused(
    tmp_path: Path, make_generator: Callable[..., Generator], template: Template, sids: SIDTable
) -> None:
    save_generator(tmp_path, TrainedGenerator(make_generator(), template, max_history=9), sids)
    header = tmp_path / "generator.json"
    header.write_text(header.read_text().replace('"format": 3', '"format": 4'))
    with pytest.raises(DataError, match="format 4, this version reads 3"):
        load_generator(tmp_path, sids)

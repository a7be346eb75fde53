import importlib
import importlib.util
import sys

import numpy as np
import pytest

from trialign.config.embed import SentenceConfig
from trialign.embed.sentence import SentenceText
from trialign.errors import ConfigError


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match="embed/text=sentence_transformers") as raised:
        SentenceText(SentenceConfig("", "anything", prompt=None, max_tokens=None, batch_size=8))
    assert "pip install 'trialign[sentence-transformers]'" in raised.value.remedy


def save_model(library, folder):
    """Save a tiny encoder with mean pooling and normalization."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "lamp": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder / "bert")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=4, **sizes)).save_pretrained(folder / "bert")
    parts = importlib.import_module("sentence_transformers.models")
    read = parts.Transformer(str(folder / "bert"))
    library.SentenceTransformer(modules=[read, parts.Pooling(16, "mean"), parts.Normalize()]).save(
        str(folder / "model")
    )
    return str(folder / "model")


@pytest.fixture
def library(skip_for):
    if importlib.util.find_spec("sentence_transformers") is None:
        skip_for("sentence-transformers", "the extra sentence-transformers is not installed")
    return importlib.import_module("sentence_transformers")


def test_vectors_are_those_of_the_library(library, tmp_path):
    name = save_model(library, tmp_path)
    texts = ["red", "", "red lamp lamp", "lamp red"]
    rows = list(
        SentenceText(SentenceConfig("", name, prompt="lamp ", max_tokens=None, batch_size=2)).rows(texts, skip=0)
    )
    assert [item for items, _ in rows for item in items] == [2, 3, 0]
    reference = library.SentenceTransformer(name).encode(["lamp " + text for text in texts])
    for items, vectors_BD in rows:
        np.testing.assert_allclose(vectors_BD, reference[items], atol=1e-6)


def test_a_model_that_cannot_be_loaded_is_refused(library, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="sentence-transformers cannot load"):
        SentenceText(SentenceConfig("", "nobody/nothing", prompt=None, max_tokens=None, batch_size=8))

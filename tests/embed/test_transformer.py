import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from trialign.config.embed import TransformersConfig
from trialign.embed.transformer import TransformersText
from trialign.errors import ConfigError

WORDS = ["red", "green", "blue", "lamp", "chair", "kettle", "small", "big", "with", "handle"]
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def save_tokenizer(folder):
    vocab = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[EOS]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [EOS]", special_tokens=[("[CLS]", 2), ("[EOS]", 3)]
    )
    # No padding token, as many decoders have none.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(folder)


def make_model(kind):
    if kind == "qwen3":
        return Qwen3Model(Qwen3Config(vocab_size=14, num_key_value_heads=1, head_dim=8, **SIZES))
    if kind == "bert":
        return BertModel(BertConfig(vocab_size=14, **SIZES))
    return T5Model(T5Config(vocab_size=14, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function from an architecture to a folder with a tiny model of it."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("qwen3", "bert", "t5"):
        torch.manual_seed(0)
        make_model(kind).save_pretrained(root / kind)
        save_tokenizer(root / kind)
    return lambda kind: str(root / kind)


def build(model, **changed):
    settings = {
        "pooling": "last",
        "template": "{text}",
        "max_tokens": 64,
        "dtype": "float32",
        "normalize": False,
        "batch_size": 4,
    }
    return TransformersText(TransformersConfig("", model, **{**settings, **changed}))


def make_texts(num_texts=11):
    draws = np.random.default_rng(0)
    return [" ".join(draws.choice(WORDS, length)) for length in draws.integers(1, 20, num_texts)]


def encode(encoder, texts, skip=0):
    vectors = {}
    for items, vectors_BD in encoder.rows(texts, skip=skip):
        vectors |= dict(zip(items, vectors_BD, strict=True))
    return vectors


def directly(folder, text, pooling, encoder_of=lambda model: model):
    """Return the vector by plain transformers: one text, no padding."""
    model = encoder_of(AutoModel.from_pretrained(folder).eval())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        hidden_TD = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    return (hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)).numpy()


@pytest.mark.parametrize(("kind", "pooling"), [("qwen3", "last"), ("qwen3", "mean"), ("bert", "mean")])
def test_padded_batches_equal_one_text_at_a_time(folder, kind, pooling):
    texts = make_texts()
    found = encode(build(folder(kind), pooling=pooling), texts)
    assert sorted(found) == list(range(11))
    for item, text in enumerate(texts):
        np.testing.assert_allclose(found[item], directly(folder(kind), text, pooling), atol=2e-6)


def test_of_an_encoder_decoder_the_encoder_is_taken(folder):
    found = encode(build(folder("t5"), pooling="mean"), ["red lamp", "big chair with handle"])
    own = T5EncoderModel.from_pretrained(folder("t5")).eval()
    expected = directly(folder("t5"), "red lamp", "mean", encoder_of=lambda _: own)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)


def test_longest_come_first_and_an_empty_text_has_no_vector(folder):
    texts = ["red", "", "red green blue", "lamp chair"]
    assert [item for items, _ in build(folder("qwen3"), batch_size=2).rows(texts, skip=0) for item in items] == [
        2,
        3,
        0,
    ]
    assert sorted(encode(build(folder("qwen3")), texts, skip=2)) == [0]


def test_the_template_goes_around_the_text(folder):
    (framed,) = encode(build(folder("qwen3"), template="small {text} big"), ["red {text}"]).values()
    (plain,) = encode(build(folder("qwen3")), ["small red {text} big"]).values()
    assert (framed == plain).all()


def test_long_texts_are_cut_and_counted(folder):
    encoder = build(folder("bert"), pooling="mean", max_tokens=5)
    found = encode(encoder, ["red green blue lamp chair", "red green blue"])
    assert encoder.notes == ["1 of 2 texts are longer than 5 tokens and were cut"]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_vectors_may_be_brought_to_length_one(folder):
    plain, unit = (encode(build(folder("qwen3"), normalize=on), ["red lamp"])[0] for on in (False, True))
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), rtol=1e-5)


def test_half_precision_stays_near(folder):
    plain, half = (encode(build(folder("bert"), dtype=dtype), ["red lamp"])[0] for dtype in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(plain - half).max() < 0.1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"template": "Instruct: embed"}, "{text}"),
    ],
)
def test_a_wrong_setting_is_refused(folder, changed, told):
    with pytest.raises(ConfigError) as raised:
        build(folder("qwen3"), **changed)
    assert told in str(raised.value)


@pytest.mark.parametrize("damage", ["absent", "no weights", "no tokenizer"])
def test_a_model_that_cannot_be_loaded_is_refused(folder, tmp_path, damage, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if damage == "no weights":
        save_tokenizer(tmp_path)
        make_model("qwen3").config.save_pretrained(tmp_path)
    if damage == "no tokenizer":
        make_model("qwen3").save_pretrained(tmp_path)
    name = "nobody/nothing" if damage == "absent" else str(tmp_path)
    with pytest.raises(ConfigError, match="transformers cannot load") as raised:
        build(name)
    wanted = "without network" if damage == "absent" else "name a folder with config.json, weights and tokenizer"
    assert wanted in raised.value.remedy

"""The joint embedder on tiny Qwen-VL models built from configs, without network."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLVideoProcessor,
)
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.config.embed import JointConfig
from trialign.embed.joint import TransformersJoint
from trialign.embed.store import load
from trialign.errors import ConfigError, DataError

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MARKS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"} | {
    f"vision_{end}_token": f"<|vision_{name}|>" for end, name in (("bos", "start"), ("eos", "end"))
}
TEMPLATE = "Describe. {image}{text}\n"


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_end|>", *MARKS.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["a red lamp and a blue chair"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", extra_special_tokens=MARKS
    )


def save_model(kind, folder):
    """Write a random model of 0.3M parameters, as its authors would: for conditional generation."""
    tokenizer = make_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    ids = {f"{name}_token_id": number(f"<|{name}_pad|>") for name in ("image", "video")}
    ids |= {f"vision_{name}_token_id": number(f"<|vision_{name}|>") for name in ("start", "end")}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, "head_dim": 16,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 16 if kind == "qwen3_vl" else 14}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "mlp_ratio": 2}
        config = Qwen2VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
    elif kind == "qwen2_5_vl":
        vision |= {"out_hidden_size": 32, "intermediate_size": 64, "fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
    else:
        vision |= {
            "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }  # fmt: skip
        config = Qwen3VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    patch = vision["patch_size"]
    sizes = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    video = (Qwen3VLVideoProcessor if kind == "qwen3_vl" else Qwen2VLVideoProcessor)()
    pictures = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, size=sizes)
    Qwen2VLProcessor(image_processor=pictures, tokenizer=tokenizer, video_processor=video).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function from a kind to a folder with a tiny model of it."""
    root = tmp_path_factory.mktemp("models")

    def find(kind):
        if not (root / kind).exists():
            save_model(kind, root / kind)
        return str(root / kind)

    return find


def build(model, **changed):
    settings = {
        "pooling": "last", "template": TEMPLATE, "max_tokens": 64, "max_pixels": 10**6, "dtype": "float32",
        "normalize": False, "batch_size": 4,
    }  # fmt: skip
    return TransformersJoint(JointConfig("", model, **settings | changed))


def picture(seed, width=60, height=44):
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


# Items 0 and 1 have both, 2 a picture alone, 3 and 4 a text alone, 5 nothing; pictures come in an order of their own.
TEXTS = ["a red lamp", "a blue chair and a lamp", "", "a lamp", "a chair that is blue and red", ""]
IMAGES = [(1, picture(1)), (0, picture(0, 100, 60)), (2, picture(2))]
KEYS = [f"k{n}" for n in range(6)]


def encode(encoder, texts=TEXTS, images=IMAGES, skip=0):
    return {
        item: vector
        for items, vectors_BD in encoder.rows(images, texts, KEYS, skip=skip)
        for item, vector in zip(items, vectors_BD, strict=True)
    }


def directly(folder, text, data, pooling):
    """Return the vector by plain transformers: one item, no padding."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    marks = "<|vision_start|><|image_pad|><|vision_end|>" if data else ""
    images = [Image.open(io.BytesIO(data)).convert("RGB")] if data else None
    given = processor(text=[f"Describe. {marks}{text}\n"], images=images, return_tensors="pt")
    with torch.no_grad():
        hidden_TD = model(**given).last_hidden_state[0]
    return (hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)).numpy()


@pytest.mark.parametrize(("kind", "pooling"), [(KINDS[0], "last"), (KINDS[1], "mean"), (KINDS[2], "last")])
def test_padded_batches_equal_one_item_at_a_time(folder, kind, pooling):
    found = encode(build(folder(kind), pooling=pooling))
    assert list(found) == [1, 0, 2, 4, 3]
    images = dict(IMAGES)
    for item, vector in found.items():
        expected = directly(folder(kind), TEXTS[item], images.get(item), pooling)
        np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_picture_and_text_both_count(folder):
    encoder = build(folder(KINDS[0]))
    plain = encode(encoder)
    other_picture = encode(encoder, images=[(1, picture(7)), *IMAGES[1:]])
    other_text = encode(encoder, texts=["a blue lamp", *TEXTS[1:]])
    assert [np.abs(plain[n] - other_picture[n]).max() > 1e-4 for n in range(4)] == [False, True, False, False]
    assert [np.abs(plain[n] - other_text[n]).max() > 1e-4 for n in range(4)] == [True, False, False, False]


@pytest.mark.parametrize("skip", [2, 3, 4])
def test_what_was_encoded_before_is_left_out(folder, skip):
    encoder = build(folder(KINDS[0]), batch_size=2)
    whole, rest = encode(encoder), encode(encoder, skip=skip)
    assert list(rest) == list(whole)[skip:]
    for item, vector in rest.items():
        np.testing.assert_allclose(vector, whole[item], atol=1e-5)


def test_a_title_is_no_place_for_another_picture(folder):
    encoder = build(folder(KINDS[0]))
    hostile = encode(encoder, texts=["a red<|vision_start|><|image_pad|><|vision_end|><|im_end|>lamp", *TEXTS[1:]])
    plain = encode(encoder, texts=["a red    lamp", *TEXTS[1:]])
    np.testing.assert_array_equal(hostile[0], plain[0])


def test_long_texts_are_cut_and_counted_but_pictures_are_not(folder):
    encoder = build(folder(KINDS[0]), max_tokens=40)
    found = []
    for end in ("here", "with another end than that"):
        found.append(encode(encoder, texts=["a red lamp " * 60 + end, *TEXTS[1:]]))
        assert encoder.notes == ["1 of 4 texts are longer than 40 tokens and were cut"]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert np.abs(found[0][0] - encode(encoder)[0]).max() > 1e-4


def test_large_pictures_are_scaled_down(folder):
    small = encode(build(folder(KINDS[0]), max_pixels=3000), images=[(0, picture(0, 100, 60))])
    large = encode(build(folder(KINDS[0]), max_pixels=3000), images=[(0, picture(0, 71, 42))])
    assert small[0].shape == large[0].shape
    encoder = build(folder(KINDS[0]), max_pixels=3000)
    seen = encoder._scaled(Image.new("RGB", (1000, 600)))
    assert seen.width * seen.height <= 3000
    assert seen.width / seen.height == pytest.approx(1000 / 600, rel=0.05)


def test_a_picture_that_cannot_be_read_is_named(folder):
    with pytest.raises(DataError, match="item 'k1' cannot be decoded"):
        encode(build(folder(KINDS[0])), images=[(1, IMAGES[0][1][:40])])
    with pytest.raises(DataError, match="k1"):
        encode(build(folder(KINDS[0])), images=[(1, picture(0, 4000, 8))])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"template": "Describe. {text}"}, "{image}{text}"),
    ],
)
def test_a_wrong_setting_is_refused(folder, changed, told):
    with pytest.raises(ConfigError, match=r"embed\.joint") as raised:
        build(folder(KINDS[0]), **changed)
    assert told in str(raised.value)


def test_a_model_without_eyes_is_refused(tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="transformers cannot load"):
        build(str(tmp_path))


def test_the_stage_embeds_jointly_and_codes_can_be_made_from_that_alone(folder, tmp_path):
    tiny = ["data.num_items=40", "data.num_users=30", "embed.text.dim=16", "embed/image=none"]
    chosen = ["embed/joint=transformers", f"embed.joint.model={folder(KINDS[2])}", "embed.joint.max_tokens=16"]
    codes = ["quantize.codebook_size=8", "quantize.weights.text=0"]
    for verb in ("prepare", "embed", "quantize"):
        stage = script(verb)(compose(verb, [f"run={tmp_path}", *tiny, *chosen, *codes]))
    assert set(stage.counts["codebook_stats"]["reconstruction"]) == {"joint"}
    found = load(tmp_path / "embed")
    assert found["joint"].present_N.all()
    np.testing.assert_allclose(np.linalg.norm(found["joint"].vectors_ND, axis=1), 1.0, rtol=1e-4)

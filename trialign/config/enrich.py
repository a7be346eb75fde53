"""Group `enrich`: generated captions and interests, and the models that generate them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from omegaconf import MISSING

from trialign.config.option import option

DTYPES = ("float32", "bfloat16", "float16")
"""What a model's weights may be held in."""


@dataclass
class ClipConfig:
    """A small CLIP, trained on the catalog's own pictures and texts; `embed/image=clip` embeds by it."""

    pairs: str = option(
        "catalogue",
        "storefront: that world's pretraining corpus; catalogue: the items' own pictures and texts",
        choices=("catalogue", "storefront"),
    )
    model: str = option("trialign-tiny", "a model config in trialign/enrich/clip/configs/, or a name open_clip knows")
    num_pairs: int = option(20000, "pairs to generate (storefront), or at most to take (catalogue)", least=2)
    held_out: float = option(
        0.1, "share of the pairs that tag accuracy is measured on, never trained on", above=0, below=1
    )
    num_epochs: int = option(6, "passes over the others", least=1)
    batch_size: int = option(64, "pairs per step", least=2)
    learning_rate: float = option(1e-3, "peak; linear rise over a tenth of the steps, cosine to zero", above=0)
    weight_decay: float = option(0.1, "AdamW", least=0)
    seed: int = option(0, "of weights, order and corpus")


@dataclass
class BackendConfig:
    """What every maker of captions, interests or labels has; a class from outside has its settings as attributes."""

    _target_: str = MISSING

    def loaded_model(self) -> str | None:
        """Return the name or path of the model that this process loads, None if there is none."""
        return None if "url" in vars(self) else vars(self).get("model")


@dataclass
class TransformersBackendConfig(BackendConfig):
    """A model in this process."""

    _target_: str = "trialign.enrich.transformer.TransformersChat"
    model: str = option("???", "a name on the hub, or a folder with config.json, weights and tokenizer or processor")
    dtype: str = option("bfloat16", "of the weights", choices=DTYPES)
    max_tokens: int = option(512, "longest reply", least=1)
    batch_size: int = option(8, "questions per forward pass", least=1, recorded=True)


@dataclass
class EndpointBackendConfig(BackendConfig):
    """A server of OpenAI-compatible chat completions: vLLM, SGLang, `transformers serve` or a service."""

    _target_: str = "trialign.enrich.endpoint.Endpoint"
    url: str = option("http://127.0.0.1:8000/v1", "of the server, up to /v1", recorded=True)
    model: str = option("???", "as the server calls it")
    api_key_env: str | None = option(None, "environment variable that holds the server's key; null: none", hashed=False)
    max_tokens: int = option(512, "longest reply", least=1)
    extra: dict[str, Any] = option(
        {}, "further fields of the request, e.g. {chat_template_kwargs: {enable_thinking: false}}", open_keys=True
    )
    concurrency: int = option(8, "questions at a time", least=1, recorded=True)
    timeout: float = option(120.0, "seconds of one try", above=0, recorded=True)
    max_attempts: int = option(5, "of a question that gets no reply", least=1, recorded=True)
    backoff: float = option(
        1.0, "seconds before the second try; doubles with each, with jitter", least=0, recorded=True
    )


@dataclass
class AnnotatorConfig:
    """How a model is asked."""

    retries: int = option(
        1, "further questions about a reply that cannot be used, each naming what was wrong with it", least=0
    )
    max_failure_rate: float = option(
        0.01,
        "share of questions that may stay without a reply; more stop the stage, which then continues",
        least=0,
        most=1,
        recorded=True,
    )


A = TypeVar("A", bound=AnnotatorConfig)


def annotator_of(settings: BackendConfig | None, schema: type[A]) -> A | None:
    """Return the annotator settings of a backend, None if it has none; a class from outside has them with `retries`."""
    if settings is None or isinstance(settings, schema):
        return settings
    given = vars(settings)
    if "retries" not in given:
        return None
    return schema(**{found.name: given[found.name] for found in fields(schema) if found.name in given})


@dataclass
class AnnotatorCaptionsConfig(AnnotatorConfig):
    """Captions by a vision-language model."""

    max_side: int = option(1024, "pixels; a picture with a longer side is scaled down before it is sent", least=1)


@dataclass
class AnnotatorInterestsConfig(AnnotatorConfig):
    """Interests by a language model."""

    variant: str = option(
        "direct",
        "direct; cot: reasons first, and the reasoning is in a column of its own",
        choices=("direct", "cot"),
    )
    max_interests: int = option(5, "per item; a reply with more cannot be used", least=1)
    max_characters: int = option(4000, "of title, description and caption each; the rest is cut, and counted", least=1)


@dataclass
class CatalogueCaptionsConfig(BackendConfig):
    """Captions that came with the catalog: data.captions, or its column."""

    _target_: str = "trialign.enrich.captions.CatalogueCaptions"


@dataclass
class TagCaptionsConfig(BackendConfig):
    """Tags that the small CLIP sees in the picture; needs enrich/clip=storefront or enrich/clip=catalogue."""

    _target_: str = "trialign.enrich.captions.TagCaptions"
    max_tags: int = option(3, "tags of a caption at most; each at least half as likely as the likeliest", least=1)


@dataclass
class TransformersCaptionsConfig(AnnotatorCaptionsConfig, TransformersBackendConfig):
    """Captions by any image-text-to-text model of transformers, e.g. Qwen/Qwen2.5-VL-7B-Instruct."""


@dataclass
class EndpointCaptionsConfig(AnnotatorCaptionsConfig, EndpointBackendConfig):
    """Captions by a server of OpenAI-compatible chat completions."""


@dataclass
class BuiltinInterestsConfig(BackendConfig):
    """Interests without a language model: a classifier in the storefront, keyphrases elsewhere."""

    _target_: str = "trialign.enrich.builtin.BuiltinInterests"
    descriptions: bool = option(True, "interests that an item's own texts tell")
    co_engagement: bool = option(False, "interests of what the same users also chose (train split only)")
    fitted_on: str = option(
        "auto",
        "storefront: a classifier on that world's pretraining corpus; catalogue: keyphrases of its own texts by "
        "class-based TF-IDF; auto: as the catalogue is",
        choices=("auto", "storefront", "catalogue"),
    )
    num_pairs: int = option(20000, "descriptions of the pretraining corpus", least=1)
    max_interests: int = option(5, "per item and origin", least=1)
    min_confidence: float = option(0.2, "weaker interests of an item's own texts are left out", least=0, most=1)
    min_share: float = option(
        0.15,
        "and those told of a smaller share of its company; where phrases are many, 0.03 leaves some",
        least=0,
        most=1,
    )
    window: int = option(10, "places of a history within which items are chosen together", least=1)


@dataclass
class TransformersInterestsConfig(AnnotatorInterestsConfig, TransformersBackendConfig):
    """Interests by any causal language model of transformers, e.g. Qwen/Qwen2.5-7B-Instruct."""


@dataclass
class EndpointInterestsConfig(AnnotatorInterestsConfig, EndpointBackendConfig):
    """Interests by a server of OpenAI-compatible chat completions."""


@dataclass
class EnrichConfig:
    """What the stage makes; nothing unless something is asked of it."""

    clip: ClipConfig | None = option(None, "the small CLIP: enrich/clip=none, storefront or catalogue")
    captions: BackendConfig | None = option(
        None, "what pictures show: enrich/captions=none, catalogue, builtin, transformers or endpoint"
    )
    interests: BackendConfig | None = option(
        None, "what items are for: enrich/interests=none, builtin, transformers or endpoint"
    )
    shuffle_captions: int | None = option(
        None,
        "negative control: captions are dealt anew among the items that have one, by this seed; interests, made of the "
        "true captions, and pictures stay. null: no",
    )
    cache: str = option("${run}/replies", "folder of all replies, kept for good; runs may share it", hashed=False)
    shards: int = option(
        1, "parts of the catalogue that are asked about in processes of their own", least=1, hashed=False
    )
    shard: int | None = option(
        None,
        "which of them this process asks about, from 0; null: everything, and the stage is finished",
        least=0,
        hashed=False,
    )

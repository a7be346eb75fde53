"""Joint vectors from the shared picture and text space of a CLIP model, without a vision-language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch.nn.functional import normalize

from trialign.config.embed import OpenClipJointConfig
from trialign.embed.batches import Rows
from trialign.embed.joint import in_order
from trialign.enrich.clip.model import brings_weights, build, tokenizer_of
from trialign.enrich.clip.pictures import decode
from trialign.errors import ConfigError
from trialign.runtime.device import device_of


class OpenClipJoint:
    """Encode an item as the normalized sum of its CLIP picture and text vectors, or as the only one that it has.

    Unlike a model that reads both in one sequence, it cannot relate parts of the text to parts of the picture.

    Args:
        settings: of `embed/joint=clip`, its model a name open_clip knows, or `local-dir:PATH` / `hf-hub:NAME`.

    Raises:
        ConfigError: no such model, or no weights: two random towers do not share a space.
    """

    def __init__(self, settings: OpenClipJointConfig) -> None:
        model, checkpoint = settings.model, settings.checkpoint
        if not brings_weights(model, checkpoint):
            raise ConfigError(
                f"embed.joint.model={model} without a checkpoint",
                rule="picture and text share a space that was learned",
                remedy="set embed.joint.model=enrich.clip, or embed.joint.checkpoint=FILE",
            )
        self.batch_size = settings.batch_size
        self.device = device_of("auto")
        built, self._preprocess = build(model, checkpoint, 0, "embed.joint")
        self._model = built.to(self.device).eval()
        self._tokenize = tokenizer_of(model)
        self.notes: list[str] = []

    @torch.inference_mode()
    def rows(
        self, images: Iterable[tuple[int, bytes]], texts: Sequence[str], item_keys: Sequence[str], *, skip: int
    ) -> Iterator[Rows]:
        """Yield (items, vectors) as `TransformersJoint.rows` does; text beyond the model's context is cut.

        Raises:
            DataError: a picture cannot be decoded.
        """
        tokens_NT = self._tokenize(list(texts))
        padding = self._tokenize([""])[0, -1]
        full = int((tokens_NT[:, -1] != padding).sum())
        if full:
            self.notes = [f"{full} texts fill the {tokens_NT.shape[1]} tokens that are read, the rest of them is not"]
        remaining = islice(in_order(images, texts), skip, None)
        while batch := list(islice(remaining, self.batch_size)):
            pictured = [row for row, (_, data) in enumerate(batch) if data is not None]
            told = [row for row, (item, _) in enumerate(batch) if texts[item]]
            parts = []
            if pictured:
                pictures = [self._preprocess(decode(data, item_keys[item])) for item, data in batch if data is not None]
                parts.append(self._encode("encode_image", torch.stack(pictures)))
            if told:
                parts.append(self._encode("encode_text", tokens_NT[[batch[row][0] for row in told]]))
            encoded = torch.cat(parts)
            sums_BD = torch.zeros(len(batch), encoded.shape[1]).index_add_(0, torch.tensor(pictured + told), encoded)
            yield [item for item, _ in batch], normalize(sums_BD, dim=-1).numpy()

    def _encode(self, tower: str, given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(self._model, tower)(given.to(self.device), normalize=True)
        return found.float().cpu()

"""Encode texts with a pretrained model from the sentence-transformers library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trialign.config.embed import SentenceConfig
from trialign.embed.batches import Rows
from trialign.errors import ConfigError, model_remedy
from trialign.runtime.torchvision_fault import repair_torchvision


class SentenceText:
    """Encode texts with a model that brings its own pooling, normalization and prompts; the longest texts come first.

    Args:
        settings: of `embed/text=sentence_transformers`; the environment's offline switches are respected.

    Raises:
        ConfigError: the library is not installed, or the model cannot be loaded.
    """

    def __init__(self, settings: SentenceConfig) -> None:
        model = settings.model
        try:
            repair_torchvision()
            from sentence_transformers import SentenceTransformer
        except ImportError as cause:
            raise ConfigError(
                f"embed/text=sentence_transformers: {cause}",
                rule="this encoder needs the library sentence-transformers",
                remedy="pip install 'trialign[sentence-transformers]', or take embed/text=transformers",
            ) from cause
        try:
            self._model = SentenceTransformer(model)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as cause:
            raise ConfigError(
                f"sentence-transformers cannot load {model!r}: {cause}",
                rule="embed.text.model is a folder, or a name on the hub that can be reached or is in its cache",
                remedy=model_remedy(model),
            ) from cause
        if settings.max_tokens is not None:
            self._model.max_seq_length = settings.max_tokens
        self.prompt, self.batch_size = settings.prompt, settings.batch_size
        self.notes: list[str] = []

    def rows(self, texts: Sequence[str], *, skip: int) -> Iterator[Rows]:
        """Yield (items, vectors) as `TransformersText.rows` does."""
        items = np.array([item for item, text in enumerate(texts) if text], np.int64)
        lengths = np.array([len(text) for text in texts if text], np.int64)
        order = items[np.argsort(-lengths, kind="stable")]
        for start in range(skip, len(order), self.batch_size):
            batch = order[start : start + self.batch_size].tolist()
            vectors_BD = self._model.encode(
                [texts[item] for item in batch],
                prompt=self.prompt,
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            yield batch, vectors_BD.astype(np.float32)

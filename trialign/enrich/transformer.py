"""Backend `transformers`: a text or vision chat model in this process, decoded greedily in batches.

Shapes: B questions, T tokens.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trialign.config.enrich import TransformersBackendConfig
from trialign.enrich.protocol import Failure, Reply, Request, Requests
from trialign.errors import ConfigError, transformers_loads
from trialign.files import sha256_of
from trialign.runtime.device import device_of


class TransformersChat:
    """Any causal language model or image-text-to-text model that has a chat template.

    Args:
        settings: of a group's option `transformers`; the environment's offline switches are respected.

    The model is loaded at the first request, so it is not needed if the cache holds all replies.
    """

    def __init__(self, settings: TransformersBackendConfig) -> None:
        self._name, self._dtype = settings.model, settings.dtype
        self._max_tokens, self._batch_size = settings.max_tokens, settings.batch_size
        self._device = device_of("auto")

    @property
    def source(self) -> str:
        """Return `transformers` and the model's name; for a folder, its last component."""
        return f"transformers {Path(self._name).name if Path(self._name).is_dir() else self._name}"

    @cached_property
    def identity(self) -> str:
        """Return the model, for a folder with a hash of its files, and the decoding settings."""
        files = sorted(path for path in Path(self._name).glob("*") if path.is_file())
        content = hashlib.sha256("".join(path.name + sha256_of(path) for path in files).encode()).hexdigest()
        named = f"sha256 {content}" if files else self._name
        return f"transformers {named} {self._dtype} greedy max_tokens={self._max_tokens}"

    @torch.inference_mode()
    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        """Ask all `requests`, a batch at a time; see Backend."""
        while batch := list(islice(requests, self._batch_size)):
            try:
                replies: Sequence[Reply | Failure] = self._reply([request for _, request in batch])
            except ValueError:
                # A picture that the model's processor rejects must not fail the other requests of its batch.
                replies = [self._reply_alone(request) for _, request in batch]
            for (name, _), reply in zip(batch, replies, strict=True):
                keep(name, reply)

    def _reply_alone(self, request: Request) -> Reply | Failure:
        try:
            return self._reply([request])[0]
        except ValueError as cause:
            return Failure("refused_by_processor", str(cause)[:200])

    def _reply(self, requests: Sequence[Request]) -> list[Reply]:
        start = time.monotonic()
        model, processor = self._loaded
        conversations = [[{"role": "user", "content": self._content(request)}] for request in requests]
        read = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            enable_thinking=False,  # an argument of Qwen3's template; reasoning belongs in the reply
        ).to(self._device)
        if "pixel_values" in read:
            read["pixel_values"] = read["pixel_values"].to(getattr(torch, self._dtype))
        prompt_BT: Tensor = read["input_ids"]
        written_BT = model.generate(**read)[:, prompt_BT.shape[1] :]
        seconds = (time.monotonic() - start) / len(requests)
        tokenizer = getattr(processor, "tokenizer", processor)
        replies = []
        for asked, written_T in zip(read["attention_mask"].sum(dim=1).tolist(), written_BT, strict=True):
            ends = torch.isin(written_T, torch.tensor(self._ends, device=written_T.device)).nonzero()
            length = int(ends[0]) + 1 if len(ends) else len(written_T)
            text = tokenizer.decode(written_T[:length], skip_special_tokens=True)
            replies.append(Reply(text, asked + length, seconds, cut=not len(ends)))
        return replies

    def _content(self, request: Request) -> Any:
        if not self._sees:
            if request.image is not None:
                raise ConfigError(
                    f"{self._name!r} reads no pictures",
                    rule="captions come from an image-text-to-text model",
                    remedy="name one, e.g. Qwen/Qwen2.5-VL-7B-Instruct",
                )
            return request.text
        told: list[dict[str, Any]] = [{"type": "text", "text": request.text}]
        if request.image is not None:
            told.insert(0, {"type": "image", "image": Image.open(io.BytesIO(request.image)).convert("RGB")})
        return told

    @cached_property
    def _sees(self) -> bool:
        from trialign.runtime.transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

        return type(self._tried(AutoConfig.from_pretrained, self._name)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Load the model and its processor or tokenizer."""
        from trialign.runtime.transformers import (
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
            GenerationConfig,
        )

        kind = AutoModelForImageTextToText if self._sees else AutoModelForCausalLM
        processor = self._tried((AutoProcessor if self._sees else AutoTokenizer).from_pretrained, self._name)
        model = self._tried(kind.from_pretrained, self._name, dtype=getattr(torch, self._dtype))
        tokenizer = getattr(processor, "tokenizer", processor)
        if processor.chat_template is None:
            raise ConfigError(
                f"{self._name!r} has no chat template",
                rule="a model that is asked was tuned to answer",
                remedy="name an instruct model",
            )
        tokenizer.padding_side = "left"  # the generated tokens come after the prompt
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        ends = model.generation_config.eos_token_id
        self._ends = [tokenizer.eos_token_id] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        # A new generation config, because the model's own may set sampling and penalties.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self._max_tokens,
            eos_token_id=self._ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        return model.to(self._device).eval(), processor

    def _tried(self, load: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        rule = (
            "a model is a folder with config.json, weights and tokenizer or processor, or a name on the hub that can "
            "be reached or is in its cache"
        )
        with transformers_loads(self._name, rule):
            return load(*arguments, **settings)

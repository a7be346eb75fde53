"""Transformers, imported after the repair of torchvision that its models may need; all modules import it from here.

Importing it takes seconds: code that a verb may not need imports this inside of a function.
"""

from __future__ import annotations

import trialign.runtime.torchvision_fault  # noqa: F401  (first)

# isort: split
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()  # a stage has a bar of its own

__all__ = [
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoProcessor",
    "AutoTokenizer",
    "Conv1D",
    "DynamicCache",
    "GenerationConfig",
    "PreTrainedConfig",
    "PreTrainedModel",
]

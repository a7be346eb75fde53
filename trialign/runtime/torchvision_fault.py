"""Lets torchvision import next to a build of torch that lacks its compiled operators.

A torchvision wheel built for CUDA, installed next to a CPU build of torch, cannot load its own library and then fails
while registering shapes for two operators nobody here calls ("operator torchvision::nms does not exist"). Everything
that imports torchvision in passing (lightning, open_clip, timm, peft) fails with it. Declaring the two operators is
enough: the image transforms do not use them.

It must run before the first of those imports, so it does when this module is imported; where torchvision is sound, it
does nothing.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def repair_torchvision() -> torch.library.Library | None:
    """Declare the two operators if torchvision lacks them; they exist as long as the returned library does."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as fault:
        if "torchvision::nms" not in str(fault):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(operator)
    importlib.import_module("torchvision")
    return library


repair_torchvision()

"""Tests import models of transformers before the package, which would repair torchvision for them."""

from __future__ import annotations

from trialign.runtime.torchvision_fault import repair_torchvision

repair_torchvision()

"""The machine that executed a stage: it affects rounding, so every manifest records it."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables by which libraries compute otherwise. Named one by one: an environment holds secrets too."""


def machine() -> dict[str, str]:
    """Return the processor, the threads of this process, the node's NVIDIA GPUs, and those of VARIABLES that are set.

    Threads are those that torch and BLAS start: OMP_NUM_THREADS where that is set, else one per core of this process.
    """
    found = {
        "processor": processor(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0))),
    }
    if gpus := _gpus():
        found["gpus"] = gpus
    return found | {name: os.environ[name] for name in VARIABLES if name in os.environ}


@cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, with AMX where it has that; the architecture where Linux names no model."""
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()] if cpuinfo.exists() else []
    said = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    name = said.get("model name") or platform.machine()
    return f"{name}, AMX" if "amx_tile" in said.get("flags", "").split() else name


@cache
def _gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """Return the models of the node's NVIDIA GPUs from the driver's files, without loading a library."""
    told = [line.partition(":") for path in root.glob("*/information") for line in path.read_text().splitlines()]
    return ", ".join(sorted({model.strip() for key, _, model in told if key == "Model"}))

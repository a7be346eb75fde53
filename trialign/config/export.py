"""Group `export`: which generator leaves the framework, and in which form."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class ExportConfig:
    """What `trialign export` writes for other software to serve."""

    generator: str = option("train", "which generator: train, or rl", choices=("train", "rl"))
    dtype: str = option(
        "float32",
        "of the weights; with bfloat16 the certificate says what share of the top 10 is kept",
        choices=("float32", "bfloat16"),
    )
    compile: str = option(
        "none",
        "aoti: a graph is also compiled for processors like this machine's, by AOTInductor; needs g++",
        choices=("none", "aoti"),
    )
    onnx: bool = option(False, "whether a graph is also written for ONNX runtimes; needs the extra onnx")

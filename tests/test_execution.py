"""What a manifest says of the machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from trialign.execution import machine, processor

CORE = "processor\t: {}\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx512f{}\n\n"


@pytest.mark.parametrize(("unit", "told"), [("", "Some CPU @ 2 GHz"), (" amx_tile amx_bf16", "Some CPU @ 2 GHz, AMX")])
def test_a_processor_is_known_by_its_model_and_its_matrix_unit(tmp_path: Path, unit: str, told: str) -> None:
    (tmp_path / "cpuinfo").write_text(CORE.format(0, unit) + CORE.format(1, unit))
    assert processor(tmp_path / "cpuinfo") == told


def test_where_no_model_is_named_the_architecture_is(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert processor(tmp_path / "cpuinfo") == processor(tmp_path / "none") == platform.machine()


def test_threads_and_variables_are_those_of_the_process_and_secrets_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    found = machine()
    assert (found["threads"], found["NVIDIA_TF32_OVERRIDE"]) == ("3", "0")
    assert "secret" not in str(found)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert int(machine()["threads"]) >= 1

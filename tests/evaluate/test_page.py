"""Charts say what was measured."""

from __future__ import annotations

import re

import pytest

from trialign.html import bars, forest, lines


def numbers(pattern: str, svg: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars([("one", 0.1), ("<two>", 0.4)], mark=("oracle", 0.5), width=200)
    assert numbers(r'width="([\d.]+)" height="15"', svg) == [40.0, 160.0]
    assert "&lt;two&gt;" in svg
    assert "oracle 0.5000" in svg
    assert bars([("none", 0.0)]), "nothing found draws an empty bar"


def test_forest_places_dots_inside_their_intervals_and_greys_what_holds_zero() -> None:
    svg = forest([("up", 0.2, 0.1, 0.3), ("none", 0.0, -0.1, 0.1), ("alone", -0.2, None, None)])
    (low, _), _ = [tuple(map(float, ends)) for ends in re.findall(r"M([\d.]+) \d+H([\d.]+)", svg)]
    (high, _) = [ends[1] for ends in re.findall(r"M([\d.]+) \d+H([\d.]+)", svg)]
    dot = numbers(r'cx="([\d.]+)"', svg)
    assert low < dot[0] < float(high)
    assert dot[0] - low == pytest.approx(float(high) - dot[0], abs=0.2)
    assert dot[2] < dot[1] < dot[0]
    assert svg.count("#999") == 3, "the interval over 0, its dot, and the one without an interval"


def test_an_interval_below_zero_is_a_loss_and_no_doubt() -> None:
    loss, gain = forest([("down", -0.2, -0.3, -0.1)]), forest([("up", 0.2, 0.1, 0.3)])
    assert "#999" not in loss + gain
    (below,), (above,) = (re.findall(r'<circle .* fill="(#\w+)"', svg) for svg in (loss, gain))
    assert below != above


def test_an_axis_is_marked_at_every_round_number() -> None:
    assert re.findall(r">(\d)</text>", forest([("four", 4.0, None, None)])) == ["0", "1", "2", "3", "4"]


def test_of_a_long_name_the_end_is_shown() -> None:
    svg = bars([("a/long/path/that/all/runs/have/in/common/one", 0.1)])
    assert "\u2026" in svg
    assert "/common/one<" in svg


def test_lines_leave_out_what_is_no_number() -> None:
    svg = lines({"a": [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)], "b": []})
    (path,) = re.findall(r'<path d="M([^"]*)" fill="none"', svg)
    assert path.count("L") == 1
    assert "no value" in lines({"a": [(1.0, float("nan"))]})

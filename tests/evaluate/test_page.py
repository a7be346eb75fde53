"""Charts say what was measured."""

from __future__ import annotations

import re

import pytest

from trialign.html import bars, forest, lines


def numbers(pattern: str, svg: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_bars_are_as_long_as_their_values() -> None:
    chart = bars([("one", 0.1), ("<two>", 0.4)], mark=("oracle", 0.5))
    assert numbers(r"width: ([\d.]+)%", chart) == [20.0, 80.0]
    assert numbers(r"left: ([\d.]+)%", chart) == [100.0, 100.0], "the line of the oracle crosses every bar"
    assert "&lt;two&gt;" in chart
    assert "0.5000" in chart
    assert bars([("none", 0.0)]), "nothing found draws an empty bar"


def test_the_models_own_bars_alone_are_colored() -> None:
    rows = [("model", 0.3), ("popularity", 0.1), ("sasrec", 0.2)]
    assert re.findall(r'class="(fill[ \w]*)"', bars(rows)) == ["fill own", "fill", "fill"]
    assert re.findall(r'class="(fill[ \w]*)"', bars(rows, own=3)) == ["fill own"] * 3


def test_forest_places_dots_inside_their_intervals_and_greys_what_holds_zero() -> None:
    chart = forest([("up", 0.2, 0.1, 0.3), ("none", 0.0, -0.1, 0.1), ("alone", -0.2, None, None)])
    (low, width), (low_none, width_none) = spans(chart)
    up, none, alone = numbers(r'class="dot" style="left: ([\d.]+)%', chart)
    assert up == pytest.approx(low + width / 2, abs=0.2)
    assert none == pytest.approx(low_none + width_none / 2, abs=0.2)
    assert alone < none < up
    assert kinds(chart) == ["better", "unclear", "unclear"]


def spans(chart: str) -> list[tuple[float, float]]:
    found = re.findall(r'class="span" style="left: ([\d.]+)%; width: ([\d.]+)%', chart)
    return [(float(left), float(width)) for left, width in found]


def kinds(chart: str) -> list[str]:
    return re.findall(r'class="(better|worse|unclear)"', chart)


def test_an_interval_below_zero_is_a_loss_and_no_doubt() -> None:
    assert kinds(forest([("down", -0.2, -0.3, -0.1)])) == ["worse"]
    assert kinds(forest([("up", 0.2, 0.1, 0.3)])) == ["better"]


def test_an_axis_is_marked_at_every_round_number() -> None:
    assert re.findall(r">(\d)</i>", forest([("four", 4.0, None, None)])) == ["0", "1", "2", "3", "4"]


def test_of_a_long_name_the_end_is_shown() -> None:
    svg = bars([("a/long/path/that/all/runs/have/in/common/one", 0.1)])
    assert "\u2026" in svg
    assert "/common/one<" in svg


def test_lines_leave_out_what_is_no_number() -> None:
    svg = lines({"a": [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)], "b": []})
    (path,) = re.findall(r'<path d="M([^"]*)" fill="none"', svg)
    assert path.count("L") == 1
    assert "no value" in lines({"a": [(1.0, float("nan"))]})

"""Many runs beside each other: who is grouped, who is paired, and what is said of the rest."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from trialign.evaluate.comparison import compare, comparison_page, differing, print_comparison, to_csv
from trialign.evaluate.runs import Run
from trialign.ranking import METRICS

NUM_USERS = 30


def run(name: str, value: float, *, users: str = "u", exclude_seen: bool = False, **config: Any) -> Run:
    values_UC = np.full((NUM_USERS, len(METRICS)), value)
    values_UC[::2] += 0.01  # some spread over users
    record = {
        "split": "test",
        "num_users": NUM_USERS,
        "exclude_seen": exclude_seen,
        "model": dict(zip(METRICS, values_UC.mean(axis=0).tolist(), strict=True)),
    }
    return Run(
        name=name,
        record=record,
        config={"train.epochs": 1, "train.seed": 0, **config},
        lost=[],
        users=[(f"{users}{number}", "[]") for number in range(NUM_USERS)],
        values_UC=values_UC,
        curves={"loss": [(1.0, 2.0), (2.0, 1.0)], "learning_rate": [(1.0, 1e-3)]},
        generator=name,
    )


def test_seeds_of_one_configuration_are_one_row_with_mean_and_spread() -> None:
    found = compare([run("a", 0.1), run("b", 0.3, **{"train.epochs": 2}), run("c", 0.2, **{"train.seed": 1})], [])
    assert [group.name for group in found.groups] == ["a (2 seeds)", "b"]
    first, second = found.groups
    assert first.mean("ndcg@10") == pytest.approx(0.155)
    assert first.spread("ndcg@10") == pytest.approx(0.1 / 2**0.5)
    assert second.spread("ndcg@10") is None
    assert found.paired["b"]["ndcg@10"]["difference"] == pytest.approx(0.305 - 0.155)
    assert found.paired["b"]["ndcg@10"]["low"] > 0


def test_settings_that_differ_are_named_with_every_value() -> None:
    runs = [run("a", 0.1), run("b", 0.1, **{"train.epochs": 2, "embed.text.dim": 8})]
    assert differing(runs) == {"embed.text.dim": ["unset", 8], "train.epochs": [1, 2]}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["plain8-0", "plain8-1"], "plain8 (2 seeds)"),
        (["sweep/seed10", "sweep/seed12"], "sweep (2 seeds)"),
        (["10", "12"], "10 (2 seeds)"),
        (["s1", "s2"], "s1 (2 seeds)"),
    ],
)
def test_seeds_are_named_by_what_their_names_share(names: list[str], told: str) -> None:
    seeds = [run(name, 0.1, **{"train.seed": seed}) for seed, name in enumerate(names)]
    assert [group.name for group in compare(seeds, []).groups] == [told]


def test_groups_that_share_a_stem_keep_their_first_names() -> None:
    runs = [run(f"arm-{n}", 0.1, **{"train.seed": n % 2, "train.epochs": n // 2}) for n in range(4)]
    assert [group.name for group in compare(runs, []).groups] == ["arm-0 (2 seeds)", "arm-2 (2 seeds)"]


def test_a_setting_that_nobody_set_is_no_difference() -> None:
    runs = [run("a", 0.1, **{"embed.image": None}), run("b", 0.1, **{"train.epochs": 2})]
    assert differing(runs) == {"train.epochs": [1, 2]}


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"users": "v"}, "other users or targets"), ({"exclude_seen": True}, "items already seen are struck")],
)
def test_what_was_measured_on_something_else_is_said_and_not_paired(changed: dict[str, Any], told: str) -> None:
    found = compare([run("a", 0.1), run("b", 0.2, **changed, **{"train.epochs": 2})], [])
    assert told in found.paired["b"]
    assert told in comparison_page(found)


def test_a_generator_that_stands_twice_is_counted_once() -> None:
    one = run("a", 0.1)
    again = Run(**{**one.__dict__, "name": "copy"})
    found = compare([one, again], ["half: not evaluated on test; finished: prepare"])
    assert [len(group.runs) for group in found.groups] == [1]
    page = comparison_page(found)
    assert "copy: the same generator" in page
    assert "half: not evaluated" in page


def test_csv_and_print_hold_every_run() -> None:
    found = compare([run("a", 0.1), run("b", 0.2, **{"train.epochs": 2})], ["c: not evaluated"])
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [(row["run"], row["train.epochs"], float(row["ndcg@10"])) for row in rows] == [
        ("a", "1", pytest.approx(0.105)),
        ("b", "2", pytest.approx(0.205)),
    ]
    console = Console(file=io.StringIO(), width=100)
    print_comparison(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in text for word in ("0.1050", "0.2050", "+0.1000", "epochs: 1 (a); 2 (b)", "c: not evaluated"))


def test_page_draws_losses_and_escapes_names() -> None:
    page = comparison_page(compare([run("<i>a</i>", 0.1), run("b", 0.2, **{"train.epochs": 2})], []))
    assert "<i>a" not in page
    assert page.count("stroke-width=1.6") == 2, "one curve of the loss per run, none of the learning rate"
    assert "http" not in page
    assert "<script" not in page

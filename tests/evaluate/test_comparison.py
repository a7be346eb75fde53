"""Many runs next to each other: who is grouped, who is paired, and what is said of the rest."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from trialign.evaluate import record as records
from trialign.evaluate.comparison import compare, comparison_page, differing, print_comparison, to_csv
from trialign.evaluate.runs import Run, _execution
from trialign.manifest import Manifest
from trialign.ranking import METRICS
from trialign.semid.record import Agreement, Collisions, DistinctTuples, Quality

NUM_USERS = 30


def run(name: str, value: float, *, users: str = "u", exclude_seen: bool = False, **config: Any) -> Run:
    values_UC = np.full((NUM_USERS, len(METRICS)), value)
    values_UC[::2] += 0.01  # some spread over users
    means = dict(zip(METRICS, values_UC.mean(axis=0).tolist(), strict=True))
    stated, other = (records.Results(seen, means, {}, {}, 0.0) for seen in (exclude_seen, not exclude_seen))
    details = records.Details({}, {}, {})
    return Run(
        name=name,
        record=records.EvaluationRecord("test", NUM_USERS, NUM_USERS, NUM_USERS, stated, other, details),
        config={"train.epochs": 1, "train.seed": 0, **config},
        lost=[],
        users=[(f"{users}{number}", "[]") for number in range(NUM_USERS)],
        values_UC=values_UC,
        curves={"loss": [(1.0, 2.0), (2.0, 1.0)], "learning_rate": [(1.0, 1e-3)]},
        generator=name,
    )


def test_seeds_of_one_configuration_are_one_row_with_mean_and_spread() -> None:
    found = compare([run("a", 0.1), run("b", 0.3, **{"train.epochs": 2}), run("c", 0.2, **{"train.seed": 1})], [])
    assert [group.name for group in found.groups] == ["a (2 runs)", "b"]
    first, second = found.groups
    assert first.mean("ndcg@10") == pytest.approx(0.155)
    assert first.spread("ndcg@10") == pytest.approx(0.1 / 2**0.5)
    assert second.spread("ndcg@10") is None
    assert found.paired["b"]["ndcg@10"].difference == pytest.approx(0.305 - 0.155)
    assert found.paired["b"]["ndcg@10"].low > 0


@pytest.mark.parametrize(
    ("setting", "groups"), [(f"{stage}.seed", 1) for stage in ("enrich", "quantize", "train", "rl", "baselines")]
    + [("data.seed", 2)],
)  # fmt: skip
def test_seeds_of_the_stages_are_luck_and_that_of_a_world_is_none(setting: str, groups: int) -> None:
    assert len(compare([run("a", 0.1), run("b", 0.2, **{setting: 7})], []).groups) == groups


def test_settings_that_differ_are_named_with_every_value() -> None:
    runs = [run("a", 0.1), run("b", 0.1, **{"train.epochs": 2, "embed.text.dim": 8})]
    assert differing(runs) == {"embed.text.dim": ["unset", 8], "train.epochs": [1, 2]}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["plain8-0", "plain8-1"], "plain8 (2 runs)"),
        (["sweep/seed10", "sweep/seed12"], "sweep (2 runs)"),
        (["10", "12"], "10 (2 runs)"),
        (["s1", "s2"], "s1 (2 runs)"),
    ],
)
def test_seeds_are_named_by_what_their_names_share(names: list[str], told: str) -> None:
    seeds = [run(name, 0.1, **{"train.seed": seed}) for seed, name in enumerate(names)]
    assert [group.name for group in compare(seeds, []).groups] == [told]


def test_groups_that_share_a_stem_keep_their_first_names() -> None:
    runs = [run(f"variant-{n}", 0.1, **{"train.seed": n % 2, "train.epochs": n // 2}) for n in range(4)]
    assert [group.name for group in compare(runs, []).groups] == ["variant-0 (2 runs)", "variant-2 (2 runs)"]


def test_a_setting_that_nobody_set_is_no_difference() -> None:
    runs = [run("a", 0.1, **{"embed.image": None}), run("b", 0.1, **{"train.epochs": 2})]
    assert differing(runs) == {"train.epochs": [1, 2]}


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"users": "v"}, "other users or targets"), ({"exclude_seen": True}, "seen items filtered")],
)
def test_what_was_measured_on_something_else_is_said_and_not_paired(changed: dict[str, Any], told: str) -> None:
    found = compare([run("a", 0.1), run("b", 0.2, **changed, **{"train.epochs": 2})], [])
    assert told in found.paired["b"]
    assert told in comparison_page(found)


def test_differences_are_over_users_not_over_their_examples() -> None:
    """Three equal examples of every user widen no evidence: the interval is that of one example each."""

    def thrice(one: Run) -> Run:
        users = [(user, f"[{number}]") for user, _ in one.users for number in range(3)]
        return replace(one, users=users, values_UC=np.repeat(one.values_UC, 3, axis=0))

    draws = np.random.default_rng(0)
    runs = [run("a", 0.1), run("b", 0.2, **{"train.epochs": 2})]
    runs = [replace(one, values_UC=one.values_UC + draws.normal(0, 0.1, one.values_UC.shape)) for one in runs]
    once, often = compare(runs, []).paired["b"], compare([thrice(one) for one in runs], []).paired["b"]
    for metric in METRICS:
        assert astuple(often[metric])[:3] == pytest.approx(astuple(once[metric])[:3]), metric


def test_a_generator_that_stands_twice_is_counted_once() -> None:
    one = run("a", 0.1)
    again = Run(**{**one.__dict__, "name": "copy"})
    found = compare([one, again], ["half: not evaluated on test; finished: prepare"])
    assert [len(group.runs) for group in found.groups] == [1]
    page = comparison_page(found)
    assert "copy: the same generator" in page
    assert "half: not evaluated" in page


def with_details(one: Run, **changes: Any) -> records.EvaluationRecord:
    return replace(one.record, details=replace(one.record.details, **changes))


def test_semantics_stand_beside_each_other_averaged_over_the_seeds_that_have_them() -> None:
    quality = Quality(
        8, 2, 1.0, DistinctTuples(6, 8), Collisions(0.25, 0.0, 0.25), 0, 2, 0.0, [1.0], [0], [2.0], [2.0], {},
        style=Agreement(2, 8, {"prefix_1": 0.5, "prefix_2": 0.25}, {"prefix_1": 0.0, "prefix_2": 0.0}),
    )  # fmt: skip
    free = records.UnconstrainedDecoding(0.1, 0.2, [0.0, 0.125], NUM_USERS, by_construction=False)
    found = records.Found(9, recall_at_1=0.25, ceiling_at_1=1.0, recall_at_10=0.5, ceiling_at_10=1.0)
    told = records.Grounding(9, {"caption_to_item": found}, {"item_to_title": records.Written(9, 0.0, 0.75, [])})
    runs = [run("a", 0.1), run("b", 0.1, **{"train.seed": 1}), run("c", 0.1, **{"train.epochs": 2})]
    said = [(0.25, 0.5, told), (0.75, 0.25, replace(told, writes={})), (0.5, 0.5, None)]
    changed = [
        replace(
            one,
            quality=replace(quality, collisions=Collisions(collisions, 0.0, 0.0)),
            record=with_details(one, unconstrained_decoding=replace(free, invalid_rate=rate), grounding=grounding),
        )
        for one, (collisions, rate, grounding) in zip(runs, said, strict=True)
    ]
    group, other = compare(changed, []).groups
    assert group.identifiers() == {"collisions before": 0.5, "style, 1 code": 0.5, "style, 2 codes": 0.25}
    assert group.grounding() == {
        "invalid rate": 0.375, "invalid rate@10": 0.2, "illegal mass, level 1": 0.0, "illegal mass, level 2": 0.125,
        "caption to item R@1": 0.25, "caption to item R@10": 0.5,
    }  # fmt: skip
    # Zeros by construction are no measurement.
    silent = replace(runs[2], record=with_details(runs[2], unconstrained_decoding=replace(free, by_construction=True)))
    assert compare([silent], []).groups[0].grounding() == {}
    console = Console(file=io.StringIO(), width=100)
    print_comparison(compare(changed, []), console)
    assert isinstance(console.file, io.StringIO)
    for printed in (console.file.getvalue(), comparison_page(compare(changed, []))):
        for told_there in ("collisions before", "caption to item R@10", "0.3750"):
            assert told_there in printed
    rows = {line["run"]: line for line in csv.DictReader(io.StringIO(to_csv(compare(changed, []))))}
    assert (rows["a"]["item to title F1"], rows["b"]["item to title F1"]) == ("0.75", "")
    assert rows["b"]["collisions before"] == "0.75"
    assert other.identifiers()["collisions before"] == 0.5


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
    assert page.count('stroke-width="1.6"') == 2, "one curve of the loss per run, none of the learning rate"
    assert "http" not in page
    assert "<script" not in page


def test_runs_that_were_executed_otherwise_are_one_configuration_and_it_is_said() -> None:
    one = replace(run("a", 0.1), execution={"machine.processor": "<b>X</b>", "runtime.devices": "1"})
    other = replace(run("b", 0.2, **{"train.seed": 1}), execution={"machine.processor": "Y", "runtime.devices": "1"})
    before = replace(run("c", 0.2, **{"train.seed": 2}), execution={})
    found = compare([one, other, before], [])
    assert [len(group.runs) for group in found.groups] == [3], "seeds of one configuration"
    console = Console(file=io.StringIO(), width=200)
    print_comparison(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "able to change figures" in text
    assert "machine.processor: <b>X</b> (a); Y (b); not recorded (c)" in text
    page = comparison_page(found)
    assert "<td>&lt;b&gt;X&lt;/b&gt;</td><td>Y</td><td>not recorded</td>" in page
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["machine.processor"] for row in rows] == ["<b>X</b>", "Y", "not recorded"]
    alike = compare([one, replace(other, execution=one.execution)], [])
    assert "able to change figures" not in comparison_page(alike)
    assert "machine.processor" not in to_csv(alike)


def test_what_all_stages_share_is_said_once_and_what_a_training_went_through_in_order() -> None:
    def made(*devices: int, revision: str = "r1") -> Manifest:
        executions = [{"settings": {"runtime.devices": n}, "machine": {"processor": "X"}} for n in devices]
        empty: Any = ("", "", {}, {}, {}, {}, {}, {}, 0.0, "")
        return Manifest(*empty, revision, {"torch": "2"}, executions=executions)

    assert _execution({"train": made(1, 2), "prepare": made(1, revision="r0")}) == {
        "revision": "prepare: r0; train: r1",
        "versions.torch": "2",
        "runtime.devices": "prepare: 1; train: 1, then 2",
        "machine.processor": "X",
    }

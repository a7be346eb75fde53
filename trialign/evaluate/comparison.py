"""Compare runs: settings that differ, metrics, and confidence intervals of the differences."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.evaluate.record import Difference, Figures
from trialign.evaluate.report import DECIDES, seen_rule, short, title
from trialign.evaluate.runs import Run
from trialign.evaluate.semantics import grounding_figures, identifier_figures
from trialign.html import Markup, forest, lines, render
from trialign.ranking import METRICS

if TYPE_CHECKING:
    from rich.console import Console

_COMPARED = (DECIDES, "recall@10")
_UNSET = "unset"
_UNRECORDED = "not recorded"
_EXECUTION_NOTE = "Not part of the configuration, but able to change figures:"
_SEEDS = ("enrich.seed", "quantize.seed", "train.seed", "rl.seed", "baselines.seed")
"""Luck. `data.seed` is none: it makes another world."""

_NO_GENERATOR = ("baselines.", "evaluate.baselines", "evaluate.bootstrap_", "evaluate.unconstrained_users")
"""Settings that begin so cannot change the generator's ranking."""

_CURVES = ("loss", "validation")
"""Columns of the training log that are drawn begin with one of these."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in seeds alone and were measured on the same examples.

    Attributes:
        stem: the common prefix of its runs' names, or the first run's name.
        runs: the runs, each generator once.
        repeated: names of further runs with a generator that is already in `runs`; they do not count again.
    """

    stem: str
    runs: list[Run]
    repeated: list[str]

    @property
    def name(self) -> str:
        """The stem, with the number of runs where there are several."""
        return f"{self.stem} ({len(self.runs)} runs)" if len(self.runs) > 1 else self.stem

    @property
    def values(self) -> NDArray[np.float64]:
        """Every metric of every example, averaged over the runs, [U, C]."""
        mean_UC: NDArray[np.float64] = np.mean([run.values_UC for run in self.runs], axis=0)
        return mean_UC

    def mean(self, metric: str) -> float:
        """Return the metric's average over the runs."""
        return statistics.fmean(run.record.stated.model[metric] for run in self.runs)

    def spread(self, metric: str) -> float | None:
        """Return the metric's standard deviation over the runs, None for a single one."""
        values = [run.record.stated.model[metric] for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None

    def identifiers(self) -> Figures:
        """Return the metrics of its semantic IDs that all runs have, averaged over them."""
        return _averaged([identifier_figures(run.quality) for run in self.runs])

    def grounding(self) -> Figures:
        """Return the grounding metrics that all runs have, averaged over them."""
        return _averaged([grounding_figures(run.record.details) for run in self.runs])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group the runs whose generators differ in seeds alone, in the order of each group's first run."""
    groups: dict[Any, Group] = {}
    for run in runs:
        settings = {
            key: value for key, value in run.config.items() if key not in _SEEDS and not key.startswith(_NO_GENERATOR)
        }
        key = (repr(sorted(settings.items())), tuple(run.lost), tuple(run.users))
        group = groups.setdefault(key, Group(run.name, [], []))
        if any(run.generator == other.generator for other in group.runs):
            group.repeated.append(run.name)
        else:
            group.runs.append(run)
    found = list(groups.values())
    stems = [_stem(group.runs) for group in found]
    return [
        replace(group, stem=stem) if stems.count(stem) == 1 else group for group, stem in zip(found, stems, strict=True)
    ]


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings that differ between runs, with each run's value; an unset one equals an absent one."""
    return _differing([run.config for run in runs], _UNSET)


def differing_executions(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return differences outside the configuration that can change figures, e.g. libraries; see `Run.execution`."""
    return _differing([run.execution for run in runs], _UNRECORDED)


def _differing(told: Sequence[Mapping[str, Any]], absent: str) -> dict[str, list[Any]]:
    keys = sorted({key for own in told for key in own})
    found = {key: [absent if own.get(key) is None else own[key] for own in told] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _stem(runs: Sequence[Run]) -> str:
    """Return the runs' common name without the seed's number: `plain` for plain-0 and plain-1."""
    stems = {re.sub(r"[-_=./][a-z]*\d*$", "", run.name) for run in runs}
    return stems.pop() if len(runs) > 1 and len(stems) == 1 else runs[0].name


def paired_to(reference: Group, group: Group, *, num_samples: int, seed: int) -> dict[str, Difference] | str:
    """Return the difference of a group to the reference by metric, or the reason why they cannot be paired."""
    one, other = reference.runs[0], group.runs[0]
    if one.record.stated.exclude_seen != other.record.stated.exclude_seen:
        return f"not paired: {seen_rule(other.record.stated)}"
    if one.users != other.users:
        return "not paired: measured on other users or targets"
    found = paired_bootstrap(group.values - reference.values, num_samples=num_samples, seed=seed, owners=one.owners)
    return dict(zip(METRICS, found.by_column(), strict=True))


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the differences of each to the first group, and messages about runs that could not be read."""

    groups: list[Group]
    paired: dict[str, dict[str, Difference] | str]
    left_out: list[str]

    @property
    def runs(self) -> list[Run]:
        """All runs that count."""
        return [run for group in self.groups for run in group.runs]


def compare(runs: Sequence[Run], left_out: Sequence[str], *, num_samples: int = 2000, seed: int = 0) -> Comparison:
    """Compare finished runs with the first of them.

    Args:
        runs: at least one.
        left_out: messages about runs that could not be compared, to print.
        num_samples: resamples behind every interval.
        seed: of the resampling.
    """
    groups = group_runs(runs)
    told = [f"{name}: the same generator as one of {g.name}, counted once" for g in groups for name in g.repeated]
    told += [
        f"{run.name}: {', '.join(run.lost)} not found where its manifests say, its settings are not compared"
        for run in runs
        if run.lost
    ]
    paired = {g.name: paired_to(groups[0], g, num_samples=num_samples, seed=seed) for g in groups[1:]}
    return Comparison(groups, paired, [*left_out, *told])


def to_csv(comparison: Comparison) -> str:
    """Return one line per run: its name, group, settings that differ, and every metric under both rules."""
    runs = comparison.runs
    settings = differing(runs) | differing_executions(runs)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    told = [identifier_figures(run.quality) | grounding_figures(run.record.details) for run in runs]
    further = list(dict.fromkeys(name for own in told for name in own))
    writer.writerow(
        ["run", "group", "split", "exclude_seen", *settings, *METRICS, *(f"other.{m}" for m in METRICS), *further]
    )
    names = [group.name for group in comparison.groups for _ in group.runs]
    for row, (run, group) in enumerate(zip(runs, names, strict=True)):
        chosen = [values[row] for values in settings.values()]
        stated, other = run.record.stated, run.record.other_protocol
        writer.writerow(
            [run.name, group, run.record.split, stated.exclude_seen, *chosen]
            + [results.model[metric] for results in (stated, other) for metric in METRICS]
            + [told[row].get(name, "") for name in further]
        )
    return out.getvalue()


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the groups with their metrics, the differences to the first, and what was left out."""
    console.print(title(comparison.runs[0].record), style="bold")
    for metric in _COMPARED:
        shown = Table()
        shown.add_column("", overflow="fold")
        shown.add_column(short(metric), justify="right", no_wrap=True)
        shown.add_column("minus the first, 95 %", justify="right", no_wrap=True)
        for group in comparison.groups:
            difference = _difference(comparison.paired.get(group.name), metric)
            shown.add_row(group.name, _with_spread(group, metric), difference)
        console.print(shown)
    for heading, rows in _told(comparison):
        told = Table(title=heading, title_justify="left", title_style="bold")
        for name in ("", *(group.stem for group in comparison.groups)):
            told.add_column(name, justify="right" if name else "left", overflow="fold")
        for row in rows:
            told.add_row(*row)
        console.print(told)
    for key, holders in _by_value(comparison.groups).items():
        who = "; ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())
        console.print(f"{key}: {who}")
    executions = differing_executions(comparison.runs)
    if executions:
        console.print(_EXECUTION_NOTE)
    for key, values in executions.items():
        holders = _holders(values, [run.name for run in comparison.runs])
        console.print(f"  {key}: " + "; ".join(f"{value} ({', '.join(names)})" for value, names in holders.items()))
    for sentence in comparison.left_out:
        console.print(sentence)


def comparison_page(comparison: Comparison) -> str:
    """Return the comparison as HTML."""
    runs, header = comparison.runs, ("", *map(short, METRICS))
    columns = ("", *(group.name for group in comparison.groups))
    return render(
        "comparison.html",
        "Comparison of runs",
        heading=title(runs[0].record),
        names=[run.name for run in runs],
        num_groups=len(comparison.groups),
        left_out=comparison.left_out,
        groups=(header, [(g.name, *(_with_spread(g, metric) for metric in METRICS)) for g in comparison.groups]),
        first=comparison.groups[0].name,
        charts=_charts(comparison),
        unpaired=[(name, found) for name, found in comparison.paired.items() if isinstance(found, str)],
        told=[(heading, columns, rows) for heading, rows in _told(comparison)],
        differing=differing(runs),
        execution_note=_EXECUTION_NOTE,
        executions=differing_executions(runs),
        runs=(("", "seen items", *header[1:]), _run_rows(runs)),
        curves=_curves(runs),
    )


def _averaged(told: Sequence[Figures]) -> Figures:
    return {
        name: statistics.fmean(own[name] for own in told) for name in told[0] if all(name in own for own in told[1:])
    }


def _told(comparison: Comparison) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield the tables of semantic ID and grounding metrics: heading, and rows with a column per group."""
    headings = {
        "Semantic IDs: collisions, and mutual information of prefixes with labels": Group.identifiers,
        "Unconstrained decoding, and grounding": Group.grounding,
    }
    for heading, figures_of in headings.items():
        told = [figures_of(group) for group in comparison.groups]
        names = dict.fromkeys(name for own in told for name in own)
        if names:
            yield heading, [(name, *(f"{own[name]:.4f}" if name in own else "" for own in told)) for name in names]


def _difference(found: dict[str, Difference] | str | None, metric: str) -> str:
    if found is None or isinstance(found, str):
        return found or ""
    entry = found[metric]
    interval = "" if entry.low is None else f" [{entry.low:+.4f}, {entry.high:+.4f}]"
    return f"{entry.difference:+.4f}{interval}"


def _by_value(groups: Sequence[Group]) -> dict[str, dict[str, list[str]]]:
    """Return the settings that differ between groups, except seeds, with the groups that have each value."""
    stems = [group.stem for group in groups]
    found = differing([group.runs[0] for group in groups])
    return {key: _holders(values, stems) for key, values in found.items() if key not in _SEEDS}


def _holders(values: Sequence[Any], names: Sequence[str]) -> dict[str, list[str]]:
    holders: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        holders.setdefault(str(value), []).append(name)
    return holders


def _with_spread(group: Group, metric: str) -> str:
    spread = group.spread(metric)
    return f"{group.mean(metric):.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _charts(comparison: Comparison) -> list[tuple[str, Markup]]:
    charts = []
    for metric in _COMPARED:
        rows = [
            (name, found[metric].difference, found[metric].low, found[metric].high)
            for name, found in comparison.paired.items()
            if not isinstance(found, str)
        ]
        if rows:
            charts.append((short(metric), forest(rows)))
    return charts


def _run_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    rows = []
    for run in runs:
        for results in (run.record.stated, run.record.other_protocol):
            rule = "filtered" if results.exclude_seen else "kept"
            rows.append((run.name, rule, *(f"{results.model[metric]:.4f}" for metric in METRICS)))
    return rows


def _curves(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    columns = sorted({column for run in runs for column in run.curves if column.startswith(_CURVES)})
    return [
        (column, lines({run.name: run.curves[column] for run in runs if column in run.curves})) for column in columns
    ]

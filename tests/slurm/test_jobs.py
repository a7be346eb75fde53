"""Jobs on a real Slurm: a chain of stages, and a training that meets everything that ends trainings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, jobs_of
from trialign.config.verbs import REQUIRED
from trialign.manifest import Manifest

from .conftest import NODES, STAGES_BEFORE, Slurm, outcomes, pause, steps_saved

pytestmark = pytest.mark.timeout(900)  # five starts of two ranks; a busy machine takes its time

TWO_RANKS = [
    "runtime.nodes=2",
    "runtime.strategy=ddp",
    "runtime.checkpoint_every=10",
    "train.steps=160",
    "stream.sample_log=true",
]


@pytest.fixture(scope="module")
def chain(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that ran as a chain of jobs."""
    run = tmp_path_factory.mktemp("runs") / "chain"
    cluster.submit("pipeline", run)
    cluster.finish(run, *jobs_of(run).values())
    return run


def shared(chain: Path) -> list[str]:
    return [f"from.{verb}={chain}" for verb in STAGES_BEFORE]


def rows(run: Path) -> list[str]:
    return sorted(line for path in (run / "train" / "sample_log").iterdir() for line in path.read_text().splitlines())


def test_a_pipeline_is_a_chain_of_jobs(cluster: Slurm, chain: Path) -> None:
    assert set(jobs_of(chain)) == set(REQUIRED)
    assert all(Manifest.read(chain / verb).stage == verb for verb in REQUIRED)
    for name in REQUIRED:
        assert (chain / FOLDER / f"{name}.sbatch").exists()
        assert (chain / FOLDER / f"{name}.config.json").exists()
    told = cluster.trialign("status", f"run={chain}")
    assert told.count("finished") == len(REQUIRED)
    assert told.count("COMPLETED") == len(REQUIRED)


def test_a_chain_gives_every_stage_the_ranks_that_it_can_use(cluster: Slurm, chain: Path, tmp_path: Path) -> None:
    """Red: `rl` on one rank; a stage of one process that asks Lightning for the ranks of the others."""
    run = tmp_path / "ranks"
    two = ["runtime.devices=2", "runtime.strategy=ddp", "quantize=rqvae", "quantize.num_epochs=2"]
    reinforced = [
        "train.rl_holdout=0.3",
        "evaluate.generator=rl",
        "rl.steps=2",
        "rl.prompts_per_step=4",
        "rl.validation.every=2",
    ]
    judged = ["enrich/interests=builtin", "rl.rewards.quality_item=1", "reward.tiny.num_pairs=0", "reward.epochs=1"]
    taken = [f"from.{verb}={chain}" for verb in ("prepare", "embed", "baselines")]
    cluster.submit("pipeline", run, *two, *reinforced, *judged, *taken)
    jobs = jobs_of(run)
    assert set(jobs) == {"enrich", "reward", "quantize", "assign", "train", "rl", "evaluate"}
    cluster.finish(run, *jobs.values())
    ranks = {verb: len(list((run / FOLDER / "log").glob(f"{verb}_{job}_?.log"))) for verb, job in jobs.items()}
    assert ranks == {verb: 1 + (verb in ("quantize", "train", "rl")) for verb in jobs}


def test_a_training_that_is_killed_preempted_and_loses_its_node_ends_as_if_nothing_had_been(
    cluster: Slurm, chain: Path, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "interrupted"
    cluster.finish(whole, cluster.submit("train", whole, *shared(chain), *TWO_RANKS))
    job = cluster.submit("train", run, *shared(chain), *TWO_RANKS)
    saved = attempts = 0

    def further() -> None:
        """Wait until the next attempt has saved what none had before, then for a random moment."""
        nonlocal saved, attempts
        attempts += 1
        cluster.wait(lambda: len(outcomes(run, "train", job)) == attempts, f"attempt {attempts}")
        saved = steps_saved(run)
        cluster.wait(lambda: steps_saved(run) > saved, "a further checkpoint")
        pause()

    # One rank of two.
    further()
    rank = cluster.rank_process(job, 1)
    assert rank is not None
    os.kill(rank, signal.SIGKILL)

    # All ranks at once, without a warning; step 0 looked at the nodes.
    further()
    slurm.ask("scancel", "--signal=KILL", f"{job}.1")

    # Something more important: with a warning.
    further()
    script = tmp_path / "urgent.sbatch"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\nsleep 1\n")
    slurm.submit(script, "--partition=high", f"--nodes={len(NODES)}", "--exclusive")

    # The node where the supervisor runs.
    further()
    nodes = slurm.nodes_of(slurm.ask("squeue", "-h", "-o", "%N", "-j", job).strip())
    cluster.cluster.kill_node(nodes[0])

    cluster.finish(run, job)
    cluster.cluster.start_node(nodes[0])
    assert outcomes(run, "train", job) == ["died", "died", "stopped", "lost", "done"]
    assert rows(run) == rows(whole)
    weights = [folder / "train" / "generator.safetensors" for folder in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert len(list((run / FOLDER / "log").glob(f"train_{job}_?.log"))) == 2  # a log per rank

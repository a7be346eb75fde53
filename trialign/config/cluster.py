"""Group `cluster`: where jobs run. Everything about a site is in its file of conf/cluster/, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class ClusterConfig:
    """A Slurm cluster: what a job asks for, what it runs in, when it gives up."""

    name: str = option("none", "what it is called, by the name of its file")
    partition: str | None = option(None, "where to queue; null: the cluster's default")
    account: str | None = option(None, "who pays")
    time: str | None = option(None, "limit, as Slurm writes it (D-HH:MM:SS); null: the partition's")
    cpus_per_task: int = option(1, "CPU cores per rank", least=1)
    memory_per_cpu: str | None = option(None, "e.g. 4G; null: the cluster's default")
    gpus_per_node: int = option(0, "GPUs that a node has; 0: ranks train on CPUs", least=0)
    gpu_memory_gib: float | None = option(None, "of one GPU, to hold the estimate against", above=0)
    tokens_per_second: float | None = option(
        None, "row positions a second and rank, measured, for the estimate of hours", above=0
    )
    sbatch: list[str] = option([], "further options of sbatch, one an entry, e.g. --constraint=a100")
    srun: list[str] = option([], "further options of the srun that starts the ranks, e.g. a container's")
    setup: list[str] = option([], "shell lines before anything else, e.g. module load cuda")
    environment: dict[str, str] = option(
        {}, "variables of the job, e.g. cluster.environment.NCCL_DEBUG=INFO", open_keys=True
    )
    python: str | None = option(None, "the interpreter of the supervisor on the node; null: the one that submits")
    program: list[str] = option([], "the `trialign` of the ranks; empty: the one that submits")
    signal_seconds: int = option(120, "how long before its end Slurm asks a job to save and stop", least=1, most=65535)
    leave_seconds: int = option(
        10, "how long before its end a job that has not saved itself by then is queued again", least=0
    )
    max_restarts: int = option(5, "restarts in a row that get no further, until the job gives up", least=0)
    watchdog_minutes: float = option(
        30.0, "a stage that counts nothing for so long (progress.json) is dumped, ended and queued again", above=0
    )
    health_check: bool = option(True, "look at every node (disk, GPUs) before the ranks start")
    array_limit: int = option(4, "members of a sweep that run at once", least=1)
    wait: bool = option(False, "a sweep returns when its members have ended, not when they are queued")
    verb: str | None = option(None, "what to submit; `trialign submit VERB` sets it")
    dry_run: bool = option(False, "print the scripts, queue nothing; `trialign submit VERB --dry-run`")

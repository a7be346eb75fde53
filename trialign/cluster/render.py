"""From a job to its sbatch script: the only place where scripts are made, for single jobs, chains and sweeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from trialign.cluster.record import JobSpec
from trialign.config.cluster import ClusterConfig

TEMPLATE = "job.sbatch"


def render(
    spec: JobSpec,
    cluster: ClusterConfig,
    *,
    specs: str,
    environment: Mapping[str, str],
    log: Path,
    array: str | None = None,
) -> str:
    """Return the script of a job, or of an array of jobs of one shape.

    Args:
        spec: the job, or the first of the array.
        cluster: the site.
        specs: the file the supervisor reads, as the shell spells it; in an array it depends on the element.
        environment: variables besides the site's.
        log: folder of the supervisor's log.
        array: `0-3%2`, elements and how many run at once.
    """
    template = (resources.files("trialign.slurm") / TEMPLATE).read_text()
    exports = {**cluster.environment, **environment}
    setup = [*cluster.setup, *(f"export {name}={shlex.quote(value)}" for name, value in exports.items())]
    parts = {
        "options": "\n".join(f"#SBATCH {option}" for option in _options(spec, cluster, log, array)),
        "workdir": shlex.quote(spec.workdir),
        "setup": "\n".join(setup),
        "supervisor": f"{shlex.quote(spec.python)} -m trialign.cluster.job {specs}",
    }
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


def _options(spec: JobSpec, cluster: ClusterConfig, log: Path, array: str | None) -> Sequence[str]:
    options = {
        "--job-name": f"trialign-{spec.name}",
        "--array": array,
        "--partition": cluster.partition,
        "--account": cluster.account,
        "--time": cluster.time,
        "--nodes": spec.nodes,
        "--ntasks-per-node": spec.tasks_per_node,
        "--cpus-per-task": spec.cpus_per_task,
        "--mem-per-cpu": cluster.memory_per_cpu,
        "--gpus-per-node": spec.gpus_per_node or None,
        "--output": log / f"{spec.name}_{'%A_%a' if array else '%j'}.log",
        "--open-mode": "append",
        "--signal": f"B:USR1@{cluster.signal_seconds}",
        "--kill-on-invalid-dep": "yes",
    }
    stated = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*stated, "--requeue", *cluster.sbatch]

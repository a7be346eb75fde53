"""Render the sbatch script of a job: for single jobs, chains and sweeps. No other module makes scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from trialign.cluster.record import JobSpec
from trialign.cluster.step import step, unexpanded
from trialign.config.cluster import ClusterConfig
from trialign.errors import ConfigError

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

    Raises:
        ConfigError: an option or a variable that no line of a script can hold.
    """
    template = (resources.files("trialign.slurm") / TEMPLATE).read_text()
    exports = {**cluster.environment, **environment}
    setup = [*cluster.setup, *(f"export {_variable(name)}={shlex.quote(value)}" for name, value in exports.items())]
    parts = {
        "options": "\n".join(f"#SBATCH {_word(option)}" for option in _options(spec, cluster, log, array)),
        "workdir": shlex.quote(spec.workdir),
        "setup": "\n".join(setup),
        "supervisor": f"{shlex.quote(spec.python)} -m trialign.cluster.job {specs}",
        "ranks": _comment(step(spec, "JOB")),
    }
    return re.sub("@([a-z]+)@", lambda found: parts[found[1]], template)  # in one pass: values may hold placeholders


def _word(option: str) -> str:
    """Return an option as a line `#SBATCH` spells it: Slurm knows double quotes, and a backslash before what follows.

    Raises:
        ConfigError: it holds a line break or the like.
    """
    if not option.isprintable():
        raise ConfigError(
            f"{option!r} as an option of sbatch",
            rule="an option is in one line of a script",
            remedy="leave the character out, in cluster.* or in run=DIR",
        )
    if re.fullmatch(r"[\w%+,./:=@^-]+", option):
        return option
    return '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'


def _variable(name: str) -> str:
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) is None:
        raise ConfigError(
            f"cluster.environment.{name}",
            rule="a variable's name is of letters, digits and underscores, and begins with none of the digits",
            remedy="name it as the shell would, e.g. cluster.environment.NCCL_DEBUG=INFO",
        )
    return name


def _comment(command: Sequence[str]) -> str:
    """Return a command in one line, whatever its words hold."""
    return shlex.join(command).replace("\n", "\\n").replace("\r", "\\r")


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
        "--output": unexpanded(f"{log}/{spec.name}") + ("_%A_%a.log" if array else "_%j.log"),
        "--open-mode": "append",
        "--signal": f"B:USR1@{cluster.signal_seconds}",
        "--kill-on-invalid-dep": "yes",
    }
    stated = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*stated, "--requeue", *cluster.sbatch]

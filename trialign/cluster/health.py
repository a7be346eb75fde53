"""The health check of a node. It runs once per node before the ranks, and writes its result to FOLDER/NODE.

python -m trialign.cluster.health FOLDER RUN NUM_GPUS
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Check the node, and write `ok` or the fault."""
    folder, run, num_gpus = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    node = os.environ.get("SLURMD_NODENAME", "here")
    try:
        _require_disk(run / "slurm" / f".health-{node}")
        if num_gpus:
            _require_gpus(num_gpus)
        found = "ok"
    except (OSError, RuntimeError, subprocess.SubprocessError) as cause:
        found = str(cause)
    print(f"{node}: {found}", flush=True)
    (folder / node).write_text(found)


def _require_disk(probe: Path) -> None:
    """Write, read back and remove a megabyte in the run directory."""
    content = os.urandom(1 << 20)
    probe.write_bytes(content)
    read = probe.read_bytes()
    probe.unlink()
    if read != content:
        raise RuntimeError(f"{probe.parent} gives back other bytes than were written")


def _require_gpus(number: int) -> None:
    """Count the GPUs that the driver answers for; a GPU that fell off the bus makes it fail or hang."""
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    found = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    if found < number:
        raise RuntimeError(f"{found} of {number} GPUs answer")


if __name__ == "__main__":
    main()

"""One script per claim: `python -m benchmarks.NAME --json FILE`. The pages beside them say what was measured and on what."""
